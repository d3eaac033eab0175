"""`fluxsampler up`: a FluxSampler served on this machine."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pydantic import ValidationError

from fluxsampler_api.sampler import Metadata
from fluxsampler_cli import keeper, machine, output, processes, specs
from fluxsampler_cli.errors import AlreadyRunning, InfeasiblePlan, InputError, PortInUse, StartFailed
from fluxsampler_cli.job import Job
from fluxsampler_cli.local_ray import instance_folder, new_instance
from fluxsampler_cli.ports import PortReservation, check_port
from fluxsampler_cli.progress import StartProgress
from fluxsampler_cli.signals import stopping_on_signals
from fluxsampler_cli.state import InstanceState, StateFolder

if TYPE_CHECKING:
    from fluxsampler_api.app_args import AppArgs
    from fluxsampler_api.sampler import FluxSampler
    from fluxsampler_planner import Plan

TOKEN_VARIABLE = "FLUXSAMPLER_API_TOKEN"  # noqa: S105 - the name, not the token
_GIB = 1 << 30
_STOP_SECONDS = 60.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class UpOptions:
    """The command line of `up`."""

    file: Path
    name: str | None
    select: str | None
    port: int
    host: str
    detach: bool
    token_file: Path | None
    log_format: str


def up(options: UpOptions) -> None:
    """Serve until a signal, or with ``detach`` until it is ready.

    Raises a :class:`CliError` for whatever is in the way, :class:`~.signals.Stopped` for a signal.
    """
    with stopping_on_signals():
        sampler = specs.select(specs.load(options.file), options.select, options.file)
        name = _checked_name(options.name or sampler.name)
        _check_source(sampler)
        plan, args = _planned(sampler)
        args = _with_tokens(sampler, args, options.token_file)
        folder = StateFolder()
        wanted = _job(name, args, options, port=options.port, folder=folder)
        try:
            lock = folder.take_lock(name)
        except AlreadyRunning as error:
            _report_running(folder, wanted, error, detach=options.detach)
            return
        try:
            _clear_remains(folder, name)
            job = wanted.model_copy(update={"port": _port(folder, options.host, options.port)})
            output.print_plan(name, plan.status(), error=True)
            _tell_access(job)
            Path(job.log).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            Path(job.log).write_bytes(b"")
            with StartProgress(name) as progress:
                if not options.detach:
                    keeper.keep(job, folder, detached=False, tell=progress.tell)
                child = keeper.spawn(job, folder, lock)
                _follow(job, folder, child, progress)
        finally:
            lock.release()


def _checked_name(name: str) -> str:
    try:
        return Metadata(name=name).name
    except ValidationError as error:
        raise InputError(f"--name: {error.errors()[0]['msg']}") from error


def _check_source(sampler: FluxSampler) -> None:
    """What only this machine can tell about the model's source."""
    source = sampler.spec.model.source
    if source.startswith("pvc://"):
        raise InputError(
            f"spec.model.source: {source} is a volume of a cluster; on one machine use file:///folder or hf://owner/name"
        )
    folder = specs.local_folder(sampler)
    if folder is not None:
        from fluxsampler_cli import model_folder  # after the cheap checks

        model_folder.check(folder)


def _planned(sampler: FluxSampler) -> tuple[Plan, AppArgs]:
    from fluxsampler_planner import app_args  # after the cheap checks

    found = machine.look()
    device = sampler.spec.hardware.device
    if device == "cuda" and not found.cards:
        raise InfeasiblePlan(
            f"{sampler.name}: spec.hardware.device is cuda, and this machine has no NVIDIA card (no nvidia-smi); "
            "set device: cpu, or run it where the cards are"
        )
    plan = specs.make_plan(sampler, found.hardware(device))
    return plan, app_args(sampler, plan)


def _with_tokens(sampler: FluxSampler, args: AppArgs, token_file: Path | None) -> AppArgs:
    """Put the API token into the environment, which the runner inherits; secrets are never in arguments.

    A token that is there protects the API even where the file asks for none: whoever set it expects so.
    """
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--token-file {token_file} cannot be read: {error}") from error
        if not token:
            raise InputError(f"--token-file {token_file} is empty; write the token into it")
        os.environ[TOKEN_VARIABLE] = token
    given = os.environ.get(TOKEN_VARIABLE, "")
    if given and not given.strip():
        raise InputError(f"{TOKEN_VARIABLE} holds only white space; set it to the token, or unset it")
    if given:
        os.environ[TOKEN_VARIABLE] = given.strip()  # HTTP carries no white space around a header's value
    if sampler.spec.serving.auth_secret_ref is not None and not given:
        raise InputError(
            f"spec.serving.authSecretRef asks for an API token; set {TOKEN_VARIABLE}, or give --token-file FILE"
        )
    if sampler.spec.model.token_secret_ref is not None and not os.environ.get(args.model.token_env):
        raise InputError(f"spec.model.tokenSecretRef asks for a hub token; set {args.model.token_env}")
    secured = TOKEN_VARIABLE if given else None
    return args.model_copy(update={"serving": args.serving.model_copy(update={"auth_token_env": secured})})


def _job(name: str, args: AppArgs, options: UpOptions, *, port: int, folder: StateFolder) -> Job:
    instance = new_instance(name)
    return Job(
        name=name,
        instance=instance,
        folder=str(instance_folder(instance)),
        file=str(options.file.absolute()),
        host=options.host,
        port=port,
        requested_port=options.port,
        log=str(folder.log(name)),
        cpus=_actors(args),
        gpus=len(args.plan.memory.cards) if args.device == "cuda" else 0,
        object_store_bytes=int(args.plan.memory.host.object_store_gib * _GIB),
        args=args,
        log_format="json" if options.log_format == "json" else "console",
    )


def _actors(args: AppArgs) -> int:
    """Replicas that may run at once: each gets one logical CPU of this Ray, so that all can be placed."""
    parallel = max(args.parallel.replicas, args.parallel.max_replicas or 0) if args.parallel else 0
    fallback = args.fallback.max_replicas if args.fallback else 0
    return args.serving.gateway_replicas + parallel + fallback


def _tell_access(job: Job) -> None:
    if job.args.serving.auth_token_env is not None:
        output.say(f"requests need the API token that {TOKEN_VARIABLE} or --token-file gave")
    elif job.host not in _LOOPBACK:
        output.say(
            f"warning: {job.host} may be reached from other machines, and no API token is asked for; "
            "give --token-file, or set {TOKEN_VARIABLE}",
            style="yellow",
        )


def _report_running(folder: StateFolder, wanted: Job, error: AlreadyRunning, *, detach: bool) -> None:
    """Be content with a running service of the very same file, else refuse."""
    state = folder.read(wanted.name)
    if state is None or not detach or state.shown_phase != "running":
        raise error
    if state.fingerprint != wanted.fingerprint:
        raise AlreadyRunning(
            f"{wanted.name} is up with another file or other options; stop it first with `fluxsampler down {wanted.name}`"
        ) from error
    output.say(f"{wanted.name} is up already", style="green")
    output.answer(state.url)


def _clear_remains(folder: StateFolder, name: str) -> None:
    """What a killed keeper may have left under this name."""
    state = folder.read(name)
    if state is not None:
        ended = processes.end_instance(state.instance, Path(state.folder))
        folder.forget(name)
        if ended:
            output.say(f"ended {ended} processes that an earlier {name} left")


def _port(folder: StateFolder, host: str, port: int) -> int:
    if port == 0:
        with PortReservation() as reservation:
            return reservation.take(1)[0]
    for state in folder.all():
        if state.alive and state.port == port:
            raise PortInUse(
                f"port {port} is in use by {state.name}; stop it with `fluxsampler down {state.name}`, "
                "or choose another port with --port (0: any free one)"
            )
    check_port(host, port)
    return port


def _follow(job: Job, folder: StateFolder, child: subprocess.Popen[bytes], progress: StartProgress) -> None:
    """Show the start of a detached instance until it is ready; any other end also ends the instance."""
    try:
        while True:
            code = child.poll()
            state = folder.read(job.name)
            if state is not None and state.instance == job.instance:
                progress.tell(state)
                if state.phase == "running":
                    return
            if code is not None:
                _raise_failed(job, folder, state, code)
            time.sleep(0.1)
    except BaseException:
        processes.end_one(child.pid, processes.started_at(child.pid), _STOP_SECONDS)
        child.wait()
        processes.end_instance(job.instance, Path(job.folder))
        raise


def _raise_failed(job: Job, folder: StateFolder, state: InstanceState | None, code: int) -> NoReturn:
    folder.forget(job.name)
    if code == 0:
        raise StartFailed(
            f"{job.name} was stopped while it started, by `fluxsampler down` or a signal to its keeper"
        )
    if state is None or state.phase != "failed":
        raise StartFailed(f"the keeper ended with status {code}", f"log: {job.log}")
    raise keeper.failure(state)
