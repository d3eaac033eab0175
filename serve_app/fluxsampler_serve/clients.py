"""The router's clients: samplers behind Serve handles, or in this process."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import structlog
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from fluxsampler_serve.drawing import ON_DEMAND, Drawn, Failure, SamplerStatus

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ray.serve.handle import DeploymentHandle

    from fluxsampler_serve.drawing import DrawEvent, DrawRequest, Outcome
    from fluxsampler_serve.engines.protocol import EngineName
    from fluxsampler_serve.host import EngineHost

log = structlog.get_logger(__name__)

READY_SECONDS = 2.0
"""Between two questions after the health of a sampler that was ready."""

UNREADY_SECONDS = 0.25
"""The same for one that was not."""


LOST = (RayError, RayServeException, grpc.RpcError, RuntimeError, OSError)
"""What a handle raises when the replica died or cannot be reached; our own failures are values.

RuntimeError is what Serve makes of a gRPC status that it does not know; OSError has ConnectionError and
TimeoutError among it.
"""


class HandleClient:
    """Samplers behind a Serve handle, and what was last heard of their health.

    ``on_demand``: the deployment may have no replica until it is asked, so it is not asked for its
    health, and counts as ready to be asked for a picture but not as loaded.
    """

    def __init__(
        self, name: EngineName, handle: DeploymentHandle, *, on_demand: bool, silence_seconds: float
    ) -> None:
        self.name = name
        pickled = handle.options(request_serialization="pickle", response_serialization="pickle")
        self._draw = pickled.options(method_name="draw")
        self._stream = pickled.options(method_name="stream", stream=True)
        self._ask = pickled.options(method_name="status")
        self._on_demand = on_demand
        self.silence_seconds = silence_seconds
        self._asked_at: float | None = None
        self._status = (
            SamplerStatus(False, ON_DEMAND, "started when it is needed")
            if on_demand
            else SamplerStatus(False, "Loading", "the engine is being loaded")
        )

    def status(self) -> SamplerStatus:
        """The last answer, unless the one asked for is overdue: a sampler that is stuck does not answer."""
        if self._asked_at is not None and self._status.ready:
            waited = asyncio.get_running_loop().time() - self._asked_at
            if waited > self.silence_seconds:
                return replace(
                    self._status, ready=False, reason="NoAnswer", message=f"silent for {waited:.0f} s"
                )
        return self._status

    async def watch(self) -> None:
        """Ask for the health again and again; runs until cancelled."""
        loop = asyncio.get_running_loop()
        while not self._on_demand:
            self._asked_at = loop.time()
            try:
                self._status = await self._ask.remote()
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                self._gone(error)  # not ours: a dying handle cancels what waits for it
            except Exception as error:  # noqa: BLE001 (a watch that ended would show its last answer for ever)
                self._gone(error)
            finally:
                self._asked_at = None
            await asyncio.sleep(READY_SECONDS if self._status.ready else UNREADY_SECONDS)

    async def draw(self, request: DrawRequest) -> Outcome:
        """One picture; a replica that died is a failure of its engine."""
        response = self._draw.remote(request)
        try:
            outcome: Outcome = await response
        except LOST as error:
            return self._lost(request, error)
        except asyncio.CancelledError:
            response.cancel()
            raise
        return outcome

    async def stream(self, request: DrawRequest) -> AsyncGenerator[DrawEvent]:
        """One picture with its steps."""
        response = self._stream.remote(request)
        over = False
        try:
            async for event in response:
                over = isinstance(event, Drawn | Failure)
                yield event
        except LOST as error:
            over = True
            yield self._lost(request, error)
        finally:
            if not over:
                response.cancel()

    def _gone(self, error: BaseException) -> None:
        message = _first_line(error)
        if self._status.reason != "Gone":  # once, not four times a second
            log.warning("sampler_gone", engine=self.name, error=message, kind=type(error).__name__)
        self._status = SamplerStatus(False, "Gone", message)

    def _lost(self, request: DrawRequest, error: Exception) -> Failure:
        message = _first_line(error)
        log.error("sampler_lost", engine=self.name, request_id=request.sample.request_id, error=message)
        return Failure("EngineFailed", f"the {self.name} sampler was lost: {message}")


class LocalClient:
    """An engine in this process: for tests, and for the benchmark's floor."""

    def __init__(self, name: EngineName, host: EngineHost) -> None:
        self.name = name
        self._host = host

    def status(self) -> SamplerStatus:
        """The engine's health."""
        return self._host.status()

    async def draw(self, request: DrawRequest) -> Outcome:
        """One picture."""
        return await self._host.draw(request)

    async def stream(self, request: DrawRequest) -> AsyncGenerator[DrawEvent]:
        """One picture with its steps."""
        async with aclosing(self._host.stream(request)) as events:
            async for event in events:
                yield event


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
