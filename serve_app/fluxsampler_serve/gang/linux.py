"""The few Linux calls that keep a gang from outliving its replica."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
# Of cgroup v2 and v1, as a container sees its own: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst.
OOM_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


def die_with_parent(parent: int) -> None:
    """SIGKILL this process when its parent ends, however that ends.

    The kernel watches the *thread* that forked, so call this only in children of a single-threaded
    process. ``parent`` is that process: if it died before the call, this process ends itself now.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")
    if os.getppid() != parent:
        os._exit(1)


def threads() -> int:
    """Threads of this process."""
    return len(os.listdir("/proc/self/task"))


def process_state(pid: int) -> str:
    """The kernel's letter for a process (R running, S sleeping, T stopped, Z zombie, …), or "gone"."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "gone"
    return stat.rpartition(")")[2].split()[0]


def oom_kills(counters: tuple[Path, ...] = OOM_COUNTERS) -> int | None:
    """Processes of this container that the kernel killed at its memory limit; None where no cgroup counts them."""
    for counter in counters:
        try:
            lines = counter.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    return None


def describe_exit(status: int, oom_kills_before: int | None = None) -> str:
    """A wait status in words; ``oom_kills_before`` is the count of :func:`oom_kills` from when it still ran."""
    if not os.WIFSIGNALED(status):
        return f"exited with code {os.waitstatus_to_exitcode(status)}"
    number = os.WTERMSIG(status)
    words = f"was killed by {signal.Signals(number).name}"
    if number != signal.SIGKILL:
        return words
    now = oom_kills()
    if oom_kills_before is None or now is None:
        return f"{words} (out of memory?)"
    return f"{words}: out of memory at the container's limit" if now > oom_kills_before else words
