from __future__ import annotations

from typing import Any

import pytest

from fluxsampler_api.spec import FluxSamplerSpec
from fluxsampler_operator.hardware import Found, catalogue_key, found_hardware, kinds, trimmed
from fluxsampler_planner.hardware import Hardware

GIB = 1 << 30
MODEL = {"source": "hf://black-forest-labs/FLUX.1-dev"}


def node(
    name: str = "n", *, cards: int = 8, product: str = "NVIDIA-GeForce-RTX-4090", mib: int = 24564, memory: str = "263168000Ki",
    cpu: str = "64", labels: dict[str, str] | None = None, taints: list[dict[str, str]] | None = None, cordoned: bool = False,
) -> dict[str, Any]:  # fmt: skip
    gpu = {
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.memory": str(mib),
        "nvidia.com/gpu.count": str(cards),
    }
    return {
        "metadata": {"name": name, "labels": {**(gpu if cards else {}), **(labels or {})}},
        "spec": {"taints": taints or [], **({"unschedulable": True} if cordoned else {})},
        "status": {
            "allocatable": {
                "memory": memory,
                "cpu": cpu,
                **({"nvidia.com/gpu": str(cards)} if cards else {}),
            },
            "images": [{"names": ["an image"]}] * 50,
        },
    }


def spec(**hardware: Any) -> FluxSamplerSpec:
    return FluxSamplerSpec.model_validate({"model": MODEL, "hardware": hardware})


def test_a_node_is_read_from_labels_and_allocatable() -> None:
    found = found_hardware([node()], spec())
    assert found.hardware == Hardware(
        gpu="rtx-4090", cards_per_node=8, card_memory=24564 << 20, host_memory=263168000 << 10, cores=64
    )
    assert (found.nodes, found.seen) == (1, 1)


def test_on_cpu_memory_and_cores_count_and_cards_do_not() -> None:
    found = found_hardware([node(cards=0, memory="16Gi", cpu="3900m")], spec(device="cpu"))
    assert found.hardware == Hardware(host_memory=16 * GIB, cores=3)


def test_nodes_without_cards_do_not_count_on_cuda() -> None:
    assert found_hardware([node(cards=0)], spec()) == Found(None, 0, 1)


def test_the_best_node_is_taken() -> None:
    nodes = [node("a", cards=2), node("b", cards=8), node("c", cards=4)]
    found = found_hardware(nodes, spec())
    assert found.hardware is not None
    assert found.hardware.cards_per_node == 8


def test_as_many_cards_as_asked_for_are_enough_then_host_memory_decides() -> None:
    nodes = [node("a", cards=8, memory="64Gi"), node("b", cards=4, memory="256Gi")]
    found = found_hardware(nodes, spec(gpusPerNode=4))
    assert found.hardware is not None
    assert found.hardware.host_memory == 256 * GIB


def test_of_several_nodes_the_smallest_counts() -> None:
    nodes = [node("a", memory="512Gi"), node("b", memory="256Gi"), node("c", memory="128Gi")]
    found = found_hardware(nodes, spec(nodes=2))
    assert found.hardware is not None
    assert found.hardware.host_memory == 256 * GIB
    assert found.nodes == 3


def test_another_kind_of_card_than_the_spec_names_does_not_count() -> None:
    nodes = [node("a", product="NVIDIA-L40S", mib=46068), node("b", cards=2)]
    found = found_hardware(nodes, spec(gpu="rtx-4090"))
    assert found.hardware is not None
    assert (found.hardware.gpu, found.hardware.cards_per_node) == ("rtx-4090", 2)


def test_a_card_without_a_label_may_be_the_one_that_is_named() -> None:
    unlabelled = node()
    unlabelled["metadata"]["labels"] = {}
    found = found_hardware([unlabelled], spec(gpu="rtx-4090"))
    assert found.hardware == Hardware(gpu=None, cards_per_node=8, host_memory=263168000 << 10, cores=64)


def test_nodeselector_and_taints_are_held() -> None:
    tainted = [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]
    nodes = [
        node("a", cards=8, labels={"pool": "x"}, taints=tainted),
        node("b", cards=4, labels={"pool": "y"}),
    ]

    def cards(**hardware: Any) -> int | None:
        found = found_hardware(nodes, spec(**hardware)).hardware
        return None if found is None else found.cards_per_node

    assert cards() == 4
    assert cards(nodeSelector={"pool": "x"}) is None
    assert cards(tolerations=[{"key": "gpu", "value": "yes"}]) == 8
    assert cards(tolerations=[{"key": "gpu", "value": "no"}]) == 4
    assert cards(tolerations=[{"operator": "Exists"}]) == 8
    assert cards(tolerations=[{"key": "gpu", "operator": "Exists", "effect": "NoExecute"}]) == 4


@pytest.mark.parametrize(
    "taint",
    [
        {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"},
        {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
        {"key": "gpu", "effect": "PreferNoSchedule"},
    ],
)
def test_what_passes_by_itself_moves_no_plan(taint: dict[str, str]) -> None:
    """A cordon under a running service must not plan it away."""
    assert found_hardware([node(taints=[taint], cordoned=True)], spec()).hardware is not None


@pytest.mark.parametrize(
    ("product", "key"),
    [
        ("NVIDIA-GeForce-RTX-4090", "rtx-4090"),
        ("NVIDIA-L40S", "l40s"),
        ("NVIDIA-L40", "l40"),
        ("NVIDIA-A100-SXM4-80GB", "a100"),
        ("NVIDIA-H100-80GB-HBM3", "h100"),
        ("NVIDIA-GeForce-RTX-4090-Laptop-GPU", None),
        ("NVIDIA-GeForce-RTX-4090-D", None),
        ("NVIDIA-L40S-SHARED", None),
        ("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", None),
        ("Tesla-T4", None),
        ("", None),
    ],
)
def test_products(product: str, key: str | None) -> None:
    assert catalogue_key(product) == key


def test_an_odd_figure_is_unknown_and_no_fault() -> None:
    odd = node(memory="much")
    odd["metadata"]["labels"]["nvidia.com/gpu.memory"] = "lots"
    found = found_hardware([odd], spec()).hardware
    assert found is not None
    assert (found.host_memory, found.card_memory) == (None, None)


def test_trimming_loses_nothing_that_is_read() -> None:
    nodes = [node("a", taints=[{"key": "gpu", "effect": "NoSchedule"}]), node("b", cards=4)]
    small = [trimmed(each) for each in nodes]
    assert found_hardware(small, spec()) == found_hardware(nodes, spec())
    assert "images" not in str(small)


def test_nodes_in_words() -> None:
    assert kinds([]) == "no nodes"
    words = kinds([node("a"), node("b"), node("c", cards=0)])
    assert words == "2 nodes with 8 NVIDIA-GeForce-RTX-4090, 1 node with no cards"
