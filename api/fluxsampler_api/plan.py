"""The plan as people and the Serve app see it: `status.plan` of a FluxSampler, `/v1/info`, the page.

The planner computes with its own types; these are the answer, in units a person reads (GiB,
seconds, percent), and part of the contract. See DESIGN §4 and `docs/user/planning.md`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class StatusModel(BaseModel):
    """Base of everything under `status`: camelCase outside, frozen, nothing unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


class PlannedLayout(StatusModel):
    """The parallel layout of one replica, and how many replicas."""

    pipefusion: int = 1
    tensor: int = 1
    ulysses: int = 1
    ring: int = 1
    gpus_per_replica: int = Field(description="Cards (on CPU: rank processes) of one replica.")
    replicas: int
    stage_blocks: tuple[int, ...] = Field((), description="Transformer blocks per pipeline stage.")
    encoders: str = Field(description="Where the text encoders live, in words.")
    summary: str = Field(description="Short name, such as pp8 or pp2·u4.")


class PlannedFallback(StatusModel):
    """Where fallback replicas live."""

    placement: Literal["CoResident", "Reserved", "OnDemand", "None"]
    replicas: int = Field(description="Warm replicas.")
    max_replicas: int = 0
    cards: tuple[int, ...] = Field((), description="Cards that hold one.")
    quantization: Literal["none", "fp8"] = "none"
    message: str = Field("", description="Why this placement.")


class MemoryComponent(StatusModel):
    """One thing in a card's memory."""

    name: str
    gib: float


class CardMemory(StatusModel):
    """What sits on one card, and how much of it is usable."""

    index: int
    role: str = Field(description="rank 3 of gang 0, fallback, …")
    components: tuple[MemoryComponent, ...]
    total_gib: float
    usable_gib: float


class HostMemory(StatusModel):
    """Memory of one node's pod (or of this machine's Ray), and the inequalities it satisfies."""

    object_store_gib: float
    shm_gib: float
    heap_gib: float
    weights_gib: float = Field(description="Mapped weight files, one copy per node.")
    system_gib: float
    limit_gib: float
    node_gib: float
    proof: tuple[str, ...] = Field(description="Each inequality with its numbers.")


class PlannedMemory(StatusModel):
    """Memory of every card, and of the host."""

    cards: tuple[CardMemory, ...]
    host: HostMemory


class Estimate(StatusModel):
    """Expected speed at the plan's target, and how far off the calibration was."""

    width: int
    height: int
    steps: int
    seconds_per_image: float
    images_per_minute: float
    error_percent: float = Field(
        description="Mean absolute error on held-out published rows for this kind of card."
    )
    calibrated: bool = Field(
        description="False: no published rows for this card; scaled from its data sheet."
    )


class Rejection(StatusModel):
    """A family of layouts that was not taken, and why."""

    family: str = Field(description="Such as `ulysses 8` or `tensor × sequence`.")
    reason: str = Field(description="One CamelCase word.")
    message: str
    candidates: int = 1


class PlanStatus(StatusModel):
    """The chosen plan, explained."""

    layout: PlannedLayout
    fallback: PlannedFallback
    memory: PlannedMemory
    estimate: Estimate
    rejected: tuple[Rejection, ...] = ()
