"""A healthy FluxSampler as it is observed, and ways to break it."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from fluxsampler_operator.observed import Observed, PictureResult
from tests.support.plans import TWO_PROCESSES

DATA = Path(__file__).parents[2] / "data" / "observed"
URL = "http://tiny.default.svc:8000"
GIB = 1024**3

SAMPLER: dict[str, Any] = {
    "apiVersion": "fluxsampler.io/v1alpha1",
    "kind": "FluxSampler",
    "metadata": {"name": "tiny", "namespace": "default", "uid": "u-1", "generation": 1},
    "spec": {"model": {"source": "builtin://tiny-shapes"}, "replicas": 1},
}


def sampler(generation: int = 1, **spec: Any) -> dict[str, Any]:
    made = copy.deepcopy(SAMPLER)
    made["metadata"]["generation"] = generation
    made["spec"].update(spec)
    return made


def pod(role: str, name: str | None = None, **status: Any) -> dict[str, Any]:
    name = name or f"tiny-x-{role}"
    return {
        "metadata": {"name": name, "labels": {"ray.io/node-type": role, "ray.io/cluster": "tiny-x"}},
        "spec": {"containers": [{"name": f"ray-{role}", "resources": {"limits": {"memory": "4Gi"}}}]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
            "containerStatuses": [
                {
                    "name": f"ray-{role}",
                    "image": "127.0.0.1:5000/fluxsampler-serve:dev",
                    "ready": True,
                    "state": {"running": {"startedAt": "2026-11-22T15:00:00Z"}},
                    "lastState": {},
                }
            ],
            **status,
        },
    }


def waiting_pod(role: str, reason: str, message: str = "", **status: Any) -> dict[str, Any]:
    made = pod(role, phase="Pending", conditions=[{"type": "PodScheduled", "status": "True"}], **status)
    container = made["status"]["containerStatuses"][0]
    container.update(ready=False, state={"waiting": {"reason": reason, "message": message}})
    return made


def ended_pod(role: str, **terminated: Any) -> dict[str, Any]:
    """A pod whose container ended and is started again."""
    made = pod(role, conditions=[{"type": "PodScheduled", "status": "True"}])
    made["status"]["containerStatuses"][0].update(
        ready=False, state={"running": {}}, lastState={"terminated": terminated}
    )
    return made


def deployments(**status: str | tuple[str, str]) -> dict[str, Any]:
    words = {"Gateway": "HEALTHY", "ParallelSampler": "HEALTHY", "FallbackSampler": "HEALTHY", **status}
    return {
        name: {"status": said} if isinstance(said, str) else {"status": said[0], "message": said[1]}
        for name, said in words.items()
    }


def rayservice(
    application: str | None = "RUNNING", message: str = "", side: str = "activeServiceStatus", **status: str | tuple[str, str]
) -> dict[str, Any]:  # fmt: skip
    """As KubeRay shows it; ``status`` are words of Serve's deployments."""

    def template(role: str) -> dict[str, Any]:
        return {
            "spec": {
                "containers": [
                    {
                        "name": f"ray-{role}",
                        "resources": {"limits": {"memory": "4Gi"}},
                        "volumeMounts": [{"name": "dshm", "mountPath": "/dev/shm"}],
                    }
                ],
                "volumes": [{"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}],
            }
        }

    start = {"object-store-memory": str(GIB // 2)}
    made: dict[str, Any] = {
        "metadata": {"name": "tiny", "generation": 1},
        "spec": {
            "rayClusterConfig": {
                "headGroupSpec": {"rayStartParams": start, "template": template("head")},
                "workerGroupSpecs": [
                    {
                        "groupName": "cards",
                        "replicas": 1,
                        "rayStartParams": start,
                        "template": template("worker"),
                    }
                ],
            }
        },
        "status": {"observedGeneration": 1, "activeServiceStatus": {"rayClusterName": "tiny-x"}},
    }
    if application is not None:
        made["status"].setdefault(side, {})["applicationStatuses"] = {
            "fluxsampler": {
                "status": application,
                "message": message,
                "serveDeploymentStatuses": deployments(**status),
            }
        }
    return made


DRAWN = PictureResult(drawn=True, engine="parallel", message="", seconds=0.4)

HEALTHY = Observed(
    plan=TWO_PROCESSES,
    rayservice=rayservice(),
    pods=(pod("head"), pod("worker")),
    picture=DRAWN,
    url=URL,
    selector="fluxsampler.io/sampler=tiny",
)


def seen(**changes: Any) -> Observed:
    """The healthy one with changes."""
    return replace(HEALTHY, **changes)


def recorded(name: str) -> dict[str, Any]:
    """What a real cluster said: `tests/data/observed/<name>.json`."""
    found: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
    return found
