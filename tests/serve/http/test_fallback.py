"""What fails on the gang is drawn by the fallback, and what broke is replaced."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import psutil
import pytest

from tests.serve.http.test_limits import raw_post
from tests.support.waiting import until

IMAGES = "/v1/images/generations"
LOOK = 0.2  # seconds between two questions to a service that is busy with replacing what broke


def replica(deployment: str) -> psutil.Process:
    """The one process of a deployment's only replica."""
    (found,) = [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if any(f"ServeReplica:{deployment}" in word for word in process.info["cmdline"] or ())
    ]
    return found


@pytest.mark.parametrize("act", ["nan", "grey", "noise"])
def test_a_picture_that_the_guard_refuses_is_drawn_again(scripted: httpx.Client, act: str) -> None:
    response = scripted.post(IMAGES, json={"prompt": f"parallel={act}"})
    assert response.status_code == 200
    assert response.headers["x-fluxsampler-engine"] == "fallback"
    assert response.headers["x-fluxsampler-engine-reason"] == "PictureRefused"


def test_two_invalid_pictures_are_502(scripted: httpx.Client) -> None:
    response = scripted.post(IMAGES, json={"prompt": "parallel=noise fallback=grey"})
    assert (response.status_code, response.json()["error"]["code"]) == (502, "no_valid_picture")


def test_a_gang_that_takes_too_long_is_left_for_the_fallback(scripted: httpx.Client) -> None:
    response = scripted.post(IMAGES, json={"prompt": "parallel=hang", "timeout_seconds": 16.0})
    assert response.status_code == 200
    assert response.headers["x-fluxsampler-engine-reason"] == "GangTimedOut"


def test_a_killed_sampler_is_answered_by_the_fallback_and_replaced(
    scripted: httpx.Client, scripted_url: str, tmp_path: Path
) -> None:
    note = tmp_path / "killed"
    connection = raw_post(scripted_url, json.dumps({"prompt": f"parallel=hang note={note}"}).encode())
    until(note.with_suffix(".started").exists)
    replica("scripted:ParallelSampler").kill()
    answer = b""
    while b"\r\n\r\n" not in answer:
        received = connection.recv(4096)
        assert received, f"the connection ended after {answer!r}"
        answer += received
    connection.close()
    assert b"200 OK" in answer
    assert b"x-fluxsampler-engine-reason: GangFailed" in answer
    until(lambda: scripted.get("/v1/info").json()["engines"]["parallel"]["ready"], 120, every=LOOK)
    again = scripted.post(IMAGES, json={"prompt": "a red circle"})
    assert again.headers["x-fluxsampler-engine"] == "parallel"


def test_with_no_engine_left_the_service_is_503_until_they_are_replaced(scripted: httpx.Client) -> None:
    broken = scripted.post(IMAGES, json={"prompt": "parallel=raise fallback=raise"})
    assert (broken.status_code, broken.json()["error"]["code"]) == (502, "engine_failed")
    until(lambda: scripted.get("/readyz").status_code == 503)
    refused = scripted.post(IMAGES, json={"prompt": "a red circle"})
    if refused.status_code == 503:  # unless they were replaced in this very moment
        assert refused.json()["error"]["code"] == "not_ready"
        assert int(refused.headers["retry-after"]) >= 1
    until(lambda: scripted.get("/readyz").status_code == 200, 120, every=LOOK)
    assert scripted.post(IMAGES, json={"prompt": "a red circle"}).status_code == 200


def test_a_rank_that_dies_in_a_stream_leaves_it_to_the_fallback(tiny: httpx.Client) -> None:
    body = {"prompt": "a red circle", "size": "128x128", "steps": 100, "seed": 1, "stream": True}
    events = []
    with tiny.stream("POST", IMAGES, json=body) as response:
        assert response.headers["x-fluxsampler-engine"] == "parallel"
        for line in response.iter_lines():
            if line.startswith("data:"):
                events.append(json.loads(line[5:]))
                if len(events) == 1:
                    ranks = replica("tiny:ParallelSampler").children(recursive=True)
                    leaves = [process for process in ranks if not process.children()]
                    leaves[-1].kill()
    last = events[-1]
    assert last["type"] == "image_generation.completed"
    assert last["fluxsampler"]["pictures"][0]["engine"] == "fallback"
    assert last["fluxsampler"]["pictures"][0]["engine_reason"] == "GangFailed"
    until(lambda: tiny.get("/v1/info").json()["engines"]["parallel"]["ready"], 120, every=LOOK)
