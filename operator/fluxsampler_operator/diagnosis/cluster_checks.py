"""Checks of what stands around the pods: KubeRay, our manifests, the RayService, refused pods. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fluxsampler_api.quantity import Quantity
from fluxsampler_operator.diagnosis.causes import Cause, cluster
from fluxsampler_operator.observed import Observed, pod_state
from fluxsampler_operator.reasons import Reason

Json = Mapping[str, Any]

SHM = "/dev/shm"  # noqa: S108  (the kernel's name of shared memory, not a temporary file)
GIB = 1024**3
# KubeRay's words for a pod that the API server did not take, and those of the other controllers.
REFUSED_PODS = frozenset({"FailedToCreateHeadPod", "FailedToCreateWorkerPod", "FailedCreate"})


def kuberay_missing(observed: Observed) -> Cause | None:
    """The cluster does not know RayService."""
    if observed.kuberay:
        return None
    return cluster(
        Reason.KUBERAY_MISSING,
        "the cluster does not know the kind RayService (ray.io/v1): install KubeRay 1.5 or newer "
        "(helm install kuberay-operator --repo https://ray-project.github.io/kuberay-helm kuberay-operator); "
        "this goes on by itself as soon as it is there",
    )


def manifest_refused(observed: Observed) -> Cause | None:
    """The API server refused something that we applied."""
    if not observed.apply_errors:
        return None
    return cluster(
        Reason.APPLY_REFUSED, "the API server refused what belongs to this object: " + "; ".join(observed.apply_errors)
    )  # fmt: skip


def rayservice_invalid(observed: Observed) -> Cause | None:
    """KubeRay refused the RayService, or gave it up."""
    for condition in _status(observed).get("conditions") or ():
        if condition.get("type") == "Ready" and condition.get("reason") == "ValidationFailed":
            return cluster(
                Reason.APPLY_REFUSED,
                f"KubeRay refuses the RayService: {condition.get('message')}; correct spec.podTemplate, or install the "
                "KubeRay version that this release was tested with",
            )
    return None


def store_exceeds_shared_memory(observed: Observed) -> Cause | None:
    """Ray's object store is larger than /dev/shm. Above 10 GB Ray refuses to start, below it quietly uses the disk.

    Ray's rule: ray 2.60 _private/services.py, determine_plasma_store_config. So nothing later in the start
    would say it, and the RayService that was applied is the place to look.
    """
    for group, start, template in _groups(observed.rayservice):
        store = start.get("object-store-memory")
        if store is None or not str(store).isdigit() or "plasma-directory" in start:
            continue
        size = _shared_memory(template)
        if size is not None and size < int(store):
            return cluster(
                Reason.SHARED_MEMORY_TOO_SMALL,
                f"{group}: Ray's object store has {int(store) / GIB:.2f} GiB and {SHM} only {size / GIB:.2f} GiB, so Ray would keep "
                f"its objects on the disk or not start; raise the sizeLimit of the volume at {SHM} in spec.podTemplate (or leave it "
                "out, the plan sets it), or lower spec.objectStore.memory",
            )
    return None


def pods_refused(observed: Observed) -> Cause | None:
    """Quota, admission or Pod Security keeps KubeRay from creating pods."""
    if not missing_pods(observed):
        return None
    said = next(
        (
            condition.get("message")
            for side in ("pendingServiceStatus", "activeServiceStatus")
            for condition in ((_status(observed).get(side) or {}).get("rayClusterStatus") or {}).get(
                "conditions"
            )
            or ()
            if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True"
        ),
        None,
    ) or next(
        (note(event) for event in reversed(observed.events) if event.get("reason") in REFUSED_PODS), None
    )
    if said is None:
        return None
    # The name of the refused pod is another one at each try.
    forbidden = str(said).split("is forbidden: ", 1)[-1].strip()
    return cluster(
        Reason.QUOTA_OR_ADMISSION,
        f"the API server does not let KubeRay create pods here: {forbidden}; raise the quota, relax the admission rule, or make the "
        "pods fit by spec.podTemplate",
    )


def missing_pods(observed: Observed) -> bool:
    """Whether the RayService asks for more pods than there are."""
    pods = pod_state.current(observed.pods, observed.rayservice)
    heads = sum(pod.role == "head" for pod in pods)
    return observed.rayservice is not None and (
        heads == 0 or len(pods) - heads < wanted_workers(observed.rayservice)
    )


def wanted_workers(rayservice: Json | None) -> int:
    """Worker pods that the RayService asks for."""
    return sum(
        int(group.get("replicas") or 0) * int(group.get("numOfHosts") or 1)
        for group in _cluster_spec(rayservice).get("workerGroupSpecs") or ()
    )


def worker_limits(rayservice: Json | None) -> list[int]:
    """Memory limits of the worker groups' Ray containers, bytes."""
    sizes = []
    for group in _cluster_spec(rayservice).get("workerGroupSpecs") or ():
        containers: Sequence[Json] = ((group.get("template") or {}).get("spec") or {}).get("containers") or ()
        for container in containers[:1]:  # KubeRay: the Ray container is the first
            sizes.append(size_of(((container.get("resources") or {}).get("limits") or {}).get("memory")))
    return [size for size in sizes if size is not None]


def note(event: Json) -> str:
    """What an event says: core/v1 calls it message, events.k8s.io note."""
    return str(event.get("message") or event.get("note") or "").strip()


def about(event: Json) -> str:
    """Name of the object that an event is about."""
    return str((event.get("involvedObject") or event.get("regarding") or {}).get("name") or "")


def _status(observed: Observed) -> Json:
    return (observed.rayservice or {}).get("status") or {}


def _cluster_spec(rayservice: Json | None) -> Json:
    return ((rayservice or {}).get("spec") or {}).get("rayClusterConfig") or {}


def _groups(rayservice: Json | None) -> Iterator[tuple[str, Json, Json]]:
    """(name in words, rayStartParams, pod template) of the head and each worker group."""
    spec = _cluster_spec(rayservice)
    head = spec.get("headGroupSpec") or {}
    yield "the head pod", head.get("rayStartParams") or {}, head.get("template") or {}
    for group in spec.get("workerGroupSpecs") or ():
        yield (
            f"worker group {group.get('groupName')}",
            group.get("rayStartParams") or {},
            group.get("template") or {},
        )


def _shared_memory(template: Json) -> int | None:
    """Bytes of /dev/shm in the Ray container (KubeRay: the first); None where nothing limits it."""
    pod = template.get("spec") or {}
    containers: Sequence[Json] = pod.get("containers") or ()
    if not containers:
        return None
    mount = next(
        (each for each in containers[0].get("volumeMounts") or () if each.get("mountPath") == SHM), None
    )
    limit = size_of(((containers[0].get("resources") or {}).get("limits") or {}).get("memory"))
    if mount is None:
        # KubeRay mounts an emptyDir of the container's memory there itself (common/pod.go, addEmptyDir).
        return limit
    volume: Json = next(
        (each for each in pod.get("volumes") or () if each.get("name") == mount.get("name")), {}
    )
    memory = volume.get("emptyDir") or {}
    if memory.get("medium") != "Memory":
        # A claim or a folder of the disk: its size is not to be known from here.
        return None
    sizes = [size for size in (size_of(memory.get("sizeLimit")), limit) if size is not None]
    return min(sizes) if sizes else None


def size_of(quantity: Any) -> int | None:
    """Bytes of a Kubernetes quantity, None if there is none to read."""
    try:
        return None if quantity is None else Quantity(str(quantity)).bytes
    except ValueError:
        return None
