"""What an operator answers to its probes while it waits for the Lease: that it is well, and ready to take over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

# A probe's answer is under way for no longer; the next server wants the port.
CLOSE_SECONDS = 0.5


async def _well(_: web.Request) -> web.Response:
    return web.json_response({"standby": True})


@asynccontextmanager
async def answering_probes(port: int) -> AsyncIterator[None]:
    """Serve ``/healthz`` from this event loop, so only while it turns, where kopf serves it later."""
    application = web.Application()
    application.router.add_get("/healthz", _well)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=CLOSE_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, "0.0.0.0", port).start()  # noqa: S104  (the kubelet asks from outside the pod)
        yield
    finally:
        await runner.cleanup()
