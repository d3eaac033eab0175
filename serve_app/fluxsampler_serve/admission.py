"""Who may draw now, who waits, and who is sent away: a bounded number running, a bounded line behind."""

from __future__ import annotations

import asyncio
from collections import deque
from math import ceil
from typing import TYPE_CHECKING

from fluxsampler_serve.errors import QueueFull

if TYPE_CHECKING:
    from collections.abc import Callable

SMOOTHING = 0.2
"""Weight of the newest request in the running mean of seconds per request."""


class Admission:
    """First in, first out. One per gateway replica, used from its event loop only.

    ``first_guess_seconds`` is what a request is thought to take until one has been seen. ``watch``
    hears of every change, with the numbers running and waiting.
    """

    def __init__(
        self,
        running: int,
        queued: int,
        first_guess_seconds: float,
        watch: Callable[[int, int], None] | None = None,
    ) -> None:
        self._limit = running
        self._queue_limit = queued
        self._seconds = first_guess_seconds
        self._watch = watch
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def running(self) -> int:
        """Requests that have a place."""
        return self._running

    @property
    def queued(self) -> int:
        """Requests that wait for one."""
        return len(self._waiting)

    def retry_after(self) -> int:
        """Seconds until a newcomer may find room: those in front of it, at the rate seen so far."""
        return max(1, ceil(self._seconds * (len(self._waiting) + 1) / self._limit))

    async def enter(self) -> None:
        """Wait for a place; :meth:`leave` gives it back. Raises QueueFull at once when the line is full.

        A caller that is cancelled while it waits leaves the line.
        """
        if self._running < self._limit:
            self._running += 1
            self._changed()
            return
        if len(self._waiting) >= self._queue_limit:
            raise QueueFull(
                f"{self._running} requests are being drawn and {len(self._waiting)} wait; try again later"
            )
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._changed()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._hand_on()  # cancelled in the very turn in which the place was given
            elif place in self._waiting:  # not yet dropped by `_hand_on`
                self._waiting.remove(place)
            self._changed()
            raise

    def leave(self, seconds: float | None = None) -> None:
        """Give the place to the next in line. ``seconds``: how long the request took, if it was drawn."""
        if seconds is not None:
            self._seconds += SMOOTHING * (seconds - self._seconds)
        self._hand_on()
        self._changed()

    def resize(self, running: int, queued: int) -> None:
        """Other limits from now on. Who has a place or waits for one keeps it; new places go to those in line."""
        self._limit, self._queue_limit = running, queued
        while self._running < self._limit and self._waiting:
            self._running += 1
            self._hand_on()
        self._changed()

    def _hand_on(self) -> None:
        if self._running > self._limit:
            self._running -= 1
            return
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._running -= 1

    def _changed(self) -> None:
        if self._watch is not None:
            self._watch(self._running, len(self._waiting))
