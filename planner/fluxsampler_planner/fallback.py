"""Where a fallback lives when every card belongs to a gang: beside a rank, on its own card, or started on demand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fluxsampler_planner.gpus import GIB
from fluxsampler_planner.memory import Form, Picture, single_parts, total
from fluxsampler_planner.models import ModelFacts

Placement = Literal["CoResident", "Reserved", "OnDemand", "None"]

# How much slower a layout may be for the sake of its fallback, against the best one with a fallback
# that is only started on demand. A warm fallback answers in one request's time; a cold one first copies
# 12 to 22 GB over PCIe and starts a process (tens of seconds), in which nobody is answered.
CORESIDENT_LOSS = 0.15
# A card of its own is warm too, but can no longer help the gang: prefer sharing when it is about as fast.
RESERVED_PENALTY = 0.02
PENALTY: dict[Placement, float] = {
    "CoResident": 0.0,
    "Reserved": RESERVED_PENALTY,
    "OnDemand": CORESIDENT_LOSS,
    "None": 0.0,
}


@dataclass(frozen=True, slots=True)
class FallbackForm:
    """One way to hold the model on a single device: bytes in all, whether in fp8, and where its encoders are."""

    size: int
    quantization: Literal["none", "fp8"]
    encoders: Literal["device", "cpu"]


def forms(
    model: ModelFacts, element: int, quantization: str, picture: Picture, *, cuda: bool
) -> tuple[FallbackForm, ...]:
    """The forms to try, best picture and fastest answer first: the gang's own dtype before fp8, encoders on the card before CPU."""
    kinds: tuple[Literal["none", "fp8"], ...] = (
        ("none", "fp8")
        if cuda and quantization == "none"
        else ("fp8",)
        if quantization == "fp8"
        else ("none",)
    )
    found = []
    for kind in kinds:
        form = Form(element, kind == "fp8", cuda)
        found.append(FallbackForm(total(single_parts(model, form, picture, encoders=True)), kind, "device"))
        if cuda:
            found.append(FallbackForm(total(single_parts(model, form, picture, encoders=False)), kind, "cpu"))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class FallbackChoice:
    """A placement with the cards (numbered over all nodes) that hold a fallback, or can.

    ``asked``: by name; ``kept``: it is off, and engines leave it the room; ``alone``: no gang runs;
    ``cuda``: there are cards, where a CPU has processes.
    """

    placement: Placement
    form: FallbackForm | None
    cards: tuple[int, ...]
    warm: int
    most: int
    asked: bool = False
    kept: bool = False
    alone: bool = False
    cuda: bool = True

    @property
    def message(self) -> str:
        """Why this placement, in a sentence."""
        if self.form is None:
            return "fallback is off" + (
                "; its place is kept, so no engine starts again when it is turned on" if self.kept else ""
            )
        held = f"{self.form.quantization if self.form.quantization != 'none' else 'full-precision'} replica of {self.form.size / GIB:.1f} GiB"
        where = " with its text encoders on the CPU" if self.form.encoders == "cpu" else ""
        own = "has a card of its own" if self.cuda else "has a process of its own"
        if self.alone:
            share = "is as large as beside one" if self.placement == "CoResident" else own
            return f"no gang runs: a {held}{where} {share}"
        cold = "as asked" if self.asked else "no layout as fast as this one has room for a warm one"
        return {
            "CoResident": f"a warm {held}{where} fits beside a rank",
            "Reserved": f"a {held}{where} {own}",
            "OnDemand": f"{cold}: a {held}{where} starts {'on the cards' if self.cuda else 'in the place'} of a dead gang",
            "None": "fallback is off",
        }[self.placement]


def switched_off(*, kept: bool) -> FallbackChoice:
    """No fallback; ``kept``: engines leave it the room."""
    return FallbackChoice("None", None, (), 0, 0, kept=kept)
