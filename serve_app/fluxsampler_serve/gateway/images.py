"""`POST /v1/images/generations` behind the HTTP: admission, deadline, drawing, and the answer's bytes."""

from __future__ import annotations

import asyncio
import time
from binascii import b2a_base64
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import structlog
from pydantic_core import to_json

from fluxsampler_serve.drawing import Drawn, Failure, Step
from fluxsampler_serve.errors import DeadlineExceeded, ServeError
from fluxsampler_serve.gateway import jobs
from fluxsampler_serve.gateway.errors import ApiError, from_serve_error, internal_error
from fluxsampler_serve.picture import MEDIA_TYPES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from fluxsampler_api.app_args import AppArgs
    from fluxsampler_serve.admission import Admission
    from fluxsampler_serve.drawing import DrawEvent, DrawRequest
    from fluxsampler_serve.gateway.jobs import Job
    from fluxsampler_serve.metrics import Metrics
    from fluxsampler_serve.router import Route, Routed, Router

log = structlog.get_logger(__name__)

CLIENT_GONE = 499
"""Counted and logged for callers that left, as nginx and Serve do; nobody receives it."""


class Answer:
    """What a request came to: for the headers, the metrics and the log line. Filled as it goes."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.started = time.perf_counter()
        self.route: Route | None = None
        self.status = CLIENT_GONE
        self.error: str | None = None
        self.pictures: list[dict[str, Any]] = []

    def took(self, route: Route) -> None:
        """An engine is asked; with several pictures, a fallback's route is the one to name."""
        if self.route is None or route.engine == "fallback":
            self.route = route

    def add(self, request: DrawRequest, drawn: Drawn, route: Route) -> None:
        """One more picture."""
        self.pictures.append(
            {
                "seed": request.sample.seed,
                "engine": drawn.engine,
                "engine_reason": route.reason,
                "truncated_tokens": drawn.truncated_tokens,
                "seconds": dict(drawn.seconds),
            }
        )

    def headers(self) -> dict[str, str]:
        """The engine's headers; empty before one was asked, which an error then says itself."""
        if self.route is None:
            return {}
        return {
            "x-fluxsampler-engine": self.route.engine,
            "x-fluxsampler-engine-reason": self.route.reason,
        }


class EventStream:
    """A streamed answer's events. :meth:`aclose` stops the drawing, and is due even if nothing was iterated:
    Python runs no `finally` of a generator that never began, and runs others when it collects garbage.
    """

    def __init__(
        self, events: AsyncGenerator[bytes], guarded: AsyncGenerator[bytes], done: Callable[[], None]
    ) -> None:
        self._events = events
        self._guarded = guarded
        self._done: Callable[[], None] | None = done

    def __aiter__(self) -> AsyncGenerator[bytes]:
        return self._guarded

    async def aclose(self) -> None:
        """Give back the engine and the place, then count the answer; idempotent."""
        done, self._done = self._done, None
        if done is None:
            return
        try:
            await self._guarded.aclose()
            await self._events.aclose()
        finally:
            done()


class Images:
    """Draws for one gateway replica."""

    def __init__(self, args: AppArgs, router: Router, admission: Admission, metrics: Metrics) -> None:
        self._args = args
        self._router = router
        self._admission = admission
        self._metrics = metrics

    async def generate(self, job: Job) -> tuple[bytes, dict[str, str], Callable[[], None]]:
        """The answer's body and headers, and what counts and logs it, due when it was sent. Raises ApiError."""
        answer = Answer(job)
        try:
            deadline = asyncio.get_running_loop().time() + job.timeout_seconds
            async with asyncio.timeout_at(deadline):
                drawn = await self._admitted(answer, deadline)
            body = self._body(answer, drawn)
        except BaseException as error:
            failed = self._failed(answer, error) if isinstance(error, ServeError | TimeoutError) else None
            self._done(answer)
            raise error if failed is None else failed from error
        answer.status = 200
        return body, answer.headers(), lambda: self._done(answer)

    async def stream(self, job: Job) -> tuple[EventStream, dict[str, str]]:
        """The events of a streamed answer, and headers; whoever takes them closes them.

        Raises ApiError for what fails before the first step.
        """
        answer = Answer(job)
        events = self._events(answer)
        try:
            first = await anext(events)
        except BaseException as error:
            failed = self._failed(answer, error) if isinstance(error, ServeError | TimeoutError) else None
            self._done(answer)
            raise error if failed is None else failed from error
        stream = EventStream(events, self._guarded(answer, first, events), lambda: self._done(answer))
        return stream, answer.headers()

    def refused(self, error: ApiError, request_id: str) -> None:
        """Count a request that never became a job."""
        self._metrics.answered("none", "none", error.status, 0.0)
        log.info("request", request_id=request_id, status=error.status, error=error.code, param=error.param)

    async def _admitted(self, answer: Answer, deadline: float) -> list[Drawn]:
        await self._admission.enter()
        start, drawn = time.perf_counter(), None
        try:
            draws = answer.job.draws
            if len(draws) == 1:
                drawn = [await self._draw(answer, draws[0], deadline)]
            else:
                drawn = await self._draw_all(answer, deadline)
        finally:
            self._admission.leave(None if drawn is None else time.perf_counter() - start)
        for request, (picture, route) in zip(draws, drawn, strict=True):
            answer.add(request, picture, route)
        return [picture for picture, _ in drawn]

    async def _draw(self, answer: Answer, request: DrawRequest, deadline: float) -> tuple[Drawn, Route]:
        outcome, route = await self._router.draw(request, deadline, answer.took)
        if isinstance(outcome, Failure):
            raise outcome.error()
        self._metrics.drew(outcome.engine, request.sample.steps)
        return outcome, route

    async def _draw_all(self, answer: Answer, deadline: float) -> list[tuple[Drawn, Route]]:
        """As many at once as there are samplers; the first failure ends the others.

        More would wait in a sampler's line, on the gang's share of the time: it begins with the routing.
        """
        turns = asyncio.Semaphore(_samplers(self._args))

        async def in_turn(request: DrawRequest) -> tuple[Drawn, Route]:
            async with turns:
                return await self._draw(answer, request, deadline)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(in_turn(request)) for request in answer.job.draws]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _events(self, answer: Answer) -> AsyncGenerator[bytes]:
        """One server-sent event after the other, picture by picture."""
        job = answer.job
        deadline = asyncio.get_running_loop().time() + job.timeout_seconds
        async with asyncio.timeout_at(deadline):
            await self._admission.enter()
        start, complete = time.perf_counter(), False
        try:
            for index, request in enumerate(job.draws):
                async with aclosing(self._router.stream(request, deadline, answer.took)) as events:
                    event: DrawEvent | None = None
                    while not isinstance(event, Drawn):
                        # Not around the whole loop: a timeout must not span a yield.
                        async with asyncio.timeout_at(deadline):
                            routed = await anext(events)
                        event = routed.event
                        if isinstance(event, Failure):
                            raise event.error()
                        if isinstance(event, Drawn):
                            answer.add(request, event, routed.route)
                            self._metrics.drew(event.engine, request.sample.steps)
                        yield self._event(answer, index, routed)
            complete = True
        finally:
            self._admission.leave(time.perf_counter() - start if complete else None)

    async def _guarded(
        self, answer: Answer, first: bytes, events: AsyncGenerator[bytes]
    ) -> AsyncGenerator[bytes]:
        """The events; a failure in their middle becomes an event, for the status line is long sent."""
        try:
            yield first
            async for event in events:
                yield event
            answer.status = 200
        except (ServeError, TimeoutError) as error:
            yield sse("error", self._failed(answer, error).content())
        except Exception:  # the caller gets an event, not a broken stream
            log.exception("unexpected_error", request_id=answer.job.draws[0].sample.request_id)
            self._metrics.unexpected()
            answer.status = 500
            yield sse("error", internal_error().content())

    def _body(self, answer: Answer, drawn: list[Drawn]) -> bytes:
        """JSON, put together around the pictures: a JSON encoder would read megabytes for nothing.

        pydantic's encoder takes a quarter of the standard library's time.
        """
        job = answer.job
        head = {
            "created": int(time.time()),
            **_look(job),
            "usage": jobs.usage(job, len(drawn)),
            "fluxsampler": jobs.details(self._args, job, answer.pictures),
        }
        name = "url" if job.as_url else "b64_json"
        parts = [to_json(head)[:-1], b',"data":[']
        for index, picture in enumerate(drawn):
            parts += [b',{"' if index else b'{"', name.encode(), b'":"', _text(job, picture.picture), b'"}']
        parts.append(b"]}")
        return b"".join(parts)

    def _event(self, answer: Answer, index: int, routed: Routed) -> bytes:
        job, event = answer.job, routed.event
        if isinstance(event, Drawn):
            kind = "image_generation.completed"
            own = jobs.details(self._args, job, answer.pictures[-1:])
            extra: dict[str, Any] = {"usage": jobs.usage(job, 1), "fluxsampler": own | {"index": index}}
            data: bytes | None = event.picture
        elif isinstance(event, Step) and event.preview is not None:
            kind = "image_generation.partial_image"
            extra, data = (
                {"partial_image_index": event.index, "fluxsampler": _progress(index, routed)},
                event.preview,
            )
        else:
            kind, data, extra = "fluxsampler.progress", None, _progress(index, routed)
        head: dict[str, Any] = {"type": kind, "created_at": int(time.time())}
        if data is None:
            return sse(kind, to_json(head | extra))
        body = to_json(head | _look(job) | extra)[:-1]
        return sse(kind, b"".join((body, b',"b64_json":"', b2a_base64(data, newline=False), b'"}')))

    def _failed(self, answer: Answer, error: ServeError | TimeoutError) -> ApiError:
        if isinstance(error, TimeoutError):
            error = DeadlineExceeded(
                f"the picture was not drawn within {answer.job.timeout_seconds:g} s; "
                "raise timeout_seconds or lower steps or size"
            )
        failed = from_serve_error(error, self._admission.retry_after())
        answer.status, answer.error = failed.status, failed.code
        failed.headers |= answer.headers()
        return failed

    def _done(self, answer: Answer) -> None:
        seconds = time.perf_counter() - answer.started
        engine, reason = (answer.route.engine, answer.route.reason) if answer.route else ("none", "none")
        self._metrics.answered(engine, reason, answer.status, seconds)
        sample = answer.job.draws[0].sample
        log.info(
            "request",
            request_id=sample.request_id,
            status=answer.status,
            error=answer.error,
            engine=engine,
            reason=reason,
            size=answer.job.size,
            steps=sample.steps,
            pictures=len(answer.pictures),
            seconds=round(seconds, 4),
        )


def _samplers(args: AppArgs) -> int:
    """How many there are of the first choice."""
    if args.parallel is not None:
        return max(1, args.parallel.replicas)
    return args.fallback.max_replicas if args.fallback is not None else 1


def sse(event: str, data: bytes) -> bytes:
    """One server-sent event; ``data`` is JSON on one line."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), data)


def _progress(index: int, routed: Routed) -> dict[str, Any]:
    event = routed.event
    step, steps = (event.step, event.steps) if isinstance(event, Step) else (0, 0)
    return {
        "index": index,
        "step": step,
        "steps": steps,
        "engine": routed.route.engine,
        "engine_reason": routed.route.reason,
    }


def _look(job: Job) -> dict[str, str]:
    """What OpenAI says of every picture."""
    return {"background": "opaque", "output_format": job.format, "quality": "auto", "size": job.size}


def _text(job: Job, picture: bytes) -> bytes:
    encoded = b2a_base64(picture, newline=False)
    return b"data:%b;base64,%b" % (MEDIA_TYPES[job.format].encode(), encoded) if job.as_url else encoded
