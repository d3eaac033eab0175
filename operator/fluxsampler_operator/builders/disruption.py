"""PodDisruptionBudgets: nobody drains a gang by accident.

A Ray cluster ends with its head, and a gang with its node: on one node there is no pod that could go
while pictures are drawn. So `kubectl drain` waits and says why, and a person decides when (delete the
pods, or the FluxSampler's own rollout). With several nodes one may go at a time, the others answer.

`minAvailable` as a number, because Kubernetes computes percentages and `maxUnavailable` only for
controllers with a scale subresource, which RayCluster is not. Head and workers have a budget each: an
eviction is refused where two budgets cover one pod. What is broken already may always be evicted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluxsampler_operator.manifest import metadata, selector

if TYPE_CHECKING:
    from fluxsampler_operator.manifest import Manifest, Owner


def budgets(nodes: int, owner: Owner) -> tuple[Manifest, ...]:
    """The head's budget and that of ``nodes`` workers."""
    return (
        _budget("head", 1, owner),
        _budget("worker", max(1, nodes - 1), owner),
    )


def _budget(component: str, least: int, owner: Owner) -> Manifest:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(owner, component, f"-{component}"),
        "spec": {
            "minAvailable": least,
            "selector": {"matchLabels": selector(owner) | {"app.kubernetes.io/component": component}},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
