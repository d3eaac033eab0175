"""The RayService: Ray's pods and what Serve runs in them. Types: KubeRay's apis/ray/v1, written for 1.6."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fluxsampler_api.app_args import Placement
from fluxsampler_operator.builders import form, pods, sizes
from fluxsampler_operator.builders.text import as_yaml
from fluxsampler_operator.manifest import metadata

if TYPE_CHECKING:
    from fluxsampler_api.sampler import FluxSampler
    from fluxsampler_api.spec import FluxSamplerSpec
    from fluxsampler_operator.builders.sizes import PodSize
    from fluxsampler_operator.manifest import Manifest, Owner
    from fluxsampler_operator.settings import Settings
    from fluxsampler_planner import Plan

RAY_VERSION = "2.60.0"
"""Of the serve image; KubeRay picks probes and checks token authentication by it."""

WORKER_GROUP = "workers"

# How many fallback replicas a node offers places for: as many as a FluxSampler may ask for at all, so that
# another number needs no other pods. What fits is the planner's business.
_FALLBACK_PLACES = 64

# For so long KubeRay keeps an old cluster by default. A short deadline of requests is no reason for less: only after
# KubeRay has moved on does our Service name the new cluster, and do the nodes learn of its endpoints.
_DELETION_SECONDS = 60


def rayservice(
    sampler: FluxSampler, plan: Plan, serve: dict[str, Any], settings: Settings, owner: Owner, account: str
) -> Manifest:
    """The RayService of ``sampler``; ``serve`` is the document for Ray Serve, ``account`` the pods' ServiceAccount.

    Raises :class:`~fluxsampler_operator.errors.WrongPatch` for a podTemplate that cannot be merged.
    """
    spec = sampler.spec
    head, worker = sizes.head(plan), sizes.worker(plan)
    nodes, cards, cuda = plan.node.nodes, plan.node.cards, plan.node.device == "cuda"
    cluster: Manifest = {
        "rayVersion": RAY_VERSION,
        # KubeRay makes a Secret with a random token and hands it to its own pods; needs no right of ours.
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "rayStartParams": _start_params(head) | {"dashboard-host": "0.0.0.0", "num-gpus": "0"},  # noqa: S104 (of a pod)
            "template": pods.head(spec, head, settings, owner, account),
        },
        "workerGroupSpecs": [
            {
                "groupName": WORKER_GROUP,
                "replicas": nodes,
                "minReplicas": nodes,
                "maxReplicas": nodes,
                "rayStartParams": _start_params(worker)
                | ({"num-gpus": str(cards)} if cuda else {"resources": _places(cards)}),
                "template": pods.worker(spec, worker, cards, settings, owner, account),
            }
        ],
    }
    meta = metadata(owner, "rayservice")
    meta["annotations"] = form.stamp(cluster, serve, spec.upgrade.strategy)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": meta,
        "spec": {
            **_upgrade(spec),
            "rayClusterConfig": cluster,
            "serveConfigV2": as_yaml(serve),
        },
    }


def _upgrade(spec: FluxSamplerSpec) -> Manifest:
    """What KubeRay does about pods of a former form."""
    if spec.upgrade.strategy != "NewCluster":
        # KubeRay leaves them as they are, and rollout.py names what has to go; see there.
        return {"upgradeStrategy": {"type": "None"}}
    # A request that came before the traffic moved is drawn where it is, so that cluster stays as long as one may last.
    return {
        "upgradeStrategy": {"type": "NewCluster"},
        "rayClusterDeletionDelaySeconds": max(_DELETION_SECONDS, spec.serving.request_timeout_seconds),
    }


def _start_params(size: PodSize) -> dict[str, str]:
    """Arguments of `ray start` for one kind of pod.

    KubeRay would take the whole limit for Ray's `memory` although tmpfs counts against it, and Ray 30 %
    of it for its store. No CPUs: no actor of ours books one, and Ray starts an idle worker process for each.
    """
    return {
        "num-cpus": "0",
        "memory": str(size.heap),
        "object-store-memory": str(size.store),
        "metrics-export-port": str(pods.METRICS_PORT),
        "dashboard-agent-listen-port": str(pods.AGENT_PORT),
    }


def _places(cards: int) -> str:
    """Custom resources of a worker without GPUs; KubeRay passes the text to a shell, hence the quotes."""
    names = Placement()
    return f"'{json.dumps({names.rank: cards, names.fallback: _FALLBACK_PLACES})}'"
