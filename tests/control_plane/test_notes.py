"""What helm tells people after an installation; helm prints it for a dry run, too, which needs no cluster."""

from __future__ import annotations

import pytest

from tests.support.kube import CHART, Kube


@pytest.mark.parametrize("replicas", [0, 1, 2])
def test_only_an_operator_that_runs_is_waited_for_and_tested(replicas: int) -> None:
    told = Kube(None).must_helm(
        "install", "fx", str(CHART), "-n", "fx", "--dry-run=client", "--set", f"replicas={replicas}"
    )
    _, _, notes = told.partition("\nNOTES:\n")
    assert notes.startswith("FluxSampler ")
    assert ("rollout status" in notes) is ("helm test" in notes) is (replicas > 0)
    assert ("nobody looks at FluxSamplers" in notes) is (replicas == 0)
    assert ("get lease" in notes) is (replicas > 1)
    assert "\n\n\n" not in notes
