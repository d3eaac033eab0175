"""The definition on a real API server: it takes what pydantic takes, and refuses the rest in the same words."""

from __future__ import annotations

import copy
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.cluster.api import Api

from fluxsampler_api import crd
from fluxsampler_api.sampler import GROUP, PLURAL, VERSION
from tests.support.cluster import ControlPlane, wait_for
from tests.support.dry_run import refusal
from tests.support.kube import Kube, wait_established
from tests.support.spec_cases import BASE, Case, cases, merged

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
COMMITTED = Path(__file__).parents[2] / "crds" / f"{PLURAL}.{GROUP}.yaml"
STORED = f"/apis/{GROUP}/{VERSION}/namespaces/default/{PLURAL}"


@pytest.fixture(scope="module")
def kube(control_plane: ControlPlane) -> Kube:
    """A user of an API server that knows FluxSamplers."""
    kube = Kube(control_plane.kubeconfig)
    kube.must("apply", "--server-side", "--force-conflicts", "-f", str(COMMITTED))
    wait_established(kube.must, f"{PLURAL}.{GROUP}")
    return kube


@pytest.fixture(scope="module")
def api(control_plane: ControlPlane, kube: Kube) -> Api:
    """The same user without kubectl, once FluxSamplers are served."""
    wait_for(lambda: kube.apply(BASE, "--dry-run=server").ok, 60, "FluxSamplers to be served")
    return control_plane.api


@pytest.fixture
def sampler(api: Api) -> Iterator[dict[str, Any]]:
    """A FluxSampler that is stored; gone after the test."""
    document = named(f"t{secrets.token_hex(4)}")
    api.call("POST", STORED, document)
    yield document
    api.call("DELETE", f"{STORED}/{document['metadata']['name']}")


def named(name: str, spec: dict[str, Any] | None = None) -> dict[str, Any]:
    changed = merged(BASE, {"metadata": {"name": name}, "spec": spec or {}})
    assert isinstance(changed, dict)
    return changed


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_server_and_pydantic_agree(api: Api, case: Case) -> None:
    refused = refusal(api, case.document)
    assert (refused is None) == case.valid, refused
    if refused is not None:
        for text in [case.server] if case.server else list(case.problems.values()):
            assert text in refused


@pytest.mark.parametrize("name", ["no spec", "unknown field in the depth", "unknown dtype", "two caches"])
def test_kubectl_shows_the_servers_words(kube: Kube, name: str) -> None:
    """One of each kind: the rest of the table goes past kubectl, which a user does not."""
    (case,) = (case for case in cases() if case.name == name)
    ran = kube.apply(case.document, "--dry-run=server")
    assert not ran.ok
    for text in [case.server] if case.server else list(case.problems.values()):
        assert text in ran.err


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_accepted(kube: Kube, path: Path) -> None:
    ran = kube.kubectl("apply", "--dry-run=server", "-f", str(path))
    assert ran.ok, ran.text


def test_stored_with_every_default_of_the_models(kube: Kube, sampler: dict[str, Any]) -> None:
    from fluxsampler_api.loading import parse

    stored = kube.get("fxs", sampler["metadata"]["name"])["spec"]
    ours = parse(sampler).spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert stored == ours


UPDATES = [
    ({"hardware": {"device": "cpu"}}, "device cannot change; delete the FluxSampler and apply it anew"),
    ({"replicas": -1}, "should be greater than or equal to 0"),
    ({"parallelism": {"mode": "Manual"}}, "mode Manual needs gpusPerReplica"),
    ({"replicas": 0, "fallback": {"enabled": False}}, "nothing would answer; set replicas: 1"),
    ({"model": {"source": "s3://bucket/flux"}}, "write hf://owner/name"),
]


@pytest.mark.parametrize(("patch", "message"), UPDATES, ids=lambda value: str(value)[:40])
def test_update_refused(kube: Kube, sampler: dict[str, Any], patch: dict[str, Any], message: str) -> None:
    name = sampler["metadata"]["name"]
    before = kube.get("fxs", name)
    ran = kube.kubectl("patch", "fxs", name, "--type=merge", "-p", json.dumps({"spec": patch}))
    assert not ran.ok
    assert message in ran.err
    assert kube.get("fxs", name) == before


def test_what_an_update_may_not_change_is_all_tried() -> None:
    schema = json.dumps(crd.build())
    fixed = [line for line in schema.split('"message": "')[1:] if "cannot change" in line.split('"')[0]]
    assert len(fixed) == sum("cannot change" in message for _, message in UPDATES)


@pytest.mark.parametrize(
    "patch",
    [
        {"model": {"source": "hf://black-forest-labs/FLUX.1-dev", "revision": "main"}},
        {"hardware": {"gpusPerNode": 4, "nodes": 2, "memory": "64Gi"}},
        {"parallelism": {"mode": "Manual", "ulysses": 2, "gpusPerReplica": 2}},
        {"replicas": 3, "fallback": {"maxReplicas": 2}},
        {"upgrade": {"strategy": "Recreate"}, "serving": {"maxQueuedRequests": 1}},
    ],
    ids=lambda patch: next(iter(patch)),
)
def test_update_accepted(kube: Kube, sampler: dict[str, Any], patch: dict[str, Any]) -> None:
    name = sampler["metadata"]["name"]
    before = kube.get("fxs", name)
    kube.must("patch", "fxs", name, "--type=merge", "-p", json.dumps({"spec": patch}))
    after = kube.get("fxs", name)
    assert after["spec"] == merged(before["spec"], patch)
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1


def test_only_the_status_subresource_writes_status(kube: Kube, sampler: dict[str, Any]) -> None:
    name = sampler["metadata"]["name"]
    kube.must("patch", "fxs", name, "--type=merge", "-p", '{"status": {"url": "http://sneaked.in"}}')
    assert "status" not in kube.get("fxs", name)
    generation = kube.get("fxs", name)["metadata"]["generation"]
    kube.must(
        "patch",
        "fxs",
        name,
        "--subresource=status",
        "--type=merge",
        "-p",
        '{"status": {"url": "http://a"}, "spec": {"replicas": 7}}',
    )
    after = kube.get("fxs", name)
    assert after["status"]["url"] == "http://a"
    assert after["spec"]["replicas"] == 1
    assert after["metadata"]["generation"] == generation


def test_scale(kube: Kube, sampler: dict[str, Any]) -> None:
    name = sampler["metadata"]["name"]
    kube.must("scale", f"fxs/{name}", "--replicas=2")
    assert kube.get("fxs", name)["spec"]["replicas"] == 2
    status = {"replicas": 1, "selector": f"{GROUP}/sampler={name}"}
    kube.must(
        "patch", "fxs", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status})
    )
    scale = json.loads(
        kube.must("get", "--raw", f"/apis/{GROUP}/v1alpha1/namespaces/default/{PLURAL}/{name}/scale")
    )
    assert scale["spec"] == {"replicas": 2}
    assert scale["status"] == status
    refused = kube.kubectl("scale", f"fxs/{name}", "--replicas=65")
    assert not refused.ok
    assert "less than or equal to 64" in refused.err


STATUS = {
    "phase": "Ready",
    "engine": "parallel",
    "fallbackReplicas": 1,
    "performance": {"imagesPerMinute": 10.3, "p50Seconds": 5.8},
    "url": "http://tiny.default.svc:8000",
    "plan": {"layout": {"gpusPerReplica": 8, "replicas": 1, "encoders": "on rank 0", "summary": "pp2·u4"}},
    "conditions": [
        {"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}
        for kind, status, reason in (("Degraded", "False", "AsExpected"), ("Ready", "True", "Ready"))
    ],
}  # fmt: skip
GIB = ("objectStoreGib", "shmGib", "heapGib", "weightsGib", "systemGib", "limitGib", "nodeGib")
PLAN_REST = {
    "fallback": {"placement": "None", "replicas": 0},
    "memory": {"cards": [], "host": {**dict.fromkeys(GIB, 1), "proof": []}},
    "estimate": {"width": 64, "height": 64, "steps": 1, "secondsPerImage": 1, "imagesPerMinute": 60, "errorPercent": 4, "calibrated": True},
}  # fmt: skip


def test_columns(kube: Kube, sampler: dict[str, Any]) -> None:
    name = sampler["metadata"]["name"]
    fresh = kube.must("get", "fxs", name).splitlines()
    assert fresh[0].split() == ["NAME", "PHASE", "PLAN", "ENGINE", "FALLBACK", "IMAGES/MIN", "READY", "AGE"]
    assert fresh[1].split()[0] == name
    status = copy.deepcopy(STATUS)
    status["plan"] |= PLAN_REST  # type: ignore[operator]  # a dict of dicts, which mypy joins to object
    kube.must(
        "patch", "fxs", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status})
    )
    row = kube.must("get", "fxs", name).splitlines()[1].split()
    assert row[:-1] == [name, "Ready", "pp2·u4", "parallel", "1", "10.3", "True"]
    wide = kube.must("get", "fxs", name, "-o", "wide").splitlines()
    assert {"REASON", "URL"} <= set(wide[0].split())
    assert "http://tiny.default.svc:8000" in wide[1]


def test_status_with_an_unknown_word_is_refused(kube: Kube, sampler: dict[str, Any]) -> None:
    status = '{"status": {"phase": "Fine"}}'
    name = sampler["metadata"]["name"]
    ran = kube.kubectl("patch", "fxs", name, "--subresource=status", "--type=merge", "-p", status)
    assert 'Unsupported value: "Fine"' in ran.err


def test_get_all_shows_it(kube: Kube, sampler: dict[str, Any]) -> None:
    assert f"fluxsampler.{GROUP}/{sampler['metadata']['name']}" in kube.must("get", "all")


def test_explain_lists_every_field(kube: Kube) -> None:
    told = kube.must("explain", "fluxsampler.spec", "--recursive")
    fields = {line.split()[0]: line.split("\t")[1] for line in told.splitlines() if "\t<" in line}
    for name, kind in {
        "model": "<Object> -required-",
        "source": "<string> -required-",
        "tolerations": "<[]Object>",
        "nodeSelector": "<map[string]string>",
        "replicas": "<integer>",
        "exact": "<boolean>",
        "tolerance": "<number>",
    }.items():
        assert fields[name] == kind
    for line in ("enum: Auto, CoResident, Reserved, OnDemand", "enum: InPlace, Recreate, NewCluster"):
        assert line in told
    spec = crd.build()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert names(spec) <= set(fields)


def names(schema: dict[str, Any]) -> set[str]:
    """Every field below, at any depth."""
    found = set(schema.get("properties", {}))
    for child in schema.get("properties", {}).values():
        found |= names(child.get("items", child))
    return found


def objects(schema: dict[str, Any], path: str) -> Iterator[str]:
    if "properties" in schema:
        yield path
        for name, child in schema["properties"].items():
            yield from objects(child.get("items", child), f"{path}.{name}")


def test_explain_leaves_no_field_of_the_spec_without_a_word(kube: Kube) -> None:
    spec = crd.build()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    silent = [
        path for path in objects(spec, "fluxsampler.spec") if "<no description>" in kube.must("explain", path)
    ]
    assert silent == []


def test_the_server_keeps_the_definition_as_it_was_sent(kube: Kube) -> None:
    sent = yaml.safe_load(COMMITTED.read_text(encoding="utf-8"))["spec"]["versions"][0]
    kept = kube.get("crd", f"{PLURAL}.{GROUP}")["spec"]["versions"][0]
    assert kept == sent
    conditions = kube.get("crd", f"{PLURAL}.{GROUP}")["status"]["conditions"]
    assert not [c for c in conditions if c["type"] == "NonStructuralSchema" and c["status"] == "True"]
