"""A start that Serve has given up is tried again, since what it missed may be there by now. Pure.

Serve tries a new replica three times and then says DEPLOY_FAILED for good (ray 2.60, ``deployment_state.py``,
``_terminally_failed``), and KubeRay leaves it at that. A token that was corrected, a model that was copied, a hub
that is back would change nothing. New pods read Secrets and volumes anew, so the whole RayCluster is made anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from fluxsampler_operator.observed import Json, Observed
from fluxsampler_operator.observed.pod_state import head_ready
from fluxsampler_operator.observed.serve_state import application
from fluxsampler_operator.status.findings import View


def given_up(
    sampler: Json, observed: Observed, clusters: Iterable[Json], now: datetime, patience: timedelta
) -> tuple[str, ...]:
    """Names of the RayClusters (one, or none) to make anew; ``clusters`` are those with the sampler's label.

    For ``patience`` Serve's last word stands first: time to read it, and no load for a hub that refuses.

    The time is KubeRay's own: ``lastUpdateTime`` moves whenever the status of the RayService does. KubeRay may give
    a new cluster the name of the old one, and says nothing of it before it can ask it: so a cluster that is younger
    than Serve's last word is not the one that it was about. As long as any engine answers, nothing is taken away.
    """
    said, since = application(observed.rayservice), last_word(observed)
    if since is None or now - since < patience:
        return ()
    # Without a previous status this is what Serve's words alone say. What ails the head is the kubelet's to repair.
    if not head_ready(observed.pods, said.cluster) or View(sampler, observed, None).engine() != "none":
        return ()
    return tuple(
        meta["name"]
        for meta in (cluster["metadata"] for cluster in clusters)
        if meta["name"] == said.cluster and datetime.fromisoformat(meta["creationTimestamp"]) < since
    )


def last_word(observed: Observed) -> datetime | None:
    """When Serve gave the present form up; None when it did not, or KubeRay does not say."""
    if observed.plan is None or observed.apply_errors or observed.rayservice is None:
        return None
    if application(observed.rayservice).status != "DEPLOY_FAILED":
        return None
    meta, status = observed.rayservice["metadata"], observed.rayservice["status"]
    since = status.get("lastUpdateTime")
    if status.get("observedGeneration") != meta.get("generation") or since is None:
        return None
    return datetime.fromisoformat(since)
