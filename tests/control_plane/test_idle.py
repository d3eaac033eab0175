"""What the operator costs: nothing while nothing happens, little when there is much, seconds to go."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.cluster import ControlPlane, fresh_namespace
from tests.support.operator_process import OperatorProcess, operator_process
from tests.support.operator_world import RECONCILES, USER, World, install_definitions

READY = 20
MANY = 200
IDLE_SECONDS = 60
RESIDENT_MIB = 150
STOP_SECONDS = 5.0
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane() as made:
        install_definitions(made)
        made.run_controllers()
        yield made


@pytest.fixture
def world(plane: ControlPlane, tmp_path: Path) -> Iterator[World]:
    kubeconfig = plane.client(USER, ["system:masters"])
    with (
        fresh_namespace(plane.kubectl) as namespace,
        operator_process(kubeconfig, tmp_path / "log", [namespace]) as operator,
    ):
        made = World(plane, namespace, operator)
        yield made
        assert made.said("reconcile failed") == []


def test_twenty_ready_ones_cause_no_write_for_a_minute(world: World) -> None:
    names = [f"ready-{number}" for number in range(READY)]
    for name in names:
        world.sampler(name)
    for name in names:
        world.served(name)
    world.quiet(names[0])
    mark, cpu = world.plane.audit.mark(), world.operator.cpu_seconds
    # The one place where a time is waited for: that nothing happens within it is what is asked.
    time.sleep(IDLE_SECONDS)
    spent, resident = world.operator.cpu_seconds - cpu, world.operator.resident_mib
    requests = [event for event in world.plane.audit.events(mark) if event.user == USER]
    writes = world.writes(mark)
    print(
        f"{READY} Ready, {IDLE_SECONDS} s: {len(writes)} writes, {len(requests)} requests, {spent:.2f} CPU-s, {resident:.0f} MiB"
    )
    assert writes == []
    assert [event for event in requests if event.verb not in ("watch", "list", "get")] == []
    assert resident <= RESIDENT_MIB
    for name in names:
        assert world.condition("Ready", name)[0] == "True"


def test_two_hundred_get_all_they_need_and_the_process_stays_small(world: World) -> None:
    started = time.monotonic()
    names = [f"many-{number}" for number in range(MANY)]
    for name in names:
        world.sampler(name)
    world.wait(lambda: len(world.all("RayService")) == MANY, "all RayServices", seconds=600)
    world.wait(
        lambda: all((one.get("status") or {}).get("conditions") for one in world.all("FluxSampler")),
        "every status",
        seconds=300,
    )
    print(
        f"{MANY} FluxSamplers: all applied in {time.monotonic() - started:.0f} s, {world.operator.resident_mib:.0f} MiB"
    )
    assert world.operator.healthy
    assert world.operator.resident_mib <= RESIDENT_MIB
    for kind, each in (("Service", 1), ("NetworkPolicy", 1), ("PodDisruptionBudget", 2)):
        assert len(world.all(kind)) == MANY * each
    # Neither starved nor flooded: one more is served while the others wait for a KubeRay that is not there.
    world.applied("one-more")


def _rounds(operator: OperatorProcess, count: int) -> bool:
    return operator.metric(RECONCILES) >= count


def test_a_hard_end_in_the_middle_changes_nothing_for_the_next(plane: ControlPlane, tmp_path: Path) -> None:
    kubeconfig = plane.client(USER, ["system:masters"])
    with fresh_namespace(plane.kubectl) as namespace:
        for turn in range(5):
            with operator_process(kubeconfig, tmp_path / f"log-{turn}", [namespace]) as operator:
                world = World(plane, namespace, operator)
                for number in range(4):
                    world.sampler(f"turn-{turn}-{number}")
                world.wait(partial(_rounds, operator, turn * 3), "some rounds")
                operator.process.kill()
        with operator_process(kubeconfig, tmp_path / "log", [namespace]) as operator:
            world = World(plane, namespace, operator)
            world.wait(lambda: len(world.all("RayService")) == 20, "all RayServices")
            for one in world.all("FluxSampler"):
                world.holds("Accepted", one["metadata"]["name"])
            assert world.said("reconcile failed") == []


def test_sigterm_ends_it_within_seconds_while_it_works(world: World) -> None:
    for number in range(30):
        world.sampler(f"busy-{number}")
    # The Kubernetes client gives TLS a kubeconfig's private key as a file.
    assert any("PRIVATE KEY" in file.read_text() for file in world.operator.temporary.iterdir())
    took = world.operator.stop()
    print(f"SIGTERM: gone after {took:.2f} s")
    assert took <= STOP_SECONDS
    assert world.operator.process.returncode == 0
    assert list(world.operator.temporary.iterdir()) == []


def test_sigterm_ends_it_while_the_api_server_does_not_answer(plane: ControlPlane, tmp_path: Path) -> None:
    with (
        fresh_namespace(plane.kubectl) as namespace,
        operator_process(plane.kubeconfig, tmp_path / "log", [namespace]) as operator,
    ):
        world = World(plane, namespace, operator)
        world.applied("hang")
        with plane.frozen():
            assert operator.healthy
            took = operator.stop()
        print(f"SIGTERM with a frozen API server: gone after {took:.2f} s")
        assert took <= STOP_SECONDS


def test_it_says_what_it_lacks_and_ends(tmp_path: Path) -> None:
    for environment, words in (
        ({"FLUXSAMPLER_OPERATOR_RESYNC_SECONDS": "soon"}, "RESYNC_SECONDS is 'soon'"),
        ({"KUBECONFIG": str(tmp_path / "none")}, "no way to the cluster"),
    ):
        ended = subprocess.run(
            [sys.executable, "-m", "fluxsampler_operator"],
            env={**os.environ, "FLUXSAMPLER_OPERATOR_METRICS_PORT": "0", **environment},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert ended.returncode == 1
        assert words in ended.stderr
        assert "Traceback" not in ended.stderr
