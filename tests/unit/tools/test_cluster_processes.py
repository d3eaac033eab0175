"""Daemons: found and ended by whoever comes later, and never mixed up with others."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tools.cluster.errors import NotReady
from tools.cluster.locks import exclusive
from tools.cluster.processes import Processes, end, marked, started

from tests.support.waiting import until

ROOT = Path(__file__).parents[3]
_START = """
import sys
from pathlib import Path
from tools.cluster.processes import Processes
Processes(Path(sys.argv[1])).start("one", ["sleep", "600"])
"""
_HOLD = """
import sys
from pathlib import Path
from tools.cluster.locks import exclusive
with exclusive(Path(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path)


def test_started_recorded_logged_and_stopped(processes: Processes, tmp_path: Path) -> None:
    record = processes.start("one", ["bash", "-c", "echo hello; exec sleep 600"])
    until(lambda: (tmp_path / "logs/one.log").read_text() == "hello\n")
    assert record.alive()
    assert Processes(tmp_path).records() == [record]
    assert os.getsid(record.pid) == record.pid  # a session of its own: a closed terminal does not end it
    processes.stop("one")
    assert not record.alive()
    assert processes.records() == []


def test_it_outlives_its_starter_and_a_later_one_ends_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _START, str(tmp_path)], cwd=ROOT, check=True)
    later = Processes(tmp_path)
    (record,) = later.records()
    assert record.alive()
    later.kill_all()
    assert not record.alive()


def test_children_and_unrecorded_ones_are_found_by_their_mark(processes: Processes, tmp_path: Path) -> None:
    processes.start("one", ["bash", "-c", "sleep 600 & sleep 600"])
    until(lambda: len(marked(tmp_path)) == 3)
    (tmp_path / "processes/one.json").unlink()  # as if its starter had been killed before it could write
    assert len(processes.all_alive()) == 3
    processes.kill_all()
    assert processes.all_alive() == []


def test_another_process_with_the_same_id_is_left_alone(processes: Processes, tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        record = processes.start("one", ["true"])
        until(lambda: not record.alive())
        earlier = (started(stranger.pid) or 0) - 1
        reused = dataclasses.replace(record, pid=stranger.pid, started=earlier)
        (tmp_path / "processes/one.json").write_text(json.dumps(dataclasses.asdict(reused)))
        processes.stop("one")
        processes.kill_all()
        assert started(stranger.pid) is not None
        at_another_boot = dataclasses.replace(reused, started=started(stranger.pid) or 0, boot="another")
        end([at_another_boot])
        assert started(stranger.pid) is not None
    finally:
        stranger.kill()
        stranger.wait()


def test_who_ignores_a_polite_end_is_killed(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.cluster.processes._END_SECONDS", 0.3)
    record = processes.start(
        "stubborn", ["bash", "-c", "trap '' TERM; echo ready; while true; do sleep 0.1; done"]
    )
    until(lambda: Path(record.log).read_text() == "ready\n")
    monkeypatch.undo()
    monkeypatch.setattr("tools.cluster.processes._END_SECONDS", 1.0)
    processes.stop("stubborn", signal.SIGTERM)
    assert not record.alive()


def test_waiting_ends_at_once_when_the_daemon_does_and_shows_why(processes: Processes) -> None:
    processes.start("one", ["bash", "-c", "echo port taken; exit 1"])
    with pytest.raises(NotReady, match=r"one ended while it started; the end of .*one\.log:\nport taken"):
        processes.await_ready("one", lambda: False, timeout=60)


def test_waiting_in_vain_shows_the_log(processes: Processes) -> None:
    processes.start("one", ["bash", "-c", "echo still thinking; exec sleep 600"])
    until(
        lambda: processes.records()[0].alive() and "thinking" in Path(processes.records()[0].log).read_text()
    )
    with pytest.raises(NotReady, match=r"one: not within 0 s(?s:.*)still thinking"):
        processes.await_ready("one", lambda: False, timeout=0.2)
    processes.kill_all()


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen(["true"])
    until(lambda: started(child.pid) is None)
    assert Path(f"/proc/{child.pid}").exists()
    child.wait()


def test_a_lock_is_given_back_when_its_holder_is_killed_and_names_it_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    told: list[str] = []

    def on_wait(who: str) -> None:
        told.append(who)
        holder.kill()

    with exclusive(path, on_wait):
        assert told == [f"process {holder.pid}"]
    holder.communicate()
