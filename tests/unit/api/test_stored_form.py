"""JSON as the API server reads it: null is absence, and a whole number may be written with a point."""

from __future__ import annotations

from typing import Any

import pytest

from fluxsampler_api.errors import SpecError
from fluxsampler_api.loading import load_text, parse

HEAD = "apiVersion: fluxsampler.io/v1alpha1\nkind: FluxSampler\nmetadata: {name: x}\nspec:\n  model: {source: 'builtin://tiny-shapes'}\n"


def spec(text: str) -> Any:
    (found,) = load_text(HEAD + text, source="x.yaml")
    return found.spec


@pytest.mark.parametrize(
    "text",
    [
        "  hardware:\n",
        "  replicas: null\n",
        "  fallback: {maxReplicas: ~, promote: {backoff: }}\n",
        "  autoscaling:\n",
        "  podTemplate:\n",
    ],
)
def test_null_means_the_default(text: str) -> None:
    assert spec(text) == spec("")


def test_null_is_no_value_for_what_is_required() -> None:
    document = {
        "apiVersion": "fluxsampler.io/v1alpha1",
        "kind": "FluxSampler",
        "metadata": {"name": "x"},
        "spec": {"model": {"source": None}},
    }
    with pytest.raises(SpecError, match=r"spec\.model\.source"):
        parse(document)


def test_whole_numbers_with_a_point() -> None:
    found = spec(
        "  replicas: 2.0\n  hardware: {gpusPerNode: 4.0}\n  canary: {tolerance: 1.0}\n  objectStore: {memory: 2e9}\n"
    )
    assert (found.replicas, type(found.replicas)) == (2, int)
    assert (found.hardware.gpus_per_node, type(found.hardware.gpus_per_node)) == (4, int)
    assert found.canary.tolerance == 1.0
    assert found.object_store.memory.bytes == 2 * 10**9


@pytest.mark.parametrize(
    "text", ["  replicas: 1.5\n", "  hardware: {gpusPerNode: 2.5}\n", "  replicas: true\n", "  hardwear:\n"]
)
def test_what_the_server_refuses_stays_refused(text: str) -> None:
    with pytest.raises(SpecError):
        spec(text)
