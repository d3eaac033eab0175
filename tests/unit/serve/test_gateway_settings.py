"""What the gateway's replica does when Serve hands it other settings; its handles and metrics are stand-ins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic import ValidationError

from fluxsampler_serve.drawing import ON_DEMAND, SamplerStatus
from fluxsampler_serve.errors import ServeError
from fluxsampler_serve.gateway import deployment
from fluxsampler_serve.gateway.deployment import Current, Gateway
from tests.support.app_args import tiny_app_args
from tests.support.service import Counts

READY = SamplerStatus(True, "Ready", "")


class Handle:
    """As a DeploymentHandle to a sampler that is well; counts what it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def options(self, **_: object) -> Handle:
        return self

    async def remote(self, *_: object) -> SamplerStatus:
        self.asked += 1
        return READY


class Replica:
    """A gateway, and HTTP to it."""

    def __init__(self, gateway: Gateway, gang: Handle, fallback: Handle) -> None:
        self.gateway, self.gang, self.fallback = gateway, gang, fallback
        transport = httpx.ASGITransport(gateway.__serve_build_asgi_app__())
        self.http = httpx.AsyncClient(transport=transport, base_url="http://gateway")

    async def info(self) -> dict[str, Any]:
        """`/v1/info`."""
        answer: dict[str, Any] = (await self.http.get("/v1/info")).json()
        return answer

    async def until_ready(self, *engines: str) -> None:
        """All of them, and no others."""
        async with asyncio.timeout(30):
            while True:
                found = (await self.info())["engines"]
                if found.keys() == set(engines) and all(one["ready"] for one in found.values()):
                    return
                await asyncio.sleep(0)


@pytest_asyncio.fixture
async def replica(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Replica]:
    monkeypatch.setattr(deployment, "GatewayMetrics", Counts)
    monkeypatch.setattr("fluxsampler_serve.clients.READY_SECONDS", 0.01)
    gang, fallback = Handle(), Handle()
    gateway = Gateway.__new__(Gateway)
    await Gateway.__init__(gateway, tiny_app_args().start(), gang, fallback)
    made = Replica(gateway, gang, fallback)
    yield made
    await made.http.aclose()
    for watch in gateway._watches.values():
        watch.cancel()


def changed(part: str, **values: Any) -> dict[str, Any]:
    """The settings with other values in one part of the arguments."""
    args = tiny_app_args()
    return args.model_copy(update={part: getattr(args, part).model_copy(update=values)}).live()


async def test_limits(replica: Replica) -> None:
    await replica.gateway.reconfigure(tiny_app_args().live())
    assert (await replica.info())["limits"]["request_timeout_seconds"] == 60
    await replica.until_ready("parallel", "fallback")
    await replica.gateway.reconfigure(changed("serving", request_timeout_seconds=7, max_pictures=1))
    info = await replica.info()
    assert (info["limits"]["request_timeout_seconds"], info["limits"]["max_pictures"]) == (7, 1)
    assert all(engine["ready"] for engine in info["engines"].values()), "what was known of them is kept"


async def test_an_engine_without_replicas_is_asked_no_more(replica: Replica) -> None:
    await replica.gateway.reconfigure(tiny_app_args().live())
    await replica.until_ready("parallel", "fallback")
    await replica.gateway.reconfigure(changed("parallel", replicas=0))
    await replica.until_ready("fallback")
    asked, others = replica.gang.asked, replica.fallback.asked
    async with asyncio.timeout(30):
        while replica.fallback.asked < others + 3:
            await asyncio.sleep(0)
    assert replica.gang.asked == asked, "a question would keep its last replica, or start one"
    await replica.gateway.reconfigure(tiny_app_args().live())
    await replica.until_ready("parallel", "fallback")


async def test_a_fallback_that_starts_when_it_is_needed(replica: Replica) -> None:
    await replica.gateway.reconfigure(changed("fallback", min_replicas=0))
    engines = (await replica.info())["engines"]
    assert engines["fallback"]["reason"] == ON_DEMAND
    assert replica.fallback.asked == 0
    await replica.gateway.reconfigure(tiny_app_args().live())
    await replica.until_ready("parallel", "fallback")


async def test_settings_that_do_not_fit_change_nothing(replica: Replica) -> None:
    await replica.gateway.reconfigure(tiny_app_args().live())
    with pytest.raises(ValidationError, match="max_pictures"):
        await replica.gateway.reconfigure(changed("serving", max_pictures=0))
    assert (await replica.info())["limits"]["max_pictures"] == 10


async def test_without_settings_nothing_is_answered(replica: Replica) -> None:
    with pytest.raises(ServeError, match="no settings"):
        await replica.http.get("/healthz")


async def test_an_engine_that_was_never_built_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "GatewayMetrics", Counts)
    gateway = Gateway.__new__(Gateway)
    start = tiny_app_args().start()
    await Gateway.__init__(gateway, start, None, None)
    with pytest.raises(ServeError, match="the parallel engine"):
        await gateway.reconfigure(tiny_app_args().live())


async def test_the_lifespan_is_answered_before_there_are_settings() -> None:
    said: list[str] = []
    messages = iter(({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}))

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        said.append(message["type"])

    await Current()({"type": "lifespan"}, receive, send)
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
