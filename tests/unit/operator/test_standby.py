from __future__ import annotations

import aiohttp
import pytest
from tools.cluster import ports

from fluxsampler_operator.standby import answering_probes


async def test_a_standby_is_well_and_leaves_its_port_to_the_next() -> None:
    (port,) = ports.free(1)
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with answering_probes(port):
                async with session.get(f"{url}/healthz") as answer:
                    assert (answer.status, await answer.json()) == (200, {"standby": True})
                async with session.get(f"{url}/metrics") as answer:
                    assert answer.status == 404
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.get(f"{url}/healthz")
