"""Daemons that outlive their starter, each known by id and start time, found and ended by anyone later.

Two things identify a process: a record (its id and the kernel's start time, so that a reused id is
never taken for it) and one environment variable that it and all its children inherit. The record
names parts; the variable finds what a killed starter never came to record.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.cluster import commands
from tools.cluster.errors import CannotRun, NotReady
from tools.cluster.files import publish
from tools.cluster.waiting import wait_for

MARKER = "FLUXSAMPLER_CLUSTER"
_LOG_TAIL = 15
# Generous, for machines that do much else; a part that ends meanwhile is noticed at once.
_READY_SECONDS = 180.0
_END_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Record:
    """One started process. ``started`` counts clock ticks since boot ``boot``."""

    name: str
    pid: int
    started: int
    boot: str
    argv: tuple[str, ...]
    log: str

    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return self.boot == boot_id() and started(self.pid) == self.started


def boot_id() -> str:
    """A new value at every boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def started(pid: int) -> int | None:
    """Start time of process ``pid`` in clock ticks since boot; None for none, and for a zombie."""
    try:
        text = Path("/proc", str(pid), "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in parentheses, which may itself hold both.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


class Processes:
    """The daemons of one state folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._records = folder / "processes"
        self._logs = folder / "logs"

    def start(self, name: str, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Record:
        """Start ``argv`` as daemon ``name``: own session, no input, output appended to ``logs/<name>.log``.

        Raises:
            CannotRun: its program is not installed.
        """
        self._records.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{name}.log"
        program = commands.find(argv[0])
        if program is None:
            raise CannotRun(f"{name} cannot be started: {argv[0]} is not installed")
        pid = os.posix_spawn(
            program,
            list(argv),
            {**commands.environment(), MARKER: str(self._folder), **(environment or {})},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        ticks = started(pid)
        record = Record(name, pid, -1 if ticks is None else ticks, boot_id(), tuple(argv), str(log))
        publish(self._records / f"{name}.json", json.dumps(asdict(record)))
        return record

    def record(self, name: str) -> Record | None:
        """What is known of daemon ``name``."""
        try:
            data = json.loads((self._records / f"{name}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return Record(**{**data, "argv": tuple(data["argv"])})

    def records(self) -> list[Record]:
        """Every daemon that was started and not stopped, by name."""
        names = sorted(path.stem for path in self._records.glob("*.json"))
        return [record for name in names if (record := self.record(name))]

    def await_ready(
        self, name: str, condition: Callable[[], object], timeout: float = _READY_SECONDS
    ) -> None:
        """Return when ``condition()`` is true.

        Raises:
            NotReady: the daemon ended, or time ran out; the text ends with its log.
        """
        record = self.record(name)
        if record is None:
            raise NotReady(f"{name} was never started")

        def ready() -> bool:
            if not record.alive():
                raise NotReady(f"{name} ended while it started{_tail(record)}")
            return bool(condition())

        try:
            wait_for(ready, timeout, name)
        except NotReady as error:
            raise error if "ended" in str(error) else NotReady(f"{error}{_tail(record)}") from None

    def stop(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End daemon ``name`` and wait until it is gone."""
        record = self.record(name)
        if record is None:
            return
        end([record], how)
        (self._records / f"{name}.json").unlink(missing_ok=True)

    def all_alive(self) -> list[int]:
        """Ids of all living processes of this folder: recorded ones, and whatever carries the marker."""
        return sorted({record.pid for record in self.records() if record.alive()} | set(marked(self._folder)))

    def kill_all(self) -> None:
        """End every process of this folder, whoever started it, and wait until none is left."""
        wait_for(lambda: not _kill(self.all_alive()), _END_SECONDS, f"processes of {self._folder} to end")
        for path in self._records.glob("*.json"):
            path.unlink()


def marked(folder: Path) -> list[int]:
    """Ids of living processes that carry the marker of ``folder``, without the caller."""
    wanted = f"{MARKER}={folder}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        # Gone meanwhile, or another user's.
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            environment = Path("/proc", entry, "environ").read_bytes()
            if wanted in environment.split(b"\0") and started(int(entry)) is not None:
                found.append(int(entry))
    return found


def end(records: Sequence[Record], how: signal.Signals = signal.SIGKILL) -> None:
    """Signal ``records`` and wait until they are gone; after a while, kill them."""

    def gone(signal_number: signal.Signals) -> bool:
        left = [record.pid for record in records if record.alive()]
        _kill(left, signal_number)
        return not left

    try:
        # Asked once, then only looked at.
        if gone(how):
            return
        wait_for(lambda: not any(r.alive() for r in records), _END_SECONDS, "processes to end")
    except NotReady:
        wait_for(lambda: gone(signal.SIGKILL), _END_SECONDS, "killed processes to end")
    finally:
        for record in records:
            with suppress(ChildProcessError):  # not ours, or not ours any more
                os.waitpid(record.pid, os.WNOHANG)


def _kill(pids: Sequence[int], how: signal.Signals = signal.SIGKILL) -> Sequence[int]:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, how)
    return pids


def _tail(record: Record) -> str:
    try:
        lines = Path(record.log).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    return "\n".join([f"; the end of {record.log}:", *lines[-_LOG_TAIL:]])
