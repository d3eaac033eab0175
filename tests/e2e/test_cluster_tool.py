"""The tool itself: what it starts works, what it stops leaves nothing, whatever kills it on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from tools.cluster import binaries, packages
from tools.cluster.errors import BuildFailed, CannotRun

from tests.support.cluster import cannot_run, wait_for
from tests.support.cluster_sandbox import Sandbox, sandbox

_STATE = "var/lib/fluxsampler-cluster"

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def place() -> Iterator[Sandbox]:
    """Everything built before a clock runs."""
    try:
        packages.require()
        binaries.ensure()
    except (CannotRun, BuildFailed) as error:
        cannot_run(error)
    with sandbox() as made:
        yield made


# Moments of a start, told by what it has made so far.
_MOMENTS: dict[str, Callable[[Path], bool]] = {
    "an empty folder": lambda state: state.exists(),
    "links and keys": lambda state: (state / "pki").exists(),
    "etcd runs": lambda state: (state / "processes/etcd.json").exists(),
    "the API server starts": lambda state: (state / "processes/apiserver.json").exists(),
    "the kubelet starts": lambda state: (state / "processes/kubelet.json").exists(),
    "KubeRay comes": lambda state: (state / "kuberay").exists(),
}
# A start that comes so far is nearly whole; what `up` makes of it is seen by the fixture below.
_LAST = "KubeRay comes"


def _kill_a_start(place: Sandbox, moment: str) -> None:
    """Start, and `kill -9` when it has come to that moment."""
    state = Path(f"/proc/{place.pid}/root/{_STATE}")
    with subprocess.Popen(place.tool("up"), start_new_session=True) as starter:
        wait_for(lambda: _MOMENTS[moment](state) or starter.poll() is not None, 600, moment, interval=0.002)
        os.killpg(starter.pid, signal.SIGKILL)
    assert starter.returncode == -signal.SIGKILL, f"the start ended before {moment}"


@dataclass(frozen=True, slots=True)
class Up:
    """A cluster that is up; ``before`` is the machine before it was, ``printed`` what its two starters said."""

    place: Sandbox
    before: list[str]
    printed: list[str]


@pytest.fixture(scope="module")
def up(place: Sandbox) -> Up:
    """Brought up by two callers at once, on what a start left that was killed late. The sandbox ends it."""
    before = place.snapshot()
    _kill_a_start(place, _LAST)
    # One works, the other waits and finds it done.
    callers = [
        subprocess.Popen(place.tool("up", "--nodes", "3"), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [caller.communicate(timeout=900)[0] for caller in callers]
    assert [caller.returncode for caller in callers] == [0, 0]
    return Up(place, before, printed)


def kubectl(place: Sandbox, *arguments: str) -> str:
    program = str(binaries.ensure().path("kubectl"))
    return place.run(program, "--kubeconfig", f"/{_STATE}/admin.kubeconfig", *arguments)


def nodes(place: Sandbox) -> dict[str, str]:
    items = json.loads(kubectl(place, "get", "nodes", "-o", "json"))["items"]
    return {item["metadata"]["name"]: item["status"]["allocatable"]["nvidia.com/gpu"] for item in items}


def nodes_named(place: Sandbox) -> list[str]:
    return kubectl(place, "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").split()


@pytest.mark.parametrize("moment", [moment for moment in _MOMENTS if moment != _LAST])
def test_a_start_killed_at_any_moment_is_cleaned_up_by_down(place: Sandbox, moment: str) -> None:
    before = place.snapshot()
    _kill_a_start(place, moment)
    place.run_tool("down")
    assert place.snapshot() == before


def test_two_callers_bring_up_one_cluster_on_what_a_killed_start_left(up: Up) -> None:
    assert up.printed[0] == up.printed[1]
    assert up.printed[0].startswith(f"export KUBECONFIG=/{_STATE}/admin.kubeconfig ")
    assert nodes(up.place) == {"node-1": "8", "node-2": "8", "node-3": "8"}
    assert "1/1" in kubectl(up.place, "-n", "ray-system", "get", "pods")


def test_nodes_and_their_cards_stay(up: Up) -> None:
    # A kubelet that starts forgets cards that no plugin offers; they come back.
    up.place.run_tool("restart", "kubelet")
    kubectl(
        up.place,
        "wait",
        "node/node-1",
        "--for=jsonpath={.status.allocatable.nvidia\\.com/gpu}=8",
        "--timeout=60s",
    )
    # A deleted registered node comes back, too, and is ready.
    kubectl(up.place, "delete", "node", "node-3")
    wait_for(lambda: "node-3" in nodes_named(up.place), 60, "node-3 to come back", interval=0.5)
    kubectl(up.place, "wait", "node/node-3", "--for=condition=Ready", "--timeout=60s")


def test_a_second_kubelet_runs_pods_that_reach_the_cluster(up: Up) -> None:
    place = up.place
    place.run_tool("up", "--nodes", "3", "--kubelets", "2")  # node-2 was only registered
    assert nodes(place) == {"node-1": "8", "node-2": "8", "node-3": "8"}
    kubectl(place, "cordon", "node-1")
    # KubeRay is pulled by node-2's containerd, asks the API server through its service, and answers node-2's kubelet.
    kubectl(place, "-n", "ray-system", "delete", "pod", "--all", "--grace-period=1")
    kubectl(place, "-n", "ray-system", "rollout", "status", "deployment/kuberay-operator", "--timeout=180s")
    assert "node-2" in kubectl(place, "-n", "ray-system", "get", "pods", "-o", "wide")
    said = partial(kubectl, place, "-n", "ray-system", "logs", "deployment/kuberay-operator")
    wait_for(lambda: "Starting workers" in said(), 120, "KubeRay's controllers", interval=0.5)
    kubectl(place, "uncordon", "node-1")


def test_what_died_is_started_again_and_what_was_held_is_there(up: Up) -> None:
    place = up.place
    kubectl(place, "create", "configmap", "kept")
    place.run("pkill", "-9", "-x", "etcd")
    place.run("pkill", "-9", "-x", "containerd")
    place.run_tool("up", "--nodes", "2")
    kubectl(place, "get", "configmap", "kept")
    wait_for(lambda: set(nodes_named(place)) == {"node-1", "node-2"}, 60, "node-3 to go", interval=0.5)
    place.run_tool("status")


def test_kuberay_is_removed_whole(up: Up) -> None:
    up.place.run_tool("kuberay", "remove")
    up.place.run_tool("up", "--without-kuberay")  # nor does it come back by itself
    assert kubectl(up.place, "get", "crd,clusterrole,namespace", "-o", "name").count("ray") == 0


def test_down_leaves_nothing(up: Up) -> None:
    up.place.run_tool("down")
    assert up.place.snapshot() == up.before
    up.place.run_tool("down")  # of nothing is fine
