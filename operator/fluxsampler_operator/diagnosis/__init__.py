"""Root cause: ordered, named, pure checks over what was observed; the first that knows an answer gives it.

Each check looks for one kind of trouble and returns a :class:`~.causes.Cause`, whose message names the fix
and quotes the cluster's own sentence. The order is that of a start: KubeRay, manifests, pods, containers,
then what Serve says, then the picture. Counters and back-off times are left out of the quotes, so that a
message moves only when its cause does. What each looks like for real lies in `tests/data/observed/`.
"""

from __future__ import annotations

from fluxsampler_operator.diagnosis import cluster_checks, pod_checks, serve_checks
from fluxsampler_operator.diagnosis.causes import Cause, Check
from fluxsampler_operator.observed import Observed
from fluxsampler_operator.reasons import Reason


def picture_failed(observed: Observed) -> Cause | None:
    """The Service answered with something else than a picture."""
    picture = observed.picture
    if picture is None or picture.drawn:
        return None
    return Cause("Serving", Reason.PICTURE_FAILED, f"no picture came from {observed.url}: {picture.message}")


CHECKS: tuple[Check, ...] = (
    cluster_checks.kuberay_missing,
    cluster_checks.manifest_refused,
    cluster_checks.rayservice_invalid,
    cluster_checks.store_exceeds_shared_memory,
    cluster_checks.pods_refused,
    pod_checks.secret_missing,
    pod_checks.volume_missing,
    pod_checks.image_pull_failed,
    pod_checks.unschedulable_gpu,
    pod_checks.unschedulable,
    pod_checks.out_of_memory,
    pod_checks.shared_memory_too_small,
    pod_checks.container_failed,
    serve_checks.model_error,
    serve_checks.gpu_memory,
    serve_checks.shared_memory,
    serve_checks.out_of_memory,
    serve_checks.process_died,
    serve_checks.engine_failed,
    picture_failed,
)
"""In the order in which they are asked."""


def diagnose(observed: Observed) -> Cause | None:
    """The first cause, or None when nothing is known to be wrong."""
    return next((cause for check in CHECKS if (cause := check(observed)) is not None), None)


def causes(observed: Observed) -> dict[str, Cause]:
    """The first cause of each condition."""
    found: dict[str, Cause] = {}
    for check in CHECKS:
        cause = check(observed)
        if cause is not None:
            found.setdefault(cause.condition, cause)
    return found
