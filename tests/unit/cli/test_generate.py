"""`fluxsampler generate` against the real gateway around fake engines, and against servers that misbehave."""

from __future__ import annotations

import io
import json
import stat
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from fluxsampler_cli.client import _sse
from fluxsampler_cli.generate import write_atomically
from fluxsampler_serve.engines.fake import FakeScript
from tests.support.live_gateway import gateway
from tests.support.service import app_args

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.cli.conftest import Run


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with gateway(app_args()) as address:
        yield address


@contextmanager
def answering(status: int, kind: str, body: bytes) -> Iterator[str]:
    """A server that answers every POST so, and closes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_a_picture_is_written_and_described(run: Run, url: str) -> None:
    result = run("generate", "a red circle", "--url", url, "--seed", "7", "-o", "deep/er/x.png")
    assert result.exit_code == 0, result.output
    assert result.stdout == "deep/er/x.png\n"
    assert "engine parallel, seed 7, " in result.stderr
    with Image.open("deep/er/x.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == (64, 64)
        assert "7" in str(picture.info)


def test_the_same_seed_draws_the_same_bytes(run: Run, url: str) -> None:
    for name in ("a.png", "b.png"):
        assert run("generate", "a red circle", "--url", url, "--seed", "7", "-o", name).exit_code == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_several_pictures_are_numbered_and_seeds_count_up(run: Run, url: str) -> None:
    result = run("generate", "x", "--url", url, "-n", "3", "--seed", "5", "-o", "y.png", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert [one["file"] for one in answer["pictures"]] == ["y-1.png", "y-2.png", "y-3.png"]
    assert [one["seed"] for one in answer["pictures"]] == [5, 6, 7]
    assert {one["engine"] for one in answer["pictures"]} == {"parallel"}
    assert all(Path(one["file"]).is_file() for one in answer["pictures"])
    assert answer["request"]["steps"] == 4


def test_previews_are_saved(run: Run, url: str) -> None:
    result = run("generate", "x", "--url", url, "-o", "y.png", "--previews", "p", "--json")
    assert result.exit_code == 0, result.output
    previews = json.loads(result.stdout)["previews"]
    assert previews
    assert sorted(map(str, Path("p").iterdir())) == sorted(previews)
    for preview in previews:
        with Image.open(preview) as picture:
            picture.load()


def test_names_of_our_own_never_replace_a_file(run: Run, url: str) -> None:
    for expected in ("a-red-circle.png", "a-red-circle-2.png"):
        assert run("generate", "A red circle!", "--url", url).stdout.strip() == expected
    Path("given.png").write_bytes(b"old")
    assert run("generate", "x", "--url", url, "-o", "given.png").exit_code == 0
    assert Path("given.png").read_bytes() != b"old"


@pytest.mark.parametrize(
    ("options", "form", "name"),
    [
        (("-o", "x.jpg"), "JPEG", "x.jpg"),
        (("-o", "x.webp"), "WEBP", "x.webp"),
        (("--format", "jpeg"), "JPEG", "p.jpg"),
        (("-o", "x", "--format", "webp"), "WEBP", "x"),
    ],
)
def test_the_format_follows_the_name_or_the_option(
    run: Run, url: str, options: tuple[str, ...], form: str, name: str
) -> None:
    result = run("generate", "p", "--url", url, *options)
    assert result.exit_code == 0, result.output
    with Image.open(name) as picture:
        assert picture.format == form


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-o", "x.gif"), "end the name in .png, .jpg or .webp"),
        (("-o", "x.png", "--format", "jpeg"), "contradict each other"),
        (("-o", "."), "is a folder"),
        (("--timeout", "inf"), "--timeout: inf is not a finite number"),
        (("--url", "ftp://x"), "--url ftp://x is no URL"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_asked(
    run: Run, options: tuple[str, ...], message: str
) -> None:
    result = run("generate", "p", *options)
    assert result.exit_code == 1, result.output
    assert message in result.output


def test_a_negative_prompt_brings_its_weight(run: Run, url: str) -> None:
    result = run("generate", "x", "--url", url, "--negative", "blue", "-o", "y.png", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["request"]["true_cfg_scale"] == 4.0


def test_the_prompt_may_come_from_standard_input(run: Run, url: str) -> None:
    result = run("generate", "-", "--url", url, "-o", "y.png", stdin="a green square\n")
    assert result.exit_code == 0, result.output
    with Image.open("y.png") as picture:
        assert "a green square" in str(picture.info)


def test_a_failure_while_streaming_is_the_service_s_error(run: Run) -> None:
    with gateway(app_args(fallback=False), gang=FakeScript(afterwards="raise")) as address:
        result = run("generate", "x", "--url", address, "-o", "y.png")
    assert result.exit_code == 5, result.output
    assert "no engine could draw the picture" in result.output
    assert not Path("y.png").exists()


@pytest.mark.parametrize(
    ("status", "kind", "body", "exit_code", "message"),
    [
        (200, "text/html", b"<html>", 5, "is no FluxSampler"),
        (404, "text/html", b"<html>", 5, "answered 404 and no FluxSampler error"),
        (200, "text/event-stream", b"event: x\ndata: {no\n\n", 5, "not JSON"),
        (200, "text/event-stream", b"", 4, "after 0 of 1 pictures"),
        (
            429,
            "application/json",
            b'{"error": {"message": "too many wait", "code": "queue_full"}}',
            5,
            "too many wait (429 queue_full)",
        ),
        (
            200,
            "text/event-stream",
            b'event: error\ndata: {"error": {"message": "gone wrong", "code": "engine_failed"}}\n\n',
            5,
            "gone wrong (engine_failed)",
        ),
    ],
)
def test_servers_that_misbehave(
    run: Run, status: int, kind: str, body: bytes, exit_code: int, message: str
) -> None:
    with answering(status, kind, body) as address:
        result = run("generate", "x", "--url", address, "-o", "y.png")
    assert result.exit_code == exit_code, result.output
    assert message in result.output
    assert not Path("y.png").exists()


def test_server_sent_events_as_the_standard_has_them() -> None:
    lines = (
        io.StringIO(": comment\nevent: a\ndata: 1\ndata:2\n\ndata: 3\nid: 7\n\nevent: lost\n\n")
        .read()
        .splitlines()
    )
    assert list(_sse(iter(lines))) == [("a", "1\n2"), ("message", "3")]


def test_writing_is_atomic_and_of_usual_mode(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    write_atomically(path, b"picture")
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert path.read_bytes() == b"picture"
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["plain", "x.png"]
