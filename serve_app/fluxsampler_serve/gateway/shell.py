"""What surrounds every request: its id, the token check, and the last resort for exceptions.

Plain ASGI: a middleware of Starlette's kind costs a task and two queues for every request.
"""

from __future__ import annotations

import hmac
import uuid
from typing import TYPE_CHECKING

import structlog
from starlette.requests import ClientDisconnect

from fluxsampler_serve.gateway.errors import ApiError, internal_error

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from fluxsampler_serve.metrics import Metrics

log = structlog.get_logger(__name__)

REQUEST_ID = b"x-request-id"
LONGEST_ID = 128
GUARDED = "/v1/"
"""Paths below this want the token; probes, the page and the OpenAPI document do not."""


class Shell:
    """Wraps the FastAPI application.

    Serve puts ``x-request-id`` on every request and response that pass it, so here it is read and,
    with ``answer_id`` false, not set again. ``token`` None leaves the API open. ``metrics`` hear of
    each request that was turned away, and of each exception that no handler took.
    """

    def __init__(self, app: ASGIApp, token: str | None, *, answer_id: bool, metrics: Metrics) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._answer_id = answer_id
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = token = None
        for name, value in scope["headers"]:
            if name == REQUEST_ID:
                given = value
            elif name == b"authorization":
                token = value
        request_id = _clean(given) or uuid.uuid4().hex
        scope["fluxsampler.request_id"] = request_id
        started = finished = False

        async def answer(message: Message) -> None:
            nonlocal started, finished
            if message["type"] == "http.response.start":
                started = True
                if self._answer_id:
                    message["headers"] = [
                        *message.get("headers", ()),
                        (REQUEST_ID, request_id.encode("ascii")),
                    ]
            else:
                finished = not message.get("more_body", False)
            await send(message)

        if self._token is not None and _path(scope).startswith(GUARDED) and not self._knows(token):
            error = _unauthorized(token)
            self._metrics.answered("none", "none", error.status, 0.0)
            log.info(
                "request",
                request_id=request_id,
                status=error.status,
                error=error.code,
                path=scope["path"][:LONGEST_ID],
            )
            await send_error(error, answer)
            return
        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:  # nobody is left to be answered
            log.info("client_gone", request_id=request_id, path=scope["path"])
        except Exception:  # the last resort: nothing may leave a traceback to the caller
            log.exception("unexpected_error", request_id=request_id, path=scope["path"])
            self._metrics.unexpected()
            if not started:
                await send_error(internal_error(), answer)
            elif not finished:  # Starlette answers, and raises all the same
                raise

    def _knows(self, given: bytes | None) -> bool:
        """Constant-time, so that no prefix of the token can be found by its timing. A scheme's case is free
        (RFC 9110, 11.1)."""
        scheme, _, token = (given or b"").partition(b" ")
        if self._token is None or scheme.lower() != b"bearer":
            return False
        return hmac.compare_digest(token.strip(b" "), self._token)


async def send_error(error: ApiError, send: Send) -> None:
    """Answer with ``error``."""
    content = error.content()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _unauthorized(token: bytes | None) -> ApiError:
    message = (
        "no API key given; send `Authorization: Bearer KEY`" if token is None else "this API key is not known"
    )
    return ApiError(401, "invalid_api_key", message, headers={"www-authenticate": "Bearer"})


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _clean(given: bytes | None) -> str:
    """A caller's id as it may go into logs: printable ASCII, not too long."""
    text = (given or b"").decode("ascii", "ignore")
    return "".join(c for c in text if c.isprintable())[:LONGEST_ID]
