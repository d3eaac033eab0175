from __future__ import annotations

from typing import Any

import pytest

from fluxsampler_api.loading import parse
from fluxsampler_operator.observed import Refusal
from fluxsampler_operator.planning import Planned, planned, read
from tests.unit.operator.test_hardware import MODEL, node


def document(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "fluxsampler.io/v1alpha1",
        "kind": "FluxSampler",
        "metadata": {"name": "x", "namespace": "team", "uid": "u", "managedFields": [{"manager": "kubectl"}]},
        "spec": {"model": MODEL, **spec},
        "status": {"phase": "Ready"},
    }


def result(nodes: list[dict[str, Any]] | None, **spec: Any) -> Planned:
    return planned(parse(document(**spec)), nodes)


def refusal(made: Planned) -> Refusal:
    assert made.refusal is not None, made.plan
    assert made.plan is None
    return made.refusal


def test_auto_is_what_the_nodes_offer() -> None:
    made = result([node()])
    assert made.plan is not None
    assert (made.plan.node.gpu.key, made.plan.node.cards) == ("rtx-4090", 8)
    assert made.notes == ()


def test_an_object_of_the_api_server_is_read_whole() -> None:
    found = read(document())
    assert not isinstance(found, Refusal)
    assert found.metadata.namespace == "team"


def test_what_the_contract_forbids_is_an_invalid_spec() -> None:
    found = read(document(nonsense=1))
    assert isinstance(found, Refusal)
    assert found.reason == "InvalidSpec"
    assert "nonsense" in found.problems[0].path


def test_more_cards_than_any_node_has_is_told_with_the_arithmetic() -> None:
    made = refusal(result([node(cards=4)], hardware={"gpu": "rtx-4090", "gpusPerNode": 8}))
    assert made.reason == "Infeasible"
    assert "8 cards asked for, the node has 4" in made.problems[0].message
    assert "1 node with 4 NVIDIA-GeForce-RTX-4090" in made.problems[0].message


def test_a_host_that_cannot_hold_the_plan() -> None:
    made = refusal(result([node(memory="40Gi")]))
    assert made.reason == "InsufficientHostMemory"
    assert "the node offers 40 GiB" in made.problems[0].message


def test_cards_that_cannot_hold_the_model() -> None:
    made = refusal(result([node(cards=1)]))
    assert made.reason == "InsufficientGPUMemory"
    assert "GiB" in made.problems[0].message


def test_no_node_leaves_the_explicit_fields() -> None:
    made = result([node(cards=0)], hardware={"gpu": "rtx-4090", "gpusPerNode": 8})
    assert made.plan is not None
    assert "no node matches" in made.notes[0]
    assert refusal(result([node(cards=0)])).reason == "UnknownGPU"


def test_nodes_that_may_not_be_read_leave_the_explicit_fields() -> None:
    made = result(None, hardware={"gpu": "rtx-4090", "gpusPerNode": 8})
    assert made.plan is not None
    assert "may not read nodes" in made.notes[0]
    refused = refusal(result(None))
    assert refused.reason == "NodesUnreadable"
    assert "namespaced installation" in refused.problems[0].message


def test_too_few_nodes_are_a_note() -> None:
    made = result([node()], hardware={"nodes": 2})
    assert made.plan is not None
    assert made.notes == ("spec.hardware.nodes is 2, 1 of 1 nodes match",)


@pytest.mark.parametrize("source", ["hf://nobody/unknown", "pvc://claim/unknown-model"])
def test_a_model_nobody_knows(source: str) -> None:
    assert refusal(result([node()], model={"source": source})).reason == "UnknownModel"
