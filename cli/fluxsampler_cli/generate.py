"""`fluxsampler generate`: a prompt in, picture files out."""

from __future__ import annotations

import math
import os
import re
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fluxsampler_cli import client, output
from fluxsampler_cli.errors import InputError, NotRunning
from fluxsampler_cli.kubectl import Kubectl
from fluxsampler_cli.signals import stopping_on_signals
from fluxsampler_cli.state import StateFolder

if TYPE_CHECKING:
    from collections.abc import Iterator

_SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
_SUFFIX_OF = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
# What the service sends at most (OpenAI's limit of `partial_images`).
_PREVIEWS = 3
# FLUX with classifier-free guidance is commonly run at 3 to 5.
_TRUE_CFG = 4.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What to draw; None is the service's default."""

    prompt: str
    size: str | None = None
    steps: int | None = None
    seed: int | None = None
    number: int = 1
    guidance: float | None = None
    negative: str | None = None
    true_cfg: float | None = None
    timeout: float | None = None

    def body(self) -> dict[str, Any]:
        """As the service wants it. Raises :class:`InputError` for what JSON cannot say."""
        numbers = {"--guidance": self.guidance, "--true-cfg": self.true_cfg, "--timeout": self.timeout}
        for name, value in numbers.items():
            if value is not None and not math.isfinite(value):
                raise InputError(f"{name}: {value} is not a finite number; use one such as 3.5")
        given = {
            "prompt": self.prompt,
            "n": self.number,
            "size": self.size,
            "steps": self.steps,
            "seed": self.seed,
            "guidance_scale": self.guidance,
            "negative_prompt": self.negative,
            "true_cfg_scale": self.true_cfg or (_TRUE_CFG if self.negative is not None else None),
            "timeout_seconds": self.timeout,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Target:
    """Where pictures and previews go, and how the answer looks."""

    file: Path | None = None
    form: str | None = None
    previews: Path | None = None
    json_answer: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """Whom to ask: a URL, a FluxSampler of a cluster, or (neither) what is up on this machine."""

    url: str | None = None
    token: str | None = None
    sampler: str | None = None
    kubectl: Kubectl = field(default_factory=Kubectl)

    @contextmanager
    def open(self) -> Iterator[client.Client]:
        """A connection, for a FluxSampler through a port forward and with the token its spec names.

        Raises :class:`InputError` for options that contradict each other, :class:`NotRunning` when nobody is there.
        """
        if self.sampler is None:
            if self.kubectl.chosen:
                raise InputError("--namespace, --context and --kubeconfig need --sampler NAME")
            with client.Client(self.url or local_url(), self.token) as service:
                yield service
            return
        found = self.kubectl.sampler(self.sampler)
        kubectl = replace(self.kubectl, namespace=found["metadata"]["namespace"])
        address = (found.get("status") or {}).get("url")
        if not address:
            raise NotRunning(
                f"{self.sampler} has no URL yet; see `fluxsampler status {self.sampler} -n {kubectl.namespace}`"
            )
        parts = urlsplit(address)
        token, reference = self.token, found["spec"].get("serving", {}).get("authSecretRef")
        if token is None and reference:
            token = kubectl.secret(reference["name"], reference.get("key", "token"))
        name = str(parts.hostname).split(".", 1)[0]
        with (
            kubectl.forwarded(f"service/{name}", parts.port or 80) as url,
            client.Client(url, token) as service,
        ):
            yield service


@dataclass(slots=True)
class _Run:
    """One request under way."""

    number: int
    target: Target
    bar: Progress
    paths: list[Path]
    task: TaskID | None = None
    current: int = -1
    drawn: list[tuple[Path, client.Picture]] = field(default_factory=list)
    previews: list[Path] = field(default_factory=list)


def generate(wish: Wish, target: Target, asked: Service) -> None:
    """Draw, write the files, and say what was drawn.

    Raises a :class:`~fluxsampler_cli.errors.CliError` for every way it can fail.
    """
    wish = _with_prompt(wish)
    body = wish.body()
    form = _form(target)
    body |= {"output_format": form}
    if target.previews is not None:
        body["partial_images"] = _PREVIEWS
    paths = _paths(wish, target, form)
    with stopping_on_signals(), asked.open() as service, _bar() as bar:
        run = _Run(wish.number, target, bar, paths)
        for event in service.draw(body):
            _take(run, event)
    _report(run)


def local_url() -> str:
    """URL of the one service that is up on this machine. Raises :class:`NotRunning`."""
    states = [state for state in StateFolder().all() if state.alive]
    running = [state for state in states if state.phase == "running"]
    if len(running) == 1:
        return running[0].url
    if running:
        named = ", ".join(f"{state.name} at {state.url}" for state in running)
        raise NotRunning(f"several services are up; choose one with --url: {named}")
    if states:
        raise NotRunning(
            f"{states[0].name} is still starting; see `fluxsampler status`, and try again when it runs"
        )
    raise NotRunning(
        "nothing is up on this machine; start it with `fluxsampler up FILE --detach`, or give --url"
    )


def _with_prompt(wish: Wish) -> Wish:
    if wish.prompt != "-":
        return wish
    return replace(wish, prompt=sys.stdin.read().strip())


def _form(target: Target) -> str:
    if target.file is None:
        return target.form or "png"
    if target.file.is_dir():
        raise InputError(f"--output {target.file} is a folder; name a file in it")
    suffix = _SUFFIXES.get(target.file.suffix.lower())
    if suffix is None and target.form is None:
        raise InputError(f"--output {target.file}: end the name in .png, .jpg or .webp, or give --format")
    if suffix is not None and target.form not in (None, suffix):
        raise InputError(f"--output {target.file} and --format {target.form} contradict each other; give one")
    return target.form or suffix or "png"


def _paths(wish: Wish, target: Target, form: str) -> list[Path]:
    """A name per picture: FILE, or FILE-1 … FILE-n; a name of our own never replaces a file."""
    if target.file is not None:
        return _numbered(target.file, wish.number)
    stem = re.sub(r"[^\w]+", "-", wish.prompt.lower())[:48].strip("-") or "picture"
    for attempt in range(1, 10_000):
        base = Path(f"{stem}-{attempt}" if attempt > 1 else stem).with_suffix(_SUFFIX_OF[form])
        paths = _numbered(base, wish.number)
        if not any(path.exists() for path in paths):
            return paths
    raise InputError(f"{stem}{_SUFFIX_OF[form]} and its numbered neighbours exist; give --output")


def _numbered(file: Path, number: int) -> list[Path]:
    if number <= 1:
        return [file]
    return [file.with_name(f"{file.stem}-{index}{file.suffix}") for index in range(1, number + 1)]


def _bar() -> Progress:
    to = output.console(error=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=to, transient=True, disable=not to.is_terminal)


def _take(run: _Run, event: client.Event) -> None:
    match event:
        case client.Progress(index, step, steps):
            if run.task is None or run.current != index:
                if run.task is not None:
                    run.bar.remove_task(run.task)
                name = f"picture {index + 1} of {run.number}" if run.number > 1 else "drawing"
                run.task, run.current = run.bar.add_task(name, total=steps), index
            run.bar.update(run.task, completed=step)
        case client.Preview(index, step, data):
            folder = run.target.previews
            if folder is not None:
                path = folder / f"{run.paths[index].stem}-step-{step:03}{run.paths[index].suffix}"
                write_atomically(path, data)
                run.previews.append(path)
        case client.Picture(index, data):
            write_atomically(run.paths[index], data)
            run.drawn.append((run.paths[index], event))


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` is either as before or whole. Raises :class:`InputError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            # mkstemp makes files private; a picture is as readable as any file the user writes.
            mask = os.umask(0)
            os.umask(mask)
            Path(draft).chmod(0o666 & ~mask)
            Path(draft).replace(path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}; choose another place with --output"
        ) from error


def _report(run: _Run) -> None:
    if len(run.drawn) != run.number:
        raise NotRunning(f"the service ended after {len(run.drawn)} of {run.number} pictures; see its log")
    if run.target.json_answer:
        output.answer_json(
            {
                "pictures": [
                    {
                        "file": str(path),
                        "seed": one.seed,
                        "engine": one.engine,
                        "engineReason": one.engine_reason,
                        "seconds": round(one.seconds, 4),
                    }
                    for path, one in run.drawn
                ],
                "previews": [str(path) for path in run.previews],
                "request": {
                    name: value
                    for name, value in run.drawn[0][1].facts.items()
                    if name not in ("pictures", "index")
                },
            }
        )
        return
    for path, one in run.drawn:
        size = f"{one.facts.get('width')}×{one.facts.get('height')}"
        output.answer(str(path))
        reason = f" ({one.engine_reason})" if one.engine_reason and one.engine == "fallback" else ""
        output.say(f"  {size}, engine {one.engine}{reason}, seed {one.seed}, {one.seconds:.2f} s")
    for path in run.previews:
        output.say(f"  preview {path}")
