"""The samplers as Serve deployments: thin actors around an :class:`~.host.EngineHost`.

One replica holds one engine: a gang of ranks on one node, or a single device. Serve places,
restarts and scales the replicas; what they draw with is decided by the engine factory.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import structlog
from ray import serve

from fluxsampler_serve import cards, logs
from fluxsampler_serve.drawing import DrawEvent, DrawRequest, Outcome, SamplerStatus
from fluxsampler_serve.errors import EngineFailed, EngineStartFailed, ServeError
from fluxsampler_serve.host import EngineHost
from fluxsampler_serve.picture import facts_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from fluxsampler_api.app_args import StartArgs
    from fluxsampler_serve.engines.build import EngineFactory
    from fluxsampler_serve.engines.protocol import EngineName


log = structlog.get_logger(__name__)


class Sampler:
    """What both deployments share."""

    name: EngineName

    async def __init__(self, args: StartArgs, engines: EngineFactory) -> None:  # type: ignore[misc]  # Serve awaits it
        logs.configure()
        if self.name == "parallel" and args.parallel is not None:
            await cards.make_visible(args.parallel.gpu_shares)
        self._host = EngineHost(engines(args, self.name), facts_of(args, self.name))
        size = (args.defaults.width, args.defaults.height)
        try:
            await self._host.start(sizes=(size,), steps=args.defaults.steps)
        except Exception as error:
            log.exception("engine_not_started", engine=self.name)
            raise named(error) from None

    async def draw(self, request: DrawRequest) -> Outcome:
        """One picture."""
        return await self._host.draw(request)

    async def stream(self, request: DrawRequest) -> AsyncGenerator[DrawEvent]:
        """One picture, with its steps."""
        async with aclosing(self._host.stream(request)) as events:
            async for event in events:
                yield event

    async def status(self) -> SamplerStatus:
        """The engine's health."""
        return self._host.status()

    async def check_health(self) -> None:
        """Serve replaces a replica whose engine broke."""
        status = self._host.status()
        if not status.ready:
            raise EngineFailed(f"{status.reason}: {status.message}")

    def __del__(self) -> None:
        host = getattr(self, "_host", None)
        if host is not None:
            host.close()


def named(error: Exception) -> ServeError:
    """``error`` as one of ours and without its past, since all of it would go into Serve's status, and from there
    into that of the RayService; the log of the replica has the whole."""
    if isinstance(error, ServeError):
        return error.with_traceback(None)
    return EngineStartFailed(f"{type(error).__name__}: {error}")


class ParallelSampler(Sampler):
    """One replica is one gang of ranks on one node."""

    name = "parallel"


class FallbackSampler(Sampler):
    """One replica is one device."""

    name = "fallback"


# Not as decorators: the classes stay classes for whoever reads or types them.
PARALLEL: serve.Deployment = serve.deployment(ParallelSampler)
FALLBACK: serve.Deployment = serve.deployment(FallbackSampler)
