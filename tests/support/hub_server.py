"""A small model hub on loopback: the part of the hub's HTTP protocol that a download uses.

``huggingface_hub`` talks to it through ``HF_ENDPOINT``: repository info, the file tree, and
``resolve`` with redirects to content-addressed blobs, as the real one answers for large files.
Faults are switched on per test; every request is remembered.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PIECE = 1 << 14


@dataclass(frozen=True)
class Seen:
    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Break:
    """Cut the body of ``name`` after ``after`` bytes, ``times`` times."""

    name: str
    after: int
    times: int = 1
    how: Literal["close", "reset"] = "close"


@dataclass
class Hub:
    """What the server holds and how it behaves; change it while it runs."""

    repo: str
    folder: Path
    commit: str = "0123456789abcdef0123456789abcdef01234567"
    token: str | None = None
    gated: bool = False
    failures: dict[str, int] = field(default_factory=dict)
    breaks: list[Break] = field(default_factory=list)
    corrupt: set[str] = field(default_factory=set)
    seen: list[Seen] = field(default_factory=list)
    endpoint: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def blobs(self) -> dict[str, Path]:
        return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in self.files().values()}

    def files(self) -> dict[str, Path]:
        return {
            str(path.relative_to(self.folder)): path
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }

    def asked(self, method: str, name: str) -> list[Seen]:
        """The requests for the content of ``name``."""
        digest = hashlib.sha256(self.files()[name].read_bytes()).hexdigest()
        return [seen for seen in self.seen if seen.method == method and seen.path.endswith((name, digest))]


@contextmanager
def serve_hub(repo: str, folder: Path) -> Iterator[Hub]:
    """Serve ``folder`` as ``repo`` on a free port until the block ends."""
    hub = Hub(repo, folder)

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        with hub.lock:
            hub.seen.append(Seen(self.command, path, self.headers.get("Range"), token))
            failing = next((name for name, left in hub.failures.items() if left and name in path), None)
            if failing is not None:
                hub.failures[failing] -= 1
        if failing is not None:
            self._error(503, None, "the hub is busy")
        elif path.startswith("/blob/"):
            self._blob(path.removeprefix("/blob/"))
        elif self._allowed(path, token):
            self._route(path)

    def _allowed(self, path: str, token: str | None) -> bool:
        hub = self.hub
        if hub.token is not None and token not in (None, hub.token):
            self._error(401, None, "Invalid credentials in Authorization header")
        elif hub.repo not in path and token is not None:
            self._error(404, "RepoNotFound", "Repository not found")
        elif hub.token is not None and token is None:
            # The real hub does not tell strangers which repositories exist.
            self._error(401, "RepoNotFound", "Invalid username or password.")
        elif hub.repo not in path:
            self._error(404, "RepoNotFound", "Repository not found")
        elif hub.gated and not path.startswith("/api/"):
            self._error(403, "GatedRepo", "Access to this model is restricted")
        else:
            return True
        return False

    def _route(self, path: str) -> None:
        api, resolve = f"/api/models/{self.hub.repo}", f"/{self.hub.repo}/resolve/"
        if path == api:
            self._info()
        elif path.startswith(f"{api}/revision/"):
            if self._known(path.removeprefix(f"{api}/revision/")):
                self._info()
        elif path.startswith(f"{api}/tree/"):
            if self._known(path.removeprefix(f"{api}/tree/").partition("/")[0]):
                self._tree()
        elif path.startswith(resolve):
            revision, _, name = path.removeprefix(resolve).partition("/")
            if self._known(revision):
                self._resolve(name)
        else:
            self._error(404, None, "no such page")

    def _known(self, revision: str) -> bool:
        if revision in ("main", self.hub.commit):
            return True
        self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return False

    def _info(self) -> None:
        siblings = [{"rfilename": name} for name in self.hub.files()]
        self._json({"id": self.hub.repo, "sha": self.hub.commit, "siblings": siblings, "private": False})

    def _tree(self) -> None:
        entries = []
        for name, path in self.hub.files().items():
            content = path.read_bytes()
            entry = {
                "type": "file",
                "path": name,
                "size": len(content),
                "oid": hashlib.sha1(content).hexdigest(),
            }
            if name.endswith(".safetensors"):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
            entries.append(entry)
        self._json(entries)

    def _resolve(self, name: str) -> None:
        path = self.hub.files().get(name)
        if path is None:
            self._error(404, "EntryNotFound", "Entry not found")
            return
        content = path.read_bytes()
        headers = {"X-Repo-Commit": self.hub.commit, "Accept-Ranges": "bytes"}
        if name.endswith(".safetensors"):
            digest = hashlib.sha256(content).hexdigest()
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            # Another host, as the real hub's content network is: clients do not follow it for metadata.
            headers["Location"] = f"{self.hub.endpoint.replace('127.0.0.1', 'localhost')}/blob/{digest}"
            self._send(302, headers, b"")
        else:
            headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
            self._send(200, headers, content)

    def _blob(self, digest: str) -> None:
        path = self.hub.blobs()[digest]
        content = path.read_bytes()
        name = str(path.relative_to(self.hub.folder))
        if name in self.hub.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 0xFF])
        headers = {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range")
        if wanted is None:
            self._send(200, headers, content, name)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206, headers, content[start:], name)

    def _json(self, value: object) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _error(self, status: int, code: str | None, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(status, headers, b"{}")

    def _send(self, status: int, headers: dict[str, str], body: bytes, name: str = "") -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        limit = self._break(name, len(body))
        for at in range(0, limit, _PIECE):
            self.wfile.write(body[at : min(at + _PIECE, limit)])
        if limit < len(body):
            self.close_connection = True

    def _break(self, name: str, size: int) -> int:
        """How many of ``size`` bytes to send before the connection ends."""
        with self.hub.lock:
            for fault in self.hub.breaks:
                if fault.name == name and fault.times and fault.after < size:
                    fault.times -= 1
                    if fault.how == "reset":
                        # Linger of zero seconds: the kernel sends RST instead of FIN, and the peer loses what it
                        # has not read yet. A small send buffer bounds how much that can be.
                        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIECE)
                        self.connection.setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                        )
                    return fault.after
        return size
