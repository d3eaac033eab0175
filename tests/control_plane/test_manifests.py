"""The golden manifests on a real API server with KubeRay's own definitions: taken as they are, nothing pruned."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from tools.cluster import recipes
from tools.cluster.binaries import ensure

from fluxsampler_operator.builders.text import as_stream
from fluxsampler_operator.manifest import FIELD_MANAGER, Manifest
from tests.support.cluster import ControlPlane, fresh_namespace, wait_for
from tests.support.golden import CASES, Case
from tests.support.kube import Kube

RESTRICTED = [case for case in CASES if "hostPath" not in case.golden.read_text(encoding="utf-8")]


@pytest.fixture(scope="module")
def kube(control_plane: ControlPlane) -> Kube:
    """An administrator of an API server that knows RayServices."""
    kube = Kube(control_plane.kubeconfig)
    # Only this one: each of KubeRay's definitions costs the server seconds.
    folder = ensure((recipes.KUBERAY,)).path("kuberay-config") / "crd" / "bases"
    crd = folder / "ray.io_rayservices.yaml"
    kube.must("apply", "--server-side", "--force-conflicts", "-f", str(crd))
    # Not `kubectl wait`: it fails on a definition that has no conditions yet.
    wait_for(lambda: kube.kubectl("get", "rayservices.ray.io").ok, 60, "RayServices to be known")
    return kube


@pytest.fixture(scope="module")
def restricted(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace that takes only pods of the Pod Security level `restricted`."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    with fresh_namespace(control_plane.kubectl, labels) as name:
        yield name


def placed(manifests: tuple[Manifest, ...], namespace: str) -> tuple[Manifest, ...]:
    moved = copy.deepcopy(manifests)
    for one in moved:
        one["metadata"]["namespace"] = namespace
    return moved


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_server_side_dry_run_takes_every_manifest_whole(kube: Kube, restricted: str, case: Case) -> None:
    manifests = placed(case.manifests(), restricted)
    answer = kube.must(
        "apply",
        "--server-side",
        "--dry-run=server",
        f"--field-manager={FIELD_MANAGER}",
        "--validate=strict",
        "-o",
        "yaml",
        "-f",
        "-",
        stdin=as_stream(manifests),
    )
    (listed,) = yaml.safe_load_all(answer)
    taken = {(one["kind"], one["metadata"]["name"]): one for one in listed["items"]}
    for one in manifests:
        assert_holds(taken[one["kind"], one["metadata"]["name"]], one, one["kind"])


def assert_holds(taken: Any, wanted: Any, path: str) -> None:
    """Whatever was asked for is there: a field that a schema does not know is dropped without a word."""
    if isinstance(wanted, Mapping):
        for name, value in wanted.items():
            assert name in taken, f"{path}.{name} was dropped"
            assert_holds(taken[name], value, f"{path}.{name}")
    elif isinstance(wanted, list | tuple):
        assert len(taken) == len(wanted), path
        for index, (one, value) in enumerate(zip(taken, wanted, strict=True)):
            assert_holds(one, value, f"{path}[{index}]")
    else:
        assert taken == wanted, path


def pods_of(case: Case, namespace: str) -> Iterator[Manifest]:
    """The pods that KubeRay would make, as far as we write them."""
    cluster = case.manifests()[-1]["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        template = copy.deepcopy(group["template"])
        component = template["metadata"]["labels"]["app.kubernetes.io/component"]
        template["spec"].pop("priorityClassName", None)
        # As KubeRay fills it in; no pod without.
        template["spec"]["containers"][0]["command"] = ["/bin/bash", "-c", "--"]
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            **template,
            "metadata": {**template["metadata"], "name": component, "namespace": namespace},
        }


@pytest.mark.parametrize("case", RESTRICTED, ids=str)
def test_pods_are_of_the_level_restricted(kube: Kube, restricted: str, case: Case) -> None:
    pods = as_stream(pods_of(case, restricted))
    kube.must("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", stdin=pods)


def test_a_cache_on_the_node_is_all_that_restricted_refuses(kube: Kube, restricted: str) -> None:
    (case,) = [one for one in CASES if str(one) == "flux-dev-8x4090"]
    head, worker = pods_of(case, restricted)
    assert kube.apply(head, "--server-side", "--dry-run=server").ok
    ran = kube.apply(worker, "--server-side", "--dry-run=server")
    assert not ran.ok
    assert "hostPath" in ran.err
    assert 'container "ray-worker"' not in ran.err
