"""The canary: one real picture through the FluxSampler's own Service, as any client would ask for it.

Drawing takes seconds to minutes, so it runs beside the reconciles; its result makes the object's key due again.
Results live in memory only: an operator that starts anew asks once more.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import structlog

from fluxsampler_operator.metrics import PICTURES
from fluxsampler_operator.observed import PictureResult
from fluxsampler_operator.queue import Key

_log = structlog.get_logger(__name__)

ENGINE_HEADER = "x-fluxsampler-engine"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CONNECT_SECONDS = 5.0
# An answer's body is read at most so far: one picture of 4096 x 4096 in base64 is below it.
LARGEST_ANSWER = 128 << 20
FIRST_RETRY = 3.0
LAST_RETRY = 30.0


@dataclass(frozen=True, slots=True)
class PictureRequest:
    """What to ask whom; ``token`` is a bearer token or None, and never logged."""

    url: str
    prompt: str
    seed: int
    timeout_seconds: float
    token: str | None = None

    def __repr__(self) -> str:
        return f"PictureRequest({self.url!r}, {self.prompt!r}, seed={self.seed})"


Draw = Callable[[PictureRequest], Awaitable[PictureResult]]
"""Asks for one picture; never raises for what the service does, it says so in the result."""


async def draw(request: PictureRequest) -> PictureResult:
    """Ask over HTTP, by OpenAI's shape, with the model's own defaults for everything but prompt and seed."""
    started = time.monotonic()
    headers = {"Authorization": f"Bearer {request.token}"} if request.token else {}
    timeout = aiohttp.ClientTimeout(total=request.timeout_seconds, sock_connect=CONNECT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(
                f"{request.url}/v1/images/generations",
                json={"prompt": request.prompt, "seed": request.seed, "response_format": "b64_json"},
                headers=headers,
            ) as answer,
        ):
            body = await _body(answer)
            if len(body) > LARGEST_ANSWER:
                return PictureResult(False, "none", f"the answer is larger than {LARGEST_ANSWER >> 20} MiB", time.monotonic() - started)  # fmt: skip
            return _judge(
                answer.status, body, answer.headers.get(ENGINE_HEADER, ""), time.monotonic() - started
            )
    except TimeoutError:
        return PictureResult(False, "none", f"no answer within {request.timeout_seconds:.0f} s", time.monotonic() - started)  # fmt: skip
    except (aiohttp.ClientError, OSError) as error:
        return PictureResult(False, "none", f"{request.url} cannot be reached: {error}", time.monotonic() - started)  # fmt: skip


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    """The whole body, in however many pieces it comes; of one that is too large, a little more than is allowed."""
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > LARGEST_ANSWER:
            break
    return bytes(body)


def _judge(status: int, body: bytes, engine: str, seconds: float) -> PictureResult:
    try:
        document: Any = json.loads(body)
    except ValueError:
        document = None
    if status != 200:
        error = document.get("error") if isinstance(document, dict) else None
        said = error.get("message") if isinstance(error, dict) else None
        return PictureResult(
            False, "none", f"HTTP {status}: {said or body[:200].decode(errors='replace')}", seconds
        )
    try:
        start = base64.b64decode(document["data"][0]["b64_json"][:16], validate=True)
    except (TypeError, KeyError, IndexError, binascii.Error):
        return PictureResult(False, "none", "the answer holds no picture", seconds)
    if not start.startswith(PNG_SIGNATURE):
        return PictureResult(False, "none", "the answer's picture is not a PNG", seconds)
    if engine == "parallel":
        return PictureResult(True, "parallel", f"drawn in {seconds:.1f} s", seconds)
    if engine == "fallback":
        return PictureResult(True, "fallback", f"drawn in {seconds:.1f} s", seconds)
    return PictureResult(False, "none", f"the answer names no engine ({ENGINE_HEADER}: {engine!r})", seconds)


@dataclass(slots=True)
class _Canary:
    form: str
    engines: str = ""
    result: PictureResult | None = None
    former: PictureResult | None = None
    task: asyncio.Task[None] | None = None
    failures: int = 0
    due: float = 0.0

    @property
    def last(self) -> PictureResult | None:
        return self.result or self.former


class Pictures:
    """The canaries of all FluxSamplers, one at a time each; ``changed`` is called with a key that has news."""

    def __init__(
        self,
        changed: Callable[[Key], None],
        *,
        ask: Draw = draw,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._changed = changed
        self._ask = ask
        self._clock = clock
        self._canaries: dict[Key, _Canary] = {}

    def look(
        self, key: Key, form: str, request: PictureRequest, *, engines: str = "", parallel: bool = True
    ) -> tuple[PictureResult | None, float | None]:
        """The result for the application's present ``form``, and seconds until another look is worth it.

        Starts a drawing when there is none for this form, or when the last one failed a while ago, or was drawn
        by the fallback where the plan has a ``parallel`` engine: nothing else would tell that it is back. A picture of
        the former form is no result for this one; :meth:`hold` still knows it, unless the plan has no ``parallel``
        engine any more, or other ``engines`` (a digest of what would draw it).
        """
        canary = self._canaries.get(key)
        if canary is None or canary.form != form:
            former = canary.last if canary is not None else None
            if canary is not None and canary.engines != engines:
                former = None
            if former and (not former.drawn or (former.engine == "parallel" and not parallel)):
                former = None
            self.forget(key)
            canary = self._canaries[key] = _Canary(form, engines, former=former)
        if canary.task is not None:
            return canary.result, None
        result = canary.result
        if result is not None and result.drawn and not (parallel and result.engine == "fallback"):
            return result, None
        if result is not None and self._clock() < canary.due:
            return result, canary.due - self._clock()
        canary.task = asyncio.create_task(self._draw(key, canary, request), name=f"picture {key}")
        return canary.result, None

    def hold(self, key: Key, engines: str) -> PictureResult | None:
        """The last picture, while an application changes in place whose ``engines`` are still those that drew it.

        It is asked for anew afterwards. Other engines: forgotten.
        """
        canary = self._canaries.get(key)
        self.forget(key)
        last = canary.last if canary is not None else None
        if canary is None or last is None or not last.drawn or canary.engines != engines:
            return None
        self._canaries[key] = _Canary("", engines, former=last)
        return last

    def forget(self, key: Key) -> None:
        """Drop a result, and the drawing under way."""
        canary = self._canaries.pop(key, None)
        if canary is not None and canary.task is not None:
            canary.task.cancel()

    async def close(self) -> None:
        """End every drawing."""
        tasks: list[Awaitable[None]] = [
            canary.task for canary in self._canaries.values() if canary.task is not None
        ]
        for key in list(self._canaries):
            self.forget(key)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _draw(self, key: Key, canary: _Canary, request: PictureRequest) -> None:
        result = await self._ask(request)
        canary.task = None
        canary.result = result
        canary.failures = 0 if result.drawn else canary.failures + 1
        soon = min(LAST_RETRY, FIRST_RETRY * 1.5 ** max(0, canary.failures - 1))
        canary.due = self._clock() + (LAST_RETRY if result.drawn else soon)
        PICTURES.labels(result.engine if result.drawn else "none").inc()
        _log.info(
            "picture", sampler=str(key), drawn=result.drawn, engine=result.engine, message=result.message, seconds=round(result.seconds, 2)
        )  # fmt: skip
        self._changed(key)
