"""The step board: what every rank of a gang is doing, in memory that all of them share.

The board is a memfd: it has no name, so nothing is left in /dev/shm however the processes die, and it
is gone with the last of them. Every field is one aligned 64-bit integer with one writer, so that a
reader sees an old value or the new one and never a mixture.

Stopping at the same step on all ranks
--------------------------------------
Only rank 0 looks at the wish to cancel, at its boundary after step *k*, and publishes ``k + 1`` as the
last step *before* it enters that step. Every other rank needs something from rank 0's step *k + 1*
(a collective or a pipeline message) to finish its own, so at its boundary after step *k + 1* each
of them sees the published number and stops there too, with nothing left in flight.
"""

from __future__ import annotations

import mmap
import os
import time
from dataclasses import dataclass
from enum import IntEnum

WORD = 8
SHARED_WORDS = 4  # serial to cancel, serial to stop, step to stop after, spare
RANK_WORDS = (
    8  # one cache line a rank, so that ranks do not slow each other: serial, step, phase, beat, instant
)


class Phase(IntEnum):
    """What a rank is busy with."""

    STARTING = 0
    IDLE = 1
    ENCODING = 2
    DENOISING = 3
    DECODING = 4


@dataclass(frozen=True, slots=True)
class RankState:
    """One rank's line of the board. ``beat`` grows with every report; ``age`` is seconds since the last one."""

    rank: int
    serial: int
    step: int
    phase: Phase
    beat: int
    age: float


class StepBoard:
    """The board, seen from the replica or from one rank; both map the same memfd."""

    def __init__(self, ranks: int, fd: int | None = None) -> None:
        """A new board, or (with ``fd``, which it then owns) the one that another process made."""
        self.ranks = ranks
        size = WORD * (SHARED_WORDS + RANK_WORDS * (ranks + 1))
        self.fd = os.memfd_create("fluxsampler-board", os.MFD_CLOEXEC) if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, size)
        self._map = mmap.mmap(self.fd, size)
        self._words = memoryview(self._map).cast("q")

    def request_cancel(self, serial: int) -> None:
        """The replica's wish that request ``serial`` stops; an older or later request never sees it."""
        self._words[0] = serial

    def cancel_wanted(self, serial: int) -> bool:
        """Whether that wish stands; asked by rank 0 only."""
        return self._words[0] == serial

    def publish_stop(self, serial: int, step: int) -> None:
        """Rank 0's decision: ``step`` is the last one of request ``serial``. Before that step is entered."""
        self._words[2] = step
        self._words[1] = serial  # written last: a reader that sees the serial sees its step

    def stop_after(self, serial: int) -> int | None:
        """The published last step of request ``serial``, or None."""
        return self._words[2] if self._words[1] == serial else None

    def report(self, rank: int, serial: int, step: int, phase: Phase) -> None:
        """A rank's own line."""
        line = self._line(rank)
        self._words[line] = serial
        self._words[line + 1] = step
        self._words[line + 2] = phase
        self._words[line + 4] = time.monotonic_ns()
        self._words[line + 3] += 1

    def state(self, rank: int) -> RankState:
        """A rank's line, as it stands."""
        serial, step, phase, beat, instant = self._words[self._line(rank) : self._line(rank) + 5]
        age = (time.monotonic_ns() - instant) / 1e9 if instant else 0.0
        return RankState(rank, serial, step, Phase(phase), beat, age)

    def states(self) -> tuple[RankState, ...]:
        """All lines, by rank."""
        return tuple(self.state(rank) for rank in range(self.ranks))

    def beats(self) -> tuple[int, ...]:
        """Only the beats: when two readings are equal, no rank has reported anything in between."""
        return tuple(self._words[self._line(rank) + 3] for rank in range(self.ranks))

    def close(self) -> None:
        """Unmap and close; idempotent."""
        if self.fd >= 0:
            self._words.release()
            self._map.close()
            os.close(self.fd)
            self.fd = -1

    def _line(self, rank: int) -> int:
        return SHARED_WORDS + RANK_WORDS * rank
