"""The real gateway around fake engines on a port of loopback, for a browser; without Ray."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from tests.support.service import running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fluxsampler_api.app_args import AppArgs
    from fluxsampler_serve.engines.fake import FakeScript

_SECONDS = 60.0


@contextmanager
def gateway(
    args: AppArgs, gang: FakeScript | None = None, fallback: FakeScript | None = None
) -> Iterator[str]:
    """Its URL; the engines follow the scripts."""
    listener = socket.create_server(("127.0.0.1", 0))
    started, failures = threading.Event(), []
    server: uvicorn.Server | None = None

    async def serve() -> None:
        nonlocal server
        async with running(args, gang, fallback) as service:
            config = uvicorn.Config(service.app, log_level="error", lifespan="off")
            config.timeout_graceful_shutdown = 5
            server = uvicorn.Server(config)
            started.set()
            await server.serve(sockets=[listener])

    def run() -> None:
        try:
            asyncio.run(serve())
        except Exception as error:  # noqa: BLE001 (raised again by the caller, who waits for it)
            failures.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        assert started.wait(_SECONDS)
        if failures:
            raise failures[0]
        # The listener queues connections from the start, so a browser need not wait for uvicorn's first accept.
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        if server is not None:
            server.should_exit = True
        thread.join(_SECONDS)
        listener.close()
