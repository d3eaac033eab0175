"""The command line with everything real: Ray, Serve, HAProxy, two ranks, the built-in model.

One service is started in the background and used by the tests one after the other; what ends it is
the last of them. Another Ray with Ray's own defaults runs beside it all the time.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from fluxsampler_cli import processes
from fluxsampler_cli.state import InstanceState, StateFolder
from tests.support.cli_specs import TINY
from tests.support.model_folders import copy_builtin
from tests.support.shape_checker import matches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.timeout(600)

# Generous: the machine may be busy with other things. Nothing here is a claim about speed.
SECONDS = 300.0
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


class Machine:
    """The command line with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = StateFolder(home / "state" / "fluxsampler")
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("FLUXSAMPLER_")
        }
        # RAY_ADDRESS must not lead anywhere: this is where a user's other Ray would be.
        self.environment |= {
            "XDG_STATE_HOME": str(home / "state"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "RAY_ADDRESS": "127.0.0.1:1",
            "OMP_NUM_THREADS": "1",
        }
        (home / "tiny.yaml").write_text(TINY, encoding="utf-8")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fluxsampler_cli.main", *arguments],
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """In a session of its own, as from another terminal."""
        return subprocess.Popen(
            [sys.executable, "-m", "fluxsampler_cli.main", *arguments],
            cwd=self.home,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def state(self) -> InstanceState:
        found = self.folder.read("tiny")
        assert found is not None
        return found

    def left(self, state: InstanceState) -> list[object]:
        """What an ended instance must not leave, the shared memory of the whole machine included."""
        found: list[object] = list(processes.of_instance(state.instance))
        found += [path for path in (Path(state.folder),) if path.exists()]
        found += [*self.folder.root.glob("*.lock"), *self.folder.root.glob("*.json")]
        return found


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def shared_memory() -> set[str]:
    return {entry.name for entry in Path("/dev/shm").iterdir()}


class Neighbour:
    """Another Ray, which must notice nothing of us."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.neighbour_ray", self.folder],
            cwd=Path(__file__).parents[2],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.asked = 0

    def ask(self) -> dict[str, int]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.asked += 1
        self.process.stdin.write(f"{self.asked}\n")
        self.process.stdin.flush()
        answer: dict[str, int] = json.loads(self.process.stdout.readline())
        return answer

    def end(self) -> None:
        family = psutil.Process(self.process.pid).children(recursive=True)
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for one in family:
            if one.is_running():
                one.kill()
        psutil.wait_procs(family, 30)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def neighbour() -> Iterator[Neighbour]:
    one = Neighbour()
    yield one
    one.end()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    one = Machine(tmp_path_factory.mktemp("home"))
    yield one
    for state in one.folder.all():
        processes.end_one(state.keeper, state.keeper_started, 5)
        processes.end_instance(state.instance, Path(state.folder))


@pytest.fixture(scope="module")
def service(machine: Machine, neighbour: Neighbour) -> InstanceState:
    """`up --detach`, once for the module."""
    assert neighbour.ask() == {"sum": 2, "nodes": 1, "actors": 0}
    result = machine.run("up", "tiny.yaml", "--detach", "--port", "0")
    log = machine.folder.log("tiny")
    assert result.returncode == 0, result.stderr + (log.read_text() if log.exists() else "")
    state = machine.state()
    assert result.stdout == f"{state.url}\n"
    assert "plan of tiny" in result.stderr
    assert "tiny is ready" in result.stderr
    return state


def test_status_tells_the_truth(machine: Machine, service: InstanceState) -> None:
    status = json.loads(machine.run("status", "tiny", "-o", "json").stdout)
    assert status["phase"] == "running"
    assert status["url"] == service.url
    assert status["layout"] == "u2"
    assert status["pid"] == service.keeper
    assert status["processes"] == len(processes.of_instance(service.instance))


def test_nothing_listens_beyond_loopback(service: InstanceState) -> None:
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for pid in processes.of_instance(service.instance)
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert ("127.0.0.1", service.port) in listening
    assert {address for address, _ in listening} <= LOOPBACK
    # Ports that every Ray or Serve of a machine wants first.
    assert not {port for _, port in listening} & {6379, 8000, 8265, 8404, 8500, 9000, 9101, 10001, 52365}


def test_the_object_store_is_the_plan_s(service: InstanceState) -> None:
    commands = (psutil.Process(pid).cmdline() for pid in processes.of_instance(service.instance))
    raylet = next(command for command in commands if Path(command[0]).name == "raylet")
    (size,) = (int(word.rpartition("=")[2]) for word in raylet if word.startswith("--object_store_memory="))
    assert size == pytest.approx(service.plan.memory.host.object_store_gib * 2**30, rel=0.01)
    assert size == pytest.approx(80 << 20, rel=0.01)


def test_two_ranks_draw_a_red_circle(machine: Machine, service: InstanceState) -> None:
    target = machine.home / "out" / "red-circle.png"
    result = machine.run(
        "generate", "a red circle", "-o", str(target), "-n", "3", "--seed", "1", "--previews", "p", "--json"
    )
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert [one["engine"] for one in answer["pictures"]] == ["parallel"] * 3
    assert [one["file"] for one in answer["pictures"]] == [
        str(target.with_stem(f"red-circle-{n}")) for n in (1, 2, 3)
    ]
    assert answer["previews"]
    right = 0
    for one in answer["pictures"]:
        with Image.open(one["file"]) as picture:
            right += matches(np.asarray(picture.convert("RGB")), "a red circle")
    # The model draws 95 of 100 right by this checker; of three it may miss one.
    assert right >= 2
    info = httpx.get(f"{service.url}/v1/info", trust_env=False).json()
    assert info["plan"]["layout"]["gpusPerReplica"] == 2


def test_a_size_that_nothing_draws(machine: Machine, service: InstanceState) -> None:
    result = machine.run("generate", "a red circle", "--size", "100x100")
    assert result.returncode == 5
    assert "100x100 cannot be drawn" in result.stderr
    assert "the nearest sizes are" in result.stderr


def test_a_second_up(machine: Machine, service: InstanceState) -> None:
    again = machine.run("up", "tiny.yaml", "--detach", "--port", "0")
    assert (again.returncode, again.stdout) == (0, f"{service.url}\n"), again.stderr
    refused = machine.run("up", "tiny.yaml", "--port", "0")
    assert refused.returncode == 6
    assert "tiny is up or starting already" in refused.stderr
    taken = machine.run("up", "tiny.yaml", "--name", "other", "--port", str(service.port))
    assert taken.returncode == 6
    assert f"port {service.port} is in use by tiny" in taken.stderr
    assert machine.state() == service


def test_a_killed_keeper_takes_everything_with_it(
    machine: Machine, service: InstanceState, neighbour: Neighbour
) -> None:
    assert neighbour.ask()["nodes"] == 1
    os.kill(service.keeper, signal.SIGKILL)
    until(lambda: not processes.of_instance(service.instance), "the runner ends with its keeper")
    until(lambda: not Path(service.folder).exists(), "its folder goes")
    status = json.loads(machine.run("status", "tiny", "-o", "json").stdout)
    assert (status["phase"], status["processes"]) == ("dead", 0)
    down = machine.run("down")
    assert down.returncode == 0, down.stderr
    assert machine.left(service) == []
    assert neighbour.ask() == {"sum": neighbour.asked + 1, "nodes": 1, "actors": 0}
    assert "nothing is up" in machine.run("down").stderr


def test_of_two_at_once_one_is_refused_and_down_ends_the_other(
    machine: Machine, neighbour: Neighbour
) -> None:
    before = shared_memory()
    # Of other options, so that the later one is refused even if it comes when the first is up.
    (machine.home / "queue.yaml").write_text(f"{TINY}  serving: {{maxQueuedRequests: 1}}\n", encoding="utf-8")
    both = [machine.start("up", file, "--detach", "--port", "0") for file in ("tiny.yaml", "queue.yaml")]
    ends = [(*up.communicate(timeout=SECONDS), up.returncode) for up in both]
    assert sorted(code for _, _, code in ends) == [0, 6], ends
    (winner,) = (end for end in ends if end[2] == 0)
    (loser,) = (end for end in ends if end[2] == 6)
    state = machine.state()
    assert winner[0] == f"{state.url}\n"
    assert loser[0] == ""
    assert (
        "error: tiny is up or starting already; " in loser[1]
        or "error: tiny is up with another file" in loser[1]
    )
    assert [one.instance for one in machine.folder.all()] == [state.instance]
    assert (state.shown_phase, state.detached) == ("running", True)
    assert httpx.get(f"{state.url}/readyz", trust_env=False).status_code == 200

    down = machine.run("down", "tiny")
    assert down.returncode == 0, down.stderr
    assert "tiny is down" in down.stderr
    assert machine.left(state) == []
    assert processes.started_at(state.keeper) != state.keeper_started
    assert shared_memory() <= before
    assert neighbour.ask() == {"sum": neighbour.asked + 1, "nodes": 1, "actors": 0}


@pytest.mark.parametrize(
    ("step", "options"),
    [("ray", ()), ("app", ()), ("load", ()), ("running", ()), ("load", ("--detach",))],
    ids=["ray", "app", "load", "running", "load-followed"],
)
def test_ctrl_c_at_any_time(
    machine: Machine, neighbour: Neighbour, step: str, options: tuple[str, ...]
) -> None:
    before = shared_memory()
    up = machine.start("up", "tiny.yaml", "--port", "0", *options)
    seen: list[InstanceState] = []

    def reached() -> bool:
        assert up.poll() is None, up.communicate()
        state = machine.folder.read("tiny")
        seen[:] = [state] if state is not None else []
        return state is not None and step in (state.step, state.phase)

    until(reached, f"the step {step}")
    if step == "ray":  # in its middle: the raylet is there, Serve is not
        until(lambda: len(processes.of_instance(seen[0].instance)) > 4, "Ray's daemons")
    up.send_signal(signal.SIGINT)
    _, error = up.communicate(timeout=SECONDS)
    assert up.returncode == 130, error
    assert "interrupted; nothing of this command is left running" in error
    assert "Traceback" not in error
    assert machine.left(seen[0]) == []
    assert shared_memory() <= before
    assert neighbour.ask()["nodes"] == 1


def test_an_engine_that_cannot_load_ends_the_start(machine: Machine, neighbour: Neighbour) -> None:
    folder = copy_builtin(machine.home / "broken")
    (folder / "tokenizer_2" / "tokenizer.json").write_text("{}", encoding="utf-8")
    text = TINY.replace("builtin://tiny-shapes", f"file://{folder}").replace("tiny}", "broken}")
    text = text.replace("{memory: 80Mi}", "{memory: Auto}")
    (machine.home / "broken.yaml").write_text(text, encoding="utf-8")
    result = machine.run("up", "broken.yaml", "--detach", "--port", "0")
    assert result.returncode == 6, result.stderr
    assert "error: ModelCorrupt: " in result.stderr or "error: ModelNotFound: " in result.stderr
    assert "Traceback" not in result.stderr
    assert not [*machine.folder.root.glob("broken.json"), *machine.folder.root.glob("broken.lock")]
    assert neighbour.ask() == {"sum": neighbour.asked + 1, "nodes": 1, "actors": 0}
