"""The few Linux calls that keep a gang from outliving its replica."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


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


def describe_exit(status: int) -> str:
    """A wait status in words."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        hint = " (out of memory?)" if number == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(number).name}{hint}"
    return f"exited with code {os.waitstatus_to_exitcode(status)}"
