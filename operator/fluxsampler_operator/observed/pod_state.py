"""What one pod says about itself, as plain values. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fluxsampler_operator.manifest import FORM_ANNOTATION

Json = Mapping[str, Any]

# KubeRay's labels on its pods: ray-operator 1.6.2, controllers/ray/utils/constant.go.
NODE_TYPE = "ray.io/node-type"
CLUSTER = "ray.io/cluster"


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a pod: its state and the one before, as Kubernetes' JSON (``waiting``, ``terminated``).

    ``settled``: it is ready, or was since it was started last.
    """

    pod: str
    name: str
    image: str
    memory_limit: str | None
    settled: bool
    state: Json
    last: Json

    @property
    def waiting(self) -> Json:
        """{reason, message} of what it waits for; empty if it does not wait."""
        return self.state.get("waiting") or {}

    @property
    def ended(self) -> Json:
        """{reason, exitCode, message} of how it ended, now or the last time; empty if it runs well or never ran.

        A container that was restarted and has been ready since has no end to explain.
        """
        now: Json = self.state.get("terminated") or {}
        before: Json = self.last.get("terminated") or {}
        return now or ({} if self.settled else before)


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of a sampler."""

    name: str
    role: str
    phase: str
    reason: str
    message: str
    ready: bool
    containers: tuple[Container, ...]
    unscheduled: str | None

    @property
    def runs(self) -> bool:
        """All its containers run."""
        return (
            self.phase == "Running"
            and bool(self.containers)
            and all("running" in each.state for each in self.containers)
        )


def read(pod: Json) -> Pod:
    """The pod as values; ``unscheduled`` is the scheduler's sentence while it finds no node."""
    metadata, status = _metadata(pod), pod.get("status") or {}
    conditions = {each.get("type"): each for each in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled") or {}
    refused = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    name = metadata.get("name") or ""
    return Pod(
        name=name,
        role=(metadata.get("labels") or {}).get(NODE_TYPE) or "ray",
        phase=status.get("phase") or "Pending",
        reason=status.get("reason") or "",
        message=status.get("message") or "",
        ready=(conditions.get("Ready") or {}).get("status") == "True",
        containers=tuple(_containers(pod, status)),
        unscheduled=(scheduled.get("message") or "no node fits") if refused else None,
    )


def current(pods: Sequence[Json], rayservice: Json | None) -> tuple[Pod, ...]:
    """The pods of the RayService's present form that are not being deleted, the head first, then by name.

    While a new form is rolled out, pods of the form before are about to go and say nothing about it.
    """
    form = _form(rayservice or {})
    kept = [
        read(pod)
        for pod in pods
        if not _metadata(pod).get("deletionTimestamp") and _form(pod) in (form, None)
    ]
    return tuple(sorted(kept, key=lambda pod: (pod.role != "head", pod.name)))


def of_cluster(pods: Sequence[Json], cluster: str) -> tuple[Pod, ...]:
    """The pods of that RayCluster that are not being deleted."""
    return tuple(
        read(pod)
        for pod in pods
        if (_metadata(pod).get("labels") or {}).get(CLUSTER) == cluster
        and not _metadata(pod).get("deletionTimestamp")
    )


def head_ready(pods: Sequence[Json], cluster: str) -> bool:
    """Whether that RayCluster has a head pod that requests can come through: a Service leaves out what is unready."""
    return any(pod.role == "head" and pod.ready for pod in of_cluster(pods, cluster))


def _metadata(manifest: Json) -> Json:
    return manifest.get("metadata") or {}


def _form(manifest: Json) -> str | None:
    return (_metadata(manifest).get("annotations") or {}).get(FORM_ANNOTATION)


def _containers(pod: Json, status: Json) -> Iterator[Container]:
    limits = {
        each.get("name"): ((each.get("resources") or {}).get("limits") or {}).get("memory")
        for each in (pod.get("spec") or {}).get("containers") or ()
    }
    ready: Json = next((each for each in status.get("conditions") or () if each.get("type") == "Ready"), {})
    for kind in ("initContainerStatuses", "containerStatuses"):
        for each in status.get(kind) or ():
            if kind == "initContainerStatuses" and _finished(each):
                continue
            yield Container(
                pod=_metadata(pod).get("name") or "",
                name=each.get("name") or "",
                image=each.get("image") or "",
                memory_limit=limits.get(each.get("name")),
                settled=bool(each.get("ready")) or _lost_since(ready, each),
                state=each.get("state") or {},
                last=each.get("lastState") or {},
            )


def _lost_since(ready: Json, container: Json) -> bool:
    """Whether the pod was ready after this container was started: only then it can lose that later."""
    started = str(((container.get("state") or {}).get("running") or {}).get("startedAt") or "")
    # Both are RFC 3339 in UTC without fractions, so that text compares as time.
    lost = str(ready.get("lastTransitionTime") or "")
    return started != "" and ready.get("status") == "False" and lost > started


def _finished(container: Json) -> bool:
    ended = (container.get("state") or {}).get("terminated") or {}
    return bool(ended) and ended.get("exitCode") == 0
