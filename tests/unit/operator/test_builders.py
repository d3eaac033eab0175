"""What holds for the manifests of any FluxSampler, beyond the golden files."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from fluxsampler_api.loading import parse
from fluxsampler_operator.builders import desired
from fluxsampler_operator.builders.rayservice import RAY_VERSION
from fluxsampler_operator.errors import WrongPatch
from fluxsampler_operator.manifest import FORM_ANNOTATION, Manifest, Owner
from fluxsampler_operator.settings import Settings
from fluxsampler_planner import Hardware, plan
from tests.support.golden import CASES, Case

LOCK = Path(__file__).parents[3] / "requirements.lock"
CPU: dict[str, Any] = {
    "model": {"source": "builtin://tiny-shapes"},
    "hardware": {"device": "cpu", "gpusPerNode": 4, "memory": "16Gi"},
    "parallelism": {"gpusPerReplica": 2},
}
CUDA: dict[str, Any] = {
    "model": {"source": "hf://black-forest-labs/FLUX.1-dev"},
    "hardware": {"gpu": "rtx-4090", "gpusPerNode": 8, "memory": "512Gi"},
}


def manifests(spec: dict[str, Any], settings: Settings | None = None, **options: Any) -> dict[str, Manifest]:
    document = {
        "apiVersion": "fluxsampler.io/v1alpha1",
        "kind": "FluxSampler",
        "metadata": {"name": "it", "namespace": "ns"},
        "spec": spec,
    }
    sampler = parse(document)
    made = desired(sampler, plan(sampler), settings or Settings(), Owner("it", "ns", "uid"), **options)
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in made}


def changed(spec: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    made = dict(spec)
    for name, value in change.items():
        made[name] = {**made.get(name, {}), **value} if isinstance(value, dict) else value
    return made


def templates(rayservice: Manifest) -> dict[str, Manifest]:
    cluster = rayservice["spec"]["rayClusterConfig"]
    (group,) = cluster["workerGroupSpecs"]
    return {"head": cluster["headGroupSpec"]["template"], "worker": group["template"]}


def ray_container(template: Manifest) -> Manifest:
    container = template["spec"]["containers"][0]
    assert isinstance(container, dict)
    return container


def form(rayservice: Manifest) -> str:
    found = rayservice["metadata"]["annotations"][FORM_ANNOTATION]
    for template in templates(rayservice).values():
        assert template["metadata"]["annotations"][FORM_ANNOTATION] == found
    assert isinstance(found, str)
    return found


IN_PLACE: list[dict[str, Any]] = [
    {"replicas": 0},
    {"replicas": 2},
    {"autoscaling": {"minReplicas": 1, "maxReplicas": 2}},
    {"fallback": {"enabled": False}},
    {"fallback": {"minReplicas": 2}},
    {"fallback": {"afterSeconds": 5}},
    {"serving": {"maxOngoingRequests": 8}},
    {"serving": {"maxQueuedRequests": 1}},
    {"serving": {"requestTimeoutSeconds": 7}},
    {"serving": {"serviceType": "NodePort"}},
    {"canary": {"prompt": "a blue square"}},
    {"monitoring": {"podMonitor": "Disabled"}},
]


@pytest.mark.parametrize("change", IN_PLACE, ids=json.dumps)
def test_what_changes_in_place_leaves_pods_and_samplers_alone(change: dict[str, Any]) -> None:
    before, after = (manifests(spec)["RayService/it"] for spec in (CPU, changed(CPU, change)))
    assert form(after) == form(before)
    assert after["spec"]["rayClusterConfig"] == before["spec"]["rayClusterConfig"]
    # Serve restarts every replica when these differ in one byte.
    (old,), (new,) = (yaml.safe_load(one["spec"]["serveConfigV2"])["applications"] for one in (before, after))
    assert json.dumps(new["args"]) == json.dumps(old["args"])


# On cards a changed number of replicas may ask for another layout, and then Serve restarts samplers; pods never.
IN_PLACE_ON_CARDS = [
    {"fallback": {"placement": "Reserved"}},
    {"fallback": {"placement": "OnDemand"}},
    *(change for change in IN_PLACE if "autoscaling" not in change),
]


@pytest.mark.parametrize("change", IN_PLACE_ON_CARDS, ids=json.dumps)
def test_what_changes_in_place_leaves_pods_with_cards_alone(change: dict[str, Any]) -> None:
    before, after = (manifests(spec)["RayService/it"] for spec in (CUDA, changed(CUDA, change)))
    assert form(after) == form(before)


NEW_PODS: list[dict[str, Any]] = [
    {"hardware": {"gpusPerNode": 8, "memory": "24Gi"}},
    {"hardware": {"nodes": 2}},
    {"hardware": {"nodeSelector": {"disk": "fast"}}},
    # KubeRay's own hash leaves tolerations out.
    {"hardware": {"tolerations": [{"key": "x", "operator": "Exists"}]}},
    {"hardware": {"runtimeClassName": "gvisor"}},
    {"model": {"cache": {"claim": "models"}}},
    {"serving": {"authSecretRef": {"name": "api"}}},
    {"objectStore": {"memory": "2Gi"}},
    {"podTemplate": {"spec": {"priorityClassName": "high"}}},
    {"podTemplate": {"spec": {"containers": [{"name": "ray-worker", "image": "mine:2"}]}}},
]


@pytest.mark.parametrize("change", NEW_PODS, ids=json.dumps)
def test_what_pods_are_made_of_gives_another_form(change: dict[str, Any]) -> None:
    assert form(manifests(changed(CPU, change))["RayService/it"]) != form(manifests(CPU)["RayService/it"])


def test_another_image_of_the_operators_gives_another_form() -> None:
    assert form(manifests(CPU, Settings(serve_image="serve:2"))["RayService/it"]) != form(
        manifests(CPU)["RayService/it"]
    )


def test_under_recreate_what_serve_would_restart_gives_another_form() -> None:
    # A larger gang fits the same pods; Serve starts every sampler anew for it.
    slow = {"parallelism": {"gpusPerReplica": 4}}
    in_place = [form(manifests(changed(CPU, c))["RayService/it"]) for c in ({}, slow)]
    assert in_place[0] == in_place[1]
    recreate = {"upgrade": {"strategy": "Recreate"}}
    assert form(manifests(changed(CPU, recreate))["RayService/it"]) != form(
        manifests(changed(CPU, recreate | slow))["RayService/it"]
    )


@pytest.mark.parametrize(
    ("strategy", "told"), [("InPlace", "None"), ("Recreate", "None"), ("NewCluster", "NewCluster")]
)
def test_kuberay_is_told_when_it_may_have_a_second_set_of_cards(strategy: str, told: str) -> None:
    made = manifests(changed(CPU, {"upgrade": {"strategy": strategy}}), ray_cluster="it-abcde")
    spec = made["RayService/it"]["spec"]
    assert spec["upgradeStrategy"] == {"type": told}
    # What the old cards have begun to draw is drawn, however long it may take.
    assert spec.get("rayClusterDeletionDelaySeconds") == (300 if told == "NewCluster" else None)
    short = {"upgrade": {"strategy": strategy}, "serving": {"requestTimeoutSeconds": 1}}
    spec = manifests(changed(CPU, short), ray_cluster="it-abcde")["RayService/it"]["spec"]
    # Nor may it go before the Service's endpoints have followed.
    assert spec.get("rayClusterDeletionDelaySeconds") == (60 if told == "NewCluster" else None)
    chosen = made["Service/it"]["spec"]["selector"]
    assert chosen.get("ray.io/cluster") == ("it-abcde" if strategy == "NewCluster" else None)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_memory_adds_up_in_every_pod(case: Case) -> None:
    rayservice = case.manifests()[-1]
    cluster = rayservice["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        container = ray_container(group["template"])
        limit = bytes_of(container["resources"]["limits"]["memory"])
        (shm,) = [v["emptyDir"] for v in group["template"]["spec"]["volumes"] if v["name"] == "shm"]
        assert shm["medium"] == "Memory"
        start = group["rayStartParams"]
        # Ray uses the disk, or refuses to start, when its store is larger than /dev/shm.
        assert int(start["object-store-memory"]) < bytes_of(shm["sizeLimit"])
        assert bytes_of(shm["sizeLimit"]) + int(start["memory"]) < limit
        assert int(start["memory"]) > 0


@pytest.mark.parametrize("name", ["flux-dev-8x4090", "flux-schnell-8x4090"])
def test_eight_cards_have_a_store_of_64_gib(name: str) -> None:
    (case,) = [one for one in CASES if str(one) == name]
    (group,) = case.manifests()[-1]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert int(group["rayStartParams"]["object-store-memory"]) == 64 << 30
    assert ray_container(group["template"])["resources"]["limits"]["nvidia.com/gpu"] == "8"


def bytes_of(text: str) -> int:
    units = {"Mi": 20, "Gi": 30}
    return int(text[:-2]) << units[text[-2:]]


def test_the_head_does_no_sampling() -> None:
    rayservice = manifests(CUDA)["RayService/it"]
    head = rayservice["spec"]["rayClusterConfig"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == head["rayStartParams"]["num-gpus"] == "0"
    assert "resources" not in head["rayStartParams"]
    container = ray_container(head["template"])
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in container["env"]


def test_a_worker_without_cards_offers_places_for_samplers() -> None:
    (group,) = manifests(CPU)["RayService/it"]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert "num-gpus" not in group["rayStartParams"]
    text = group["rayStartParams"]["resources"]
    assert text[0] == text[-1] == "'", "a shell reads it"
    assert json.loads(text[1:-1]) == {"fluxsampler_rank": 4, "fluxsampler_fallback": 64}


def test_secrets_are_named_and_only_where_they_are_needed() -> None:
    spec = changed(
        CUDA,
        {
            "model": {"tokenSecretRef": {"name": "hub", "key": "hf"}},
            "serving": {"authSecretRef": {"name": "api"}},
        },
    )
    pods = templates(manifests(spec)["RayService/it"])
    found = {
        kind: {
            one["name"]: one["valueFrom"]["secretKeyRef"]
            for one in ray_container(template)["env"]
            if "secretKeyRef" in one.get("valueFrom", {})
        }
        for kind, template in pods.items()
    }
    api = {"name": "api", "key": "token"}
    assert found == {
        "head": {"FLUXSAMPLER_API_TOKEN": api},
        "worker": {"FLUXSAMPLER_API_TOKEN": api, "HF_TOKEN": {"name": "hub", "key": "hf"}},
    }


def test_the_operators_token_reaches_the_gateway_as_a_digest_only_where_the_api_is_closed() -> None:
    key = Settings(probe_key=b"key")
    digest = [
        yaml.safe_load(manifests(spec, key)["RayService/it"]["spec"]["serveConfigV2"])["applications"][0][
            "deployments"
        ][0]["user_config"]["serving"]["probe_token_sha256"]
        for spec in (CPU, changed(CPU, {"serving": {"authSecretRef": {"name": "api"}}}))
    ]
    assert digest[0] is None
    assert len(digest[1]) == 64
    assert "key" not in digest[1]


def test_a_podtemplate_that_takes_the_ray_container_away_is_refused() -> None:
    gone = {"podTemplate": {"spec": {"containers": [{"name": "ray-worker", "$patch": "delete"}]}}}
    with pytest.raises(WrongPatch, match="takes ray-worker away") as caught:
        manifests(changed(CPU, gone))
    assert caught.value.path == "spec.podTemplate.spec.containers"


def test_a_wrong_item_is_named_by_its_own_number() -> None:
    wrong = {"podTemplate": {"spec": {"containers": [{"name": "ray-head"}, {"image": "x"}]}}}
    with pytest.raises(WrongPatch) as caught:
        manifests(changed(CPU, wrong))
    assert caught.value.path == "spec.podTemplate.spec.containers[1]"


def test_pods_leave_kuberay_the_labels_it_chooses_them_by() -> None:
    # Selectors of the head's services: KubeRay's controllers/ray/common/service.go, HeadServiceLabels.
    for template in templates(manifests(CPU)["RayService/it"]).values():
        written = template["metadata"]["labels"].keys()
        assert not {"app.kubernetes.io/name", "app.kubernetes.io/created-by"} & written
        assert not any(name.startswith("ray.io/") for name in written)


def test_overrides_reach_the_pods_they_name() -> None:
    patch = [
        {"name": "ray", "env": [{"name": "BOTH", "value": "1"}]},
        {"name": "ray-head", "env": [{"name": "HEAD", "value": "1"}]},
        {"name": "ray-worker", "env": [{"name": "WORKER", "value": "1"}]},
        {"name": "side", "image": "side:1"},
    ]
    pods = templates(
        manifests(changed(CPU, {"podTemplate": {"spec": {"containers": patch}}}))["RayService/it"]
    )
    for kind, other in (("head", "WORKER"), ("worker", "HEAD")):
        names = {one["name"] for one in ray_container(pods[kind])["env"]}
        assert {"BOTH", kind.upper()} <= names
        assert other not in names
        assert [one["name"] for one in pods[kind]["spec"]["containers"]] == [f"ray-{kind}", "side"]


def test_only_the_api_is_open_to_everyone() -> None:
    rules = manifests(CPU)["NetworkPolicy/it"]["spec"]["ingress"]
    open_ports = [port["port"] for rule in rules if "from" not in rule for port in rule["ports"]]
    assert open_ports == [8000]
    kuberay = {"app.kubernetes.io/component": "kuberay-operator"}
    dashboard = {"port": 8265, "protocol": "TCP"}
    assert [
        rule["from"][0]["podSelector"]["matchLabels"] for rule in rules if rule.get("ports") == [dashboard]
    ] == [kuberay]
    everything = [rule["from"] for rule in rules if "ports" not in rule]
    assert everything == [[{"podSelector": {"matchLabels": {"fluxsampler.io/sampler": "it"}}}]]


@pytest.mark.parametrize(("nodes", "least"), [(1, 1), (2, 1), (4, 3)])
def test_a_drain_takes_one_node_at_a_time_and_never_the_only_one(nodes: int, least: int) -> None:
    made = manifests(changed(CPU, {"hardware": {"nodes": nodes}}))
    assert made["PodDisruptionBudget/it-head"]["spec"]["minAvailable"] == 1
    assert made["PodDisruptionBudget/it-worker"]["spec"]["minAvailable"] == least
    pods = templates(made["RayService/it"])
    for kind in ("head", "worker"):
        matched = made[f"PodDisruptionBudget/it-{kind}"]["spec"]["selector"]["matchLabels"]
        assert matched.items() <= pods[kind]["metadata"]["labels"].items()
        (other,) = {"head", "worker"} - {kind}
        # Kubernetes refuses every eviction of a pod that two budgets cover.
        assert not matched.items() <= pods[other]["metadata"]["labels"].items()


def test_everything_is_the_samplers_and_comes_before_what_needs_it() -> None:
    made = manifests(CPU)
    assert [one.partition("/")[0] for one in made] == [
        "ServiceAccount",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "PodDisruptionBudget",
        "Service",
        "RayService",
    ]
    for one in made.values():
        assert one["metadata"]["namespace"] == "ns"
        assert one["metadata"]["ownerReferences"][0]["uid"] == "uid"
        assert one["metadata"]["labels"]["fluxsampler.io/sampler"] == "it"


def test_what_nodes_were_found_to_have_changes_no_pod_where_the_spec_says_it() -> None:
    sampler = parse(
        {
            "apiVersion": "fluxsampler.io/v1alpha1",
            "kind": "FluxSampler",
            "metadata": {"name": "it"},
            "spec": CPU,
        }
    )
    forms = {
        form(
            desired(sampler, plan(sampler, Hardware(cores=cores, host_memory=memory << 30)), Settings(), Owner("it", "ns"))[-1]
        )
        for cores, memory in ((2, 24), (16, 64))
    }  # fmt: skip
    assert len(forms) == 1, "another node in the cluster would restart every pod"


def test_the_ray_version_is_the_locked_one() -> None:
    assert f"ray=={RAY_VERSION}" in LOCK.read_text(encoding="utf-8").splitlines()
    project = tomllib.loads((LOCK.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"ray[serve]=={RAY_VERSION}" in project["optional-dependencies"]["serve"]
