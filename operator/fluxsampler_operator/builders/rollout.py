"""Which Ray clusters have to go, so that KubeRay makes them anew in the desired form.

Under `upgradeStrategy: None` KubeRay 1.6 never touches the pods of a RayCluster, not even of one that
could not start; under NewCluster it needs a second set of GPUs. But a RayCluster that is gone it makes
again from the RayService (rayservice_controller.go: shouldUpdateCluster, shouldPrepareNewCluster).
So a change that needs new pods deletes the cluster of the old form. There is no phase to keep: the
answer follows from what is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fluxsampler_operator.manifest import FORM_ANNOTATION

Json = Mapping[str, Any]


def outdated(rayservice: Json, clusters: Iterable[Json], pods: Iterable[Json]) -> tuple[str, ...]:
    """Names of RayClusters to delete, sorted.

    ``rayservice`` is the live object after it was applied, ``clusters`` and ``pods`` are those with the
    sampler's label. Empty under NewCluster, and until KubeRay has seen the RayService's present form: it
    would make the old one again, and where it does not run nobody would make any.
    """
    meta, status = rayservice.get("metadata", {}), rayservice.get("status", {})
    strategy = rayservice.get("spec", {}).get("upgradeStrategy", {}).get("type")
    if strategy != "None" or status.get("observedGeneration") != meta.get("generation"):
        return ()
    wanted = _form(rayservice)
    living = [pod for pod in pods if "deletionTimestamp" not in pod.get("metadata", {})]
    stale = {_labels(pod).get("ray.io/cluster") for pod in living if _form(pod) != wanted}
    return tuple(
        sorted(
            name
            for cluster in clusters
            if "deletionTimestamp" not in cluster["metadata"]
            and ((name := cluster["metadata"]["name"]) in stale or _form(cluster) != wanted)
        )
    )


def _form(thing: Json) -> str | None:
    annotations: Mapping[str, str] = thing.get("metadata", {}).get("annotations") or {}
    return annotations.get(FORM_ANNOTATION)


def _labels(thing: Json) -> Mapping[str, str]:
    labels: Mapping[str, str] = thing.get("metadata", {}).get("labels") or {}
    return labels
