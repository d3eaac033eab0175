"""The operator's cluster in memory, with the methods of ``fluxsampler_operator.cluster.Cluster``; writes are listed."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from fluxsampler_operator.cluster import CHILDREN, PODS, RAY_SERVICES, SAMPLERS, Resource
from fluxsampler_operator.comparison import differences
from fluxsampler_operator.errors import KindMissing, NotFound

Manifest = dict[str, Any]
_BY_KIND = {resource.kind: resource for resource in CHILDREN}


class FakeCluster:
    """Objects by (kind, namespace, name); ``fails`` maps a method's name to an error that it raises."""

    def __init__(self, *, kuberay: bool = True) -> None:
        self.kuberay = kuberay
        self.objects: dict[tuple[str, str, str], Manifest] = {}
        self.nodes: list[Manifest] = []
        self.events: list[Manifest] = []
        # Fields of a FluxSampler's status that its definition does not know, and the API server drops.
        self.unknown: set[str] = set()
        self.told: list[tuple[str, str, str]] = []
        self.writes: list[str] = []
        self.fails: dict[str, Exception] = {}
        self._versions = itertools.count(1)

    def put(self, resource: Resource, manifest: Manifest) -> Manifest:
        """An object as somebody else makes it."""
        made = copy.deepcopy(manifest)
        meta = made["metadata"]
        meta.setdefault("namespace", "default")
        number = next(self._versions)
        meta.setdefault("uid", f"uid-{number}")
        meta.setdefault("generation", 1)
        meta["resourceVersion"] = str(number)
        self.objects[(resource.kind, meta["namespace"], meta["name"])] = made
        return made

    def sampler(self, spec: Mapping[str, Any], name: str = "tiny", namespace: str = "default") -> Manifest:
        """A FluxSampler as a user applies it; a second call changes its spec."""
        old = self.objects.get((SAMPLERS.kind, namespace, name))
        made: Manifest = {
            "apiVersion": SAMPLERS.api_version,
            "kind": SAMPLERS.kind,
            "metadata": {"name": name, "namespace": namespace},
            "spec": dict(spec),
        }
        if old is not None:
            made["metadata"] |= {
                "uid": old["metadata"]["uid"],
                "generation": old["metadata"]["generation"] + 1,
            }
            made["status"] = old.get("status", {})
        return self.put(SAMPLERS, made)

    def live(self, resource: Resource, name: str = "tiny", namespace: str = "default") -> Manifest:
        """The object itself, to look at or to change."""
        return self.objects[(resource.kind, namespace, name)]

    def condition(self, type_: str, name: str = "tiny", namespace: str = "default") -> tuple[str, str]:
        """(status, reason) of a condition of a FluxSampler."""
        conditions = self.live(SAMPLERS, name, namespace)["status"]["conditions"]
        found = next(each for each in conditions if each["type"] == type_)
        return found["status"], found["reason"]

    def _fail(self, method: str) -> None:
        if method in self.fails:
            raise self.fails[method]

    async def serves(self, resource: Resource) -> bool:
        self._fail("serves")
        return self.kuberay if resource == RAY_SERVICES else True

    async def get(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        self._fail("get")
        if resource == RAY_SERVICES and not self.kuberay:
            raise KindMissing("no RayService here")
        return copy.deepcopy(self.objects.get((resource.kind, namespace, name)))

    async def find(
        self, resource: Resource, namespace: str | None, *, labels: Mapping[str, str] | None = None, fields: str = "",
        keep: Callable[[Manifest], Manifest] = lambda item: item,
    ) -> list[Manifest]:  # fmt: skip
        self._fail(f"find {resource.plural}")
        if resource.plural == "nodes":
            return [keep(node) for node in self.nodes]
        if resource.plural == "events":
            return list(self.events)
        return [
            copy.deepcopy(made)
            for (kind, where, _), made in self.objects.items()
            if kind == resource.kind
            and namespace in (None, where)
            and all(
                (made["metadata"].get("labels") or {}).get(key) == value
                for key, value in (labels or {}).items()
            )
        ]

    async def apply(self, manifest: Manifest) -> Manifest:
        self._fail(f"apply {manifest['kind']}")
        meta = manifest["metadata"]
        resource = _BY_KIND[manifest["kind"]]
        live = self.objects.get((manifest["kind"], meta["namespace"], meta["name"]))
        if live is not None and not differences(manifest, live):
            return copy.deepcopy(live)
        self.writes.append(f"apply {manifest['kind']}")
        merged = copy.deepcopy(manifest)
        if live is not None:
            old = live["metadata"]
            merged["metadata"] |= {"uid": old["uid"], "generation": old["generation"] + 1}
            if "status" in live:
                merged["status"] = live["status"]
        return copy.deepcopy(self.put(resource, merged))

    async def patch_status(self, namespace: str, name: str, uid: str, status: Manifest) -> Manifest:
        self._fail("patch_status")
        live = self.objects.get((SAMPLERS.kind, namespace, name))
        if live is None or live["metadata"]["uid"] != uid:
            raise NotFound(f"no {namespace}/{name}")
        self.writes.append("status")
        live["status"] = {
            name: copy.deepcopy(value) for name, value in status.items() if name not in self.unknown
        }
        return copy.deepcopy(live["status"])

    async def drop_finalizer(self, resource: Resource, live: Manifest, finalizer: str) -> None:
        self._fail("drop_finalizer")
        self.writes.append(f"finalizer {finalizer}")
        del self.objects[(resource.kind, live["metadata"]["namespace"], live["metadata"]["name"])]

    async def delete(self, resource: Resource, live: Manifest) -> None:
        self._fail("delete")
        self.writes.append(f"delete {resource.kind} {live['metadata']['name']}")
        del self.objects[(resource.kind, live["metadata"]["namespace"], live["metadata"]["name"])]

    async def create_event(self, about: Manifest, kind: str, reason: str, message: str) -> None:
        self._fail("create_event")
        self.told.append((kind, reason, message))

    def forget(self, namespace: str, name: str) -> None:
        """Nothing is remembered here."""

    def close(self) -> None:
        """Nothing is open here."""

    def serve(self, name: str = "tiny", namespace: str = "default", status: str = "RUNNING") -> None:
        """What KubeRay and a kubelet would do: pods that are ready, an application in ``status``."""
        live = self.live(RAY_SERVICES, name, namespace)
        play(live, status)
        for pod in ray_pods(live):
            self.put(PODS, pod)


def play(rayservice: Manifest, status: str = "RUNNING") -> None:
    """Write the status that KubeRay 1.6 writes for an application in ``status`` into a RayService."""
    healthy = "HEALTHY" if status == "RUNNING" else "UPDATING"
    names = ("Gateway", "ParallelSampler", "FallbackSampler")
    meta = rayservice["metadata"]
    rayservice["status"] = {
        "observedGeneration": meta["generation"],
        "serviceStatus": "Running" if status == "RUNNING" else "",
        "numServeEndpoints": 1,
        "activeServiceStatus": {
            "rayClusterName": f"{meta['name']}-abcde",
            "applicationStatuses": {
                "fluxsampler": {
                    "status": status,
                    "serveDeploymentStatuses": {name: {"status": healthy} for name in names},
                }
            },
        },
    }


def ray_pods(rayservice: Manifest, *, ready: bool = True) -> list[Manifest]:
    """The head pod and one worker pod as KubeRay would make them, with a kubelet's status."""
    cluster, spec = f"{rayservice['metadata']['name']}-abcde", rayservice["spec"]["rayClusterConfig"]
    templates = [
        ("head", spec["headGroupSpec"]["template"]),
        ("worker", spec["workerGroupSpecs"][0]["template"]),
    ]
    word = "True" if ready else "False"
    pods = []
    for role, template in templates:
        meta = template.get("metadata", {})
        name = f"{cluster}-{role}"
        container = template["spec"]["containers"][0]
        pods.append(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": rayservice["metadata"]["namespace"],
                    "labels": {**meta.get("labels", {}), "ray.io/node-type": role, "ray.io/cluster": cluster},
                    "annotations": meta.get("annotations", {}),
                },
                "spec": {"containers": [{"name": container["name"], "image": container["image"]}]},
                "status": {
                    "phase": "Running",
                    "conditions": [{"type": kind, "status": word} for kind in ("PodScheduled", "Ready")],
                    "containerStatuses": [
                        {
                            "name": container["name"],
                            "image": container["image"],
                            "imageID": "",
                            "ready": ready,
                            "restartCount": 0,
                            "state": {"running": {"startedAt": "2026-11-22T15:00:00Z"}},
                        }
                    ],
                },
            }
        )
    return pods
