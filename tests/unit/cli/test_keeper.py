"""`up` in the foreground, with a stand-in for Ray: whatever ends it, nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fluxsampler_api.loading import load_text
from fluxsampler_cli import processes
from fluxsampler_cli import up as up_module
from fluxsampler_cli.state import InstanceState, StateFolder
from tests.support.cli_specs import TINY
from tests.support.instance import HALT, STEPS, shared_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.unit.cli.conftest import Run

ROOT = Path(__file__).parents[3]
SECONDS = 60.0


class Up:
    """`fluxsampler up tiny.yaml` with the stand-in, in a session of its own as from a terminal."""

    def __init__(self, folder: StateFolder, work: Path, halt: str, *options: str) -> None:
        self.folder = folder
        (work / "tiny.yaml").write_text(TINY, encoding="utf-8")
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.support.instance",
                "up",
                str(work / "tiny.yaml"),
                "--port",
                "0",
                *options,
            ],
            cwd=ROOT,
            env=os.environ | {HALT: halt},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.state: InstanceState | None = None

    def until(self, wanted: Callable[[InstanceState], bool]) -> InstanceState:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            state = self.folder.read("tiny")
            if state is not None and wanted(state):
                self.state = state
                return state
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)
        raise AssertionError(f"never: {self.folder.read('tiny')}")

    def end(self, number: int) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, error = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, out, error

    def left(self) -> list[object]:
        """Everything that an ended instance must not leave."""
        assert self.state is not None
        found: list[object] = list(processes.of_instance(self.state.instance))
        found += [
            path for path in (Path(self.state.folder), shared_memory(self.state.instance)) if path.exists()
        ]
        found += [*self.folder.root.glob("*.lock"), *self.folder.root.glob("*.json")]
        return found


@pytest.fixture
def up(state_home: Path, tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(halt: str = "", *options: str) -> Up:
        started.append(Up(StateFolder(), tmp_path, halt, *options))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate(timeout=SECONDS)
        if one.state is not None:
            processes.end_instance(one.state.instance, Path(one.state.folder))


@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_at_any_step_leaves_nothing(up: Callable[..., Up], step: str) -> None:
    running = up(step)
    state = running.until(lambda state: state.step == step)
    assert processes.of_instance(state.instance)
    code, _, error = running.end(signal.SIGINT)
    assert code == 130, error
    assert "interrupted; nothing of this command is left running" in error
    assert "Traceback" not in error
    assert running.left() == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_running_one_prints_its_url_and_ends_wholly(up: Callable[..., Up], number: int, code: int) -> None:
    running = up()
    state = running.until(lambda state: state.phase == "running")
    assert shared_memory(state.instance).exists()
    assert len(processes.of_instance(state.instance)) == 2
    assert running.process.stdout is not None
    assert running.process.stdout.readline() == f"{state.url}\n"
    ended, out, error = running.end(number)
    assert ended == code, error
    assert out == ""
    assert "tiny is ready" in error
    assert running.left() == []


def test_a_start_that_fails_says_why(up: Callable[..., Up]) -> None:
    running = up("fail-load")
    running.until(lambda state: True)
    out, error = running.process.communicate(timeout=SECONDS)
    assert running.process.returncode == 6, error
    assert "error: ModelCorrupt: the file is damaged" in error
    assert "log: " in error
    assert out == ""
    assert running.left() == []


def test_a_runner_that_is_killed_is_noticed(up: Callable[..., Up]) -> None:
    running = up("die-app")
    running.until(lambda state: True)
    _, error = running.process.communicate(timeout=SECONDS)
    assert running.process.returncode == 6, error
    assert "error: the service ended while it started (signal 9)" in error
    assert running.left() == []


def test_a_killed_keeper_is_seen_and_cleared(up: Callable[..., Up], run: Run) -> None:
    running = up()
    state = running.until(lambda state: state.phase == "running")
    running.process.kill()
    running.process.wait(SECONDS)
    assert StateFolder().read("tiny") is not None
    status = json.loads(run("status", "tiny", "-o", "json").stdout)
    assert status["phase"] == "dead"
    assert status["pid"] is None
    assert status["processes"] == len(processes.of_instance(state.instance)) == 2
    assert "its process was killed" in run("status").stderr
    result = run("down")
    assert result.exit_code == 0, result.output
    assert "tiny is down" in result.stderr
    assert running.left() == []


def test_the_next_up_clears_what_a_killed_one_left(up: Callable[..., Up]) -> None:
    first = up()
    first.until(lambda state: state.phase == "running")
    first.process.kill()
    first.process.wait(SECONDS)
    second = up()
    second.until(lambda state: state.phase == "running" and state.alive)
    assert first.state is not None
    assert processes.of_instance(first.state.instance) == []
    assert not shared_memory(first.state.instance).exists()
    _, _, error = second.end(signal.SIGINT)
    assert "ended 2 processes that an earlier tiny left" in error
    assert second.left() == []


def test_two_at_once(up: Callable[..., Up], run: Run) -> None:
    first = up()
    state = first.until(lambda state: state.phase == "running")
    Path("tiny.yaml").write_text(TINY, encoding="utf-8")

    refused = run("up", "tiny.yaml", "--port", "0")
    assert refused.exit_code == 6, refused.output
    assert "error: tiny is up or starting already; " in refused.stderr

    same = run("up", "tiny.yaml", "--port", "0", "--detach")
    assert same.exit_code == 0, same.output
    assert same.stdout == f"{state.url}\n"

    Path("tiny.yaml").write_text(TINY + "  serving: {maxQueuedRequests: 1}\n", encoding="utf-8")
    other = run("up", "tiny.yaml", "--port", "0", "--detach")
    assert other.exit_code == 6, other.output
    assert (
        "tiny is up with another file or other options; stop it first with `fluxsampler down tiny`"
        in other.stderr
    )

    taken = run("up", "tiny.yaml", "--name", "other", "--port", str(state.port))
    assert taken.exit_code == 6, taken.output
    assert f"port {state.port} is in use by tiny; stop it with `fluxsampler down tiny`" in taken.stderr

    second = up("", "--name", "other")
    deadline = time.monotonic() + SECONDS
    while len(running := [one for one in StateFolder().all() if one.phase == "running"]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ambiguous = run("generate", "x")
    assert ambiguous.exit_code == 4, ambiguous.output
    assert "several services are up; choose one with --url" in ambiguous.stderr
    assert run("down").exit_code == 1
    assert run("down", "--all").exit_code == 0
    assert StateFolder().all() == []
    for one in (first, second):
        one.process.communicate(timeout=SECONDS)
    for one_state in running:
        assert processes.of_instance(one_state.instance) == []


def test_status_of_a_running_and_a_starting_one(up: Callable[..., Up], run: Run) -> None:
    running = up("load")
    running.until(lambda state: state.step == "load")
    status = json.loads(run("status", "-o", "json").stdout)
    assert [(one["name"], one["phase"], one["step"]) for one in status] == [("tiny", "starting", "load")]
    assert "tiny is still starting" in run("generate", "x").stderr
    assert status[0]["plan"]["layout"]["summary"] == "u2"
    running.end(signal.SIGINT)
    gone = run("status", "tiny")
    assert gone.exit_code == 4
    assert "tiny is not up on this machine (start it with" in gone.stderr


def test_an_open_address_without_a_token_is_warned_of(up: Callable[..., Up]) -> None:
    running = up("", "--host", "0.0.0.0")
    state = running.until(lambda state: state.phase == "running")
    assert state.url == f"http://127.0.0.1:{state.port}"
    _, _, error = running.end(signal.SIGINT)
    assert "warning: 0.0.0.0 may be reached from other machines, and no API token is asked for" in error


@pytest.mark.parametrize("given", ["s3cr3t-value", " s3cr3t-value\n"])
def test_a_token_in_the_environment_protects_though_the_file_asks_for_none(
    up: Callable[..., Up], monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("FLUXSAMPLER_API_TOKEN", given)
    running = up("", "--host", "0.0.0.0")
    state = running.until(lambda state: state.phase == "running")
    job = json.loads((running.folder.root / "tiny.json").read_text(encoding="utf-8"))
    assert "s3cr3t-value" not in json.dumps(job)
    environment = Path("/proc", str(processes.of_instance(state.instance)[0]), "environ").read_bytes()
    assert b"FLUXSAMPLER_API_TOKEN=s3cr3t-value" in environment.split(b"\0")
    _, _, error = running.end(signal.SIGINT)
    assert "requests need the API token" in error
    assert "warning" not in error


@pytest.mark.parametrize("given", [" ", " \t\n"])
def test_a_token_of_white_space_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    Path("tiny.yaml").write_text(TINY, encoding="utf-8")
    monkeypatch.setenv("FLUXSAMPLER_API_TOKEN", given)
    result = run("up", "tiny.yaml", "--port", "0")
    assert result.exit_code == 1, result.output
    assert "error: FLUXSAMPLER_API_TOKEN holds only white space; set it" in result.stderr


@pytest.mark.parametrize(("given", "asked"), [("", None), ("secret", "FLUXSAMPLER_API_TOKEN")])
def test_the_token_reaches_the_app_by_its_variable(
    given: str, asked: str | None, state_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sampler,) = load_text(TINY)
    _, args = up_module._planned(sampler)
    monkeypatch.setenv("FLUXSAMPLER_API_TOKEN", given)
    assert up_module._with_tokens(sampler, args, None).serving.auth_token_env == asked


def test_the_token_is_in_no_file_and_no_argument(
    up: Callable[..., Up], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cr3t-value\n", encoding="utf-8")
    running = up("", "--token-file", str(secret))
    state = running.until(lambda state: state.phase == "running")
    for pid in processes.of_instance(state.instance):
        assert b"s3cr3t-value" not in Path("/proc", str(pid), "cmdline").read_bytes()
    for file in running.folder.root.rglob("*"):
        assert not file.is_file() or b"s3cr3t-value" not in file.read_bytes()
    running.end(signal.SIGINT)
