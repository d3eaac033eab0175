"""Runs a synchronous engine for asynchronous callers, one call at a time, in a thread of its own.

Serve runs our code in the replica's event loop (throughput mode), so nothing here blocks it: the
engine draws in one thread, and pictures are encoded in another while the next one is drawn.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from fluxsampler_serve import guard, picture
from fluxsampler_serve.drawing import DrawEvent, Drawn, DrawRequest, Failure, Outcome, SamplerStatus, Step
from fluxsampler_serve.engines.protocol import Cancel
from fluxsampler_serve.errors import Cancelled, PictureRefused, PromptTooLong, RequestRefused, ServeError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from fluxsampler_serve.engines.protocol import Engine, Progress, ProgressCallback, Sample

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")

INLINE_PIXELS = 128 * 128
"""Up to here a picture is encoded in the engine's thread: a hop to the other one costs as much."""


class EngineThread:
    """One thread that makes one call after the other for an event loop.

    What a ThreadPoolExecutor and the futures of two kinds do around a call takes as long as both switches
    of thread together. ``name`` is the thread's.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = SimpleQueue()
        self._open = threading.Lock()
        self._closed = False
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def call(self, function: Callable[[], Answer]) -> asyncio.Future[Answer]:
        """Its answer, from the running loop. One that is cancelled while it waits in line is not made."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        with self._open:
            if self._closed:
                raise RuntimeError("this engine was closed")
            self._calls.put((function, answer))
        return answer

    def close(self) -> None:
        """End after the call that is being made; those behind it are cancelled. Idempotent."""
        with self._open:
            self._closed = True
            self._calls.put(None)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            function, answer = item
            if self._closed:
                _tell(answer, answer.cancel)
            elif not answer.cancelled():
                try:
                    given = function()
                except BaseException as error:  # noqa: BLE001 (it is the caller's, whatever it is)
                    _tell(answer, answer.set_exception, error)
                else:
                    _tell(answer, answer.set_result, given)
                    del given
            del item, function, answer  # or a picture would live until the next one


def _tell(answer: asyncio.Future[Any], tell: Callable[..., object], *what: object) -> None:
    """Call ``tell`` in the answer's loop, unless its caller left; a loop that is closed has no callers."""

    def told() -> None:
        if not answer.done():
            tell(*what)

    with suppress(RuntimeError):
        answer.get_loop().call_soon_threadsafe(told)


class EngineHost:
    """One engine, its thread, and the guard and the encoder behind it.

    ``facts`` are written into every picture's metadata, beside the request's own parameters.
    """

    def __init__(self, engine: Engine, facts: Mapping[str, str]) -> None:
        self._engine = engine
        self._facts = {**facts, "engine": engine.name}
        self._drawing = EngineThread(f"draw-{engine.name}")
        self._encoding = ThreadPoolExecutor(1, f"encode-{engine.name}")
        self._load_seconds: float | None = None

    async def start(self, sizes: tuple[tuple[int, int], ...] = (), steps: int = 1) -> None:
        """Load the engine and warm it up at ``sizes``. Raises its ModelError or EngineStartFailed."""

        def load() -> float:
            start = time.perf_counter()
            self._engine.load()
            if sizes:
                self._engine.warm_up(sizes, steps)
            return time.perf_counter() - start

        load_seconds = await self._drawing.call(load)
        self._load_seconds = round(load_seconds, 3)
        if self._engine.fingerprint is not None:
            self._facts["model_fingerprint"] = self._engine.fingerprint
        log.info("engine_loaded", engine=self._engine.name, seconds=self._load_seconds)

    def status(self) -> SamplerStatus:
        """The engine's health, and what it holds; never blocks."""
        health = self._engine.health()
        return SamplerStatus(
            ready=health.ready,
            reason=health.reason,
            message=health.message,
            fingerprint=self._facts.get("model_fingerprint"),
            load_seconds=self._load_seconds,
            pid=os.getpid(),
        )

    async def draw(self, request: DrawRequest) -> Outcome:
        """Draw, guard and encode one picture. When the caller is cancelled, so is the engine's call."""
        cancel = Cancel()
        try:
            return await self._finished(
                await self._drawing.call(lambda: self._sample(request, _ignore, cancel))
            )
        except asyncio.CancelledError:
            cancel.set()
            raise

    async def stream(self, request: DrawRequest) -> AsyncGenerator[DrawEvent]:
        """The same, with a :class:`Step` after every step; the last event is the outcome."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Progress | None] = asyncio.Queue()
        cancel = Cancel()

        def progress(event: Progress) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        drawn = self._drawing.call(lambda: self._sample(request, progress, cancel))
        drawn.add_done_callback(lambda _: events.put_nowait(None))
        previews, over = 0, False
        try:
            while (event := await events.get()) is not None:
                preview = None
                if event.preview is not None and previews < request.previews and event.step < event.steps:
                    preview = await loop.run_in_executor(
                        self._encoding, picture.encode, event.preview, request.format, request.quality, {}
                    )
                    previews += 1
                yield Step(event.step, event.steps, preview, previews - 1 if preview else 0)
            outcome = await self._finished(await drawn)
            over = True
            yield outcome
        finally:
            if not over:
                cancel.set()

    def close(self) -> None:
        """End the engine and the threads; idempotent."""
        self._engine.close()
        self._drawing.close()
        self._encoding.shutdown(wait=False, cancel_futures=True)

    def _sample(
        self, request: DrawRequest, progress: ProgressCallback, cancel: Cancel
    ) -> Outcome | Future[Outcome]:
        """In the engine's thread: draw; encode a small picture here, hand a large one over."""
        try:
            sample = self._engine.sample(request.sample, progress, cancel)
        except PromptTooLong as error:
            return Failure("PromptTooLong", str(error))
        except RequestRefused as error:
            return Failure("Refused", str(error))
        except Cancelled as error:
            return Failure("Cancelled", str(error))
        except ServeError as error:
            log.error("engine_failed", request_id=request.sample.request_id, error=str(error))
            return Failure("EngineFailed", str(error))
        except (
            Exception
        ) as error:  # an engine must raise ServeErrors: whatever else it does is a failure of it
            log.exception("engine_raised", request_id=request.sample.request_id)
            return Failure("EngineFailed", f"{type(error).__name__}: {error}")
        if request.sample.width * request.sample.height <= INLINE_PIXELS:
            return self._encode(request, sample)
        return self._encoding.submit(self._encode, request, sample)

    async def _finished(self, drawn: Outcome | Future[Outcome]) -> Outcome:
        return await asyncio.wrap_future(drawn) if isinstance(drawn, Future) else drawn

    def _encode(self, request: DrawRequest, sample: Sample) -> Outcome:
        start = time.perf_counter()
        try:
            guard.inspect(sample)
        except PictureRefused as error:
            return Failure("PictureRefused", str(error))
        data = picture.encode(
            sample.pixels,
            request.format,
            request.quality,
            picture.metadata(request.sample, self._facts),
        )
        seconds = {name: round(value, 6) for name, value in sample.seconds.items()}
        seconds["encode_picture"] = round(time.perf_counter() - start, 6)
        return Drawn(data, self._engine.name, sample.truncated_tokens, seconds)


def _ignore(_: Progress) -> None:
    """Nobody listens to the progress of a plain draw."""
