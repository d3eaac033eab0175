"""The forkserver's own process: ``python -m fluxsampler_serve.gang.server FD DEVICE PARENT``.

It imports everything that ranks need, never computes, and forks a rank whenever the replica asks.
Imports are 80 % of a rank's cold start, and forked ranks share their memory.

It must stay single-threaded: a child forked while another thread holds a lock can hang, and torch's
thread pool does not survive a fork. It says so and ends if it is not.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import select
import signal
import socket
import sys
import time
from multiprocessing.connection import Connection
from typing import NoReturn

from fluxsampler_serve.gang.linux import describe_exit, die_with_parent, oom_kills, threads

PARENT_CHECK_SECONDS = 1.0
MAX_FDS = 8
MAX_BYTES = 1 << 16


def main() -> None:
    """Preload, then fork on demand until the replica goes away."""
    fd, device, parent = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    server = Server(socket.socket(fileno=fd), parent)
    try:
        server.preload(device)
        server.serve()
    finally:
        server.kill_children()


class Server:
    """Forks ranks; see :class:`fluxsampler_serve.gang.forkserver.Forkserver` for the other end."""

    def __init__(self, replica: socket.socket, parent: int) -> None:
        self.replica = replica
        self.parent = parent
        self.children: set[int] = set()
        self.oom_kills = oom_kills()

    def preload(self, device: str) -> None:
        """Import what ranks use, and report how long it took or why it failed."""
        # Imports take seconds, in which nobody reads the socket; the timer looks for the replica meanwhile.
        signal.signal(signal.SIGALRM, lambda *_: None if os.getppid() == self.parent else os._exit(1))
        signal.setitimer(signal.ITIMER_REAL, PARENT_CHECK_SECONDS, PARENT_CHECK_SECONDS)
        start = time.perf_counter()
        try:
            importlib.import_module("fluxsampler_serve.gang.preload").preload(device)
            if threads() != 1:
                raise RuntimeError(f"{threads()} threads after the preload; forked ranks would hang")
        except Exception as error:  # noqa: BLE001 (whatever it is, the replica must be told)
            self._send(("failed", f"{type(error).__name__}: {error}"))
            sys.exit(1)
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.collect()
        gc.freeze()  # objects of the imports stay out of every collection, so that their pages stay shared
        self._send(("ready", time.perf_counter() - start))

    def serve(self) -> None:
        """Until the replica closes its end, or is gone without having been able to."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while os.getppid() == self.parent:
            readable, _, _ = select.select([self.replica.fileno(), wake_read], [], [], PARENT_CHECK_SECONDS)
            if wake_read in readable:
                os.read(wake_read, 4096)
                self._reap()
            if self.replica.fileno() in readable:
                data, fds, _, _ = socket.recv_fds(self.replica, MAX_BYTES, MAX_FDS)
                if not data:
                    return
                self._fork(fds, (wake_read, wake_write))

    def kill_children(self) -> None:
        """The ranks go with the forkserver (PR_SET_PDEATHSIG would do it too)."""
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so the number is still this child's

    def _fork(self, fds: list[int], own: tuple[int, int]) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_rank(parent, fds, own)
        self.children.add(pid)
        pidfd = os.pidfd_open(pid)  # before any reaping, so it cannot name another process
        socket.send_fds(self.replica, [pickle.dumps(("forked", pid))], [pidfd])
        for fd in (pidfd, *fds):
            os.close(fd)

    def _become_rank(self, parent: int, fds: list[int], own: tuple[int, int]) -> NoReturn:
        code = 1
        try:
            die_with_parent(parent)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.replica.close()
            for fd in own:
                os.close(fd)
            rank = importlib.import_module("fluxsampler_serve.gang.rank")
            commands, *rest = fds
            code = rank.main(Connection(commands), rest)
        finally:
            os._exit(code)  # nothing of the forkserver's may run in the child

    def _reap(self) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self.children.discard(pid)
            self._send(("exited", pid, describe_exit(status, self.oom_kills)))

    def _send(self, message: tuple[object, ...]) -> None:
        try:
            self.replica.send(pickle.dumps(message))
        except (BrokenPipeError, ConnectionResetError):
            sys.exit(0)  # the replica is gone, and so is the reason to be here


if __name__ == "__main__":
    main()
