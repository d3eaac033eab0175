"""Checks of the pods and their containers: secrets, volumes, images, nodes, memory, crashes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fluxsampler_operator.diagnosis.causes import Cause, cluster
from fluxsampler_operator.diagnosis.cluster_checks import GIB, SHM, about, note, size_of
from fluxsampler_operator.observed import Observed, pod_state
from fluxsampler_operator.observed.pod_state import Container, Pod
from fluxsampler_operator.reasons import Reason

Json = Mapping[str, Any]

# kubelet's words: pkg/kubelet/images/types.go, pkg/kubelet/kuberuntime.
IMAGE_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable"}
)  # fmt: skip
CONFIG_REASON = "CreateContainerConfigError"
CREATE_REASONS = frozenset({CONFIG_REASON, "CreateContainerError", "RunContainerError", "PostStartHookError"})
UNCREATED_ENDS = frozenset({"StartError", "ContainerCannotRun", "CreateContainerError"})
GPU = "nvidia.com/gpu"
SHM_SENTENCE = re.compile(r"object store size \(.*\) exceeds\s+/dev/shm", re.DOTALL)
LOG_LINES = 3


def secret_missing(observed: Observed) -> Cause | None:
    """A Secret, or a key of it, that the spec refers to does not exist."""
    for container in _containers(observed):
        said = str(container.waiting.get("message") or "")
        if container.waiting.get("reason") == CONFIG_REASON and "secret" in said.lower():
            return cluster(
                Reason.SECRET_MISSING,
                f"container {container.name} of pod {container.pod} cannot start: {said}; create that Secret with that key in this namespace "
                "(spec.serving.authSecretRef, spec.model.tokenSecretRef)",
            )
    creating = _creating(observed)
    for event in _events(observed, "FailedMount"):
        if about(event) in creating and re.search(r'secret "[^"]*" not found', note(event)):
            return cluster(
                Reason.SECRET_MISSING,
                f"pod {about(event)}: {_first_sentence(note(event))}; create that Secret in this namespace",
            )
    return None


def volume_missing(observed: Observed) -> Cause | None:
    """A claim that is not there or not bound, or a volume that cannot be mounted."""
    for pod in _pods(observed):
        if pod.unscheduled and "persistentvolumeclaim" in pod.unscheduled.lower():
            return cluster(
                Reason.VOLUME_MISSING,
                f"pod {pod.name} waits for its volume: {_scheduler(pod.unscheduled)}; create or bind the claim that spec.model.source or "
                "spec.model.cache.claim names, in this namespace",
            )
    creating = _creating(observed)
    for event in _events(observed, "FailedMount", "FailedAttachVolume"):
        if about(event) in creating:
            return cluster(
                Reason.VOLUME_MISSING,
                f"pod {about(event)} cannot mount a volume: {note(event)}; correct spec.model.cache, spec.model.source or the volumes of "
                "spec.podTemplate",
            )
    return None


def image_pull_failed(observed: Observed) -> Cause | None:
    """An image cannot be pulled."""
    for container in _containers(observed):
        if container.waiting.get("reason") in IMAGE_REASONS:
            said = _pull_sentence(str(container.waiting.get("message") or container.waiting.get("reason")))
            return cluster(
                Reason.IMAGE_PULL_FAILED,
                f"pod {container.pod} cannot get the image {container.image}: {said}; correct its name (the chart's image.serve, or "
                "spec.podTemplate), or give imagePullSecrets that may read it",
            )
    return None


def unschedulable_gpu(observed: Observed) -> Cause | None:
    """No node has the cards free."""
    for pod in _pods(observed):
        said = pod.unscheduled or (pod.message if pod.reason == f"OutOf{GPU}" else None)
        if said and GPU in said:
            return cluster(
                Reason.UNSCHEDULABLE_GPU,
                f"the {pod.role} pod {pod.name} finds no node with its cards free: {_scheduler(said)}; free cards (kubectl describe nodes "
                "shows who holds them), add a node, or lower spec.hardware.gpusPerNode or spec.replicas",
            )
    return None


def unschedulable(observed: Observed) -> Cause | None:
    """No node fits, for another reason than cards."""
    for pod in _pods(observed):
        if pod.unscheduled:
            return cluster(
                Reason.UNSCHEDULABLE,
                f"the {pod.role} pod {pod.name} finds no node: {_scheduler(pod.unscheduled)}; {_scheduling_fix(pod.unscheduled)}",
            )
    return None


def out_of_memory(observed: Observed) -> Cause | None:
    """The kernel killed a container at its memory limit."""
    for container in _containers(observed):
        if container.ended.get("reason") == "OOMKilled":
            return cluster(
                Reason.WORKER_OOM_KILLED,
                f"container {container.name} of pod {container.pod} was killed at its memory limit{_limit(container)} (OOMKilled, exit code "
                f"{container.ended.get('exitCode')}); {MEMORY_FIX}",
            )
    for pod in _pods(observed):
        if pod.reason == "Evicted" and "memory" in pod.message:
            return cluster(
                Reason.WORKER_OOM_KILLED,
                f"the {pod.role} pod {pod.name} was evicted: {pod.message.strip()}; the node ran out of memory, {MEMORY_FIX}",
            )
    return None


MEMORY_FIX = (
    "remove or raise resources.limits.memory in spec.podTemplate (status.plan.memory.host says what is needed), or ask for less: "
    "spec.objectStore.memory, spec.serving.maxOngoingRequests, a smaller spec.parallelism.target"
)


def shared_memory_too_small(observed: Observed) -> Cause | None:
    """Ray itself said on its way out that its store does not fit, e.g. since an admission webhook changed the pod."""
    for container in _containers(observed):
        if SHM_SENTENCE.search(str(container.ended.get("message") or "")):
            return cluster(
                Reason.SHARED_MEMORY_TOO_SMALL,
                f"pod {container.pod}: {_tail(str(container.ended['message']))}; raise the sizeLimit of the volume at {SHM}, or lower "
                "spec.objectStore.memory",
            )
    return None


def container_failed(observed: Observed) -> Cause | None:
    """A container cannot be created, or ends again and again."""
    for container in _containers(observed):
        uncreated = _uncreated(container)
        if uncreated is not None:
            return cluster(
                Reason.POD_FAILED,
                f"container {container.name} of pod {container.pod} cannot be created: {uncreated}; correct spec.podTemplate or what it "
                "refers to",
            )
        if container.ended:
            said = _tail(str(container.ended.get("message") or ""))
            how = f"exit code {container.ended.get('exitCode')}"
            reason = container.ended.get("reason")
            words = f"{how}, {reason}" if reason and reason != "Error" else how
            return cluster(
                Reason.POD_FAILED,
                f"container {container.name} of pod {container.pod} ended ({words}){f': {said}' if said else ''}; its log says more: "
                f"kubectl logs {container.pod} -c {container.name} --previous",
            )
    for pod in _pods(observed):
        if pod.phase == "Failed":
            return cluster(
                Reason.POD_FAILED,
                f"the {pod.role} pod {pod.name} failed: {pod.reason or 'no reason given'}: {pod.message.strip() or 'nothing more is said'}; "
                f"kubectl describe pod {pod.name} says more",
            )
    return None


def _uncreated(container: Container) -> str | None:
    """Why it could not be created; kubelet tells it while it waits, and as an end between two tries."""
    if container.waiting.get("reason") in CREATE_REASONS:
        return str(container.waiting.get("message") or container.waiting["reason"])
    if container.ended.get("reason") in UNCREATED_ENDS:
        return str(container.ended.get("message") or container.ended["reason"])
    return None


def _pods(observed: Observed) -> tuple[Pod, ...]:
    return pod_state.current(observed.pods, observed.rayservice)


def _containers(observed: Observed) -> Iterator[Container]:
    for pod in _pods(observed):
        yield from pod.containers


def _creating(observed: Observed) -> set[str]:
    """Pods that wait for their volumes, in the words of one without and one with init containers.

    An Event stays for an hour; a pod of which anything runs has got over it.
    """
    waits = ("ContainerCreating", "PodInitializing")
    return {
        pod.name
        for pod in _pods(observed)
        if pod.containers and all(each.waiting.get("reason") in waits for each in pod.containers)
    }


def _events(observed: Observed, *reasons: str) -> Iterator[Json]:
    """Events of these reasons about pods that still exist, newest first."""
    names = {pod.name for pod in _pods(observed)}
    return (
        each for each in reversed(observed.events) if each.get("reason") in reasons and about(each) in names
    )


def _pull_sentence(said: str) -> str:
    """The registry's part of kubelet's sentence: the rest alternates between pulling and backing off."""
    said = said.rsplit("ErrImagePull: ", maxsplit=1)[-1]
    return (
        said.split(": ", 1)[1].strip()
        if said.startswith("Back-off pulling image") and ": " in said
        else said.strip()
    )


def _scheduler(said: str) -> str:
    """The scheduler's count of nodes, without what it says about preemption."""
    return re.split(r"\.? (?:no new claims to deallocate|preemption:)", said)[0].strip().rstrip(".")


def _scheduling_fix(said: str) -> str:
    if "taint" in said:
        return "add spec.hardware.tolerations for these taints, or use other nodes"
    if "node affinity" in said or "selector" in said:
        return "no node has the labels: correct spec.hardware.nodeSelector, or label a node"
    return "add a node, free what is asked for, or ask for less (status.plan.memory.host, spec.hardware.memory, spec.podTemplate)"


def _limit(container: Container) -> str:
    size = size_of(container.memory_limit)
    return "" if size is None else f" of {size / GIB:.2f} GiB"


def _first_sentence(said: str) -> str:
    return said.splitlines()[0] if said else said


def _tail(said: str) -> str:
    """The last lines of a termination message: with FallbackToLogsOnError, the last lines of the log."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return " ".join(lines[-LOG_LINES:])
