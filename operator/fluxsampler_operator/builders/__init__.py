"""Pure builders: a FluxSampler and its plan in, the manifests that shall exist out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluxsampler_api.serve_config import serve_config
from fluxsampler_operator.builders.access import service_account
from fluxsampler_operator.builders.disruption import budgets
from fluxsampler_operator.builders.network import network_policy, service
from fluxsampler_operator.builders.rayservice import rayservice
from fluxsampler_operator.probe import probe_digest
from fluxsampler_planner.args import app_args

if TYPE_CHECKING:
    from fluxsampler_api.sampler import FluxSampler
    from fluxsampler_operator.manifest import Manifest, Owner
    from fluxsampler_operator.settings import Settings
    from fluxsampler_planner import Plan

__all__ = ["desired"]


def desired(
    sampler: FluxSampler, plan: Plan, settings: Settings, owner: Owner, *, ray_cluster: str | None = None
) -> tuple[Manifest, ...]:
    """Every object that shall exist for ``sampler``, in the order to apply them.

    ``ray_cluster`` is the active one as the RayService's status names it; it only counts under upgrade
    strategy NewCluster (see :func:`~.network.service`). Equal arguments give equal manifests.
    Raises :class:`~fluxsampler_operator.errors.WrongPatch` for a podTemplate that cannot be merged.
    """
    spec = sampler.spec
    digest = probe_digest(settings.probe_key, owner) if settings.probe_key else None
    serve = serve_config(app_args(sampler, plan, on_cluster=True, probe_token_sha256=digest))
    account = service_account(owner)
    return (
        account,
        network_policy(owner),
        *budgets(plan.node.nodes, owner),
        service(spec, owner, ray_cluster if spec.upgrade.strategy == "NewCluster" else None),
        rayservice(sampler, plan, serve, settings, owner, account["metadata"]["name"]),
    )
