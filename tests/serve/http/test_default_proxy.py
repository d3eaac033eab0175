"""The same app through Serve's default proxy, with user code in a loop of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serve.http.test_limits import raw_post
from tests.support.live_service import TOKEN, live_service
from tests.support.waiting import until

IMAGES = "/v1/images/generations"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with live_service("--default-proxy") as started:
        yield f"{started}/scripted"


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=120, headers={"authorization": f"Bearer {TOKEN}"}) as opened:
        yield opened


def test_pictures_errors_and_one_request_id(client: httpx.Client) -> None:
    drawn = client.post(IMAGES, json={"prompt": "a red circle"}, headers={"x-request-id": "mine"})
    assert drawn.status_code == 200
    assert drawn.headers.get_list("x-request-id") == ["mine"]
    assert drawn.headers["x-fluxsampler-engine"] == "parallel"
    wrong = client.post(IMAGES, json={"prompt": ""})
    assert (wrong.status_code, len(wrong.headers.get_list("x-request-id"))) == (422, 1)
    assert client.post(IMAGES, json={"prompt": "x" * (1 << 17)}).status_code == 413
    late = client.post(IMAGES, json={"prompt": "parallel=hang fallback=hang", "timeout_seconds": 0.5})
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_streams_arrive_step_by_step(client: httpx.Client, url: str, tmp_path: Path) -> None:
    body = {"prompt": "a red circle", "stream": True, "steps": 3}
    with client.stream("POST", IMAGES, json=body) as response:
        kinds = [line[7:] for line in response.iter_lines() if line.startswith("event: ")]
    assert kinds == ["fluxsampler.progress"] * 3 + ["image_generation.completed"]


def test_a_caller_who_leaves_frees_the_engine(client: httpx.Client, url: str, tmp_path: Path) -> None:
    note = tmp_path / "left"
    connection = raw_post(url, json.dumps({"prompt": f"parallel=hang note={note}"}).encode())
    until(note.with_suffix(".started").exists)
    connection.close()
    until(note.with_suffix(".cancelled").exists)
    assert client.post(IMAGES, json={"prompt": "a red circle"}).headers["x-fluxsampler-engine"] == "parallel"
