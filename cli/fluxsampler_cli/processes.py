"""Processes, shared memory and folders of one local instance: find all of them, end all of them.

Ray and Serve start a tree of daemons that outlives its driver when that is killed, so the tree is
not found by parentage. Every process of an instance inherits one environment variable instead
(`setproctitle`, which Ray's workers use, would overwrite it in /proc; ``SPT_NOENV`` forbids that).
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from fluxsampler_cli.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterable

MARKER = "FLUXSAMPLER_INSTANCE"
# How Ray, torch, NCCL, Python's multiprocessing and OpenMP name their files there, and we do.
_SHM_NAMES = (
    "plasma",
    "ray",
    "torch_",
    "nccl-",
    "psm_",
    "sem.",
    "__KMP_REGISTERED_LIB_",
    "fluxsampler",
    "fxs-",
)
_SHM = Path("/dev/shm")  # noqa: S108 - the kernel's name of shared memory, not a temporary folder

_log = structlog.get_logger(__name__)


def marker_environment(instance: str) -> dict[str, str]:
    """Variables that make a process and all it starts findable as ``instance``."""
    return {MARKER: instance, "SPT_NOENV": "1"}


def of_instance(instance: str) -> list[int]:
    """Ids of the living processes of ``instance``, without the caller and zombies."""
    wanted = f"{MARKER}={instance}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            environment = Path("/proc", entry, "environ").read_bytes()
        except OSError:  # gone meanwhile, or another user's
            continue
        if wanted in environment.split(b"\0"):
            found.append(int(entry))
    return found


def named(instance: str, name: str) -> list[int]:
    """Those of them whose program is called ``name``."""
    found = []
    for pid in of_instance(instance):
        try:
            command = Path("/proc", str(pid), "comm").read_text(encoding="utf-8", errors="replace")
        except OSError:  # gone meanwhile
            continue
        if command.strip() == name:
            found.append(pid)
    return found


def shared_memory_of(pids: Iterable[int]) -> set[Path]:
    """Files under /dev/shm that any of ``pids`` maps or holds open."""
    names: set[str] = set()
    for pid in pids:
        folder = Path("/proc", str(pid))
        try:
            # A line of maps: address perms offset dev inode path; /proc/*/map_files would want privileges.
            lines = (folder / "maps").read_text(encoding="utf-8", errors="replace").splitlines()
            names.update(line.split(maxsplit=5)[5] for line in lines if f" {_SHM}/" in line)
            for descriptor in (folder / "fd").iterdir():
                names.add(_link(descriptor))
        except OSError:  # gone meanwhile
            continue
    return {Path(name) for name in names if name.startswith(f"{_SHM}/") and not name.endswith(" (deleted)")}


def _to_unlink(held: set[Path], ended: set[int]) -> set[Path]:
    """Those of ``held`` that are nobody else's.

    A model may lie under /dev/shm, and other programs share files with us there: a file goes only if
    the libraries of an instance would have made it (by its name), and no living process holds it
    (``ended`` ones may still be giving their descriptors back).
    """
    ours = {path for path in held if path.parent == _SHM and path.name.startswith(_SHM_NAMES)}
    if not ours:
        return ours
    living = {int(entry) for entry in os.listdir("/proc") if entry.isdigit()} - ended
    return ours - shared_memory_of(living)


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:  # closed meanwhile
        return ""


def end_instance(instance: str, folder: Path | None, timeout: float = 30.0) -> int:
    """Kill every process of ``instance``, then remove its own shared memory and its ``folder``.

    Nothing is asked to end by itself: Serve's ingress would take 35 s for it, and nothing of an
    instance is worth keeping (weights are published by rename, so a killed writer harms nobody).

    Returns:
        How many processes were ended.

    Raises:
        LocalError: one of them lives on after ``timeout`` seconds (stuck in the kernel).
    """
    ended: set[int] = set()
    shared: set[Path] = set()
    deadline = time.monotonic() + timeout
    # Repeated, because a process may fork between the listing and its end.
    while pids := of_instance(instance):
        if time.monotonic() > deadline:
            raise LocalError(
                f"processes {sorted(pids)} of {instance} do not end; a device driver may hold them, see dmesg"
            )
        shared |= shared_memory_of(pids)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            ended.add(pid)
        time.sleep(0.02)
    for path in _to_unlink(shared, ended):
        path.unlink(missing_ok=True)
    if folder is not None and folder.exists():
        shutil.rmtree(folder)
    if ended or shared:
        _log.debug("instance ended", instance=instance, processes=len(ended), shared_memory=len(shared))
    return len(ended)


def started_at(pid: int) -> float | None:
    """When ``pid`` started, in clock ticks since boot; None if there is no such process.

    Together with the id this names a process for good; the id alone is reused.
    """
    try:
        stat = Path("/proc", str(pid), "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else float(fields[19])


def end_one(pid: int, started: float | None, patience: float) -> None:
    """End the process ``pid`` of start time ``started``: asked first, killed after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    number: signal.Signals | None = signal.SIGTERM
    while started is not None and started_at(pid) == started:
        with suppress(ProcessLookupError):
            if number is not None:
                os.kill(pid, number)
        number = signal.SIGKILL if time.monotonic() > deadline else None
        time.sleep(0.05)
