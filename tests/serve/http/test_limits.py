"""What the service refuses, cuts short or gives up, through HAProxy: its own status, not the proxy's."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import openai as sdk
import pytest
from openai import OpenAI

from tests.support.live_service import TOKEN
from tests.support.waiting import until

IMAGES = "/v1/images/generations"
LESS_THAN_THE_DEADLINE = 25.0
"""The scripted gang is given up after 30 s, half of its requests' time: what is seen before is the caller's doing."""


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def raw_post(url: str, body: bytes, headers: str = "") -> socket.socket:
    """A connection on which the request was sent and nothing read yet."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=60)
    head = f"POST {parts.path}{IMAGES} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n{headers}"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def test_no_token_is_401(scripted_url: str) -> None:
    response = httpx.post(scripted_url + IMAGES, json={"prompt": "a red circle"})
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["type"] == "authentication_error"
    assert httpx.get(f"{scripted_url}/readyz").status_code == 200


def test_a_large_body_is_413_with_and_without_a_length(scripted: httpx.Client) -> None:
    large = {"prompt": "x" * (10 << 20)}
    assert scripted.post(IMAGES, json=large).status_code == 413
    pieces = iter([b'{"prompt": "', *[b"x" * 4096] * 64, b'"}'])
    chunked = scripted.post(IMAGES, content=pieces)
    assert chunked.status_code == 413
    assert chunked.json()["error"]["code"] == "body_too_large"


def test_a_full_service_is_429_with_retry_after(
    scripted: httpx.Client, scripted_url: str, threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    note = tmp_path / "full"
    body = json.dumps({"prompt": f"parallel=hang note={note}"}).encode()
    connection = raw_post(scripted_url, body)
    until(note.with_suffix(".started").exists)
    try:
        refused = scripted.post(IMAGES, json={"prompt": "a red circle"})
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        with (
            OpenAI(base_url=f"{scripted_url}/v1", api_key=TOKEN, max_retries=0) as client,
            pytest.raises(sdk.RateLimitError),
        ):
            client.images.generate(prompt="a red circle")
    finally:
        connection.close()
    until(note.with_suffix(".cancelled").exists)


def test_a_caller_who_leaves_frees_the_engine(
    scripted: httpx.Client, scripted_url: str, tmp_path: Path
) -> None:
    note = tmp_path / "left"
    connection = raw_post(scripted_url, json.dumps({"prompt": f"parallel=hang note={note}"}).encode())
    until(note.with_suffix(".started").exists)
    connection.close()
    until(note.with_suffix(".cancelled").exists, seconds=LESS_THAN_THE_DEADLINE)
    after = scripted.post(IMAGES, json={"prompt": "a red circle"})
    assert after.headers["x-fluxsampler-engine"] == "parallel"


@pytest.mark.parametrize("steps", [0, 2], ids=["before_its_first_event", "in_its_middle"])
def test_a_caller_who_leaves_a_stream_frees_the_engine(
    scripted: httpx.Client, scripted_url: str, tmp_path: Path, steps: int
) -> None:
    note = tmp_path / "streamed"
    body = {"prompt": f"parallel=hang steps={steps} note={note}", "stream": True}
    connection = raw_post(scripted_url, json.dumps(body).encode())
    until(note.with_suffix(".started").exists)
    received = b""
    while received.count(b"event: fluxsampler.progress") < steps:
        piece = connection.recv(4096)
        assert piece, f"the connection ended after {received!r}"
        received += piece
    connection.close()
    until(note.with_suffix(".cancelled").exists, seconds=LESS_THAN_THE_DEADLINE)
    after = scripted.post(IMAGES, json={"prompt": "a red circle"})
    assert after.headers["x-fluxsampler-engine"] == "parallel"


def test_the_deadline_is_504_and_stops_the_engine(scripted: httpx.Client, tmp_path: Path) -> None:
    note = tmp_path / "late"
    body = {"prompt": f"parallel=hang fallback=hang note={note}", "timeout_seconds": 4.0}
    late = scripted.post(IMAGES, json=body)
    assert late.status_code == 504
    assert late.json()["error"]["code"] == "deadline_exceeded"
    assert late.headers["x-should-retry"] == "false"
    assert late.headers["x-fluxsampler-engine"] == "fallback"
    until(note.with_suffix(".cancelled").exists)
    assert scripted.post(IMAGES, json={"prompt": "a red circle"}).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b'{"prompt": "x", "guidance_scale": NaN}', 422, "invalid_value"),
        (b'{"prompt": "x", "guidance_scale": Infinity}', 422, "invalid_value"),
        (b'{"prompt": " "}', 422, "invalid_value"),
        (b'{"prompt": "x\\u0000"}', 422, "invalid_value"),
        (b'{"prompt": "\\ud800"}', 400, "invalid_json"),
        (b'{"prompt": "x", "n": 11}', 422, "invalid_value"),
        (b'{"prompt": "x", "size": "99999x99999"}', 422, "size_not_drawable"),
        (b'{"prompt": "x", "model": "y"}', 404, "model_not_found"),
        (b'{"prompt": "x", "stepz": 1}', 422, "unknown_field"),
    ],
)
def test_bad_bodies(scripted: httpx.Client, body: bytes, status: int, code: str) -> None:
    response = scripted.post(IMAGES, content=body)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_unknown_routes_and_methods(scripted: httpx.Client) -> None:
    missing = scripted.get("/v1/nothing")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    wrong = scripted.get(IMAGES)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
