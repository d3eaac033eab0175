"""What the CLI remembers about local instances, one small file and one lock per name.

Under ``$XDG_STATE_HOME/fluxsampler`` (``~/.local/state/fluxsampler``): ``NAME.json`` says what runs,
``NAME.lock`` is held by the keeper of an instance for as long as that lives, ``logs/NAME.log`` is
the log of the last run. The first two vanish with ``down``.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fluxsampler_api.plan import PlanStatus
from fluxsampler_cli import processes
from fluxsampler_cli.errors import AlreadyRunning, LocalError

Phase = Literal["starting", "running", "failed"]


class InstanceState(BaseModel):
    """One local instance, as its keeper last wrote it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    instance: str
    folder: str
    file: str
    fingerprint: str
    host: str
    port: int
    url: str
    log: str
    keeper: int
    keeper_started: float
    detached: bool
    since: float
    phase: Phase = "starting"
    step: str = ""
    detail: str = ""
    error: str = ""
    died: bool = False
    ready_seconds: float | None = None
    plan: PlanStatus

    @property
    def alive(self) -> bool:
        """Whether its keeper still is the process that wrote this."""
        return processes.started_at(self.keeper) == self.keeper_started

    @property
    def shown_phase(self) -> str:
        """The truth: starting, running, failed, or dead when the keeper vanished without a word."""
        return self.phase if self.alive or self.phase == "failed" else "dead"


class StateFolder:
    """The files of all names; ``root`` is for tests."""

    def __init__(self, root: Path | None = None) -> None:
        base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        self.root = root or Path(base).expanduser() / "fluxsampler"

    def log(self, name: str) -> Path:
        """Log of the last run of ``name``."""
        return self.root / "logs" / f"{name}.log"

    def read(self, name: str) -> InstanceState | None:
        """State of ``name``, or None where nothing is known."""
        try:
            return InstanceState.model_validate_json((self.root / f"{name}.json").read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise LocalError(
                f"{self.root / f'{name}.json'} is damaged; remove it, then look for left processes with `ps`",
                str(error),
            ) from error

    def all(self) -> list[InstanceState]:
        """Every name that has a state, in order."""
        found = (self.read(path.stem) for path in sorted(self.root.glob("*.json")))
        return [state for state in found if state is not None]

    def write(self, state: InstanceState) -> None:
        """Replace the state of ``state.name``; a reader sees the old or the new one, never half."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.root / f"{state.name}.json"
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text(state.model_dump_json(by_alias=True, indent=1), encoding="utf-8")
        draft.replace(path)

    def forget(self, name: str) -> None:
        """Remove the state of ``name``; its log stays."""
        (self.root / f"{name}.json").unlink(missing_ok=True)

    def take_lock(self, name: str, wait: float = 0.0) -> Lock:
        """The lock of ``name``, held until :meth:`Lock.release` or the end of this process.

        Raises:
            AlreadyRunning: somebody else holds it, also after ``wait`` seconds.
        """
        return Lock.acquire(self.root / f"{name}.lock", name, wait)


class Lock:
    """An exclusive `flock` on a file that exists only while it is held."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self._given_away = False

    @classmethod
    def acquire(cls, path: Path, name: str, wait: float = 0.0) -> Lock:
        """Take the lock at ``path``, or raise :class:`AlreadyRunning` after ``wait`` seconds."""
        deadline = time.monotonic() + wait
        while True:
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise LocalError(
                    f"{path.parent} cannot be written: {error.strerror}; set XDG_STATE_HOME to a folder of yours"
                ) from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The holder before us removed the file: what we locked has no name any more.
                with suppress(FileNotFoundError):
                    if path.stat().st_ino == os.fstat(descriptor).st_ino:
                        return cls(path, descriptor)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(descriptor)
                    raise AlreadyRunning(
                        f"{name} is up or starting already; see `fluxsampler status {name}`, "
                        f"stop it with `fluxsampler down {name}`, or choose another --name"
                    ) from None
                time.sleep(0.05)
            os.close(descriptor)

    def give_away(self) -> None:
        """A child that inherited the descriptor holds the lock from now on."""
        os.close(self.descriptor)
        self._given_away = True

    @classmethod
    def inherited(cls, path: Path, descriptor: int) -> Lock:
        """In that child: the lock of the parent."""
        os.set_inheritable(descriptor, False)
        return cls(path, descriptor)

    def release(self) -> None:
        """Remove the file and unlock; nothing after :meth:`give_away`."""
        if self._given_away:
            return
        self._given_away = True
        self.path.unlink(missing_ok=True)
        os.close(self.descriptor)
