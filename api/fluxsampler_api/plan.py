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

    pipefusion: int = Field(1, description="Pipeline stages.")
    tensor: int = Field(1, description="Tensor-parallel degree.")
    ulysses: int = Field(1, description="Ulysses sequence-parallel degree.")
    ring: int = Field(1, description="Ring sequence-parallel degree.")
    gpus_per_replica: int = Field(description="Cards (on CPU: rank processes) of one replica.")
    replicas: int = Field(description="Parallel replicas.")
    stage_blocks: tuple[int, ...] = Field((), description="Transformer blocks per pipeline stage.")
    encoders: str = Field(description="Where the text encoders live, in words.")
    summary: str = Field(description="Short name, such as pp8 or pp2·u4.")


class PlannedFallback(StatusModel):
    """Where fallback replicas live."""

    placement: Literal["CoResident", "Reserved", "OnDemand", "None"] = Field(
        description="On a rank's card, on a card of its own, on a dead gang's cards, or nowhere."
    )
    replicas: int = Field(description="Warm replicas.")
    max_replicas: int = Field(0, description="Most replicas that fit.")
    cards: tuple[int, ...] = Field((), description="Cards that hold one.")
    quantization: Literal["none", "fp8"] = Field("none", description="How its weights are stored.")
    message: str = Field("", description="Why this placement.")


class MemoryComponent(StatusModel):
    """One thing in a card's memory."""

    name: str = Field(description="What it is.")
    gib: float = Field(description="GiB.")


class CardMemory(StatusModel):
    """What sits on one card, and how much of it is usable."""

    index: int = Field(description="Number of the card on its node.")
    role: str = Field(description="rank 3 of gang 0, fallback, …")
    components: tuple[MemoryComponent, ...] = Field(description="What is on it.")
    total_gib: float = Field(description="Sum of the components.")
    usable_gib: float = Field(description="What may be used of the card.")


class HostMemory(StatusModel):
    """Memory of one node's pod (or of this machine's Ray), and the inequalities it satisfies."""

    object_store_gib: float = Field(description="Ray's object store.")
    shm_gib: float = Field(description="Shared memory: the store, transport and headroom.")
    heap_gib: float = Field(description="Memory of the processes.")
    weights_gib: float = Field(description="Mapped weight files, one copy per node.")
    system_gib: float = Field(description="Ray's own processes.")
    limit_gib: float = Field(description="Memory limit of the pod.")
    node_gib: float = Field(description="Memory of the node.")
    proof: tuple[str, ...] = Field(description="Each inequality with its numbers.")


class PlannedMemory(StatusModel):
    """Memory of every card, and of the host."""

    cards: tuple[CardMemory, ...] = Field(description="Each card.")
    host: HostMemory


class Estimate(StatusModel):
    """Expected speed at the plan's target, and how far off the calibration was."""

    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    steps: int = Field(description="Denoising steps.")
    seconds_per_image: float = Field(description="Seconds for one picture.")
    images_per_minute: float = Field(description="Pictures per minute of all replicas.")
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
    message: str = Field(description="The numbers, and what would make it fit.")
    candidates: int = Field(1, description="Layouts of this family.")


class PlanStatus(StatusModel):
    """The chosen plan, explained."""

    layout: PlannedLayout
    fallback: PlannedFallback
    memory: PlannedMemory
    estimate: Estimate
    rejected: tuple[Rejection, ...] = Field((), description="What was not taken, and why.")
