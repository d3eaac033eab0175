"""What changes without new pods, what rolls them, and that the status follows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.installation import KIND, Sampler
from tests.support.shape_checker import matches


@pytest.fixture(autouse=True)
def as_before(shared: Sampler) -> Iterator[None]:
    """The shared FluxSampler is Ready before and after each test."""
    shared.wait_ready()
    yield
    shared.patch({"replicas": 1, "serving": None, "fallback": None, "podTemplate": None})
    shared.wait_ready()


def test_limits_and_fallbacks_change_in_place(shared: Sampler) -> None:
    pods, gang = shared.pod_uids, shared.gang
    assert len(gang) >= 2
    shared.patch(
        {"serving": {"requestTimeoutSeconds": 77, "maxQueuedRequests": 5}, "fallback": {"minReplicas": 2}}
    )
    shared.wait_ready()
    shared.wait(lambda: shared.status["fallbackReplicas"] == 2, "two fallbacks")
    assert shared.draw("a red circle").engine == "parallel"
    assert shared.pod_uids == pods
    assert shared.gang == gang


def test_scale_to_two_to_one_to_none(shared: Sampler) -> None:
    pods, gang = shared.pod_uids, shared.gang
    for replicas in (2, 1, 0):
        shared.cluster.kubectl(
            "scale", f"{KIND}/{shared.name}", "-n", shared.namespace, f"--replicas={replicas}"
        )
        took = shared.wait(
            partial(_ready_with, shared, replicas),
            f"{replicas} replicas",
        )
        drawn = shared.draw("a red circle")
        print(f"\nscaled to {replicas} in {took:.1f} s, drawn by {drawn.engine}")
        assert drawn.engine == ("parallel" if replicas else "fallback")
        assert matches(drawn.image, "a red circle")
        assert shared.status["engine"] == drawn.engine
        if replicas == 2:
            assert shared.gang > gang  # the first one goes on beside the second
    assert shared.pod_uids == pods


def test_a_changed_pod_template_rolls_the_pods_and_comes_back(shared: Sampler) -> None:
    pods = shared.pod_uids
    shared.patch(
        {
            "podTemplate": {
                "spec": {"containers": [{"name": "ray", "env": [{"name": "ROLLED", "value": "yes"}]}]}
            }
        }
    )
    took = shared.wait(
        lambda: not (shared.pod_uids & pods) and shared.condition("Ready").get("status") == "True",
        "new pods, Ready",
    )
    print(f"\nrolled in {took:.1f} s")
    assert shared.draw("a red circle").engine == "parallel"
    for pod in shared.pods:
        assert {"name": "ROLLED", "value": "yes"} in pod["spec"]["containers"][0]["env"]


def _ready_with(sampler: Sampler, replicas: int) -> bool:
    return (
        sampler.condition("Ready").get("status") == "True" and sampler.status.get("replicas", 0) == replicas
    )
