"""`status` of a FluxSampler: what is true now, written by the operator only."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from fluxsampler_api.plan import PlanStatus, StatusModel

ConditionType = Literal["Accepted", "ClusterReady", "EngineReady", "Serving", "Degraded", "Ready"]


class Condition(StatusModel):
    """A Kubernetes condition (meta/v1)."""

    type: ConditionType = Field(description="What is judged.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(min_length=1, max_length=1024, description="One CamelCase word.")
    message: str = Field(max_length=32768, description="The cause, and what mends it.")
    last_transition_time: datetime = Field(description="When status last changed.")
    observed_generation: int = Field(ge=0, description="Generation of the spec that was judged.")


class Performance(StatusModel):
    """Measured with the canary picture, not estimated."""

    images_per_minute: float = Field(
        description="What the replicas of the engine that answers draw in a minute, one picture at a time each."
    )
    p50_seconds: float = Field(description="From the request for the canary picture to its answer.")


class FluxSamplerStatus(StatusModel):
    """What is true now."""

    observed_generation: int | None = Field(
        None, ge=0, description="Generation of the spec that all of this is about."
    )
    phase: Literal["Pending", "Starting", "Ready", "Degraded", "Failed", "Deleting"] | None = Field(
        None, description="One word for people; programs read conditions."
    )
    conditions: tuple[Condition, ...] = Field(
        (), description="What holds and what does not, each with its reason."
    )
    plan: PlanStatus | None = None
    engine: Literal["parallel", "fallback", "none"] | None = Field(
        None, description="Which engine answers now."
    )
    replicas: int | None = Field(None, ge=0, description="Parallel replicas that are up.")
    fallback_replicas: int | None = Field(None, ge=0, description="Fallback replicas that are up.")
    url: str | None = Field(None, description="Where the service answers inside the cluster.")
    performance: Performance | None = None
    selector: str | None = Field(
        None, description="Label selector of the Ray pods, for the scale subresource."
    )
