"""Liveness: kopf serves it, and answers only while the loop that reconciles turns."""

from __future__ import annotations

import asyncio
from typing import Any

import kopf

STUCK_SECONDS = 5.0


def answer_probe(registry: kopf.OperatorRegistry, reconciling: asyncio.AbstractEventLoop) -> None:
    """Fail the probe when ``reconciling`` does not run a callback within seconds."""

    @kopf.on.probe(registry=registry, id="reconciling")
    async def turns(**_: Any) -> str:
        async def turn() -> str:
            return "turns"

        answer = asyncio.run_coroutine_threadsafe(turn(), reconciling)
        return await asyncio.wait_for(asyncio.wrap_future(answer), STUCK_SECONDS)
