"""Free TCP ports that stay free until their user binds them."""

from __future__ import annotations

import errno
import random
import socket
from typing import Self

from fluxsampler_cli.errors import InputError, PortInUse

# Below the kernel's usual ephemeral range (32768-60999), so that no outgoing connection takes one.
_FIRST, _LAST = 20000, 32700


def check_port(host: str, port: int) -> None:
    """Raise :class:`PortInUse` when something listens on ``host:port``, InputError for an unusable host."""
    with socket.socket(_family(host)) as probe:
        # With SO_REUSEADDR a connection of an ended server (TIME_WAIT) is no obstacle, a listener is.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise _bind_error(host, port, error) from None


def _bind_error(host: str, port: int, error: OSError) -> InputError | PortInUse:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(
            f"port {port} on {host} is in use by another program; stop it, or choose another with --port (0: any free one)"
        )
    if error.errno == errno.EACCES:
        return PortInUse(f"port {port} needs root; choose one above 1023 with --port")
    return InputError(
        f"cannot listen on {host}: {error.strerror}; use 127.0.0.1, 0.0.0.0 or an address of this machine"
    )


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class PortReservation:
    """Ports held for programs that bind them later with SO_REUSEADDR, as HAProxy and Serve do.

    A bound socket that does not listen keeps everyone out who looks for a free port, yet lets a
    socket with SO_REUSEADDR bind and listen. Close it when its user listens.
    """

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def take(self, count: int) -> list[int]:
        """``count`` free consecutive ports."""
        for _ in range(200):
            first = random.randrange(_FIRST, _LAST - count)  # noqa: S311 - spreads neighbours, no secret
            held = [self._hold(port) for port in range(first, first + count)]
            sockets = [one for one in held if one is not None]
            if len(sockets) == count:
                self._sockets += sockets
                return list(range(first, first + count))
            for one in sockets:
                one.close()
        raise PortInUse(f"no {count} free ports in {_FIRST}-{_LAST}; end programs that listen there")

    @staticmethod
    def _hold(port: int) -> socket.socket | None:
        # All interfaces, since HAProxy binds some of its ports there.
        probe = socket.socket()
        try:
            # Without SO_REUSEADDR at bind, so that another reservation or listener is seen.
            probe.bind(("0.0.0.0", port))  # noqa: S104 - never listens
        except OSError:
            probe.close()
            return None
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe

    def close(self) -> None:
        """Let go of every port."""
        for one in self._sockets:
            one.close()
        self._sockets.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
