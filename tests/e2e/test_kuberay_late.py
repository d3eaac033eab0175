"""KubeRay goes and comes: every FluxSampler says so, and goes on by itself."""

from __future__ import annotations

import json
import secrets
from base64 import b64decode
from collections.abc import Iterator

import httpx
import pytest

from fluxsampler_operator.manifest import Owner
from fluxsampler_operator.probe import probe_token
from tests.support.cluster import LiveCluster, fresh_namespace
from tests.support.installation import KIND, RESTRICTED, Installation, Sampler, tiny
from tests.support.operator_pod import OperatorPod

NAMED_SECONDS = 60.0
CHILDREN = ("services", "serviceaccounts", "poddisruptionbudgets", "networkpolicies")
TOKEN = {"name": "late-token", "key": "token"}


@pytest.fixture
def without_kuberay(shared: Sampler, cluster: LiveCluster) -> Iterator[None]:
    """Neither KubeRay nor its kinds; both are there again afterwards, and the shared FluxSampler is Ready."""
    ours = cluster.ours()
    shared.wait_ready()
    try:
        ours.remove_kuberay()
        yield
    finally:
        ours.install_kuberay()
    shared.wait_ready()


@pytest.mark.usefixtures("without_kuberay")
def test_kuberay_after_the_flux_sampler(
    shared: Sampler, installed: Installation, cluster: LiveCluster, namespace: str
) -> None:
    kubectl = cluster.kubectl
    token = secrets.token_hex(16)
    kubectl(
        "create",
        "secret",
        "generic",
        TOKEN["name"],
        "-n",
        namespace,
        f"--from-literal={TOKEN['key']}={token}",
    )
    late, brief = Sampler(cluster, namespace, "late"), Sampler(cluster, namespace, "brief")
    late.apply(tiny("late", serving={"authSecretRef": TOKEN}, fallback={"enabled": False}))
    brief.apply(tiny("brief"))
    for sampler in (late, brief, shared):
        took = sampler.wait_reason("ClusterReady", "KubeRayMissing", NAMED_SECONDS)
        print(f"\n{sampler.name}: KubeRayMissing named within {took:.1f} s")
        assert "kuberay" in sampler.condition("Ready")["message"].lower()
        assert sampler.condition("Ready")["status"] == "False"

    # Deletion does not wait for KubeRay.
    assert _children(brief)
    kubectl("delete", KIND, "brief", "-n", namespace, "--timeout=60s")
    took = brief.wait(lambda: not _children(brief), "all of it gone", 60)
    print(f"deleted without KubeRay's kinds: all gone {took:.1f} s later")
    with fresh_namespace(kubectl, RESTRICTED) as other:
        Sampler(cluster, other, "brief").apply(tiny("brief"))
        Sampler(cluster, other, "brief").wait_reason("ClusterReady", "KubeRayMissing", NAMED_SECONDS)
        kubectl("delete", "namespace", other, "--timeout=90s")

    generation, version = late.live["metadata"]["generation"], _written_by_people(late)
    cluster.ours().install_kuberay()
    took = late.wait_ready()
    print(f"KubeRay installed to Ready: {took:.1f} s")
    assert late.live["metadata"]["generation"] == generation
    assert _written_by_people(late) == version

    _draws_with_its_token_alone(late, installed, token)

    # A namespace with a Ready FluxSampler ends as any other.
    took = shared.wait_ready()
    print(f"the one that had been Ready before: {took:.1f} s later")
    kubectl("delete", "namespace", namespace, "--timeout=120s", timeout=130)


def _draws_with_its_token_alone(late: Sampler, installed: Installation, token: str) -> None:
    """Neither the user's token nor the one by which the operator draws is in the operator's log."""
    refused = httpx.post(
        f"{late.url}/v1/images/generations", json={"prompt": "a red circle"}, timeout=60, trust_env=False
    )
    assert refused.status_code == 401, refused.text
    assert late.draw("a red circle", token).engine == "parallel"
    key = json.loads(
        late.cluster.kubectl(
            "get", "secret", f"{installed.release}-probe", "-n", installed.namespace, "-o", "json"
        )
    )
    probe = b64decode(key["data"]["probe-key"])
    own = probe_token(probe, Owner("late", late.namespace, late.live["metadata"]["uid"]))
    assert late.draw("a red circle", own).engine == "parallel"
    OperatorPod(installed).assert_clean_log(token, own, probe.decode())


def _children(sampler: Sampler) -> list[str]:
    return [
        f"{item['kind']}/{item['metadata']['name']}"
        for item in sampler.get(",".join(CHILDREN))["items"]
        if item["metadata"].get("labels", {}).get("app.kubernetes.io/instance") == sampler.name
    ]


def _written_by_people(sampler: Sampler) -> list[object]:
    """Who wrote what but status, and when."""
    text = sampler.cluster.kubectl(
        "get", KIND, sampler.name, "-n", sampler.namespace, "-o", "json", "--show-managed-fields"
    )
    return [
        one for one in json.loads(text)["metadata"]["managedFields"] if one.get("subresource") != "status"
    ]
