"""Who draws, who waits, who is sent away."""

from __future__ import annotations

import asyncio

import pytest

from fluxsampler_serve.admission import Admission
from fluxsampler_serve.errors import QueueFull


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_places_then_a_line_then_refusal() -> None:
    admission = Admission(running=1, queued=1, first_guess_seconds=3.0)
    await admission.enter()
    waiting = asyncio.create_task(admission.enter())
    await settle()
    assert (admission.running, admission.queued) == (1, 1)
    with pytest.raises(QueueFull, match="1 requests are being drawn and 1 wait"):
        await admission.enter()
    admission.leave()
    await waiting
    assert (admission.running, admission.queued) == (1, 0)


async def test_first_in_first_out() -> None:
    admission = Admission(running=1, queued=9, first_guess_seconds=1.0)
    await admission.enter()
    order: list[int] = []

    async def draw(number: int) -> None:
        await admission.enter()
        order.append(number)
        admission.leave()

    tasks = [asyncio.create_task(draw(number)) for number in range(5)]
    await settle()
    admission.leave()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert (admission.running, admission.queued) == (0, 0)


async def test_who_leaves_the_line_holds_nobody_up() -> None:
    admission = Admission(running=1, queued=9, first_guess_seconds=1.0)
    await admission.enter()
    first, second = (asyncio.create_task(admission.enter()) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    assert admission.queued == 1
    admission.leave()
    await second
    assert (admission.running, admission.queued) == (1, 0)


async def test_cancelled_in_the_turn_in_which_it_got_its_place() -> None:
    admission = Admission(running=1, queued=9, first_guess_seconds=1.0)
    await admission.enter()
    first, second = (asyncio.create_task(admission.enter()) for _ in range(2))
    await settle()
    admission.leave()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    assert (admission.running, admission.queued) == (1, 0)


async def test_cancelled_just_before_its_place_came() -> None:
    admission = Admission(running=1, queued=9, first_guess_seconds=1.0)
    await admission.enter()
    first, second = (asyncio.create_task(admission.enter()) for _ in range(2))
    await settle()
    first.cancel()
    admission.leave()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    assert (admission.running, admission.queued) == (1, 0)


async def test_retry_after_follows_the_line() -> None:
    admission = Admission(running=2, queued=9, first_guess_seconds=4.0)
    assert admission.retry_after() == 2
    await admission.enter()
    await admission.enter()
    waiting = [asyncio.create_task(admission.enter()) for _ in range(4)]
    await settle()
    assert admission.retry_after() == 10
    for task in waiting:
        task.cancel()


async def test_retry_after_learns_how_long_requests_take() -> None:
    admission = Admission(running=1, queued=0, first_guess_seconds=60.0)
    for _ in range(40):
        await admission.enter()
        admission.leave(seconds=0.1)
    assert admission.retry_after() == 1


async def test_every_change_is_reported() -> None:
    seen: list[tuple[int, int]] = []
    admission = Admission(1, 1, 1.0, watch=lambda running, queued: seen.append((running, queued)))
    await admission.enter()
    waiting = asyncio.create_task(admission.enter())
    await settle()
    admission.leave()
    await waiting
    admission.leave()
    assert seen == [(1, 0), (1, 1), (1, 0), (0, 0)]


async def test_a_higher_limit_lets_those_in_line_in() -> None:
    admission = Admission(running=1, queued=3, first_guess_seconds=1.0)
    await admission.enter()
    first, second, third = (asyncio.create_task(admission.enter()) for _ in range(3))
    await settle()
    admission.resize(3, 3)
    await settle()
    assert (first.done(), second.done(), third.done()) == (True, True, False)
    assert (admission.running, admission.queued) == (3, 1)
    admission.leave()
    await third
    assert (admission.running, admission.queued) == (3, 0)


async def test_a_lower_limit_takes_no_place_away() -> None:
    admission = Admission(running=2, queued=1, first_guess_seconds=1.0)
    await admission.enter()
    await admission.enter()
    waiting = asyncio.create_task(admission.enter())
    await settle()
    admission.resize(1, 0)
    assert (admission.running, admission.queued) == (2, 1)
    with pytest.raises(QueueFull):
        await admission.enter()
    admission.leave()
    await settle()
    assert (admission.running, waiting.done()) == (1, False)
    admission.leave()
    await waiting
    assert (admission.running, admission.queued) == (1, 0)
    admission.leave()
    assert admission.running == 0


async def test_a_higher_limit_passes_those_by_who_left() -> None:
    admission = Admission(running=1, queued=2, first_guess_seconds=1.0)
    await admission.enter()
    gone = asyncio.create_task(admission.enter())
    await settle()
    gone.cancel()
    admission.resize(2, 2)
    with pytest.raises(asyncio.CancelledError):
        await gone
    await admission.enter()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(admission.enter(), 0)
    assert admission.running == 2
