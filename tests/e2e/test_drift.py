"""Someone edits or deletes what the operator made: it comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.installation import Sampler

# (kind, suffix of its name, an edit by hand)
CHILDREN = {
    "service": ("", {"spec": {"ports": [{"port": 8000, "targetPort": 1, "name": "http"}]}}),
    "networkpolicy": ("", {"spec": {"ingress": []}}),
    "poddisruptionbudget": ("-worker", {"metadata": {"labels": {"app.kubernetes.io/name": "other"}}}),
    "serviceaccount": ("", {"automountServiceAccountToken": True}),
    # Nothing that KubeRay would act on: it may be quicker than the operator.
    "rayservice": ("", {"spec": {"upgradeStrategy": {"type": "NewCluster"}}}),
}


@pytest.mark.parametrize("kind", CHILDREN)
def test_an_edit_by_hand_is_undone(shared: Sampler, kind: str) -> None:
    suffix, edit = CHILDREN[kind]
    name = f"{kind}/{shared.name}{suffix}"
    before = _meaning(shared, name)
    said = shared.cluster.kubectl(
        "patch", name, "-n", shared.namespace, "--type=merge", "-p", json.dumps(edit)
    )
    assert "no change" not in said
    took = shared.wait(lambda: _meaning(shared, name) == before, f"{name} as before", 60)
    print(f"\nedited {kind}: repaired in {took:.2f} s")
    shared.wait_ready()


@pytest.mark.parametrize("kind", [kind for kind in CHILDREN if kind != "rayservice"])
def test_what_was_deleted_is_made_again(shared: Sampler, kind: str) -> None:
    suffix, _ = CHILDREN[kind]
    name = f"{kind}/{shared.name}{suffix}"
    shared.cluster.kubectl("delete", name, "-n", shared.namespace, "--wait=true")
    took = shared.wait(lambda: _exists(shared, kind, f"{shared.name}{suffix}"), f"{name} again", 60)
    print(f"\ndeleted {kind}: made again in {took:.2f} s")
    shared.wait_ready()


def test_a_deleted_rayservice_is_made_again_and_serves(shared: Sampler) -> None:
    """KubeRay takes the pods with it, so this costs a whole start."""
    (before,) = shared.get("rayservices")["items"]
    pods = shared.pod_uids
    shared.cluster.kubectl("delete", "rayservice", shared.name, "-n", shared.namespace, "--wait=false")
    took = shared.wait(
        lambda: _uids(shared, "rayservices") - {before["metadata"]["uid"]}, "another RayService", 60
    )
    back = shared.wait(
        lambda: not shared.pod_uids & pods and shared.condition("Ready").get("status") == "True",
        "Ready again",
    )
    print(f"\ndeleted rayservice: made again in {took:.2f} s, Ready after {took + back:.1f} s")
    assert shared.draw("a red circle").engine == "parallel"


def _uids(sampler: Sampler, kind: str) -> set[str]:
    return {item["metadata"]["uid"] for item in sampler.get(kind)["items"]}


def _meaning(sampler: Sampler, name: str) -> object:
    found = sampler.get(name)
    return [
        _without_empty(found.get("spec")),
        found["metadata"]["labels"],
        found.get("automountServiceAccountToken"),
    ]


def _without_empty(value: Any) -> Any:
    """KubeRay writes the whole object back, with an empty mapping for each optional part: they mean nothing."""
    if isinstance(value, dict):
        kept = {key: _without_empty(one) for key, one in value.items()}
        return {key: one for key, one in kept.items() if one != {}}
    return [_without_empty(one) for one in value] if isinstance(value, list) else value


def _exists(sampler: Sampler, kind: str, name: str) -> bool:
    return any(item["metadata"]["name"] == name for item in sampler.get(kind)["items"])
