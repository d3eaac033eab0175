"""What Ray Serve says about the application, as KubeRay copies it into RayService.status. Pure.

KubeRay fills ``activeServiceStatus`` for the cluster that gets the traffic and
``pendingServiceStatus`` for one that is being brought up; a first cluster is pending until its
application runs (ray-operator 1.6.2, rayservice_controller.go, calculateStatus).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]

APPLICATION = "fluxsampler"
ACTIVE, PENDING = "activeServiceStatus", "pendingServiceStatus"
GATEWAY, PARALLEL, FALLBACK = "Gateway", "ParallelSampler", "FallbackSampler"


@dataclass(frozen=True, slots=True)
class Deployment:
    """Serve's words about one deployment: HEALTHY, UPDATING, UPSCALING, UNHEALTHY, DEPLOY_FAILED, …"""

    status: str
    message: str = ""

    @property
    def healthy(self) -> bool:
        """All replicas that were asked for run."""
        return self.status == "HEALTHY"


@dataclass(frozen=True, slots=True)
class Application:
    """Serve's words about the application on ``cluster``; ``status`` is empty while nobody said anything.

    ``before`` names the cluster that had the traffic until now, when these are the words of one that is brought
    up beside it or in its place; KubeRay says nothing of the former then.
    """

    cluster: str = ""
    before: str = ""
    status: str = ""
    message: str = ""
    deployments: Mapping[str, Deployment] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        """All its deployments are healthy."""
        return self.status == "RUNNING"

    @property
    def failed(self) -> bool:
        """Serve gave up, or what ran broke."""
        return self.status in ("DEPLOY_FAILED", "UNHEALTHY")

    @property
    def changing(self) -> bool:
        """A change is under way, and nothing that was there before it broke."""
        told = {each.status for each in self.deployments.values()}
        return self.status == "DEPLOYING" and told <= {"HEALTHY", "UPDATING", "UPSCALING", "DOWNSCALING"}

    def healthy(self, deployment: str) -> bool:
        """Whether that deployment exists and all its replicas run."""
        found = self.deployments.get(deployment)
        return found is not None and found.healthy

    def texts(self) -> Iterator[tuple[str, str]]:
        """(who, message) of everything that has one: deployments first, since the application only names them."""
        for name in (PARALLEL, FALLBACK, GATEWAY):
            found = self.deployments.get(name)
            if found is not None and found.message:
                yield name, found.message
        if self.message:
            yield "the application", self.message


def application(rayservice: Json | None) -> Application:
    """The application that gets the traffic, else the one that is being brought up."""
    status = (rayservice or {}).get("status") or {}
    for side in (ACTIVE, PENDING):
        cluster = status.get(side) or {}
        said = (cluster.get("applicationStatuses") or {}).get(APPLICATION)
        if said:
            return Application(
                cluster=cluster.get("rayClusterName") or "",
                before=(status.get(ACTIVE) or {}).get("rayClusterName") or "" if side == PENDING else "",
                status=said.get("status") or "",
                message=said.get("message") or "",
                deployments={
                    name: Deployment(each.get("status") or "", each.get("message") or "")
                    for name, each in (said.get("serveDeploymentStatuses") or {}).items()
                },
            )
    active, pending = ((status.get(side) or {}).get("rayClusterName") or "" for side in (ACTIVE, PENDING))
    # While KubeRay brings up a second cluster it does not ask the first one, which has the traffic, any more.
    return (
        Application(cluster=pending, before=active)
        if active and pending not in ("", active)
        else Application()
    )
