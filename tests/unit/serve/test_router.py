"""Which engine draws, and what happens when it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest

from fluxsampler_api.app_args import AppArgs
from fluxsampler_serve.drawing import (
    ON_DEMAND,
    DrawEvent,
    Drawn,
    DrawRequest,
    Failure,
    FailureKind,
    Outcome,
    SamplerStatus,
    Step,
)
from fluxsampler_serve.engines.protocol import EngineName, SampleRequest
from fluxsampler_serve.errors import NotReady
from fluxsampler_serve.router import Route, Router
from tests.support.service import Counts, app_args

REQUEST = DrawRequest(
    SampleRequest(
        "a red circle", width=64, height=64, steps=4, seed=1, guidance_scale=3.5, max_text_tokens=32
    )
)
ODD = DrawRequest(
    SampleRequest(
        "a red circle", width=80, height=80, steps=4, seed=1, guidance_scale=3.5, max_text_tokens=32
    )
)


@dataclass
class Sampler:
    """Answers as told; ``hangs`` never answers, and remembers that it was left; ``ends`` says nothing more."""

    name: EngineName
    fails: FailureKind | None = None
    ready: bool = True
    reason: str = "Ready"
    hangs: bool = False
    ends: bool = False
    after: int = 2
    asked: int = 0
    left: int = field(default=0)

    def status(self) -> SamplerStatus:
        return SamplerStatus(self.ready, self.reason)

    async def draw(self, request: DrawRequest) -> Outcome:
        events = [event async for event in self.stream(request)]
        outcome = events[-1]
        assert not isinstance(outcome, Step)
        return outcome

    async def stream(self, request: DrawRequest) -> AsyncGenerator[DrawEvent]:
        self.asked += 1
        over = False
        try:
            for step in range(self.after):
                yield Step(step + 1, request.sample.steps)
            if self.hangs:
                await asyncio.Event().wait()
            over = True
            if self.ends:
                return
            yield Failure(self.fails, "as told") if self.fails else Drawn(b"picture", self.name)
        finally:
            self.left += not over


@dataclass
class Setup:
    """A router between two samplers, and what came of one request."""

    gang: Sampler | None
    fallback: Sampler | None
    args: AppArgs = field(default_factory=app_args)
    counts: Counts = field(default_factory=Counts)
    asked: list[Route] = field(default_factory=list)

    async def draw(self, request: DrawRequest = REQUEST, seconds: float = 30.0) -> tuple[Outcome, Route]:
        router = Router(self.args, self.gang, self.fallback, self.counts)
        deadline = asyncio.get_running_loop().time() + seconds
        return await router.draw(request, deadline, self.asked.append)

    async def stream(
        self, request: DrawRequest = REQUEST, seconds: float = 30.0
    ) -> list[tuple[str, DrawEvent]]:
        router = Router(self.args, self.gang, self.fallback, self.counts)
        deadline = asyncio.get_running_loop().time() + seconds
        return [
            (routed.route.engine, routed.event)
            async for routed in router.stream(request, deadline, self.asked.append)
        ]


def gang(**told: object) -> Sampler:
    return Sampler("parallel", **told)  # type: ignore[arg-type]  # fields by name


def single(**told: object) -> Sampler:
    return Sampler("fallback", **told)  # type: ignore[arg-type]  # fields by name


async def test_the_gang_is_first() -> None:
    setup = Setup(gang(), single())
    outcome, route = await setup.draw()
    assert outcome == Drawn(b"picture", "parallel")
    assert route == Route("parallel", "Planned")
    assert setup.asked == [route]
    assert setup.counts.fallbacks == []


async def test_without_a_gang_the_single_device_is_the_plan() -> None:
    setup = Setup(None, single(), app_args(gang=False))
    _, route = await setup.draw()
    assert route == Route("fallback", "NoGang")


async def test_what_the_layout_cannot_split_never_reaches_the_gang() -> None:
    """80x80 is 25 tokens, for two ranks."""
    setup = Setup(gang(), single())
    _, route = await setup.draw(ODD)
    assert route == Route("fallback", "NotSplittable")
    assert setup.gang is not None
    assert setup.gang.asked == 0
    assert setup.counts.fallbacks == ["NotSplittable"]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [("EngineFailed", "GangFailed"), ("Refused", "GangRefused"), ("PictureRefused", "PictureRefused")],
)
async def test_what_fails_on_the_gang_goes_to_the_fallback_once(failure: FailureKind, reason: str) -> None:
    setup = Setup(gang(fails=failure), single())
    outcome, route = await setup.draw()
    assert isinstance(outcome, Drawn)
    assert route == Route("fallback", reason)  # type: ignore[arg-type]  # parametrised
    assert [asked.engine for asked in setup.asked] == ["parallel", "fallback"]
    assert setup.counts.refusals == (["parallel"] if failure == "PictureRefused" else [])


async def test_a_prompt_that_is_too_long_is_too_long_everywhere() -> None:
    setup = Setup(gang(fails="PromptTooLong"), single())
    outcome, route = await setup.draw()
    assert isinstance(outcome, Failure)
    assert route.engine == "parallel"
    assert setup.fallback is not None
    assert setup.fallback.asked == 0


async def test_when_both_fail_the_last_failure_stands() -> None:
    setup = Setup(gang(fails="EngineFailed"), single(fails="PictureRefused"))
    outcome, route = await setup.draw()
    assert outcome == Failure("PictureRefused", "as told")
    assert route == Route("fallback", "GangFailed")
    assert setup.counts.refusals == ["fallback"]


async def test_the_gang_has_half_of_the_time_and_is_then_left() -> None:
    slow = gang(hangs=True)
    _, route = await Setup(slow, single()).draw(seconds=0.2)
    assert route == Route("fallback", "GangTimedOut")
    assert slow.left == 1


async def test_alone_the_gang_has_all_of_the_time() -> None:
    alone = Setup(gang(hangs=True), None, app_args(fallback=False))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await alone.draw(seconds=0.05 * 1000)
    assert alone.counts.fallbacks == []


async def test_a_gang_that_is_not_ready_is_passed_by() -> None:
    setup = Setup(gang(ready=False, reason="Loading"), single())
    _, route = await setup.draw()
    assert route == Route("fallback", "GangNotReady")


@pytest.mark.parametrize("request_", [REQUEST, ODD])
async def test_nobody_ready_is_not_ready(request_: DrawRequest) -> None:
    setup = Setup(gang(ready=False, reason="Loading"), single(ready=False, reason="Gone"))
    with pytest.raises(NotReady, match=r"parallel: Loading; fallback: Gone"):
        await setup.draw(request_)


async def test_a_fallback_on_demand_is_asked_though_not_loaded() -> None:
    setup = Setup(gang(fails="EngineFailed"), single(ready=False, reason=ON_DEMAND))
    outcome, _ = await setup.draw()
    assert isinstance(outcome, Drawn)


async def test_a_fallback_that_is_gone_is_not_waited_for() -> None:
    setup = Setup(gang(fails="EngineFailed"), single(ready=False, reason="Gone"))
    outcome, route = await setup.draw()
    assert isinstance(outcome, Failure)
    assert route.engine == "parallel"


async def test_a_stream_goes_on_with_the_fallback() -> None:
    setup = Setup(gang(fails="EngineFailed"), single())
    events = await setup.stream()
    assert events == [
        ("parallel", Step(1, 4)),
        ("parallel", Step(2, 4)),
        ("fallback", Step(1, 4)),
        ("fallback", Step(2, 4)),
        ("fallback", Drawn(b"picture", "fallback")),
    ]


async def test_a_stream_whose_gang_hangs_goes_on_with_the_fallback() -> None:
    slow = gang(hangs=True)
    setup = Setup(slow, single())
    events = await setup.stream(seconds=0.2)
    assert events[-1] == ("fallback", Drawn(b"picture", "fallback"))
    assert setup.counts.fallbacks == ["GangTimedOut"]
    assert slow.left == 1


async def test_a_stream_without_a_second_engine_ends_in_the_failure() -> None:
    setup = Setup(gang(fails="EngineFailed"), None, app_args(fallback=False))
    events = await setup.stream()
    assert events[-1] == ("parallel", Failure("EngineFailed", "as told"))


async def test_a_stream_of_the_gang_that_just_ends_goes_on_with_the_fallback() -> None:
    setup = Setup(gang(ends=True), single())
    events = await setup.stream()
    assert events[-1] == ("fallback", Drawn(b"picture", "fallback"))
    assert setup.counts.fallbacks == ["GangFailed"]


@pytest.mark.parametrize("first", [gang(fails="EngineFailed"), None])
async def test_a_stream_of_the_fallback_that_just_ends_is_a_failure(first: Sampler | None) -> None:
    setup = Setup(first, single(ends=True), app_args(gang=first is not None))
    events = await setup.stream()
    assert events[-1] == ("fallback", Failure("EngineFailed", "the stream ended without a picture"))


async def test_closing_a_stream_leaves_the_engine() -> None:
    sampler = gang(after=4)
    router = Router(app_args(), sampler, single(), Counts())
    stream = router.stream(REQUEST, asyncio.get_running_loop().time() + 30, lambda _: None)
    await anext(stream)
    await stream.aclose()
    assert sampler.left == 1
