"""The replica's end of the forkserver: start it, have it fork, learn how its children ended.

Why not multiprocessing's: its children import the parent's ``__main__``, which in a Ray actor is Ray's
worker script, and it hands out no pidfd.
"""

from __future__ import annotations

import os
import pickle
import select
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import structlog

from fluxsampler_serve.devices import forkserver_environment
from fluxsampler_serve.errors import EngineStartFailed
from fluxsampler_serve.gang.linux import describe_exit, oom_kills

log = structlog.get_logger(__name__)

START_SECONDS = 600.0  # imports from a cold disk on a busy machine
FORK_SECONDS = 60.0
MAX_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Forked:
    """A rank's process. ``pidfd`` becomes readable when it ends, and never names another process."""

    pid: int
    pidfd: int


class Forkserver:
    """A process that has imported everything; thread-safe."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.import_seconds: float | None = None
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._exits: dict[int, str] = {}
        self._oom_kills: int | None = None

    @property
    def pid(self) -> int | None:
        """Its process, if it was started."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Spawn it and return at once; it imports in the background. Idempotent."""
        with self._lock:
            if self._process is not None:
                return
            # Packet sockets keep each message whole, with the descriptors that belong to it.
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._process = subprocess.Popen(  # noqa: S603 (our own module, fixed arguments)
                [
                    *(sys.executable, "-m", "fluxsampler_serve.gang.server"),
                    *(str(theirs.fileno()), self.device, str(os.getpid())),
                ],
                pass_fds=[theirs.fileno()],
                env=forkserver_environment(dict(os.environ)),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in a terminal is the replica's business
            )
            theirs.close()
            self._socket = ours
            self._oom_kills = oom_kills()

    def wait_ready(self) -> None:
        """Until its imports are done. Raises :class:`~fluxsampler_serve.errors.EngineStartFailed`."""
        with self._lock:
            self.start()
            if self.import_seconds is not None:
                return
            message, _ = self._receive(("ready", "failed"), START_SECONDS)
            if message[0] == "failed":
                raise EngineStartFailed(f"the forkserver's imports failed: {message[1]}")
            self.import_seconds = message[1]
            log.info("forkserver ready", pid=self.pid, import_seconds=round(message[1], 2))

    def fork(self, fds: list[int]) -> Forked:
        """One more rank, which gets copies of ``fds``: its command connection first."""
        with self._lock:
            self.wait_ready()
            try:
                if self._socket is None:
                    raise OSError("it was closed")
                socket.send_fds(self._socket, [b"fork"], fds)
            except OSError as error:
                raise EngineStartFailed(f"the forkserver is gone: {error}") from error
            message, received = self._receive(("forked",), FORK_SECONDS)
            return Forked(message[1], received[0])

    def exit_of(self, pid: int, seconds: float = 1.0) -> str:
        """How a child ended, in words; waits that long for the news."""
        with self._lock:
            deadline = time.monotonic() + seconds
            while pid not in self._exits and (left := deadline - time.monotonic()) > 0:
                try:
                    self._receive(("exited",), left)
                except EngineStartFailed:
                    break
            return self._exits.pop(pid, "ended")

    def close(self) -> None:
        """End it, and with it every rank; idempotent."""
        process = self._process
        if process is not None and self.import_seconds is None:
            process.kill()  # another thread may hold the lock until the imports are done; now it need not
        with self._lock:
            if self._socket is not None:
                self._socket.close()  # its select returns, it kills its children and ends
                self._socket = None
            if self._process is not None:
                try:
                    self._process.wait(0 if self.import_seconds is None else 5)
                except subprocess.TimeoutExpired:
                    self._process.kill()  # still importing, or stopped; its ranks die by PR_SET_PDEATHSIG
                    self._process.wait()
                self._process = None
            self.import_seconds = None
            self._exits.clear()

    def _how_it_ended(self) -> str:
        try:
            code = -1 if self._process is None else self._process.wait(1)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        # Popen hands a signal on as a negative number, describe_exit reads the kernel's wait status.
        return describe_exit(-code if code < 0 else code << 8, self._oom_kills)

    def _receive(self, wanted: tuple[str, ...], seconds: float) -> tuple[tuple[Any, ...], list[int]]:
        if self._socket is None:
            raise EngineStartFailed("the forkserver is not running")
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._socket], [], [], left)[0]:
                raise EngineStartFailed(f"the forkserver said nothing for {seconds:.0f} s")
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, MAX_BYTES, 1)
            except ConnectionResetError:  # it died with a message of ours unread
                data, fds = b"", []
            if not data:
                raise EngineStartFailed(
                    f"the forkserver {self._how_it_ended()}; its own message is above in the log"
                )
            message = pickle.loads(data)  # noqa: S301 (from our own child, over a socketpair)
            if message[0] == "exited":
                self._exits[message[1]] = message[2]
            if message[0] in wanted:
                return message, fds
