"""From apply to a picture, and what a user sees on the way."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import openai
import pytest
import yaml
from PIL import Image
from tools.cluster.errors import CommandFailed

from fluxsampler_operator.comparison import differences
from tests.support.installation import Installation, Json, Sampler, tiny
from tests.support.shape_checker import matches


def test_a_picture_comes_through_the_service(shared: Sampler) -> None:
    drawn = shared.draw("a blue square")
    assert drawn.engine == "parallel"
    assert matches(drawn.image, "a blue square")


def test_the_openai_client_draws_unchanged(shared: Sampler) -> None:
    client = openai.OpenAI(base_url=f"{shared.url}/v1", api_key="not asked for", max_retries=0)
    answer = client.images.generate(
        prompt="a yellow triangle", model="tiny-shapes", response_format="b64_json"
    )
    assert answer.data is not None
    image = Image.open(BytesIO(b64decode(answer.data[0].b64_json or ""))).convert("RGB")
    assert matches(np.asarray(image), "a yellow triangle")


def test_status_tells_the_truth_about_a_ready_sampler(shared: Sampler) -> None:
    live = shared.live
    status = live["status"]
    found = {one["type"]: one["status"] for one in status["conditions"]}
    assert found == {
        "Accepted": "True", "ClusterReady": "True", "EngineReady": "True", "Serving": "True", "Degraded": "False", "Ready": "True",
    }  # fmt: skip
    assert status["phase"] == "Ready"
    assert status["observedGeneration"] == live["metadata"]["generation"]
    assert status["engine"] == "parallel"
    assert status["plan"]["layout"]["summary"] == "u2"
    assert (status["replicas"], status["fallbackReplicas"]) == (1, 1)
    assert all(one["observedGeneration"] == status["observedGeneration"] for one in status["conditions"])


def test_kubectl_get_shows_the_columns_of_the_contract(shared: Sampler) -> None:
    header, row = shared.cluster.kubectl("get", "fxs", "-n", shared.namespace).splitlines()
    assert header.split() == ["NAME", "PHASE", "PLAN", "ENGINE", "FALLBACK", "IMAGES/MIN", "READY", "AGE"]
    assert row.split()[:5] == ["shared", "Ready", "u2", "parallel", "1"]
    assert "True" in row.split()


def test_each_transition_left_an_event(shared: Sampler) -> None:
    events = shared.get("events", "--field-selector", "involvedObject.kind=FluxSampler")["items"]
    assert {"Accepted", "ClusterReady", "EngineReady", "Serving", "Ready"} <= {
        event["reason"] for event in events
    }


def test_what_render_prints_is_what_the_operator_applied(shared: Sampler, tmp_path: Path) -> None:
    file = tmp_path / "shared.yaml"
    live = shared.live
    written = {key: live[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": {"name": shared.name}}
    file.write_text(yaml.safe_dump(written))
    image = shared.pods[0]["spec"]["containers"][0]["image"]
    printed = shared.cli("render", file, "--namespace", shared.namespace, "--image", image)
    kinds = set()
    for manifest in yaml.safe_load_all(printed):
        kinds.add(manifest["kind"])
        applied = shared.get(f"{manifest['kind']}/{manifest['metadata']['name']}")
        found = differences(_without_plan(manifest), _without_plan(applied))
        assert found == (), manifest["kind"]
    assert kinds >= {"RayService", "Service", "PodDisruptionBudget", "NetworkPolicy", "ServiceAccount"}


def _without_plan(manifest: Json) -> Json:
    """``manifest`` without the plan that Serve's gateway shows: without a cluster it does not know the node's memory."""
    if manifest["kind"] != "RayService":
        return manifest
    serve = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    for deployment in serve["applications"][0]["deployments"]:
        deployment.get("user_config", {}).pop("plan", None)
    return {**manifest, "spec": {**manifest["spec"], "serveConfigV2": yaml.safe_dump(serve)}}


def test_the_cli_shows_it(shared: Sampler) -> None:
    where = ("--namespace", shared.namespace, "--kubeconfig", shared.cluster.kubeconfig)
    shown = shared.cli("status", shared.name, *where)
    for word in (
        "Ready",
        "parallel",
        "u2",
        "PictureDrawn",
        *(pod["metadata"]["name"] for pod in shared.pods),
    ):
        assert word in shown
    answer = json.loads(shared.cli("status", shared.name, *where, "-o", "json"))
    assert answer["status"] == shared.status
    assert {pod["status"] for pod in answer["pods"]} == {"Running"}
    assert "Ready" in {event["reason"] for event in answer["events"]}


def test_the_cli_draws(shared: Sampler, tmp_path: Path) -> None:
    picture = tmp_path / "star.png"
    where = ("--namespace", shared.namespace, "--kubeconfig", shared.cluster.kubeconfig)
    shared.cli("generate", "a green star", "--sampler", shared.name, *where, "-o", picture)
    assert matches(np.asarray(Image.open(picture).convert("RGB")), "a green star")


def test_a_wrong_spec_is_refused_at_apply_with_the_fix(installed: Installation, namespace: str) -> None:
    wrong = tiny("wrong", parallelism={"mode": "Manual", "gpusPerReplica": 2, "ulysses": 3})
    with pytest.raises(
        CommandFailed, match=r"ulysses\*ring\*pipefusion\*tensor differs from gpusPerReplica; make them equal"
    ):
        Sampler(installed.cluster, namespace, "wrong").apply(wrong)


def test_what_no_node_can_hold_is_not_accepted_with_the_arithmetic(
    installed: Installation, namespace: str
) -> None:
    sampler = Sampler(installed.cluster, namespace, "large")
    sampler.apply(tiny("large", objectStore={"memory": "4Ti"}))
    took = sampler.wait(lambda: sampler.condition("Accepted").get("status") == "False", "not accepted", 60)
    message = sampler.condition("Accepted")["message"]
    print(f"\nrefused after {took:.1f} s: {message}")
    assert re.search(
        r"spec\.objectStore\.memory: the node offers [\d.]+ GiB, the plan needs [\d.]+ "
        r"\(limit [\d.]+ ≥ shm [\d.]+ \+ heap [\d.]+ .*\); set spec\.objectStore\.memory to \d+Mi or less",
        message,
    )
    assert sampler.condition("Ready")["status"] == "False"
    assert sampler.get("rayservices")["items"] == []


def test_the_operator_stays_small(installed: Installation, shared: Sampler) -> None:
    """RSS of its process, as the node sees it."""
    uid = installed.pod["metadata"]["uid"]
    sizes = [
        int(line.split()[1]) * 1024
        for status in Path("/proc").glob("[0-9]*/status")
        if uid in _cgroup(status.parent)
        for line in status.read_text().splitlines()
        if line.startswith("VmRSS")
    ]
    if not sizes:
        pytest.skip("the operator runs on another machine: its memory cannot be seen from here")
    print(f"\noperator RSS {max(sizes) / 2**20:.0f} MiB")
    assert max(sizes) < 150e6


def _cgroup(process: Path) -> str:
    try:
        return (process / "cgroup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it has ended
