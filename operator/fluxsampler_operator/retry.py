"""A start that Serve has given up is tried again, since what it missed may be there by now. Pure.

Serve tries a new replica three times and then says DEPLOY_FAILED for good (ray 2.60, ``deployment_state.py``,
``_terminally_failed``), and KubeRay leaves it at that. A token that was corrected, a model that was copied, a hub
that is back would change nothing. New pods read Secrets and volumes anew, so the whole RayCluster is made anew.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from fluxsampler_operator.findings import View
from fluxsampler_operator.observed import Json, Observed
from fluxsampler_operator.serve_state import application

PATIENCE = timedelta(minutes=5)
"""How long Serve's last word stands first: time to read it, and no load for a hub that refuses."""


def given_up(sampler: Json, observed: Observed, now: datetime) -> str | None:
    """Name of the RayCluster to make anew, None while there is nothing to try again.

    The time is KubeRay's own: ``lastUpdateTime`` moves whenever the status of the RayService does. As long as
    any engine answers, nothing is taken away.
    """
    said = application(observed.rayservice)
    if said.status != "DEPLOY_FAILED" or observed.plan is None or observed.apply_errors:
        return None
    meta, status = (observed.rayservice or {}).get("metadata", {}), (observed.rayservice or {})["status"]
    since = status.get("lastUpdateTime")
    if status.get("observedGeneration") != meta.get("generation") or since is None:
        return None
    if now - datetime.fromisoformat(since) < PATIENCE:
        return None
    # Without a previous status this is what Serve's words alone say.
    return said.cluster or None if View(sampler, observed, None).engine() == "none" else None
