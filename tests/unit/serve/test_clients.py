"""What a gateway hears of samplers behind a handle, and what it makes of a handle that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from fluxsampler_serve import clients
from fluxsampler_serve.clients import HandleClient
from fluxsampler_serve.drawing import DrawRequest, Failure, SamplerStatus
from fluxsampler_serve.engines.protocol import SampleRequest

READY = SamplerStatus(True, "Ready")
REQUEST = DrawRequest(
    SampleRequest("a red circle", 64, 64, steps=4, seed=1, guidance_scale=3.5, max_text_tokens=32)
)


class Handle:
    """Stands for a Serve handle: raises each of ``errors`` once, then answers that it is ready."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)

    def options(self, **_: object) -> Handle:
        return self

    async def remote(self, *_: object) -> SamplerStatus:
        if self.errors:
            raise self.errors.pop(0)
        return READY


def client(handle: Any) -> HandleClient:
    return HandleClient("parallel", handle, on_demand=False, silence_seconds=60)


@asynccontextmanager
async def watched(handle: Handle) -> AsyncIterator[tuple[HandleClient, asyncio.Task[None]]]:
    asked = client(handle)
    task = asyncio.create_task(asked.watch())
    try:
        yield asked, task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until_reason(asked: HandleClient, reason: str) -> None:
    async with asyncio.timeout(30):
        while asked.status().reason != reason:
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("refused"),
        TimeoutError("late"),
        OSError("no route"),
        asyncio.CancelledError("by a dying handle"),
        ZeroDivisionError("of nobody's making"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_the_watch_outlives_every_error(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "UNREADY_SECONDS", 0.01)
    with capture_logs() as logs:
        async with watched(Handle(error)) as (asked, task):
            await until_reason(asked, "Gone")
            assert asked.status().message == str(error)
            await until_reason(asked, "Ready")
            assert not task.done()
    assert [line["event"] for line in logs] == ["sampler_gone"]


async def test_a_watch_that_is_cancelled_ends() -> None:
    async with watched(Handle()) as (asked, task):
        await until_reason(asked, "Ready")
        task.cancel()
        await asyncio.wait([task], timeout=30)
        assert task.cancelled()


async def test_a_connection_that_breaks_is_a_failure_of_the_engine() -> None:
    outcome = await client(Handle(ConnectionError("reset"))).draw(REQUEST)
    assert outcome == Failure("EngineFailed", "the parallel sampler was lost: reset")
