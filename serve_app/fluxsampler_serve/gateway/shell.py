"""What surrounds every request: its id, the token check, and the last resort for exceptions.

Plain ASGI: a middleware of Starlette's kind costs a task and two queues for every request.
"""

from __future__ import annotations

import hmac
import uuid
from dataclasses import dataclass
from hashlib import sha256
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


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask. ``token`` None: everybody.

    ``probe_sha256`` is the hash, in hex, of a second token that the operator asks with: it knows the
    token's owner by it without having to read anybody's secret.
    """

    token: str | None
    probe_sha256: str | None = None

    def admits(self, given: bytes | None) -> bool:
        """Whether an `Authorization` header lets its request in.

        In constant time, so that no prefix of a token can be found by it. A scheme's case is free (RFC 9110, 11.1).
        """
        if self.token is None:
            return True
        scheme, _, token = (given or b"").partition(b" ")
        if scheme.lower() != b"bearer":
            return False
        token = token.strip(b" ")
        own = hmac.compare_digest(token, self.token.encode())
        if self.probe_sha256 is None:
            return own
        return hmac.compare_digest(sha256(token).hexdigest(), self.probe_sha256) or own


class Shell:
    """Wraps the FastAPI application.

    Serve puts ``x-request-id`` on every request and response that pass it, so here it is read and,
    with ``answer_id`` false, not set again. ``metrics`` hear of each request that was turned away, and
    of each exception that no handler took.
    """

    def __init__(self, app: ASGIApp, access: Access, *, answer_id: bool, metrics: Metrics) -> None:
        self._app = app
        self._access = access
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

        if not self._access.admits(token) and _path(scope).startswith(GUARDED):
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
