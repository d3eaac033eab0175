"""The playground page: files of the package, held in memory, with a policy that allows nothing else."""

from __future__ import annotations

import mimetypes
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import Response

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from fastapi import FastAPI, Request

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "font-src 'self'",
        "manifest-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page."""

    content: bytes
    media_type: str
    etag: str


def load() -> dict[str, Asset]:
    """Every file of the page by its path below the page's folder."""
    found: dict[str, Asset] = {}

    def visit(folder: Traversable, prefix: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                visit(entry, f"{prefix}{entry.name}/")
            elif entry.is_file():
                content = entry.read_bytes()
                found[prefix + entry.name] = Asset(content, _media_type(entry.name), _etag(content))

    root = files("fluxsampler_serve") / "page"
    if root.is_dir():
        visit(root, "")
    return found


def mount(app: FastAPI) -> None:
    """Serve ``index.html`` at ``/`` and the rest below ``/static/``."""
    assets = load()

    async def answer(request: Request) -> Response:
        asset = assets[request.path_params.get("path", "index.html")]
        headers = {
            "content-security-policy": CONTENT_SECURITY_POLICY,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
            "etag": asset.etag,
        }
        if request.headers.get("if-none-match") == asset.etag:
            return Response(status_code=304, headers=headers)
        return Response(asset.content, media_type=asset.media_type, headers=headers)

    async def static(request: Request) -> Response:
        if request.path_params["path"] not in assets:
            raise HTTPException(404)
        return await answer(request)

    if "index.html" in assets:
        app.add_route("/", answer, methods=["GET"], include_in_schema=False)
    app.add_route("/static/{path:path}", static, methods=["GET"], include_in_schema=False)


def _etag(content: bytes) -> str:
    return f'"{sha256(content).hexdigest()[:16]}"'


def _media_type(name: str) -> str:
    guessed = mimetypes.guess_type(name)[0] or "application/octet-stream"
    guessed = {"application/javascript": "text/javascript"}.get(guessed, guessed)
    return f"{guessed}; charset=utf-8" if guessed.startswith("text/") else guessed
