"""Which engine draws a picture, until when, and what happens when it does not.

A library inside the gateway, not a hop. The gang is asked first; what its layout cannot split, and
what fails on it, goes to the fallback, once, within the request's deadline.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import structlog

from fluxsampler_serve.drawing import ON_DEMAND, Drawn, Failure, Step
from fluxsampler_serve.errors import NotReady
from fluxsampler_serve.sizes import gang_refusal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from fluxsampler_api.app_args import AppArgs
    from fluxsampler_serve.drawing import DrawEvent, DrawRequest, Outcome, SamplerStatus
    from fluxsampler_serve.engines.protocol import EngineName, SampleRequest
    from fluxsampler_serve.metrics import Metrics

log = structlog.get_logger(__name__)

Reason = Literal[
    "Planned",
    "NoGang",
    "NotSplittable",
    "GangNotReady",
    "GangRefused",
    "GangFailed",
    "GangTimedOut",
    "PictureRefused",
]
"""Why an engine was asked: `Planned` for the first choice, else what kept the gang from it."""

GANG_SHARE = 0.5
"""Part of a request's remaining time that the gang may use while a fallback stands behind it."""


NO_OUTCOME = Failure("EngineFailed", "the stream ended without a picture")
"""What a sampler's stream comes to that just ends."""


class SamplerClient(Protocol):
    """One deployment of samplers, as the router sees it."""

    name: EngineName

    async def draw(self, request: DrawRequest) -> Outcome:
        """One picture; cancelling the call cancels the engine's."""

    def stream(self, request: DrawRequest) -> AsyncGenerator[DrawEvent]:
        """One picture with its steps; closing the iterator cancels the engine's call."""

    def status(self) -> SamplerStatus:
        """What was last heard of it."""


@dataclass(frozen=True, slots=True)
class Route:
    """An engine, and why this one."""

    engine: EngineName
    reason: Reason


@dataclass(frozen=True, slots=True)
class Routed:
    """An event of one picture and the route it came by."""

    route: Route
    event: DrawEvent


class Router:
    """Picks engines for one gateway replica. At least one of the two clients is there."""

    def __init__(
        self,
        args: AppArgs,
        parallel: SamplerClient | None,
        fallback: SamplerClient | None,
        metrics: Metrics,
    ) -> None:
        self._args = args
        self._parallel = parallel
        self._fallback = fallback
        self._metrics = metrics

    def statuses(self) -> dict[EngineName, SamplerStatus]:
        """What was last heard of each engine of the plan."""
        return {client.name: client.status() for client in (self._parallel, self._fallback) if client}

    def ready(self) -> bool:
        """Whether any engine is loaded and healthy."""
        return any(status.ready for status in self.statuses().values())

    def first(self, request: SampleRequest) -> Route:
        """Where a request goes first. Raises NotReady if no engine that could draw it is there.

        The place of the circuit breaker: an open circuit is one more reason to pass the gang by.
        """
        if self._parallel is None:
            route = Route("fallback", "NoGang")
        elif gang_refusal(self._args, request) is not None:
            route = Route("fallback", "NotSplittable")
        elif self._parallel.status().ready:
            return Route("parallel", "Planned")
        else:
            route = Route("fallback", "GangNotReady")
        if not self._standby_there():
            raise NotReady(self.unready())
        return route

    def unready(self) -> str:
        """What keeps the engines from drawing, in one sentence."""
        said = [
            f"{name}: {status.reason}" + (f" ({status.message})" if status.message else "")
            for name, status in self.statuses().items()
            if not status.ready
        ]
        return f"the engines needed are not ready; {'; '.join(said)}"

    def _standby_there(self) -> bool:
        """Whether the fallback is loaded, or would be for a request."""
        if self._fallback is None:
            return False
        status = self._fallback.status()
        return status.ready or status.reason == ON_DEMAND

    async def draw(
        self, request: DrawRequest, deadline: float, asked: Callable[[Route], None]
    ) -> tuple[Outcome, Route]:
        """One picture before ``deadline`` (seconds of the event loop's clock), or why there is none.

        ``asked`` hears of every engine before it is asked. Raises NotReady when none could be.
        """
        route = self.first(request.sample)
        asked(route)
        if route.engine == "parallel" and self._parallel is not None:
            reason: Reason = "GangFailed"
            outcome: Outcome
            try:
                async with asyncio.timeout_at(self._gang_deadline(deadline)):
                    outcome = await self._parallel.draw(request)
            except TimeoutError:
                outcome, reason = _timed_out()
            second = self._second(request, outcome, reason)
            if second is None:
                return outcome, route
            route = second
            asked(route)
        else:
            self._metrics.fell_back(route.reason)
        outcome = await self._standby().draw(request)
        self._heed(route, outcome)
        return outcome, route

    async def stream(
        self, request: DrawRequest, deadline: float, asked: Callable[[Route], None]
    ) -> AsyncGenerator[Routed]:
        """The same, with its steps; the last event is the outcome. After a failure of the gang the fallback's
        steps start from 1.
        """
        route = self.first(request.sample)
        asked(route)
        if route.engine == "parallel" and self._parallel is not None:
            reason: Reason = "GangFailed"
            async with aclosing(self._parallel.stream(request)) as events:
                until = self._gang_deadline(deadline)
                event: DrawEvent | None = None
                while not isinstance(event, Drawn | Failure):
                    try:
                        # Not around the whole loop: a timeout must not span a yield.
                        async with asyncio.timeout_at(until):
                            event = await anext(events, NO_OUTCOME)
                    except TimeoutError:
                        event, reason = _timed_out()
                    if not isinstance(event, Failure):
                        yield Routed(route, event)
            second = self._second(request, event, reason)
            if second is None:
                if isinstance(event, Failure):
                    yield Routed(route, event)
                return
            route = second
            asked(route)
        else:
            self._metrics.fell_back(route.reason)
        async with aclosing(self._standby().stream(request)) as events:
            event = None
            while not isinstance(event, Drawn | Failure):
                event = await anext(events, NO_OUTCOME)
                if not isinstance(event, Step):
                    self._heed(route, event)
                yield Routed(route, event)

    def _gang_deadline(self, deadline: float) -> float:
        if not self._standby_there():
            return deadline
        now = asyncio.get_running_loop().time()
        return now + (deadline - now) * GANG_SHARE

    def _standby(self) -> SamplerClient:
        if self._fallback is None:
            raise NotReady("this plan has no fallback engine")
        return self._fallback

    def _second(self, request: DrawRequest, outcome: Outcome, reason: Reason) -> Route | None:
        """Where a request goes after the gang's ``outcome``; None if it stays at that."""
        if isinstance(outcome, Drawn):
            return None
        self._heed(Route("parallel", "Planned"), outcome)
        if outcome.kind == "PictureRefused":
            reason = "PictureRefused"
        elif outcome.kind == "Refused":
            reason = "GangRefused"
        stays = outcome.kind == "PromptTooLong" or not self._standby_there()
        log.warning(
            "gang_gave_no_picture",
            request_id=request.sample.request_id,
            reason=reason,
            message=outcome.message,
            fallback=not stays,
        )
        if stays:
            return None
        self._metrics.fell_back(reason)
        return Route("fallback", reason)

    def _heed(self, route: Route, outcome: Outcome) -> None:
        if isinstance(outcome, Failure) and outcome.kind == "PictureRefused":
            self._metrics.refused(route.engine)


def _timed_out() -> tuple[Failure, Reason]:
    return Failure("EngineFailed", "the gang took too long"), "GangTimedOut"
