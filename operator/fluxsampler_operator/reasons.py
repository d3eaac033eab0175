"""Every word that a condition's ``reason`` may be. `docs/operations/conditions.md` explains each."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Reasons, in the order in which an object meets them."""

    # Accepted
    PLANNED = "Planned"
    INVALID_SPEC = "InvalidSpec"
    INSUFFICIENT_GPU_MEMORY = "InsufficientGPUMemory"
    INSUFFICIENT_HOST_MEMORY = "InsufficientHostMemory"
    INFEASIBLE = "Infeasible"
    UNKNOWN_MODEL = "UnknownModel"
    UNKNOWN_GPU = "UnknownGPU"
    NODES_UNREADABLE = "NodesUnreadable"
    APPLY_REFUSED = "ApplyRefused"
    PLANNING = "Planning"

    # ClusterReady, and EngineReady once it is up
    RUNNING = "Running"
    STARTING = "Starting"
    KUBERAY_MISSING = "KubeRayMissing"
    QUOTA_OR_ADMISSION = "QuotaOrAdmission"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    SECRET_MISSING = "SecretMissing"  # noqa: S105  (a reason, not a password)
    VOLUME_MISSING = "VolumeMissing"
    UNSCHEDULABLE_GPU = "UnschedulableGPU"
    UNSCHEDULABLE = "Unschedulable"
    SHARED_MEMORY_TOO_SMALL = "SharedMemoryTooSmall"
    WORKER_OOM_KILLED = "WorkerOOMKilled"
    POD_FAILED = "PodFailed"

    # EngineReady, Serving
    DEPLOYING = "Deploying"
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_AUTH_FAILED = "ModelAuthFailed"
    MODEL_CORRUPT = "ModelCorrupt"
    ENGINE_FAILED = "EngineFailed"
    PICTURE_DRAWN = "PictureDrawn"
    PICTURE_FAILED = "PictureFailed"

    # Degraded, Ready
    PARALLEL_UNAVAILABLE = "ParallelUnavailable"
    AS_EXPECTED = "AsExpected"
    NOT_SERVING = "NotServing"
    READY = "Ready"


PROGRESS = frozenset({Reason.PLANNING, Reason.STARTING, Reason.DEPLOYING, Reason.NOT_SERVING})
"""Reasons that only say: not yet."""

WAITING = frozenset(
    {Reason.KUBERAY_MISSING, Reason.UNSCHEDULABLE, Reason.UNSCHEDULABLE_GPU, Reason.QUOTA_OR_ADMISSION,
     Reason.NODES_UNREADABLE}
)  # fmt: skip
"""Reasons that end by themselves as soon as the cluster offers what is missing."""
