"""TCP ports: free ones, and who has a taken one."""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress
from pathlib import Path

from tools.cluster.errors import CannotRun

# Below Kubernetes' node ports (30000) and the kernel's usual ephemeral range (32768).
_FIRST, _LAST = 20000, 29999
_CALLERS = 50
_LISTEN = "0A"


def free(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody has at this moment.

    Until they are bound, another process may choose them, too. Callers that were started one after the other
    do not: each draws from ports that are its process id modulo _CALLERS.
    """
    own = range(_FIRST + os.getpid() % _CALLERS, _LAST + 1, _CALLERS)
    found: set[int] = set()
    for _ in range(1000):
        port = random.choice(own)
        if port not in found and is_free("127.0.0.1", port):
            found.add(port)
        if len(found) == count:
            return list(found)
    raise CannotRun(f"no {count} free ports in {_FIRST}-{_LAST}")


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen on ``host:port``."""
    with socket.socket() as probe:
        # A connection of an ended server (TIME_WAIT) is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def holder(port: int) -> str | None:
    """The program that listens on TCP ``port``, as "name (process 12)"; None when nobody does.

    Another user's program is "another program", since /proc does not name it.
    """
    sockets: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{fields[9]}]")
    if not sockets:
        return None
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):  # gone meanwhile, or another user's
                for descriptor in Path("/proc", entry, "fd").iterdir():
                    if os.readlink(descriptor) in sockets:
                        return f"{Path('/proc', entry, 'comm').read_text().strip()} (process {entry})"
    return "another program"
