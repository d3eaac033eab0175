"""`status` of a FluxSampler: what is true now, written by the operator only."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from fluxsampler_api.plan import PlanStatus, StatusModel

ConditionType = Literal["Accepted", "ClusterReady", "EngineReady", "Serving", "Degraded", "Ready"]


class Condition(StatusModel):
    """A Kubernetes condition (meta/v1)."""

    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    reason: str = Field(min_length=1, max_length=1024, description="One CamelCase word.")
    message: str = Field(max_length=32768)
    last_transition_time: datetime
    observed_generation: int = Field(ge=0)


class Performance(StatusModel):
    """Measured, not estimated."""

    images_per_minute: float
    p50_seconds: float


class FluxSamplerStatus(StatusModel):
    """What is true now."""

    observed_generation: int | None = Field(None, ge=0)
    phase: Literal["Pending", "Starting", "Ready", "Degraded", "Failed", "Deleting"] | None = None
    conditions: tuple[Condition, ...] = ()
    plan: PlanStatus | None = None
    engine: Literal["parallel", "fallback", "none"] | None = Field(
        None, description="Which engine answers now."
    )
    replicas: int | None = Field(None, ge=0, description="Parallel replicas that are up.")
    fallback_replicas: int | None = Field(None, ge=0)
    url: str | None = None
    performance: Performance | None = None
    selector: str | None = Field(
        None, description="Label selector of the Ray pods, for the scale subresource."
    )
