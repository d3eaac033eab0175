"""A stand-in for the gateway that answers as a test scripts it: held steps, refusals, broken connections.

The page is tested against the real Serve app too; this one is for what the real one does only under
load or when something breaks, and for looking at the page in the middle of a drawing.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFilter

import fluxsampler_serve

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PAGE = Path(fluxsampler_serve.__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
# The gateway's own policy, so that a breach of it shows here first.
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HELD_SECONDS = 60  # A test that forgets to let a picture go on must not hang the server.


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is no picture. ``error`` is added to OpenAI's error object."""

    status: int
    message: str
    error: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture: a circle of ``colour``. After ``hold_after`` steps ``hold`` is waited for, or the connection
    ``breaks``, or ``fails`` is sent, OpenAI's error object."""

    colour: str = "red"
    engine: str = "parallel"
    reason: str = "Planned"
    hold: threading.Event | None = None
    hold_after: int = 0
    breaks: bool = False
    fails: Mapping[str, Any] | None = None


class ScriptedServer:
    """The server and what it was asked. Answers are used up in order; without one, a red circle is drawn."""

    def __init__(self, info: Mapping[str, Any]) -> None:
        self.info = info
        self.answers: deque[Drawing | Refusal] = deque()
        self.requests: list[dict[str, Any]] = []
        self.token: str | None = None
        self.starting: str | None = None
        self.fallback_ready = True
        self.away = False
        self.disconnected = threading.Event()
        self.url = ""

    def state(self) -> dict[str, Any]:
        """What `/v1/info` says of the engines."""
        ready = self.starting is None
        gang = {"ready": ready, "reason": "Ready" if ready else "Loading", "message": self.starting or ""}
        single = {
            "ready": self.fallback_ready,
            "reason": "Ready" if self.fallback_ready else "Loading",
            "message": "",
        }
        return {"ready": ready or self.fallback_ready, "engines": {"parallel": gang, "fallback": single}}


@contextmanager
def serving(info: Mapping[str, Any]) -> Iterator[ScriptedServer]:
    """Serves the page on a free port of loopback until the block ends."""
    script = ScriptedServer(info)

    class Handler(_Handler):
        server_script = script

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    script.url = f"http://127.0.0.1:{httpd.server_port}/"
    try:
        yield script
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    server_script: ScriptedServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class' name
        """Nothing: the test's own output says what went wrong."""

    def do_GET(self) -> None:
        if self._hangs_up():
            return
        name = "index.html" if self.path == "/" else self.path.removeprefix("/static/")
        if self.path == "/v1/info":
            state = self.server_script.state()
            self._guarded(lambda: self._json(200, {**self.server_script.info, **state}))
        elif (file := _PAGE / name).is_file() and file.parent == _PAGE:
            self._send(
                200,
                file.read_bytes(),
                {"content-type": _TYPES[file.suffix], "content-security-policy": CONTENT_POLICY},
            )
        else:
            self._json(404, {"error": {"message": f"no {self.path}"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self._hangs_up():
            return
        self._guarded(lambda: self._draw(body))

    def _hangs_up(self) -> bool:
        """While the server is away: ends the connection without a word."""
        self.close_connection = True
        return self.server_script.away

    def _guarded(self, answer: Any) -> None:
        token = self.server_script.token
        if token and self.headers.get("authorization") != f"Bearer {token}":
            self._json(
                401,
                {
                    "error": {
                        "message": "wrong token",
                        "type": "authentication_error",
                        "code": "invalid_api_key",
                    }
                },
            )
        else:
            answer()

    def _draw(self, body: dict[str, Any]) -> None:
        script = self.server_script
        script.requests.append(body)
        answer = script.answers.popleft() if script.answers else Drawing()
        if isinstance(answer, Refusal):
            error = {"message": answer.message, "type": "invalid_request_error", "param": None, "code": None}
            self._json(answer.status, {"error": {**error, **answer.error}}, answer.headers)
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("x-fluxsampler-engine", answer.engine)
        self.end_headers()
        try:
            self._stream(body, answer)
        except (BrokenPipeError, ConnectionResetError):
            script.disconnected.set()

    def _stream(self, body: dict[str, Any], answer: Drawing) -> None:
        width, height = (int(side) for side in body["size"].split("x"))
        steps = body["steps"]
        previews = {round(steps * share) for share in (0.3, 0.6, 0.9)}
        for step in range(steps + 1):
            progress = {"step": step, "steps": steps, "engine": answer.engine, "engine_reason": answer.reason}
            if step and step in previews:
                picture = _picture(width, height, answer.colour, blur=8 * (1 - step / steps))
                self._event("image_generation.partial_image", {"b64_json": picture, "fluxsampler": progress})
            elif step:
                self._event("fluxsampler.progress", progress)
            if step == answer.hold_after and answer.fails:
                self._event("error", {"error": answer.fails})
            if step == answer.hold_after and (answer.breaks or answer.fails):
                return
            if step == answer.hold_after and answer.hold:
                self._wait(answer.hold)
        facts = {
            "engine": answer.engine,
            "engine_reason": answer.reason,
            "seed": body["seed"],
            "truncated_tokens": 0,
        }
        done = {"output_format": "png", "fluxsampler": {"pictures": [facts]}}
        self._event(
            "image_generation.completed", {"b64_json": _picture(width, height, answer.colour), **done}
        )

    def _wait(self, hold: threading.Event) -> None:
        """Waits for ``hold``, sending comments meanwhile: the way to notice a client that left."""
        for _ in range(_HELD_SECONDS * 20):
            if hold.wait(0.05):
                return
            self.wfile.write(b": held\n\n")
        raise TimeoutError("a held picture was never let go")

    def _event(self, name: str, data: Mapping[str, Any]) -> None:
        self.wfile.write(f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode())

    def _json(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(body).encode(), {"content-type": "application/json", **(headers or {})})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _picture(width: int, height: int, colour: str, blur: float = 0) -> str:
    """A circle on white as base64 PNG."""
    picture = Image.new("RGB", (width, height), "white")
    radius = min(width, height) // 3
    box = (width // 2 - radius, height // 2 - radius, width // 2 + radius, height // 2 + radius)
    ImageDraw.Draw(picture).ellipse(box, fill=colour)
    if blur:
        picture = picture.filter(ImageFilter.GaussianBlur(blur))
    stream = io.BytesIO()
    picture.save(stream, "png")
    return base64.b64encode(stream.getvalue()).decode()
