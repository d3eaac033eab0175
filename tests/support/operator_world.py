"""A namespace of a real API server, an operator that watches it, and what tests ask of both.

KubeRay and the kubelet are not there: tests write what they would (pods, RayService.status) by ``serve``.
HTTP and not kubectl, whose start costs more than what is asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tools.cluster import recipes
from tools.cluster.api import APPLY_PATCH, MERGE_PATCH
from tools.cluster.audit import AuditEvent
from tools.cluster.binaries import ensure
from tools.cluster.errors import ApiFailure
from tools.cluster.waiting import wait_for

from fluxsampler_operator.cluster import CHILDREN, EVENTS, PODS, SAMPLERS, Resource
from fluxsampler_operator.manifest import SAMPLER_LABEL, child_name
from tests.support.cluster import ControlPlane
from tests.support.fake_cluster import play, ray_pods
from tests.support.operator_process import OperatorProcess

# Wide: what is asked is whether, not when.
SECONDS = 240
# The identity of the operator under test, so that the audit log tells its requests from the tests' own.
USER = "fluxsampler-operator-test"
TINY: dict[str, Any] = {
    "model": {"source": "builtin://tiny-shapes", "dtype": "float32"},
    "hardware": {"device": "cpu", "gpusPerNode": 2, "memory": "6Gi"},
}
RESOURCES = {resource.kind: resource for resource in (*CHILDREN, SAMPLERS, PODS, EVENTS)}
RAY_KINDS = ("rayclusters", "rayservices")
KINDS = tuple(resource.kind for resource in CHILDREN)
RECONCILES = "fluxsampler_operator_reconcile_seconds_count"


def install_definitions(plane: ControlPlane, *, ours: bool = True, kuberay: bool = True) -> None:
    """Our CRD and KubeRay's; returns when they are served.

    Before ``run_controllers`` where there is a choice: the garbage collector looks for new kinds every half a
    minute only, and until then deletes nothing of theirs.
    """
    wanted = []
    if ours:
        plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", Path(__file__).parents[2] / "crds")
        wanted += [SAMPLERS]
    if kuberay:
        bases = ensure((recipes.KUBERAY,)).path("kuberay-config") / "crd" / "bases"
        # Each of KubeRay's definitions is more than half a megabyte, and the others are nobody's here.
        files = [word for kind in RAY_KINDS for word in ("-f", bases / f"ray.io_{kind}.yaml")]
        plane.kubectl("apply", "--server-side", "--force-conflicts", *files)
        wanted += [RESOURCES["RayService"], Resource("ray.io/v1", "RayCluster", "rayclusters")]
    for resource in wanted:
        wait_for(partial(_served, plane, resource), SECONDS, f"{resource.plural} to be served")


def _served(plane: ControlPlane, resource: Resource) -> bool:
    # The list of kinds names a new one a moment before its objects can be asked for.
    try:
        plane.api.call("GET", f"{resource.root}/{resource.plural}")
    except ApiFailure:
        return False
    return True


class World:
    """See the module."""

    def __init__(self, plane: ControlPlane, namespace: str, operator: OperatorProcess) -> None:
        self.plane, self.namespace, self.operator = plane, namespace, operator
        self._api = plane.api

    def _path(self, kind: str, name: str = "", subresource: str = "") -> str:
        return RESOURCES[kind].path(self.namespace, name, subresource)

    def sampler(self, name: str = "tiny", **changes: Any) -> None:
        """Apply a FluxSampler as its user, whole: fields that an earlier call named and this one does not go."""
        self.apply("FluxSampler", name, {"spec": {**TINY, **changes}})

    def apply(self, kind: str, name: str, body: dict[str, Any]) -> None:
        """Server-side apply under a person's field manager."""
        resource = RESOURCES[kind]
        whole = {"apiVersion": resource.api_version, "kind": kind, "metadata": {"name": name}, **body}
        self._api.call(
            "PATCH", self._path(kind, name) + "?fieldManager=person&force=true", whole, APPLY_PATCH
        )

    def find(self, kind: str, name: str = "tiny") -> dict[str, Any] | None:
        """One object, or None."""
        return self._api.find(self._path(kind, name))

    def live(self, kind: str, name: str = "tiny") -> dict[str, Any]:
        """One object that must be there."""
        found = self.find(kind, name)
        assert found is not None, f"no {kind} {name}"
        return found

    def all(self, kind: str) -> list[dict[str, Any]]:
        """All objects of a kind."""
        return list(self._api.call("GET", self._path(kind))["items"])

    def children(self, kind: str, name: str) -> list[str]:
        """Names of a FluxSampler's children of a kind."""
        label = child_name(name)
        return [
            one["metadata"]["name"]
            for one in self.all(kind)
            if one["metadata"].get("labels", {}).get(SAMPLER_LABEL) == label
        ]

    def patch(self, kind: str, name: str, patch: dict[str, Any], subresource: str = "") -> None:
        """Merge patch."""
        self._api.call("PATCH", self._path(kind, name, subresource), patch, MERGE_PATCH)

    def delete(self, kind: str, name: str, propagation: str = "Background") -> None:
        """Delete, without waiting."""
        self._api.call("DELETE", self._path(kind, name), {"propagationPolicy": propagation})

    def status(self, name: str = "tiny") -> dict[str, Any]:
        """Status of a FluxSampler; empty while there is none."""
        return dict(self.live("FluxSampler", name).get("status") or {})

    def condition(self, type_: str, name: str = "tiny") -> tuple[str, str]:
        """(status, reason) of a condition; empty strings while there is none."""
        conditions = self.status(name).get("conditions", ())
        found = next((each for each in conditions if each["type"] == type_), {"status": "", "reason": ""})
        return found["status"], found["reason"]

    def events_about(self, name: str) -> list[dict[str, Any]]:
        """Events about the object ``name``."""
        return [event for event in self.all("Event") if event["involvedObject"]["name"] == name]

    def serve(self, name: str = "tiny", status: str = "RUNNING") -> None:
        """Be KubeRay and a kubelet for a FluxSampler's RayService."""
        rayservice = self.live("RayService", child_name(name))
        play(rayservice, status)
        self.patch("RayService", child_name(name), {"status": rayservice["status"]}, "status")
        for pod in ray_pods(rayservice):
            pod_name = pod["metadata"]["name"]
            if self.find("Pod", pod_name) is None:
                written = {key: value for key, value in pod.items() if key != "status"}
                self._api.call("POST", self._path("Pod"), written)
                self.patch("Pod", pod_name, {"status": pod["status"]}, "status")

    def wait(self, condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
        """Wait for a condition."""
        wait_for(condition, seconds, what, interval=0.1)

    def applied(self, name: str = "tiny") -> None:
        """Apply one and wait until its RayService is there."""
        self.sampler(name)
        self.wait(lambda: self.find("RayService", child_name(name)), f"the RayService of {name}")

    def served(self, name: str = "tiny") -> None:
        """Be KubeRay for one that was applied, and wait until it is Ready."""
        self.wait(lambda: self.find("RayService", child_name(name)), f"the RayService of {name}")
        self.serve(name)
        self.holds("Ready", name)

    def ready(self, name: str = "tiny") -> None:
        """Apply one, serve it, wait until it is Ready and at rest."""
        self.sampler(name)
        self.served(name)
        self.quiet(name)

    def holds(self, type_: str, name: str) -> None:
        """Wait for a condition to be True."""
        self.wait(lambda: self.condition(type_, name)[0] == "True", f"{name} to be {type_}")

    def childless(self, name: str) -> None:
        """Wait until nothing is left of a FluxSampler's children."""
        self.wait(
            lambda: not any(self.children(kind, name) for kind in KINDS), f"no child of {name} to be left"
        )

    def quiet(self, name: str = "tiny") -> None:
        """Return when the operator has come to rest: a whole round went by after this call."""
        rounds = self.operator.metric(RECONCILES)
        self.patch("FluxSampler", name, {"metadata": {"annotations": {"test/turn": f"{rounds}"}}})
        self.wait(
            lambda: (
                self.operator.metric(RECONCILES) > rounds
                and self.operator.metric("fluxsampler_operator_queued_objects") == 0
            ),
            "the operator to come to rest",
        )

    def writes(self, since: int) -> list[AuditEvent]:
        """What the operator wrote since a mark of the audit log."""
        return self.plane.audit.writes(since, USER)

    def said(self, event: str) -> list[dict[str, Any]]:
        """Lines of the operator's log with this event."""
        return [line for line in self.operator.lines() if line["event"] == event]


def text(value: object) -> str:
    """As JSON, to look for words in."""
    return json.dumps(value)
