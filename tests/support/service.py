"""The Serve app in this process: its real HTTP, router and hosts around fake engines, without Ray."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from fluxsampler_api.app_args import AppArgs
from fluxsampler_api.plan import (
    Estimate,
    HostMemory,
    PlannedFallback,
    PlannedLayout,
    PlannedMemory,
    PlanStatus,
)
from fluxsampler_serve.clients import LocalClient
from fluxsampler_serve.engines.fake import FakeEngine, FakeScript
from fluxsampler_serve.gateway.deployment import compose
from fluxsampler_serve.host import EngineHost
from fluxsampler_serve.picture import facts_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp

PROMPT = "a red circle"


def plan() -> PlanStatus:
    """A small plan, true enough for the pages that show it."""
    host = HostMemory(
        object_store_gib=0.1,
        shm_gib=0.2,
        heap_gib=1,
        weights_gib=0.01,
        system_gib=1,
        limit_gib=4,
        node_gib=8,
        proof=(),
    )
    return PlanStatus(
        layout=PlannedLayout(ulysses=2, gpus_per_replica=2, replicas=1, encoders="rank 0", summary="u2"),
        fallback=PlannedFallback(placement="Reserved", replicas=1, max_replicas=1),
        memory=PlannedMemory(cards=(), host=host),
        estimate=Estimate(
            width=128,
            height=128,
            steps=4,
            seconds_per_image=0.1,
            images_per_minute=600,
            error_percent=0,
            calibrated=False,
        ),
    )


def app_args(*, gang: bool = True, fallback: bool = True, **serving: Any) -> AppArgs:
    """The tiny model on CPU, a gang of two (ulysses) and a fallback; ``serving`` overrides its limits."""
    return AppArgs.model_validate(
        {
            "name": "test",
            "device": "cpu",
            "model": {
                "name": "tiny-shapes",
                "source": "builtin://tiny-shapes",
                "dtype": "float32",
                "max_text_tokens": 64,
            },
            "defaults": {
                "width": 64,
                "height": 64,
                "steps": 4,
                "guidance_scale": 3.5,
                "max_text_tokens": 32,
            },
            "sizes": {"multiple_of": 16, "min_side": 64, "max_side": 128, "max_pixels": 128 * 128},
            "parallel": {"layout": {"ulysses": 2}} if gang else None,
            "fallback": {"placement": "Reserved", "min_replicas": 1, "max_replicas": 1} if fallback else None,
            "serving": {
                "gateway_replicas": 2,
                "max_ongoing_requests": 2,
                "max_queued_requests": 2,
                "request_timeout_seconds": 60,
            }
            | serving,
            "plan": plan(),
        }
    )


@dataclass
class Counts:
    """A stand-in for the metrics that remembers what it was told."""

    answers: list[tuple[str, str, int]] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    fallbacks: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    loads: list[tuple[int, int]] = field(default_factory=list)
    errors: int = 0

    def answered(self, engine: str, reason: str, status: int, seconds: float) -> None:
        self.answers.append((engine, reason, status))

    def drew(self, engine: str, steps: int) -> None:
        self.pictures.append(engine)

    def fell_back(self, reason: str) -> None:
        self.fallbacks.append(reason)

    def refused(self, engine: str) -> None:
        self.refusals.append(engine)

    def load(self, running: int, queued: int) -> None:
        self.loads.append((running, queued))

    def unexpected(self) -> None:
        self.errors += 1


@dataclass
class Service:
    """A running one: ``http`` talks to it, the engines and the counts are there to be looked at."""

    app: ASGIApp
    http: httpx.AsyncClient
    engines: dict[str, FakeEngine]
    counts: Counts


@asynccontextmanager
async def running(
    args: AppArgs, gang: FakeScript | None = None, fallback: FakeScript | None = None
) -> AsyncIterator[Service]:
    """Engines that follow the scripts, loaded, behind the whole HTTP application."""
    scripts = {"parallel": gang, "fallback": fallback}
    parts = {"parallel": args.parallel, "fallback": args.fallback}
    engines: dict[str, FakeEngine] = {}
    clients: dict[str, LocalClient] = {}
    hosts: list[EngineHost] = []
    for name, script in scripts.items():
        if parts[name] is not None:
            engines[name] = FakeEngine(name, script)  # type: ignore[arg-type]  # the two names
            host = EngineHost(engines[name], facts_of(args, name))  # type: ignore[arg-type]  # the two names
            hosts.append(host)
            await host.start()
            clients[name] = LocalClient(name, host)  # type: ignore[arg-type]  # the two names
    counts = Counts()
    app = compose(args, clients.get("parallel"), clients.get("fallback"), counts, answer_id=True)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
            yield Service(app, http, engines, counts)
    finally:
        for host in hosts:
            host.close()
