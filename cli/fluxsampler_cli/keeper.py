"""Starts the runner of one job, tells what it reports, and leaves nothing when it ends.

In the foreground the `up` command itself keeps; `up --detach` starts
``python -m fluxsampler_cli.keeper`` in a session of its own. The keeper holds the lock of the name,
owns the state file, and outlives the runner; the runner does not outlive it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import structlog

from fluxsampler_cli import processes
from fluxsampler_cli.errors import ExitCode, StartFailed
from fluxsampler_cli.job import Event, Job
from fluxsampler_cli.local_ray import service_url
from fluxsampler_cli.runner import EVENTS_VARIABLE
from fluxsampler_cli.signals import Stopped, stopping_on_signals
from fluxsampler_cli.state import InstanceState, Lock, StateFolder

if TYPE_CHECKING:
    from collections.abc import Callable

_LOG_LINES = 8
# -P: no module of the folder it is started in is imported.
RUNNER = ("-P", "-m", "fluxsampler_cli.runner")

_log = structlog.get_logger(__name__)


def initial_state(job: Job, *, detached: bool) -> InstanceState:
    """State of ``job`` as its keeper, the calling process, begins."""
    return InstanceState(
        name=job.name,
        instance=job.instance,
        folder=job.folder,
        file=job.file,
        fingerprint=job.fingerprint,
        host=job.host,
        port=job.port,
        url=service_url(job.host, job.port),
        log=job.log,
        keeper=os.getpid(),
        keeper_started=processes.started_at(os.getpid()) or 0.0,
        detached=detached,
        since=time.time(),
        plan=job.args.plan,
    )


def keep(job: Job, folder: StateFolder, *, detached: bool, tell: Callable[[InstanceState], None]) -> NoReturn:
    """Run ``job`` until a signal or its own end; afterwards nothing of it is left but its log.

    Call it inside :func:`~.signals.stopping_on_signals` and with the lock of the name held.

    Raises:
        StartFailed: it did not come up, or ended by itself. With ``detached`` the state then stays,
            as "failed", for whoever started it.
        Stopped: a signal asked to stop.
    """
    state = initial_state(job, detached=detached)
    try:
        folder.write(state)
        state = _run(job, folder, state, tell)
    finally:
        processes.end_instance(job.instance, Path(job.folder))
        folder.forget(job.name)
    if detached:
        folder.write(state)
    raise failure(state)


def _run(
    job: Job, folder: StateFolder, state: InstanceState, tell: Callable[[InstanceState], None]
) -> InstanceState:
    """Follow the runner to its end and return the failed state."""
    Path(job.folder).mkdir(mode=0o700)
    Path(job.log).parent.mkdir(parents=True, exist_ok=True)
    reader, writer = os.pipe()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= processes.marker_environment(job.instance) | {EVENTS_VARIABLE: str(writer)}
    began = time.monotonic()
    with Path(job.log).open("ab") as log, os.fdopen(reader, encoding="utf-8") as events:
        # A session of its own, so that Ctrl-C reaches the keeper alone; a folder of its own, so that
        # relative files vanish with the instance.
        runner = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, *RUNNER, job.log_format],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[writer],
            start_new_session=True,
            cwd=job.folder,
            env=environment,
            text=True,
        )
        os.close(writer)
        try:
            if runner.stdin is None:
                raise StartFailed("the runner has no standard input")
            runner.stdin.write(job.model_dump_json() + "\n")
            runner.stdin.flush()
            tell(state)
            for line in events:
                state = _apply(Event.model_validate_json(line), state, time.monotonic() - began)
                if state.phase == "failed":
                    return state
                folder.write(state)
                tell(state)
            code = runner.wait()
        finally:
            # All at once, while their shared memory can be told; then reaped.
            processes.end_instance(job.instance, None)
            runner.wait()
    stage = "ended by itself" if state.phase == "running" else "ended while it started"
    cause = f"signal {-code}" if code < 0 else f"status {code}"
    return state.model_copy(
        update={"phase": "failed", "died": True, "error": f"the service {stage} ({cause})"}
    )


def _apply(event: Event, state: InstanceState, seconds: float) -> InstanceState:
    match event.kind:
        case "step":
            return state.model_copy(update={"step": event.step, "detail": event.detail})
        case "ready":
            return state.model_copy(
                update={"phase": "running", "step": "", "detail": "", "ready_seconds": seconds}
            )
        case "failed":
            return state.model_copy(update={"phase": "failed", "error": event.detail})


def failure(state: InstanceState) -> StartFailed:
    """The error of a failed instance, with its log; of one that died without a word, the log's last lines."""
    details: list[str] = []
    if state.died:
        with suppress(OSError):
            details = Path(state.log).read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
    return StartFailed(state.error, *details, f"log: {state.log}")


def spawn(job: Job, folder: StateFolder, lock: Lock) -> subprocess.Popen[bytes]:
    """Start a keeper in the background; ``lock`` is its own from then on."""
    Path(job.log).parent.mkdir(parents=True, exist_ok=True)
    os.set_inheritable(lock.descriptor, True)
    with Path(job.log).open("ab") as log:
        keeper = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-P", "-m", "fluxsampler_cli.keeper", str(folder.root), str(lock.descriptor)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[lock.descriptor],
            start_new_session=True,
            cwd="/",
        )
    lock.give_away()
    if keeper.stdin is None:
        raise StartFailed("the keeper has no standard input")
    with keeper.stdin as pipe:
        pipe.write(job.model_dump_json().encode())
    return keeper


def main(arguments: list[str]) -> int:
    """Keep the job on standard input: STATE_FOLDER LOCK_DESCRIPTOR."""
    folder = StateFolder(Path(arguments[0]))
    job = Job.model_validate_json(sys.stdin.buffer.read())
    lock = Lock.inherited(folder.root / f"{job.name}.lock", int(arguments[1]))
    from fluxsampler_cli.logs import configure

    configure(job.log_format, sys.stderr)
    try:
        with stopping_on_signals():
            keep(job, folder, detached=True, tell=_tell_nobody)
    except StartFailed as error:
        _log.error("instance failed", name=job.name, error=str(error))
        return int(error.exit_code)
    except Stopped as stopped:
        _log.info("instance stopped", name=job.name, signal=stopped.number)
        return int(ExitCode.OK)
    finally:
        lock.release()


def _tell_nobody(_: InstanceState) -> None:
    """The state file tells."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
