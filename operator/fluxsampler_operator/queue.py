"""A level-based work queue: keys in, one run per key at a time, everything else is a reason to run again.

Events only say *that* something changed; the run reads the world anew. So many events of one key are one run,
and an event during a run is exactly one more run after it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from fluxsampler_operator.errors import Permanent, Retryable
from fluxsampler_operator.metrics import QUEUED, RECONCILES

_log = structlog.get_logger(__name__)

FIRST_BACKOFF = 1.0
LAST_BACKOFF = 60.0
CONCURRENCY = 8
# Changes come in bursts (a rollout's pods, our own writes): a run that follows another at once waits a moment for the rest.
SETTLE_SECONDS = 0.2


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """A FluxSampler by namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Timer(Protocol):
    """What ``later`` gives back."""

    def cancel(self) -> None:
        """Never call it then."""


Work = Callable[[Key], Awaitable[float | None]]
"""One run for a key: gives the seconds until the next one without an event, None when the object is gone."""


@dataclass(slots=True)
class _Entry:
    task: asyncio.Task[None] | None = None
    again: bool = False
    timer: Timer | None = None
    failures: int = 0


class WorkQueue:
    """Runs ``work`` for keys, at most ``concurrency`` at once; call everything from one event loop.

    A run that raises Retryable is repeated after its ``after_seconds`` or an exponential backoff with jitter
    (1 s to 60 s), as an unknown error is; Permanent after 60 s; an event comes first in each case.
    """

    def __init__(
        self,
        work: Work,
        *,
        slow_seconds: float,
        concurrency: int = CONCURRENCY,
        settle_seconds: float = SETTLE_SECONDS,
        later: Callable[[float, Callable[[], None]], Timer] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._work = work
        self._slow = slow_seconds
        self._slots = asyncio.Semaphore(concurrency)
        self._settle = settle_seconds
        self._later = later
        self._jitter = jitter
        self._entries: dict[Key, _Entry] = {}
        self._closed = False

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    @property
    def keys(self) -> tuple[Key, ...]:
        """Everything that runs, waits or has a timer: all objects known."""
        return tuple(self._entries)

    def add(self, key: Key) -> None:
        """Run ``key`` as soon as there is a slot; once more if it is running right now."""
        if self._closed:
            return
        entry = self._entries.setdefault(key, _Entry())
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        if entry.task is not None:
            entry.again = True
            return
        entry.task = asyncio.create_task(self._run(key, entry), name=f"reconcile {key}")
        QUEUED.inc()

    async def close(self) -> None:
        """Cancel everything and take nothing more."""
        self._closed = True
        tasks = []
        for entry in self._entries.values():
            if entry.timer is not None:
                entry.timer.cancel()
            if entry.task is not None:
                entry.task.cancel()
                tasks.append(entry.task)
        await asyncio.gather(*tasks, return_exceptions=True)
        self._entries.clear()

    async def _run(self, key: Key, entry: _Entry) -> None:
        try:
            while True:
                async with self._slots:
                    # What comes from here on may have been missed by this run's reads.
                    entry.again = False
                    wait = await self._once(key, entry)
                if not entry.again:
                    break
                await asyncio.sleep(self._settle)
        finally:
            entry.task = None
            QUEUED.dec()
        if self._closed:
            return
        if wait is None:
            del self._entries[key]
        else:
            later = self._later or asyncio.get_running_loop().call_later
            entry.timer = later(wait, lambda: self.add(key))

    async def _once(self, key: Key, entry: _Entry) -> float | None:
        """Seconds until the next run."""
        started = time.monotonic()
        result = "ok"
        try:
            wait = await self._work(key)
        except Retryable as error:
            result = "retryable"
            wait = self._after(entry, error)
            _log.warning("will try again", sampler=str(key), error=str(error), seconds=round(wait, 1))
        except Permanent as error:
            result = "permanent"
            entry.failures += 1
            # What a person corrects outside of the objects (a role) sends no event.
            wait = min(self._slow, LAST_BACKOFF)
            _log.error("cannot go on", sampler=str(key), error=str(error), seconds=wait)
        except Exception as error:  # noqa: BLE001  (logged with its trace, counted, repeated)
            # A fault of ours in one object must not end the others; its trace is logged, the counter shows it.
            result = "failed"
            wait = self._after(entry, error)
            _log.exception("reconcile failed", sampler=str(key), seconds=round(wait, 1))
        else:
            entry.failures = 0
        finally:
            RECONCILES.labels(result).observe(time.monotonic() - started)
        return wait

    def _after(self, entry: _Entry, error: Exception) -> float:
        entry.failures += 1
        wished = error.after_seconds if isinstance(error, Retryable) else None
        if wished is not None:
            return wished
        full = min(LAST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(entry.failures - 1, 16))
        # Half of it is fixed, so that a bad roll is no busy loop; the other half keeps many objects apart.
        return full * (0.5 + 0.5 * self._jitter())
