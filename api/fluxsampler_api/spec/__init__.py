"""`spec` of a FluxSampler: what a person asks for. Every field of DESIGN §4.

Models only; sizes of hardware and models live in the planner's catalogues. A number here that is
not obvious names where it comes from.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from fluxsampler_api.rules import Rule, RuledModel
from fluxsampler_api.spec.hardware import Hardware, Toleration
from fluxsampler_api.spec.model import Cache, Model, SecretRef
from fluxsampler_api.spec.parallelism import TOKEN_PIXELS, Parallelism, Target
from fluxsampler_api.spec.serving import (
    Autoscaling,
    Backoff,
    Canary,
    Fallback,
    Monitoring,
    ObjectStore,
    Promote,
    Serving,
    Upgrade,
)

__all__ = [
    "TOKEN_PIXELS",
    "Autoscaling",
    "Backoff",
    "Cache",
    "Canary",
    "Fallback",
    "FluxSamplerSpec",
    "Hardware",
    "Model",
    "Monitoring",
    "ObjectStore",
    "Parallelism",
    "Promote",
    "SecretRef",
    "Serving",
    "Target",
    "Toleration",
    "Upgrade",
]

# Flux.1's transformer has 24 heads of 128 (config.json of black-forest-labs/FLUX.1-dev), tiny-shapes 8 of 16.
FLUX_HEADS = 24
TINY_HEADS = 8


def _heads_rule(prefix: str, heads: int, fit: str) -> Rule:
    return Rule(
        cel=f"!self.model.source.startsWith('{prefix}') || !has(self.parallelism.ulysses) || {heads} % self.parallelism.ulysses == 0",
        holds=lambda s: not s.model.source.startswith(prefix) or heads % (s.parallelism.ulysses or 1) == 0,
        message=f"does not divide {heads} attention heads; use {fit}",
        quote=lambda s: str(s.parallelism.ulysses),
        field="parallelism.ulysses",
    )


class FluxSamplerSpec(RuledModel):
    """What a FluxSampler asks for."""

    model: Model
    hardware: Hardware = Hardware()
    parallelism: Parallelism = Parallelism()
    replicas: int = Field(1, ge=0, le=64, description="Parallel replicas; 0 leaves only fallbacks.")
    autoscaling: Autoscaling | None = None
    object_store: ObjectStore = ObjectStore()
    fallback: Fallback = Fallback()
    serving: Serving = Serving()
    upgrade: Upgrade = Upgrade()
    canary: Canary = Canary()
    monitoring: Monitoring = Monitoring()
    pod_template: dict[str, Any] = Field(
        default_factory=dict, description="Strategic-merge patch of the Ray pods (core/v1 PodTemplateSpec)."
    )

    RULES = (
        _heads_rule("hf://black-forest-labs/FLUX.1-", FLUX_HEADS, "1, 2, 3, 4, 6 or 8"),
        _heads_rule("builtin://", TINY_HEADS, "1, 2, 4 or 8"),
        Rule(
            cel=(
                "type(self.hardware.gpusPerNode) != int || !has(self.parallelism.gpusPerReplica) || "
                "self.parallelism.gpusPerReplica <= self.hardware.gpusPerNode"
            ),
            holds=lambda s: (
                s.hardware.gpus_per_node == "Auto"
                or (s.parallelism.gpus_per_replica or 1) <= s.hardware.gpus_per_node
            ),
            message="a replica never crosses nodes; lower gpusPerReplica to hardware.gpusPerNode or below",
            field="parallelism.gpusPerReplica",
        ),
        Rule(
            cel="self.replicas > 0 || self.fallback.enabled || has(self.autoscaling)",
            holds=lambda s: s.replicas > 0 or s.fallback.enabled or s.autoscaling is not None,
            message="replicas is 0 and fallback is off, nothing would answer; set replicas: 1, or fallback.enabled: true",
            field="replicas",
        ),
    )
