"""The keeper of cards and registered nodes, round by round, on a real API server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tools.cluster.cards import RESOURCE, Cards, Nodes
from tools.cluster.node_keeper import Keeper

from tests.support.cluster import ControlPlane


@pytest.fixture
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """With a node that some kubelet could have registered; without any afterwards."""
    control_plane.kubectl(
        "create",
        "-f",
        "-",
        stdin=json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "real"}}),
    )
    yield control_plane
    control_plane.kubectl("delete", "nodes", "--all")


def node(plane: ControlPlane, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(plane.kubectl("get", "node", name, "-o", "json"))
    return found


def test_rounds_bring_nodes_to_what_is_wanted_and_then_write_nothing(
    plane: ControlPlane, tmp_path: Path
) -> None:
    wanted = tmp_path / "cards.json"
    Nodes(("real",), Cards(), ("second", "third")).write(wanted)
    keeper = Keeper(plane.api, wanted)
    keeper.round()
    assert node(plane, "real")["status"]["capacity"] == {RESOURCE: "8"}
    second = node(plane, "second")
    assert second["status"]["allocatable"][RESOURCE] == "8"
    assert second["metadata"]["labels"]["nvidia.com/gpu.product"] == "NVIDIA-GeForce-RTX-4090"
    assert plane.kubectl("-n", "kube-node-lease", "get", "lease", "second", "third").count("second") == 2

    keeper.round()  # a status that was just sent may be read once more
    mark = plane.audit.mark()
    keeper.round()
    assert plane.audit.writes(mark) == []

    # Someone takes cards away, as a starting kubelet does; fewer are wanted; one node is not wanted any more.
    lost = json.dumps({"status": {"capacity": {RESOURCE: "0"}}})
    plane.kubectl("patch", "node", "real", "--subresource=status", "--type=merge", "-p", lost)
    Nodes(("real",), Cards(count=4), ("second",)).write(wanted)
    keeper.round()
    assert node(plane, "real")["status"]["capacity"] == {RESOURCE: "4"}
    assert node(plane, "second")["status"]["allocatable"][RESOURCE] == "4"
    assert plane.kubectl("get", "nodes", "-o", "name").split() == ["node/real", "node/second"]


def test_the_deletion_of_a_pod_on_a_registered_node_is_completed(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    wanted = tmp_path / "cards.json"
    Nodes(("real",), Cards(), ("second",)).write(wanted)
    keeper = Keeper(plane.api, wanted)
    keeper.round()
    container = {"name": "one", "image": "example.invalid/one"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "one"},
        "spec": {"nodeName": "second", "containers": [container]},
    }
    plane.kubectl("-n", namespace, "create", "-f", "-", stdin=json.dumps(pod))
    plane.kubectl("-n", namespace, "delete", "pod", "one", "--wait=false")
    keeper.round()
    assert plane.kubectl("-n", namespace, "get", "pods", "-o", "name") == ""
