"""Every line of docs/user/errors.md, run as it says and compared with what it says."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from fluxsampler_cli import keeper, machine
from fluxsampler_cli.errors import ExitCode
from fluxsampler_cli.signals import Stopped
from fluxsampler_cli.state import StateFolder
from tests.support.cli_specs import write_specs
from tests.support.live_gateway import gateway
from tests.support.service import app_args

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.cli.conftest import Run

DOCUMENT = Path(__file__).parents[3] / "docs" / "user" / "errors.md"
TOKEN = "right-token"


@dataclass(frozen=True)
class Line:
    when: str
    do: str
    see: str
    exit_code: int | None
    status: int | None

    def matches(self, text: str) -> bool:
        """`…` is anything; the table writes ‘ ’ where a backtick stands."""
        plain = self.see.replace("‘", "`").replace("’", "`")
        pattern = ".+?".join(re.escape(part) for part in plain.split("…"))
        return re.search(pattern, text, re.DOTALL) is not None


def read_table() -> list[Line]:
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    start = next(index for index, row in enumerate(rows) if row.startswith("| when")) + 2
    found = []
    for row in rows[start:]:
        when, do, see, result = (cell.strip() for cell in row.strip("|").split(" | "))
        code = re.search(r"exit (\d+)", result)
        status = re.search(r"HTTP (\d+)", result)
        found.append(
            Line(when, do, see.strip("`"), int(code[1]) if code else None, int(status[1]) if status else None)
        )
    return found


TABLE = read_table()
COMMANDS = [line for line in TABLE if line.exit_code is not None]
REQUESTS = [line for line in TABLE if line.exit_code is None]
# What a line means by the words that are not on its command line.
STDIN = {"10 MB prompt": "a" * 10_000_000, "long prompt": "b" * 40_000}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with gateway(app_args()) as address:
        yield address.rstrip("/")


@pytest.fixture(scope="module")
def guarded_url() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FXS_TEST_TOKEN", TOKEN)
        with gateway(app_args(auth_token_env="FXS_TEST_TOKEN")) as address:
            yield address.rstrip("/")


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def free_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_the_table_is_read() -> None:
    assert len(COMMANDS) >= 20
    assert len(REQUESTS) >= 4
    assert len({line.when for line in TABLE}) == len(TABLE)


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: line.when)
def test_a_command_of_the_table(
    line: Line,
    run: Run,
    url: str,
    guarded_url: str,
    busy_port: int,
    free_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_specs(Path.cwd())
    # The table's plans are the same on every machine that has no card.
    monkeypatch.setattr(machine, "_cards", lambda: ())
    found = re.match(r"`fluxsampler ([^`]*)`", line.do)
    assert found, line.do
    words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', found[1])]
    words = [{"PORT": str(busy_port), "URL": free_url}.get(word, word) for word in words]
    if line.status is not None and "--url" not in words:
        words += ["--url", guarded_url if "--token" in words else url]
    if words[0] == "up" and "--port" not in words:
        words += ["--port", "0"]

    match line.when:
        case "two `up`s at once":
            lock = StateFolder().take_lock("tiny")
            result = run(*words)
            lock.release()
        case "Ctrl-C at any time":
            monkeypatch.setattr(keeper, "_run", _interrupted)
            result = run(*words)
        case _:
            result = run(*words, stdin=STDIN.get(line.when))

    assert result.exit_code == line.exit_code, result.output
    assert line.matches(result.output), result.output
    assert "Traceback" not in result.output
    assert not list(StateFolder().root.glob("*.lock"))


def _interrupted(*_: object) -> None:
    raise Stopped(2)


@pytest.mark.parametrize(
    "line", [line for line in TABLE if line.status is not None], ids=lambda line: line.when
)
def test_a_request_of_the_table(line: Line, url: str, guarded_url: str) -> None:
    if line.do.startswith("`fluxsampler"):
        address, content, headers = _request_of(line, url, guarded_url)
    else:
        address, content, headers = url, line.do.strip("`").encode(), {}
    answer = httpx.post(
        f"{address}/v1/images/generations",
        content=content,
        headers={"content-type": "application/json"} | headers,
        timeout=60,
        trust_env=False,
    )
    assert answer.status_code == line.status, answer.text
    if line.exit_code is None:
        assert line.matches(answer.json()["error"]["message"]), answer.text


def _request_of(line: Line, url: str, guarded_url: str) -> tuple[str, bytes, dict[str, str]]:
    """The body that a `generate` of the table sends."""
    import json

    prompt = re.search(r'"([^"]*)"', line.do)
    body: dict[str, object] = {"prompt": STDIN.get(line.when, prompt[1] if prompt else "")}
    if size := re.search(r"--size (\S+)`", line.do):
        body["size"] = size[1]
    if number := re.search(r"-n (\d+)", line.do):
        body["n"] = int(number[1])
    content = json.dumps(body, ensure_ascii=False).encode()
    if token := re.search(r"--token (\w+)", line.do):
        return guarded_url, content, {"authorization": f"Bearer {token[1]}"}
    return url, content, {}


def test_the_exit_codes_of_the_document_are_the_program_s() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d, ]+) \| ", text, re.MULTILINE)
    documented = {int(number) for row in rows for number in row.split(",")}
    assert {int(code) for code in ExitCode} <= documented
