"""GPUs that exist for the scheduler only, and nodes that exist for nobody else. Pure; :mod:`node_keeper` does it.

A node's ``nvidia.com/gpu`` is what its status says: pods get them counted, Ray is told of them, and
nothing is ever computed on them. Labels are those that GPU feature discovery sets.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools.cluster.files import publish

RESOURCE = "nvidia.com/gpu"
# Nothing runs on a registered node, so only pods that say they know it may be put there.
REGISTERED_TAINT = {"key": "fluxsampler.io/registered-only", "value": "true", "effect": "NoSchedule"}
REGISTERED_LABEL = "fluxsampler.io/registered-only"
# A usual machine for eight such cards.
_REGISTERED_CAPACITY = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "1Ti", "pods": "110"}
_CONDITIONS = {"Ready": "True", "MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False"}


@dataclass(frozen=True, slots=True)
class Cards:
    """The cards of one node, as GPU feature discovery would describe them; ``memory`` in MiB."""

    count: int = 8
    product: str = "NVIDIA-GeForce-RTX-4090"
    memory: int = 24564

    def labels(self) -> dict[str, str]:
        """Node labels."""
        return {
            "nvidia.com/gpu.present": "true",
            "nvidia.com/gpu.count": str(self.count),
            "nvidia.com/gpu.memory": str(self.memory),
            "nvidia.com/gpu.product": self.product,
        }


@dataclass(frozen=True, slots=True)
class Nodes:
    """What is to be kept: cards on nodes with a kubelet, and nodes without one."""

    real: tuple[str, ...]
    cards: Cards = Cards()
    registered: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        """Publish for the keeper, which looks again at every round."""
        publish(path, json.dumps(asdict(self), indent=2))

    @classmethod
    def read(cls, path: Path) -> Nodes:
        """What :meth:`write` left."""
        data = json.loads(path.read_text(encoding="utf-8"))
        return cls(tuple(data["real"]), Cards(**data["cards"]), tuple(data["registered"]))


def label_patch(node: dict[str, Any], cards: Cards) -> dict[str, Any] | None:
    """Merge patch that gives ``node`` its labels; None when it has them."""
    present = node["metadata"].get("labels", {})
    absent = {key: value for key, value in cards.labels().items() if present.get(key) != value}
    return {"metadata": {"labels": absent}} if absent else None


def status_patch(node: dict[str, Any], cards: Cards) -> dict[str, Any] | None:
    """Merge patch of the status that gives ``node`` its cards; None when it has them.

    A kubelet sets the capacity of resources it has no plugin for to zero when it starts, and takes
    over ``allocatable`` from ``capacity`` only at its next report: both are set.
    """
    wanted = str(cards.count)
    parts = {
        part: {RESOURCE: wanted}
        for part in ("capacity", "allocatable")
        if node["status"].get(part, {}).get(RESOURCE) != wanted
    }
    return {"status": parts} if parts else None


def registered_node(name: str, cards: Cards) -> dict[str, Any]:
    """A Node object for ``name``, without its status."""
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {**labels, REGISTERED_LABEL: "true", **cards.labels()}},
        "spec": {"taints": [REGISTERED_TAINT]},
    }


def registered_status_patch(node: dict[str, Any], cards: Cards, now: str) -> dict[str, Any] | None:
    """Merge patch of the status that makes a registered ``node`` ready and gives it its size; None when it is so."""
    wanted = {**_REGISTERED_CAPACITY, RESOURCE: str(cards.count)}
    status = node.get("status", {})
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions", ())}
    if all(status.get(part) == wanted for part in ("capacity", "allocatable")) and conditions == _CONDITIONS:
        return None
    told = [
        {
            "type": kind,
            "status": value,
            "reason": "Registered",
            "message": "kept by the node keeper of the test cluster",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        for kind, value in _CONDITIONS.items()
    ]
    return {"status": {"capacity": wanted, "allocatable": wanted, "conditions": told}}


def lease(name: str, now: str) -> dict[str, Any]:
    """The heartbeat of node ``name``, for server-side apply. ``now`` has microseconds, as Kubernetes wants it here."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now},
    }
