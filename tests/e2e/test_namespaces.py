"""A second FluxSampler in a second namespace, behind a token and a NodePort, with a name that Kubernetes' limits bite.

It is applied before there is a KubeRay: KubeRay goes and comes here, and every FluxSampler says so, and goes on by itself.
"""

from __future__ import annotations

import json
import secrets
import time
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import openai
import pytest
from PIL import Image
from tools.cluster.commands import run

from fluxsampler_operator.manifest import Owner
from fluxsampler_operator.probe import probe_token
from tests.support.cluster import LiveCluster, fresh_namespace
from tests.support.installation import KIND, RESTRICTED, Installation, Sampler, tiny
from tests.support.operator_pod import OperatorPod
from tests.support.shape_checker import matches

# 60 characters with dots: more than KubeRay takes, and not a label of a DNS name.
NAME = "team-one.pictures-of-shapes.in-every-colour.for-the-web-shop"
STILL_SECONDS = 60
NAMED_SECONDS = 60.0
CHILDREN = ("services", "serviceaccounts", "poddisruptionbudgets", "networkpolicies")


@dataclass(frozen=True, slots=True)
class Applied:
    """A FluxSampler, its token, what its namespace held before it, and what people wrote of it."""

    sampler: Sampler
    token: str
    without: set[str]
    written: list[object]


@dataclass(frozen=True, slots=True)
class Locked:
    """A Ready FluxSampler, its token, its address on the node, what its namespace held before it, and since when."""

    sampler: Sampler
    token: str
    url: str
    without: set[str]
    ready_at: datetime
    audit_mark: int


@pytest.fixture(scope="module")
def early(shared: Sampler, cluster: LiveCluster) -> Iterator[Applied]:
    """Applied where there is neither KubeRay nor its kinds; on the caller's own cluster KubeRay stays."""
    token = secrets.token_urlsafe(24)
    with fresh_namespace(cluster.kubectl, RESTRICTED) as namespace:
        cluster.kubectl(
            "create", "secret", "generic", "door", "-n", namespace, f"--from-literal=token={token}"
        )
        sampler = Sampler(cluster, namespace, NAME)
        sampler.wait(
            lambda: "configmap/kube-root-ca.crt" in _objects(sampler),
            "Kubernetes' own objects",
            60,
            interval=1,
        )
        without = _objects(sampler)
        shared.wait_ready()
        try:
            if cluster.tool is not None:
                cluster.tool.remove_kuberay()
            sampler.apply(tiny(NAME, serving={"authSecretRef": {"name": "door"}, "serviceType": "NodePort"}))
            yield Applied(sampler, token, without, _written_by_people(sampler))
        finally:
            if cluster.tool is not None:
                cluster.tool.install_kuberay()
    shared.wait_ready()


def test_without_kuberay_every_one_says_so_and_can_be_deleted(
    early: Applied, shared: Sampler, cluster: LiveCluster
) -> None:
    cluster.ours()
    with fresh_namespace(cluster.kubectl, RESTRICTED) as other:
        briefs = [Sampler(cluster, other, "one"), Sampler(cluster, other, "other")]
        for brief in briefs:
            brief.apply(tiny(brief.name))
        for sampler in (early.sampler, *briefs, shared):
            took = sampler.wait_reason("ClusterReady", "KubeRayMissing", NAMED_SECONDS)
            print(f"\n{sampler.name}: KubeRayMissing named within {took:.1f} s")
            assert "kuberay" in sampler.condition("Ready")["message"].lower()
            assert sampler.condition("Ready")["status"] == "False"

        # Deletion does not wait for KubeRay, neither of one nor of a namespace.
        brief = briefs[0]
        assert _children(brief)
        cluster.kubectl("delete", KIND, brief.name, "-n", other, "--timeout=60s")
        took = brief.wait(lambda: not _children(brief), "all of it gone", 60, interval=0.5)
        print(f"deleted without KubeRay's kinds: all gone {took:.1f} s later")
        cluster.kubectl("delete", "namespace", other, "--timeout=90s", timeout=100)


@pytest.fixture(scope="module")
def locked(early: Applied, shared: Sampler, cluster: LiveCluster) -> Locked:
    """Beside the shared one, Ready since KubeRay has come."""
    sampler = early.sampler
    generation = sampler.live["metadata"]["generation"]
    if cluster.tool is not None:
        cluster.tool.install_kuberay()
    print(f"\nKubeRay installed to Ready: {sampler.wait_ready():.1f} s")
    print(f"the one that had been Ready before: {shared.wait_ready():.1f} s later")
    assert sampler.live["metadata"]["generation"] == generation
    assert _written_by_people(sampler) == early.written
    mark = cluster.tool.audit.mark() if cluster.tool is not None else 0
    return Locked(sampler, early.token, _node_url(sampler), early.without, datetime.now(UTC), mark)


def test_both_serve_at_once_each_its_own(shared: Sampler, locked: Locked) -> None:
    assert shared.condition("Ready")["status"] == "True"
    assert locked.sampler.condition("Ready")["status"] == "True"
    child = locked.sampler.child
    assert len(child) <= 47
    assert locked.sampler.status["url"] == f"http://{child}.{locked.sampler.namespace}.svc:8000"
    assert [item["metadata"]["name"] for item in locked.sampler.get("rayservices")["items"]] == [child]
    assert matches(shared.draw("a blue square").image, "a blue square")
    drawn = locked.sampler.draw("a yellow circle", token=locked.token)
    assert drawn.engine == "parallel"
    assert matches(drawn.image, "a yellow circle")


def test_curl_needs_the_token(locked: Locked) -> None:
    """From outside the cluster, as a user has it: curl to the node's port."""
    body = json.dumps({"prompt": "a green triangle", "seed": 1})
    ask = ["curl", "-s", "--noproxy", "*", "--max-time", "300", "-w", "\n%{http_code}", "-d", body]
    url = f"{locked.url}/v1/images/generations"
    typed = ["-H", "content-type: application/json"]
    for headers in ([], ["-H", "authorization: Bearer wrong"]):
        said, _, code = run([*ask, *typed, *headers, url]).rpartition("\n")
        assert code == "401"
        assert "error" in json.loads(said)
    said, _, code = run([*ask, *typed, "-H", f"authorization: Bearer {locked.token}", url]).rpartition("\n")
    assert code == "200", said
    picture = Image.open(BytesIO(b64decode(json.loads(said)["data"][0]["b64_json"]))).convert("RGB")
    assert matches(np.asarray(picture), "a green triangle")


def test_the_openai_client_brings_the_token(locked: Locked) -> None:
    client = openai.OpenAI(base_url=f"{locked.url}/v1", api_key=locked.token, max_retries=0)
    answer = client.images.generate(prompt="a red square", model="tiny-shapes", response_format="b64_json")
    assert answer.data is not None
    image = Image.open(BytesIO(b64decode(answer.data[0].b64_json or ""))).convert("RGB")
    assert matches(np.asarray(image), "a red square")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").images.generate(prompt="a red square", model="tiny-shapes")


def test_the_cli_finds_the_token_itself(locked: Locked, tmp_path: Path) -> None:
    sampler, picture = locked.sampler, tmp_path / "drawn.png"
    where = ("--namespace", sampler.namespace, "--kubeconfig", sampler.cluster.kubeconfig)
    said = sampler.cli("generate", "a blue circle", "--sampler", NAME, *where, "-o", picture)
    assert matches(np.asarray(Image.open(picture).convert("RGB")), "a blue circle")
    assert locked.token not in said + sampler.cli("status", NAME, *where)


def test_the_operator_never_saw_the_token(locked: Locked, installed: Installation) -> None:
    """It drew its picture by a token of its own; neither is in its log, nor the user's in anything it wrote."""
    sampler = locked.sampler
    assert sampler.condition("Serving")["reason"] == "PictureDrawn"
    key = json.loads(
        sampler.cluster.kubectl(
            "get", "secret", f"{installed.release}-probe", "-n", installed.namespace, "-o", "json"
        )
    )
    probe = b64decode(key["data"]["probe-key"])
    owner = Owner(NAME, sampler.namespace, sampler.live["metadata"]["uid"])
    own = probe_token(probe, owner)
    assert sampler.draw("a red circle", own).engine == "parallel"
    OperatorPod(installed).assert_clean_log(locked.token, own, probe.decode())
    written = json.dumps([sampler.live, sampler.get("rayservices"), sampler.pods])
    assert locked.token not in written


def test_nothing_is_written_while_nothing_happens(
    shared: Sampler, locked: Locked, installed: Installation
) -> None:
    """A minute without a write, counted from the last one: pictures that others drew meanwhile are no reason to write."""
    audit = shared.cluster.ours().audit
    user = f"system:serviceaccount:{installed.namespace}:{installed.pod['spec']['serviceAccountName']}"
    namespaces = {shared.namespace, locked.sampler.namespace}
    last, mark = locked.ready_at, locked.audit_mark

    def still() -> float:
        nonlocal last, mark
        since, mark = mark, audit.mark()
        for one in audit.writes(since, user):
            if one.namespace in namespaces:
                print(f"\n{one.verb} {one.resource} {one.name} at {one.time}")
                last = datetime.fromisoformat(one.time)
        return (datetime.now(UTC) - last).total_seconds()

    took = shared.wait(lambda: still() >= STILL_SECONDS, "a minute without a write", 4 * STILL_SECONDS)
    print(f"\n0 writes in {STILL_SECONDS} s with two Ready samplers, after another {took:.0f} s")
    for sampler in (shared, locked.sampler):
        assert sampler.condition("Ready")["status"] == "True"


def test_the_service_type_changes_without_new_pods(locked: Locked) -> None:
    """A LoadBalancer is reached by the node's port, too, where no cloud gives it an address."""
    sampler, pods = locked.sampler, locked.sampler.pod_uids
    sampler.patch({"serving": {"serviceType": "LoadBalancer"}})
    sampler.wait_ready()
    assert sampler.get("service", sampler.child)["spec"]["type"] == "LoadBalancer"
    assert matches(
        sampler.draw("a red circle", token=locked.token, url=_node_url(sampler)).image, "a red circle"
    )
    assert sampler.pod_uids == pods


def test_deletion_leaves_the_users_own_and_the_neighbour(shared: Sampler, locked: Locked) -> None:
    sampler, neighbours = locked.sampler, shared.pod_uids
    kinds = {name.partition("/")[0] for name in _objects(sampler) - locked.without}
    assert kinds >= {"rayservice.ray.io", "raycluster.ray.io", "pod", "service", "serviceaccount", "secret"}
    started = time.monotonic()
    sampler.cluster.kubectl("delete", "fxs", NAME, "-n", sampler.namespace, "--wait=true", "--timeout=60s")
    gone = time.monotonic() - started
    sampler.wait(lambda: _objects(sampler) == locked.without, "the namespace as before", 180, interval=1)
    print(f"\ndeleted in {gone:.1f} s, everything gone after {time.monotonic() - started:.1f} s")
    assert "secret/door" in locked.without
    assert shared.pod_uids == neighbours
    assert shared.condition("Ready")["status"] == "True"


def _objects(sampler: Sampler) -> set[str]:
    """Everything in its namespace but Events, which tell of what was for an hour."""
    kubectl = sampler.cluster.kubectl
    kinds = kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").split()
    asked = ",".join(kind for kind in kinds if not kind.startswith("events"))
    return set(kubectl("get", asked, "-n", sampler.namespace, "-o", "name").split())


def _node_url(sampler: Sampler) -> str:
    (port,) = sampler.get("service", sampler.child)["spec"]["ports"]
    node = sampler.pods[0]["status"]["hostIP"]
    return f"http://{node}:{port['nodePort']}"


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
