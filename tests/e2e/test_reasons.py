"""Each typed reason, provoked for real, and named soon after its cause.

The troubles are made side by side at the start, each in a namespace of its own. Seconds are read from the
cluster's own clocks: from what shows the cause (an Event of the kubelet, of KubeRay, an object's creation) to
the operator's Event that names it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support import hub_server
from tests.support.cluster import ControlPlane, LiveCluster, control_plane, fresh_namespace
from tests.support.installation import KIND, RESTRICTED, ROOT, Installation, Sampler, tiny
from tests.support.kube import wait_established
from tests.support.operator_process import operator_process
from tests.support.shape_checker import matches

__all__ = ["control_plane"]

pytestmark = pytest.mark.timeout(900)

WITHIN = 60
"""Seconds from the cause to its name, as promised."""

PATIENCE = 420.0
"""Seconds that a test waits for a cause to show itself at all: Ray's start is part of some."""

GPU = "nvidia.com/gpu"
# Requests count for scheduling, and many pods of this file never run.
LITTLE = {"name": "ray", "resources": {"requests": {"memory": "64Mi"}}}
ALONE: dict[str, Any] = {"hardware": {"device": "cpu", "gpusPerNode": 1}, "fallback": {"enabled": False}}

# A model hub with the built-in model under another name, for those who have its token.
REPOSITORY, TOKEN = "acme/tiny-shapes", "right"
HUB = f"""{Path(hub_server.__file__).read_text(encoding="utf-8")}
from importlib.util import find_spec
from pathlib import Path

class OneHost(_Handler):
    # Sends weights itself: a pod is no second host for them, as the real hub has one.

    def _resolve(self, name):
        content = self.hub.files()[name].read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        self._send(200, {{"ETag": f'"{{digest}}"', "X-Repo-Commit": self.hub.commit}}, content)

folder = Path(find_spec("fluxsampler_serve").origin).parent / "builtin" / "tiny_shapes"
OneHost.hub = Hub({REPOSITORY!r}, folder, token={TOKEN!r})
ThreadingHTTPServer(("", 8080), OneHost).serve_forever()
"""
SECRET = {"name": "hub", "key": "token"}


def patched(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A podTemplate."""
    return {"spec": {"containers": [LITTLE, *containers], **spec}}


def bare_pod(name: str, image: str, **container: Any) -> dict[str, Any]:
    """A pod of Pod Security level restricted."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": name,
                    "image": image,
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    **container,
                }
            ],
        },
    }  # fmt: skip


@dataclass
class Scene:
    """All troubles, made at the same time."""

    cluster: LiveCluster
    stack: ExitStack
    samplers: dict[str, Sampler] = field(default_factory=dict)

    def make(self, name: str, **spec: Any) -> Sampler:
        """A FluxSampler in a namespace of its own, with a Secret whose token no hub takes."""
        namespace = self.stack.enter_context(fresh_namespace(self.cluster.kubectl, RESTRICTED))
        wrong = f"--from-literal={SECRET['key']}=wrong"
        self.cluster.kubectl("create", "secret", "generic", SECRET["name"], wrong, "-n", namespace)
        made = Sampler(self.cluster, namespace, name)
        self.samplers[name] = made
        made.apply(tiny(name, **spec))
        return made

    def pod(self, manifest: dict[str, Any]) -> str:
        """A pod in a namespace of its own; its address once it is ready."""
        namespace = self.stack.enter_context(fresh_namespace(self.cluster.kubectl, RESTRICTED))
        kubectl, name = self.cluster.kubectl, manifest["metadata"]["name"]
        kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(manifest))
        kubectl(
            "wait", "-n", namespace, f"pod/{name}", "--for=condition=Ready", "--timeout=180s", timeout=200
        )
        return kubectl("get", "-n", namespace, "pod", name, "-o", "jsonpath={.status.podIP}")


@pytest.fixture(scope="module")
def scene(installed: Installation, cluster: LiveCluster) -> Iterator[Scene]:
    """Started in the order of how long each takes."""
    container = installed.pod["spec"]["containers"][0]
    operator = container["image"]
    (serve,) = (one["value"] for one in container["env"] if one["name"] == "FLUXSAMPLER_OPERATOR_SERVE_IMAGE")
    with ExitStack() as stack:
        made = Scene(cluster, stack)
        starved = {
            "name": "ray-worker",
            "resources": {"requests": {"memory": "600Mi"}, "limits": {"memory": "600Mi"}},
        }
        made.make("starved", fallback={"enabled": False}, podTemplate={"spec": {"containers": [starved]}})
        asked = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
        hub = made.pod(bare_pod("hub", serve, args=["python", "-c", HUB], readinessProbe=asked))
        told = {"name": "ray-worker", "env": [{"name": "HF_ENDPOINT", "value": f"http://{hub}:8080"}]}
        model = {"source": f"hf://{REPOSITORY}", "dtype": "float32", "tokenSecretRef": SECRET}
        made.make("locked", **ALONE, model=model, podTemplate={"spec": {"containers": [told]}})
        for node in json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]:
            cards = node["status"]["allocatable"].get(GPU, "0")
            if cards != "0":
                holder = bare_pod(
                    "holder", operator, command=["sleep", "3600"], resources={"limits": {GPU: cards}}
                )
                holder["spec"]["nodeSelector"] = {
                    "kubernetes.io/hostname": node["metadata"]["labels"]["kubernetes.io/hostname"]
                }
                made.pod(holder)
        yield made


def seconds(text: str) -> datetime:
    """A timestamp of Kubernetes, to the second."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).replace(microsecond=0)


def told_of(sampler: Sampler, reason: str) -> dict[str, Any] | None:
    """The operator's first Event with that reason about the FluxSampler."""
    items = sampler.events(involvedObject__kind="FluxSampler", reason=reason)
    return min(items, key=lambda item: item["metadata"]["creationTimestamp"]) if items else None


def named(
    sampler: Sampler, condition: str, reason: str, since: Callable[[], datetime], *parts: str
) -> dict[str, Any]:
    """Wait for the reason; print and check the seconds since its cause; the condition, which holds ``parts``."""
    sampler.wait(lambda: told_of(sampler, reason), f"an Event {reason}", PATIENCE)
    sampler.wait_reason(condition, reason, PATIENCE)
    found, event, ready = sampler.condition(condition), told_of(sampler, reason), sampler.condition("Ready")
    assert event is not None
    assert event["type"] == "Warning"
    passed = (seconds(event["metadata"]["creationTimestamp"]) - since()).total_seconds()
    print(f"{reason}: named {passed:.0f} s after its cause: {found['message'][:160]}")
    assert found["status"] == "False"
    for part in parts:
        assert part in found["message"]
    assert ready["status"] == "False"
    assert ready["reason"] == reason
    assert passed <= WITHIN
    return found


def created(sampler: Sampler) -> Callable[[], datetime]:
    """When it was applied."""
    return lambda: seconds(sampler.live["metadata"]["creationTimestamp"])


def first_event(sampler: Sampler, kind: str, reason: str) -> Callable[[], datetime]:
    """When the first Event of that reason about an object of that kind was written."""

    def when() -> datetime:
        items = sampler.events(involvedObject__kind=kind, reason=reason)
        return min(seconds(item["firstTimestamp"] or item["eventTime"]) for item in items)

    return when


def test_no_kuberay(control_plane: ControlPlane, tmp_path: Path) -> None:
    """On an API server of its own: taking KubeRay's kinds from the shared one would take everybody's RayServices."""
    kubectl = control_plane.kubectl
    kubectl("apply", "-f", ROOT / "crds")
    wait_established(kubectl, KIND)
    alone = LiveCluster(kubectl, Path(), "", None)
    with fresh_namespace(kubectl) as namespace, operator_process(control_plane.kubeconfig, tmp_path / "log"):
        sampler = Sampler(alone, namespace, "early")
        sampler.apply(tiny("early", hardware={"device": "cpu", "gpusPerNode": 2, "memory": "8Gi"}))
        named(sampler, "ClusterReady", "KubeRayMissing", created(sampler), "RayService", "install KubeRay")
        assert sampler.status["phase"] == "Pending"


def test_gpu_memory_that_no_layout_fits_in(scene: Scene) -> None:
    sampler = scene.make(
        "large",
        model={"source": "hf://black-forest-labs/FLUX.1-dev"},
        hardware={"device": "cuda", "gpu": "rtx-4090", "gpusPerNode": 1},
        parallelism={},
    )
    named(sampler, "Accepted", "InsufficientGPUMemory", created(sampler), "GiB", "fp8")
    assert sampler.get("pods")["items"] == []


def test_an_image_that_is_not_there(scene: Scene) -> None:
    image = f"{scene.cluster.registry}/no-such-image:v1"
    sampler = scene.make("pulling", **ALONE, podTemplate=patched({"name": "ray", "image": image}))
    named(
        sampler, "ClusterReady", "ImagePullFailed", first_event(sampler, "Pod", "Failed"), image, "not found"
    )
    scene.cluster.kubectl("delete", KIND, sampler.name, "-n", sampler.namespace, "--wait=false")


def test_shared_memory_below_the_object_store(scene: Scene) -> None:
    small = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}
    sampler = scene.make("tight", **ALONE, podTemplate=patched(volumes=[small]))
    named(sampler, "ClusterReady", "SharedMemoryTooSmall", created(sampler), "0.06 GiB", "sizeLimit")
    scene.cluster.kubectl("delete", KIND, sampler.name, "-n", sampler.namespace, "--wait=false")


def test_cards_that_somebody_else_holds(scene: Scene) -> None:
    sampler = scene.make(
        "cardless",
        hardware={"device": "cuda", "gpu": "rtx-4090", "gpusPerNode": 1},
        objectStore={"memory": "256Mi"},
        fallback={"enabled": False},
        podTemplate=patched(),
    )
    named(
        sampler, "ClusterReady", "UnschedulableGPU", first_event(sampler, "Pod", "FailedScheduling"), "Insufficient nvidia.com/gpu",
    )  # fmt: skip
    scene.cluster.kubectl("delete", KIND, sampler.name, "-n", sampler.namespace, "--wait=false")


def test_a_worker_that_is_killed_for_memory(scene: Scene) -> None:
    sampler = scene.samplers["starved"]
    asked = first_event(sampler, "RayService", "UpdatedServeApplications")
    found = named(sampler, "EngineReady", "WorkerOOMKilled", asked, "memory", "spec.podTemplate")
    assert found["observedGeneration"] == sampler.live["metadata"]["generation"]
    scene.cluster.kubectl("delete", KIND, sampler.name, "-n", sampler.namespace, "--wait=false")


def test_a_model_that_is_locked(scene: Scene) -> None:
    sampler = scene.samplers["locked"]
    asked = first_event(sampler, "RayService", "UpdatedServeApplications")
    named(
        sampler,
        "EngineReady",
        "ModelAuthFailed",
        asked,
        f"hf://{REPOSITORY} (401)",
        "spec.model.tokenSecretRef",
    )


@contextmanager
def trying_again_soon(installed: Installation) -> Iterator[None]:
    """The operator waits for seconds, not minutes, before it tries again what Serve gave up."""
    installed.install(retrySeconds="5")
    try:
        yield
    finally:
        installed.install()


def test_what_was_corrected_outside_is_found_without_a_change_of_spec(
    scene: Scene, installed: Installation
) -> None:
    """Serve gives up for good after three tries; the operator has it tried again, with the Secret as it is by then."""
    sampler = scene.samplers["locked"]
    generation, pods = sampler.live["metadata"]["generation"], sampler.pod_uids
    corrected = json.dumps({"stringData": {SECRET["key"]: TOKEN}})
    scene.cluster.kubectl(
        "patch", "secret", SECRET["name"], "-n", sampler.namespace, "--type=merge", "-p", corrected
    )
    with trying_again_soon(installed):
        took = sampler.wait(lambda: told_of(sampler, "TryingAgain"), "an Event TryingAgain", PATIENCE)
        print(f"\ntried again {took:.0f} s after the operator had started")
    print(f"Ready {sampler.wait_ready():.0f} s after the operator is as it was")
    assert sampler.live["metadata"]["generation"] == generation
    assert not sampler.pod_uids & pods
    assert sampler.condition("Degraded")["status"] == "False"
    assert matches(sampler.draw("a red circle").image, "a red circle")


def test_a_model_that_is_not_there(scene: Scene) -> None:
    sampler = scene.samplers["locked"]
    changed = datetime.now(UTC).replace(microsecond=0)
    sampler.patch({"model": {"source": "hf://nobody/tiny-shapes"}})
    named(
        sampler,
        "EngineReady",
        "ModelNotFound",
        lambda: changed,
        "hf://nobody/tiny-shapes",
        "spec.model.source",
    )


def test_every_reason_was_written_once(scene: Scene) -> None:
    """Messages hold no counters: a trouble that goes on is one Event, whatever Kubernetes and Serve count meanwhile."""
    for name, reason in (("locked", "ModelAuthFailed"), ("locked", "ModelNotFound")):
        sampler = scene.samplers[name]
        events = sampler.events(involvedObject__kind="FluxSampler", reason=reason)
        assert sum(event.get("count") or 1 for event in events) == 1, sampler.told()


def test_a_namespace_whose_sampler_runs_ends_as_any_other(scene: Scene) -> None:
    sampler = scene.samplers["locked"]
    assert {pod["status"]["phase"] for pod in sampler.pods} == {"Running"}
    scene.cluster.kubectl("delete", "namespace", sampler.namespace, "--timeout=120s", timeout=130)
