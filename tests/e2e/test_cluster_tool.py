"""The tool itself: what it starts works, what it stops leaves nothing, whatever kills it on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from tools.cluster import binaries, packages
from tools.cluster.errors import BuildFailed, CannotRun

from tests.support.cluster import cannot_run, wait_for
from tests.support.cluster_sandbox import Sandbox, sandbox

_STATE = "var/lib/fluxsampler-cluster"

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def place() -> Iterator[Sandbox]:
    """Everything built before a clock runs."""
    try:
        packages.require()
        binaries.ensure()
    except (CannotRun, BuildFailed) as error:
        cannot_run(error)
    with sandbox() as made:
        yield made


def kubectl(place: Sandbox, *arguments: str) -> str:
    program = str(binaries.ensure().path("kubectl"))
    return place.run(program, "--kubeconfig", f"/{_STATE}/admin.kubeconfig", *arguments)


def nodes(place: Sandbox) -> dict[str, str]:
    items = json.loads(kubectl(place, "get", "nodes", "-o", "json"))["items"]
    return {item["metadata"]["name"]: item["status"]["allocatable"]["nvidia.com/gpu"] for item in items}


def processes(place: Sandbox) -> list[str]:
    return [line for line in place.snapshot() if line.startswith("process")]


def test_up_works_is_idempotent_heals_and_down_leaves_nothing(place: Sandbox) -> None:
    before = place.snapshot()
    # Two callers at once: one works, the other waits and finds it done.
    callers = [
        subprocess.Popen(place.tool("up", "--nodes", "3"), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [caller.communicate(timeout=900)[0] for caller in callers]
    assert [caller.returncode for caller in callers] == [0, 0]
    assert printed[0] == printed[1]
    assert printed[0].startswith(f"export KUBECONFIG=/{_STATE}/admin.kubeconfig ")
    assert nodes(place) == {"node-1": "8", "node-2": "8", "node-3": "8"}
    assert "1/1" in kubectl(place, "-n", "ray-system", "get", "pods")

    # A kubelet that starts forgets cards that no plugin offers; they come back.
    place.run_tool("restart", "kubelet")
    kubectl(
        place,
        "wait",
        "node/node-1",
        "--for=jsonpath={.status.allocatable.nvidia\\.com/gpu}=8",
        "--timeout=60s",
    )
    # A deleted registered node comes back, too, and is ready.
    kubectl(place, "delete", "node", "node-3")
    wait_for(lambda: "node-3" in nodes_named(place), 60, "node-3 to come back")
    kubectl(place, "wait", "node/node-3", "--for=condition=Ready", "--timeout=60s")

    # Parts that died are started again, and what the cluster held is still there.
    kubectl(place, "create", "configmap", "kept")
    place.run("pkill", "-9", "-x", "etcd")
    place.run("pkill", "-9", "-x", "containerd")
    place.run_tool("up", "--nodes", "2")
    kubectl(place, "get", "configmap", "kept")
    wait_for(lambda: set(nodes_named(place)) == {"node-1", "node-2"}, 60, "node-3 to go")
    place.run_tool("status")

    place.run_tool("down")
    assert place.snapshot() == before
    place.run_tool("down")  # of nothing is fine


def test_a_second_kubelet_runs_pods_that_reach_the_cluster(place: Sandbox) -> None:
    before = place.snapshot()
    place.run_tool("up", "--nodes", "2", "--without-kuberay")  # node-2 is only registered, at first
    place.run_tool("up", "--nodes", "3", "--kubelets", "2", "--without-kuberay")
    assert nodes(place) == {"node-1": "8", "node-2": "8", "node-3": "8"}
    kubectl(place, "cordon", "node-1")
    # KubeRay is pulled by node-2's containerd, asks the API server through its service, and answers node-2's kubelet.
    place.run_tool("up")
    assert "node-2" in kubectl(place, "-n", "ray-system", "get", "pods", "-o", "wide")
    said = partial(kubectl, place, "-n", "ray-system", "logs", "deployment/kuberay-operator")
    wait_for(lambda: "Starting workers" in said(), 120, "KubeRay's controllers", interval=0.5)
    assert nodes(place) == {"node-1": "8", "node-2": "8", "node-3": "8"}
    place.run_tool("kuberay", "remove")
    assert kubectl(place, "get", "crd,clusterrole,namespace", "-o", "name").count("ray") == 0
    place.run_tool("down")
    assert place.snapshot() == before


def nodes_named(place: Sandbox) -> list[str]:
    return kubectl(place, "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").split()


# Moments of a start, told by what it has made so far.
_MOMENTS: dict[str, Callable[[Path], bool]] = {
    "an empty folder": lambda state: state.exists(),
    "links and keys": lambda state: (state / "pki").exists(),
    "etcd runs": lambda state: (state / "processes/etcd.json").exists(),
    "the API server starts": lambda state: (state / "processes/apiserver.json").exists(),
    "the kubelet starts": lambda state: (state / "processes/kubelet.json").exists(),
    "KubeRay comes": lambda state: (state / "kuberay").exists(),
}


def _reached_or_over(reached: Callable[[Path], bool], state: Path, starter: subprocess.Popen[bytes]) -> bool:
    return reached(state) or starter.poll() is not None


@pytest.mark.parametrize("then", ["down", "up"])
def test_a_start_killed_at_any_moment_is_cleaned_up_by_the_next_command(place: Sandbox, then: str) -> None:
    before = place.snapshot()
    state = Path(f"/proc/{place.pid}/root/{_STATE}")
    moments = _MOMENTS if then == "down" else {"the kubelet starts": _MOMENTS["the kubelet starts"]}
    for name, reached in moments.items():
        with subprocess.Popen(place.tool("up"), start_new_session=True) as starter:
            wait_for(partial(_reached_or_over, reached, state, starter), 600, name, interval=0.002)
            os.killpg(starter.pid, signal.SIGKILL)
        assert starter.returncode == -signal.SIGKILL, f"the start ended before {name}"
        place.run_tool(then)
        if then == "up":
            assert nodes(place) == {"node-1": "8"}
            place.run_tool("down")
        assert place.snapshot() == before, f"killed at: {name}"
