"""The samplers as Serve deployments: thin actors around an :class:`~.host.EngineHost`.

One replica holds one engine: a gang of ranks on one node, or a single device. Serve places,
restarts and scales the replicas; what they draw with is decided by the engine factory.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from ray import serve

from fluxsampler_serve import cards, logs
from fluxsampler_serve.drawing import DrawEvent, DrawRequest, Outcome, SamplerStatus
from fluxsampler_serve.errors import EngineFailed
from fluxsampler_serve.host import EngineHost
from fluxsampler_serve.picture import facts_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from fluxsampler_api.app_args import StartArgs
    from fluxsampler_serve.engines.build import EngineFactory
    from fluxsampler_serve.engines.protocol import EngineName


class Sampler:
    """What both deployments share."""

    name: EngineName

    async def __init__(self, args: StartArgs, engines: EngineFactory) -> None:  # type: ignore[misc]  # Serve awaits it
        logs.configure()
        if self.name == "parallel" and args.parallel is not None:
            await cards.make_visible(args.parallel.gpu_shares)
        self._host = EngineHost(engines(args, self.name), facts_of(args, self.name))
        size = (args.defaults.width, args.defaults.height)
        await self._host.start(sizes=(size,), steps=args.defaults.steps)

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


class ParallelSampler(Sampler):
    """One replica is one gang of ranks on one node."""

    name = "parallel"


class FallbackSampler(Sampler):
    """One replica is one device."""

    name = "fallback"


# Not as decorators: the classes stay classes for whoever reads or types them.
PARALLEL: serve.Deployment = serve.deployment(ParallelSampler)
FALLBACK: serve.Deployment = serve.deployment(FallbackSampler)
