"""Someone edits or deletes what the operator made: it comes back. And where nothing happens, nothing is written."""

from __future__ import annotations

import json
import time

import pytest

from tests.support.installation import Installation, Sampler

# (kind, suffix of its name, an edit by hand)
CHILDREN = {
    "service": ("", {"spec": {"ports": [{"port": 8000, "targetPort": 1, "name": "http"}]}}),
    "networkpolicy": ("", {"spec": {"ingress": []}}),
    "poddisruptionbudget": ("-worker", {"metadata": {"labels": {"app.kubernetes.io/name": "other"}}}),
    "serviceaccount": ("", {"automountServiceAccountToken": True}),
    "rayservice": ("", {"spec": {"serveConfigV2": "applications: []"}}),
}


@pytest.mark.parametrize("kind", CHILDREN)
def test_an_edit_by_hand_is_undone(shared: Sampler, kind: str) -> None:
    suffix, edit = CHILDREN[kind]
    name = f"{kind}/{shared.name}{suffix}"
    before = _meaning(shared, name)
    shared.cluster.kubectl("patch", name, "-n", shared.namespace, "--type=merge", "-p", json.dumps(edit))
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


def test_a_ready_object_causes_no_writes(shared: Sampler, installed: Installation) -> None:
    audit = shared.cluster.ours().audit
    shared.wait_ready()
    user = f"system:serviceaccount:{installed.namespace}:{installed.pod['spec']['serviceAccountName']}"

    # What the tests before have stirred settles first: then a minute passes without a write.
    mark, since = audit.mark(), time.monotonic()

    def still() -> bool:
        nonlocal mark, since
        if written := audit.writes(mark, user):
            print(f"\n{[(one.verb, one.resource, one.name) for one in written]}")
            mark, since = audit.mark(), time.monotonic()
        return time.monotonic() - since >= 60

    shared.wait(still, "60 s without a write", 240)


def _meaning(sampler: Sampler, name: str) -> object:
    found = sampler.get(name)
    return [
        found.get("spec"),
        found["metadata"]["labels"],
        found.get("automountServiceAccountToken"),
    ]


def _exists(sampler: Sampler, kind: str, name: str) -> bool:
    return any(item["metadata"]["name"] == name for item in sampler.get(kind)["items"])
