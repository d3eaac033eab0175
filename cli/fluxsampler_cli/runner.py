"""The process that holds Ray for one instance: ``python -m fluxsampler_cli.runner``.

Its keeper writes the job as one line to its standard input, and keeps that pipe open for as long as
it lives: when the pipe ends, so does everything here, also when the keeper was killed. Events go to
the descriptor that the environment names, everything else to the log.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import structlog

from fluxsampler_cli import processes
from fluxsampler_cli.errors import CliError, StartFailed
from fluxsampler_cli.job import Event, Job

if TYPE_CHECKING:
    from ray.serve.schema import ServeStatus

    from fluxsampler_cli.local_ray import LocalRay

EVENTS_VARIABLE = "FLUXSAMPLER_EVENTS"
_POLL_SECONDS = 0.2
# Errors of the Serve app that no retry mends; Serve itself would try three times.
_FINAL = re.compile(
    r"(?:fluxsampler_serve\.errors\.)(ModelNotFound|ModelAuthFailed|ModelCorrupt|ModelMismatch|AdapterMismatch)"
    r"(?:\(RayTaskError\))?: (?P<message>[^\n\\]+)"
)
_ANY_OURS = re.compile(r"fluxsampler_serve\.errors\.(\w+): (?P<message>[^\n\\]+)")

_log = structlog.get_logger(__name__)


class Events:
    """Lines to the keeper."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "w", encoding="utf-8", buffering=1)
        self._last: Event | None = None

    def send(self, event: Event) -> None:
        """Send ``event``, unless it says what the last one said."""
        if event != self._last:
            self._file.write(event.model_dump_json() + "\n")
            self._last = event


def main() -> int:
    """Run the job on standard input until the pipe ends; the exit status is 1 when it did not come up."""
    job = Job.model_validate_json(sys.stdin.readline())
    descriptor = int(os.environ.pop(EVENTS_VARIABLE))
    os.set_inheritable(descriptor, False)
    events = Events(descriptor)
    threading.Thread(target=_end_with_keeper, args=(job,), name="lifeline", daemon=True).start()
    try:
        _serve(job, events)
    except CliError as error:
        events.send(Event(kind="failed", detail=str(error)))
    except Exception as error:  # noqa: BLE001 - whatever Ray raises while it starts ends the start, with its cause
        _log.exception("start failed", instance=job.instance)
        events.send(Event(kind="failed", detail=_cause(error)))
    return 1


def _end_with_keeper(job: Job) -> NoReturn:
    while sys.stdin.readline():
        pass
    processes.end_instance(job.instance, Path(job.folder))
    os._exit(0)


def _serve(job: Job, events: Events) -> NoReturn:
    from fluxsampler_cli.local_ray import LocalRay  # the first event comes before the imports

    events.send(Event(kind="step", step="ray", detail="Ray"))
    ray = LocalRay.start(
        job.name,
        job.object_store_bytes,
        job.port,
        host=job.host,
        instance=job.instance,
        cpus=job.cpus,
        gpus=job.gpus,
        environment={"FLUXSAMPLER_LOG_FORMAT": job.log_format},
    )
    events.send(Event(kind="step", step="app", detail="gateway and engines"))
    from fluxsampler_serve.app import build  # after Ray's environment is set

    ray.run(build(job.args), wait=False)
    _await_ready(ray, events)
    events.send(Event(kind="ready"))
    while True:  # the keeper, or Ray's own end, ends this process
        time.sleep(3600)


def _await_ready(ray: LocalRay, events: Events) -> None:
    from ray import serve

    while True:
        status = serve.status()
        _raise_failure(status)
        waiting = _waiting(status)
        if waiting:
            events.send(Event(kind="step", step="load", detail=waiting))
        elif _ready(ray.url):
            return
        else:
            events.send(Event(kind="step", step="ready", detail="first picture"))
        time.sleep(_POLL_SECONDS)


def _raise_failure(status: ServeStatus) -> None:
    for application in status.applications.values():
        texts = [application.message, *(one.message for one in application.deployments.values())]
        for text in texts:
            if found := _FINAL.search(text):
                raise StartFailed(f"{found[1]}: {found['message'].strip()}")
        if str(application.status.value) in ("DEPLOY_FAILED", "UNHEALTHY"):
            ours = next((found for text in texts if (found := _ANY_OURS.search(text))), None)
            raise StartFailed(
                f"{ours[1]}: {ours['message'].strip()}" if ours else _last_line(application.message)
            )


def _waiting(status: ServeStatus) -> str:
    """Names of the deployments that do not run yet, in words, and why the last try of one failed."""
    names = {"ParallelSampler": "gang of ranks", "FallbackSampler": "fallback engine", "Gateway": "gateway"}
    pending = []
    for application in status.applications.values():
        for name, deployment in application.deployments.items():
            if deployment.status.value != "HEALTHY":
                failed = _ANY_OURS.search(deployment.message)
                again = f" (again, after {failed[1]}: {failed['message'].strip()})" if failed else ""
                pending.append(names.get(name, name) + again)
    return ", ".join(sorted(pending))


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:  # noqa: S310 - our own URL
            return bool(answer.status == HTTPStatus.OK)
    except (urllib.error.URLError, OSError):
        return False


def _cause(error: Exception) -> str:
    """An exception in one line; one of an actor holds its traceback, whose end is the cause."""
    if type(error).__name__.startswith("RayTaskError"):
        return _last_line(str(error))
    return f"{type(error).__name__}: {next((line for line in str(error).splitlines() if line.strip()), 'no message')}"


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")


if __name__ == "__main__":
    from fluxsampler_cli.logs import configure

    configure(sys.argv[1] if len(sys.argv) > 1 else "console", sys.stderr)
    sys.exit(main())
