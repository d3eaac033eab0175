from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest

from fluxsampler_operator.errors import ClusterUnavailable, Conflict, Refused
from fluxsampler_operator.queue import LAST_BACKOFF, Key, WorkQueue

KEY = Key("team", "one")
OTHER = Key("team", "two")


class Clock:
    """Timers that fire when a test says so."""

    def __init__(self) -> None:
        self.timers: list[FakeTimer] = []

    def later(self, seconds: float, call: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(seconds, call)
        self.timers.append(timer)
        return timer

    @property
    def waiting(self) -> list[float]:
        return [timer.seconds for timer in self.timers if timer.armed]

    def fire(self) -> None:
        for timer in [timer for timer in self.timers if timer.armed]:
            timer.armed = False
            timer.call()


class FakeTimer:
    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self.seconds, self.call, self.armed = seconds, call, True

    def cancel(self) -> None:
        self.armed = False


class Work:
    """Runs that a test holds and scripts."""

    def __init__(self) -> None:
        self.runs: list[Key] = []
        self.active = 0
        self.most = 0
        self.results: list[float | Exception | None] = []
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, key: Key) -> float | None:
        self.runs.append(key)
        self.active += 1
        self.most = max(self.most, self.active)
        try:
            await self.open.wait()
            result = self.results.pop(0) if self.results else 300.0
        finally:
            self.active -= 1
        if isinstance(result, Exception):
            raise result
        return result


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def work() -> Work:
    return Work()


@pytest.fixture
async def queue(work: Work, clock: Clock) -> WorkQueue:
    return WorkQueue(work, slow_seconds=300, settle_seconds=0, later=clock.later, jitter=lambda: 1.0)


async def rest(times: int = 20) -> None:
    """Let every task go as far as it can."""
    for _ in range(times):
        await asyncio.sleep(0)


async def test_a_key_runs_and_comes_again_after_what_the_run_said(
    queue: WorkQueue, work: Work, clock: Clock
) -> None:
    work.results = [5.0]
    queue.add(KEY)
    await rest()
    assert work.runs == [KEY]
    assert clock.waiting == [5.0]
    clock.fire()
    await rest()
    assert work.runs == [KEY, KEY]


async def test_many_events_before_a_run_are_one_run(queue: WorkQueue, work: Work) -> None:
    for _ in range(10):
        queue.add(KEY)
    await rest()
    assert work.runs == [KEY]


async def test_events_during_a_run_are_exactly_one_more(queue: WorkQueue, work: Work, clock: Clock) -> None:
    work.open.clear()
    queue.add(KEY)
    await rest()
    for _ in range(10):
        queue.add(KEY)
    work.open.set()
    await rest()
    assert work.runs == [KEY, KEY]
    assert clock.waiting == [300.0]  # of the second run alone


async def test_an_event_takes_the_timer_away(queue: WorkQueue, work: Work, clock: Clock) -> None:
    queue.add(KEY)
    await rest()
    queue.add(KEY)
    await rest()
    assert work.runs == [KEY, KEY]
    assert len(clock.waiting) == 1


async def test_one_key_never_runs_twice_at_once_and_others_go_on(queue: WorkQueue, work: Work) -> None:
    work.open.clear()
    queue.add(KEY)
    await rest()
    queue.add(KEY)
    queue.add(OTHER)
    await rest()
    assert work.runs == [KEY, OTHER]
    assert work.most == 2


async def test_no_more_runs_at_once_than_allowed(work: Work, clock: Clock) -> None:
    queue = WorkQueue(work, slow_seconds=300, concurrency=3, later=clock.later)
    work.open.clear()
    for number in range(10):
        queue.add(Key("team", str(number)))
    await rest()
    assert work.active == 3
    work.open.set()
    await rest(60)
    assert len(work.runs) == 10
    assert work.most == 3


async def test_what_is_gone_is_forgotten(queue: WorkQueue, work: Work, clock: Clock) -> None:
    work.results = [None]
    queue.add(KEY)
    await rest()
    assert KEY not in queue
    assert clock.waiting == []


async def test_an_event_during_the_last_run_runs_again(queue: WorkQueue, work: Work) -> None:
    work.results = [None, 5.0]
    work.open.clear()
    queue.add(KEY)
    await rest()
    queue.add(KEY)  # created again while its removal was looked at
    work.open.set()
    await rest()
    assert work.runs == [KEY, KEY]
    assert KEY in queue


async def test_backoff_doubles_to_a_minute_and_starts_anew_after_a_success(
    queue: WorkQueue, work: Work, clock: Clock
) -> None:
    work.results = [ClusterUnavailable("away") for _ in range(8)]
    waits = []
    queue.add(KEY)
    for _ in range(8):
        await rest()
        waits += clock.waiting
        clock.fire()
    assert waits == [1, 2, 4, 8, 16, 32, 60, LAST_BACKOFF]
    await rest()
    assert clock.waiting == [300.0]
    work.results = [Conflict("first")]
    clock.fire()
    await rest()
    assert clock.waiting == [1.0]


@pytest.mark.parametrize("roll", [0.0, 0.5, 1.0])
async def test_jitter_moves_at_most_half(work: Work, clock: Clock, roll: float) -> None:
    queue = WorkQueue(work, slow_seconds=300, later=clock.later, jitter=lambda: roll)
    work.results = [ClusterUnavailable("away")]
    queue.add(KEY)
    await rest()
    assert clock.waiting == [0.5 + 0.5 * roll]


async def test_the_servers_own_wish_comes_first(queue: WorkQueue, work: Work, clock: Clock) -> None:
    work.results = [ClusterUnavailable("busy", after_seconds=17)]
    queue.add(KEY)
    await rest()
    assert clock.waiting == [17]


async def test_what_is_permanent_waits_for_an_event_or_a_minute(
    queue: WorkQueue, work: Work, clock: Clock
) -> None:
    work.results = [Refused("no")]
    queue.add(KEY)
    await rest()
    assert clock.waiting == [60]
    queue.add(KEY)
    await rest()
    assert len(work.runs) == 2


async def test_a_fault_of_ours_is_tried_again_and_ends_nobody_else(
    queue: WorkQueue, work: Work, clock: Clock
) -> None:
    work.results = [ValueError("a bug"), 5.0]
    queue.add(KEY)
    queue.add(OTHER)
    await rest()
    assert sorted(clock.waiting) == [1.0, 5.0]


async def test_close_cancels_runs_and_timers_and_takes_nothing_more(
    queue: WorkQueue, work: Work, clock: Clock
) -> None:
    queue.add(OTHER)
    await rest()
    work.open.clear()
    queue.add(KEY)
    await rest()
    await queue.close()
    assert work.active == 0
    assert clock.waiting == []
    queue.add(KEY)
    await rest()
    assert work.runs == [OTHER, KEY]
    assert queue.keys == ()


async def test_runs_of_one_key_see_every_event(work: Work, clock: Clock) -> None:
    """Whatever the order of events and runs, the last run begins after the last event."""
    seen = itertools.count()
    world = 0
    read: list[int] = []

    async def look(_: Key) -> float | None:
        now = world
        for _turn in range(next(seen) % 4):
            await asyncio.sleep(0)
        read.append(now)
        return 300.0

    queue = WorkQueue(look, slow_seconds=300, settle_seconds=0, later=clock.later)
    for step in range(50):
        world += 1
        queue.add(KEY)
        for _turn in range(step % 5):
            await asyncio.sleep(0)
    await rest()
    assert read[-1] == world
