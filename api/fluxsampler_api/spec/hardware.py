"""`spec.hardware`: what to run on. Sizes of cards live in the planner's catalogue."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fluxsampler_api.messages import one_of
from fluxsampler_api.quantity import AutoOrQuantity, auto_or_int
from fluxsampler_api.rules import Rule, RuledModel, TransitionRule

AutoOrCards = Annotated[Literal["Auto"] | int, *auto_or_int(1, 16)]
Gpu = Annotated[
    Literal["Auto", "rtx-4090", "rtx-5090", "l20", "l40", "l40s", "a100", "h100", "cpu"],
    one_of("Auto", "rtx-4090", "rtx-5090", "l20", "l40", "l40s", "a100", "h100", "cpu"),
]


class Toleration(RuledModel):
    """A Kubernetes toleration (core/v1)."""

    key: str | None = Field(None, description="Key of the taint; with Exists and no key, every taint.")
    operator: Literal["Exists", "Equal"] = Field("Equal", description="Exists ignores the value.")
    value: str | None = Field(None, description="Value of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Effect of the taint; without one, every effect."
    )
    toleration_seconds: int | None = Field(None, ge=0, description="Seconds to stay on a NoExecute taint.")


class Hardware(RuledModel):
    """What to run on. Auto fields are read from the nodes, or from this machine by `fluxsampler up`."""

    gpu: Gpu = Field("Auto", description="Card, by its name in the planner's catalogue.")
    gpus_per_node: AutoOrCards = Field(
        "Auto", description="Auto, or 1 to 16 cards per node; on CPU, rank processes per node."
    )
    nodes: int = Field(1, ge=1, le=64, description="Nodes to use. A replica never crosses nodes.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels that a node must have.")
    tolerations: tuple[Toleration, ...] = Field(
        (), max_length=32, strict=False, description="Taints to tolerate."
    )
    runtime_class_name: str | None = Field(None, description="RuntimeClass of the Ray pods, e.g. nvidia.")
    device: Literal["cuda", "cpu"] = Field(
        "cuda", description="Where to compute; cpu runs every rank on gloo."
    )
    memory: AutoOrQuantity = Field(
        "Auto", description="Auto, or the host memory of one node that FluxSampler may use, such as 256Gi."
    )

    RULES = (
        Rule(
            cel="self.device != 'cpu' || self.gpu in ['Auto', 'cpu']",
            holds=lambda h: h.device != "cpu" or h.gpu in ("Auto", "cpu"),
            message="device is cpu; use gpu: cpu, or set device: cuda",
            field="gpu",
        ),
        Rule(
            cel="self.device != 'cuda' || self.gpu != 'cpu'",
            holds=lambda h: h.device != "cuda" or h.gpu != "cpu",
            message="gpu is cpu; set device: cpu, or name a card such as rtx-4090",
            field="device",
        ),
    )
    TRANSITIONS = (
        TransitionRule(
            cel="self.device == oldSelf.device",
            holds=lambda new, old: bool(new.device == old.device),
            message="device cannot change; delete the FluxSampler and apply it anew",
            field="device",
        ),
    )
