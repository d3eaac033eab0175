"""The replica's end of a gang: start it, command it, watch it, end it."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

import structlog

from fluxsampler_serve import devices
from fluxsampler_serve.errors import EngineError
from fluxsampler_serve.gang.arena import Arena
from fluxsampler_serve.gang.board import Phase, StepBoard
from fluxsampler_serve.gang.linux import process_state
from fluxsampler_serve.gang.messages import Failed, Ready, Start, Stepped

if TYPE_CHECKING:
    from fluxsampler_api.app_args import Layout
    from fluxsampler_serve.gang.forkserver import Forked, Forkserver
    from fluxsampler_serve.gang.messages import Command, Reply
    from fluxsampler_serve.weights import PreparedModel

log = structlog.get_logger(__name__)

CAUSE_SECONDS = 0.3  # a killed rank's neighbours may report their broken sockets before its own end is seen
LOOK_SECONDS = 1.0  # how often the board is looked at while nothing arrives


class GangError(EngineError):
    """A rank died, broke or got stuck: the gang as a whole is lost. The message names the rank and why."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. ``start``: until every rank is ready. ``step``: the longest that no rank may report anything.

    Collectives get twice the step's, so that the replica, which knows more, speaks first.
    """

    start: float = 600.0
    step: float = 120.0

    @property
    def collective(self) -> float:
        """What torch.distributed gets."""
        return 2 * self.step


class Gang:
    """Ranks that draw one request at a time. All methods but :meth:`failure` belong to one thread."""

    def __init__(
        self,
        forkserver: Forkserver,
        layout: Layout,
        device: devices.Kind,
        *,
        prepared: PreparedModel,
        warmup_steps: int,
        encoders_on_cpu: bool,
        timeouts: Timeouts,
    ) -> None:
        """Fork the ranks and wait until all have joined and loaded.

        Raises :class:`GangError`, or :class:`~fluxsampler_serve.errors.EngineStartFailed` when the
        forkserver cannot fork; leaves nothing.
        """
        self.board = StepBoard(layout.ranks)
        self.arena = Arena()
        self.seconds: dict[str, float] = {}
        self._forkserver = forkserver
        self._timeouts = timeouts
        self._ranks: list[Forked] = []
        self._pipes: list[Connection] = []
        began = time.perf_counter()
        rendezvous = os.memfd_create("fluxsampler-rendezvous", os.MFD_CLOEXEC)
        try:
            for rank in range(layout.ranks):
                place = devices.place(device, rank, layout.ranks)
                self._fork(rendezvous)
                start = Start(
                    rank, layout, place, prepared, warmup_steps, encoders_on_cpu, timeouts.collective
                )
                self.tell([rank], start)
            self.seconds["fork"] = time.perf_counter() - began
            replies = self.collect(range(layout.ranks), seconds=timeouts.start, watch_steps=False)
        except BaseException:
            self.kill()
            raise
        finally:
            os.close(rendezvous)
        ready = [reply for reply in replies.values() if isinstance(reply, Ready)]
        for phase in ready[0].seconds:
            self.seconds[phase] = max(reply.seconds[phase] for reply in ready)
        self.seconds["total"] = time.perf_counter() - began
        log.info(
            "gang ready",
            layout=str(layout),
            pids=self.pids,
            **{k: round(v, 3) for k, v in self.seconds.items()},
        )

    @property
    def pids(self) -> list[int]:
        """Of the ranks, in order."""
        return [forked.pid for forked in self._ranks]

    def tell(self, ranks: Iterable[int], command: Start | Command) -> None:
        """Send a command. Raises :class:`GangError` if a rank is gone."""
        for rank in ranks:
            try:
                self._pipes[rank].send(command)
            except OSError as error:
                raise self._cause(rank, f"rank {rank} does not take commands: {error}") from error

    def collect(
        self,
        ranks: Iterable[int],
        on_step: Callable[[Stepped], None] | None = None,
        seconds: float | None = None,
        watch_steps: bool = True,
    ) -> dict[int, Reply]:
        """One reply from each of ``ranks``, by rank; ``on_step`` hears of steps meanwhile.

        Raises :class:`GangError` as soon as any rank dies or breaks, when no rank has reported anything
        for the step's timeout, or after ``seconds``.
        """
        waiting = set(ranks)
        replies: dict[int, Reply] = {}
        by_pipe = {id(pipe): rank for rank, pipe in enumerate(self._pipes)}
        by_pidfd = {forked.pidfd: rank for rank, forked in enumerate(self._ranks)}
        deadline = None if seconds is None else time.monotonic() + seconds
        beats, moved = self.board.beats(), time.monotonic()
        while waiting:
            ready = wait([*self._pipes, *by_pidfd], timeout=LOOK_SECONDS)
            # Messages first: a rank that reported its failure and ended should be quoted.
            for item in sorted(ready, key=lambda item: isinstance(item, int)):
                if isinstance(item, int):
                    rank = by_pidfd[item]
                    raise GangError(f"rank {rank} {self._ended(rank)}{self._during(rank)}")
                rank = by_pipe[id(item)]
                reply = self._receive(rank)
                if isinstance(reply, Stepped):
                    if on_step is not None:
                        on_step(reply)
                elif isinstance(reply, Failed):
                    log.error("rank failed", rank=rank, error=reply.error, traceback=reply.traceback)
                    raise self._cause(rank, f"rank {rank} failed{self._during(rank)}: {reply.error}")
                else:
                    replies[rank] = reply
                    waiting.discard(rank)
            now = time.monotonic()
            seen = self.board.beats()
            if ready or seen != beats:
                beats, moved = seen, now
            elif watch_steps and now - moved > self._timeouts.step:
                raise GangError(
                    f"no rank made a step for {self._timeouts.step:.0f} s: {self._laggard(waiting)}"
                )
            if deadline is not None and waiting and now > deadline:
                raise GangError(f"not ready after {seconds:.0f} s: {self._laggard(waiting)}")
        return replies

    def failure(self) -> str | None:
        """Which rank has ended, or None; never blocks, callable from any thread."""
        poller = select.poll()
        ranks = {forked.pidfd: rank for rank, forked in enumerate(self._ranks)}
        for pidfd in ranks:
            poller.register(pidfd, select.POLLIN)
        ended = [ranks[fd] for fd, event in poller.poll(0) if event & select.POLLIN]
        return f"rank {ended[0]} has ended" if ended else None

    def kill(self) -> None:
        """End every rank at once and give everything back; idempotent."""
        for forked in self._ranks:
            try:
                signal.pidfd_send_signal(forked.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for forked in self._ranks:
            wait([forked.pidfd], timeout=10)
            self._forkserver.exit_of(forked.pid)
            os.close(forked.pidfd)
        self._ranks.clear()
        for pipe in self._pipes:
            pipe.close()
        self._pipes.clear()
        self.board.close()
        self.arena.close()

    def _fork(self, rendezvous: int) -> None:
        ours, theirs = socket.socketpair()
        # A rank that is stopped in the middle of a message must not hold the replica for ever.
        patience = struct.pack("ll", int(self._timeouts.step), 0)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        self._pipes.append(Connection(ours.detach()))
        with theirs:
            self._ranks.append(
                self._forkserver.fork([theirs.fileno(), self.board.fd, rendezvous, self.arena.fd])
            )

    def _receive(self, rank: int) -> Reply:
        try:
            reply: Reply = self._pipes[rank].recv()
        except (EOFError, OSError) as error:
            raise self._cause(
                rank, f"rank {rank} stopped talking{self._during(rank)}: {error or 'end of pipe'}"
            ) from error
        return reply

    def _cause(self, rank: int, symptom: str) -> GangError:
        """The failure to raise: a rank that was killed explains its neighbours' complaints."""
        fds = {forked.pidfd: number for number, forked in enumerate(self._ranks)}
        until = time.monotonic() + CAUSE_SECONDS
        while (left := until - time.monotonic()) > 0:
            for fd in wait(list(fds), timeout=left):
                number = fds.pop(fd) if isinstance(fd, int) else rank
                how = self._ended(number)
                if "SIG" in how:
                    return GangError(f"rank {number} {how}{self._during(number)}")
            if not fds:
                break
        return GangError(symptom)

    def _ended(self, rank: int) -> str:
        return self._forkserver.exit_of(self._ranks[rank].pid)

    def _during(self, rank: int) -> str:
        state = self.board.state(rank)
        if state.phase is Phase.DENOISING:
            return f" in step {state.step + 1}"
        return "" if state.phase is Phase.IDLE else f" while {state.phase.name.lower()}"

    def _laggard(self, waiting: set[int]) -> str:
        """The rank that most likely holds up the others, in words."""
        frozen = [rank for rank, forked in enumerate(self._ranks) if process_state(forked.pid) in "Tt"]
        if frozen:
            return f"rank {frozen[0]} is stopped by a signal{self._during(frozen[0])}"
        rank = min(waiting, key=lambda number: (self.board.state(number).step, number))
        return f"rank {rank} is the furthest behind{self._during(rank)}"
