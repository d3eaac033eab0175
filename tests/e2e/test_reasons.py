"""Each typed reason, provoked for real, and named soon after its cause.

The troubles are made side by side at the start, each in a namespace of its own. Seconds are read from the
cluster's own clocks: from what shows the cause (an Event of the kubelet, of KubeRay, an object's creation) to
the operator's Event that names it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import ControlPlane, LiveCluster, control_plane, fresh_namespace
from tests.support.installation import KIND, RESTRICTED, ROOT, Installation, Sampler, tiny
from tests.support.operator_process import operator_process

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

# A model hub that lets nobody in.
HUB = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Closed(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"error": "Invalid username or password."}'
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
    do_HEAD = do_GET
ThreadingHTTPServer(("", 8080), Closed).serve_forever()
"""


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
        """A FluxSampler in a namespace of its own."""
        namespace = self.stack.enter_context(fresh_namespace(self.cluster.kubectl, RESTRICTED))
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
    operator = installed.pod["spec"]["containers"][0]["image"]
    with ExitStack() as stack:
        made = Scene(cluster, stack)
        starved = {
            "name": "ray-worker",
            "resources": {"requests": {"memory": "600Mi"}, "limits": {"memory": "600Mi"}},
        }
        made.make("starved", fallback={"enabled": False}, podTemplate={"spec": {"containers": [starved]}})
        hub = made.pod(
            bare_pod(
                "hub", operator, command=["python", "-c", HUB], readinessProbe={"tcpSocket": {"port": 8080}}
            )
        )
        told = {"name": "ray-worker", "env": [{"name": "HF_ENDPOINT", "value": f"http://{hub}:8080"}]}
        lost = {"model": {"source": "file:///no/such/tiny-shapes", "dtype": "float32"}}
        made.make("lost", **ALONE | lost, podTemplate={"spec": {"containers": [told]}})
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
    items = sampler.get("events", "--field-selector", f"involvedObject.kind=FluxSampler,reason={reason}")[
        "items"
    ]
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
        items = sampler.get("events", "--field-selector", f"involvedObject.kind={kind},reason={reason}")[
            "items"
        ]
        return min(seconds(item["firstTimestamp"] or item["eventTime"]) for item in items)

    return when


def test_no_kuberay(control_plane: ControlPlane, tmp_path: Path) -> None:
    """On an API server of its own: taking KubeRay's kinds from the shared one would take everybody's RayServices."""
    kubectl = control_plane.kubectl
    kubectl("apply", "-f", ROOT / "crds")
    kubectl("wait", "--for=condition=Established", f"crd/{KIND}", "--timeout=60s")
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


def test_a_model_that_is_not_there_then_one_that_is_locked_then_one_that_draws(scene: Scene) -> None:
    sampler = scene.samplers["lost"]
    asked = first_event(sampler, "RayService", "UpdatedServeApplications")
    named(sampler, "EngineReady", "ModelNotFound", asked, "/no/such/tiny-shapes", "spec.model.source")

    changed = datetime.now(UTC).replace(microsecond=0)
    sampler.patch({"model": {"source": "hf://acme/tiny-shapes"}})
    named(
        sampler,
        "EngineReady",
        "ModelAuthFailed",
        lambda: changed,
        "hf://acme/tiny-shapes (401)",
        "spec.model.tokenSecretRef",
    )

    sampler.patch({"model": {"source": "builtin://tiny-shapes"}})
    print(f"corrected: Ready after {sampler.wait_ready():.0f} s")
    assert sampler.condition("Degraded")["status"] == "False"


def test_every_reason_was_written_once(scene: Scene) -> None:
    """Messages hold no counters: a trouble that goes on is one Event, whatever Kubernetes and Serve count meanwhile."""
    for name, reason in (("lost", "ModelNotFound"), ("lost", "ModelAuthFailed")):
        sampler = scene.samplers[name]
        events = sampler.get(
            "events", "--field-selector", f"involvedObject.kind=FluxSampler,reason={reason}"
        )["items"]
        assert sum(event.get("count") or 1 for event in events) == 1, sampler.told()
