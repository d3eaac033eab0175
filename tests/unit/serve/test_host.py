"""The engine's thread: one call after the other, for callers who may leave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from fluxsampler_serve.host import EngineThread

pytestmark = pytest.mark.asyncio


@pytest.fixture
def thread() -> Iterator[EngineThread]:
    started = EngineThread("test")
    yield started
    started.close()


class Gate:
    """A call that goes on when it is let."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> str:
        self.entered.set()
        assert self.opened.wait(60)
        return "through"

    async def wait_entered(self) -> None:
        await asyncio.to_thread(self.entered.wait, 60)
        assert self.entered.is_set()


async def test_answers_come_in_the_order_of_the_calls_from_one_thread(thread: EngineThread) -> None:
    order: list[int] = []

    def made(number: int) -> int:
        order.append(number)
        return threading.get_ident()

    idents = set(await asyncio.gather(*(thread.call(partial(made, number)) for number in range(5))))
    assert order == [0, 1, 2, 3, 4]
    assert len(idents) == 1
    assert idents != {threading.get_ident()}


async def test_what_a_call_raises_is_its_callers_and_the_next_call_is_made(thread: EngineThread) -> None:
    with pytest.raises(ZeroDivisionError):
        await thread.call(lambda: 1 // 0)
    assert await thread.call(lambda: "next") == "next"


async def test_a_call_whose_caller_left_the_line_is_not_made(thread: EngineThread) -> None:
    gate, made = Gate(), []
    first = thread.call(gate)
    await gate.wait_entered()
    second = thread.call(lambda: made.append("second"))
    second.cancel()
    gate.opened.set()
    assert await first == "through"
    assert await thread.call(lambda: "third") == "third"
    assert made == []


async def test_a_caller_who_left_during_the_call_does_not_harm_the_next(thread: EngineThread) -> None:
    gate = Gate()
    first = thread.call(gate)
    await gate.wait_entered()
    first.cancel()
    gate.opened.set()
    assert await thread.call(lambda: "next") == "next"


async def test_closing_cancels_those_in_line_and_refuses_others() -> None:
    thread, gate = EngineThread("test"), Gate()
    first = thread.call(gate)
    await gate.wait_entered()
    second = thread.call(lambda: "second")
    thread.close()
    thread.close()
    with pytest.raises(RuntimeError, match="closed"):
        thread.call(lambda: "third")
    gate.opened.set()
    assert await first == "through"
    with pytest.raises(asyncio.CancelledError):
        await second
