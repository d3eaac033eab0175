"""What is left to do when a FluxSampler is gone: nothing, except where KubeRay is gone as well.

Children go by their ownerReferences. But KubeRay holds every RayService by a finalizer of its own (1.6:
rayservice_controller.go, ``ray.io/rayservice-finalizer``); without KubeRay nobody would ever take it away, and
the RayService, its RayCluster, the pods, even the namespace would hang.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog

from fluxsampler_operator.cluster import RAY_SERVICES, Cluster
from fluxsampler_operator.errors import Conflict, KindMissing, NotFound
from fluxsampler_operator.manifest import SAMPLER_LABEL

_log = structlog.get_logger(__name__)

KUBERAY_FINALIZER = "ray.io/rayservice-finalizer"
# KubeRay needs a second or two: it deletes the RayCluster objects, which have no finalizer, and then lets go.
PATIENCE = timedelta(seconds=20)


async def finish_removal(cluster: Cluster, namespace: str, child: str, now: datetime) -> bool:
    """Let go of a RayService that nobody else lets go of; True while one is still there."""
    try:
        live = await cluster.get(RAY_SERVICES, namespace, child)
    except KindMissing:
        return False
    if live is None or (live["metadata"].get("labels") or {}).get(SAMPLER_LABEL) != child:
        return False
    meta = live["metadata"]
    since = meta.get("deletionTimestamp")
    if since is None and not meta.get("ownerReferences"):
        return (
            False  # it was left behind on purpose (--cascade=orphan), for the next FluxSampler of that name
        )
    if since is None or KUBERAY_FINALIZER not in (meta.get("finalizers") or ()):
        return True  # the garbage collector has not come to it yet, or others hold it
    if now - datetime.fromisoformat(since) >= PATIENCE:
        _log.warning(
            "KubeRay does not let go of a deleted RayService; its finalizer is taken away",
            namespace=namespace, name=child,
        )  # fmt: skip
        try:
            await cluster.drop_finalizer(RAY_SERVICES, live, KUBERAY_FINALIZER)
        except (Conflict, NotFound):
            _log.info("KubeRay was first", namespace=namespace, name=child)
    return True
