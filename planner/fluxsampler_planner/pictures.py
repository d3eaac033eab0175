"""How large a picture may be, and what a fallback needs for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fluxsampler_planner.memory import single_parts, total
from fluxsampler_planner.search import Inputs, rank_totals

if TYPE_CHECKING:
    from fluxsampler_planner.fallback import FallbackForm
    from fluxsampler_planner.search import Candidate

TOKEN_AREA = 256
"""Pixels of one token, 16 × 16."""

# The bisection ends at 256 × 256 pixels: memory figures are no finer.
_PRECISION = 1 << 16


def largest_picture(inputs: Inputs, shape: Candidate, *, fallback: bool) -> int:
    """Pixels of the largest picture that every engine of ``shape`` has the memory for, at most the model's own limit.

    ``fallback``: with one in every place where Ray may put it, however many are wanted: any card with a
    share to spare. Found by bisection: memory grows with the picture, and the plan's target fits.
    """
    low, high = inputs.picture.pixels, inputs.model.max_pixels
    beside = shape.fallback if fallback else None

    def fits(pixels: int) -> bool:
        larger, usable = _drawing(inputs, pixels), inputs.node.gpu.usable
        extra = 0 if beside is None else fallback_size(inputs, beside, pixels)
        shared = shape.rooms if inputs.cuda and shape.placement == "CoResident" else ()
        held = rank_totals(larger, shape.split, shape.blocks, shape.encoders) if shape.replicas else []
        return extra <= usable and all(
            size + (extra if rank in shared else 0) <= usable for rank, size in enumerate(held)
        )

    if low >= high or fits(high):
        return max(low, high)
    while high - low > _PRECISION:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low // TOKEN_AREA * TOKEN_AREA


def fallback_size(inputs: Inputs, form: FallbackForm, pixels: int) -> int:
    """Bytes of a single device that holds ``form`` and draws ``pixels``."""
    held = replace(inputs.form, fp8=form.quantization == "fp8")
    return total(
        single_parts(inputs.model, held, _drawing(inputs, pixels).picture, encoders=form.encoders == "device")
    )


def _drawing(inputs: Inputs, pixels: int) -> Inputs:
    picture = replace(inputs.picture, pixels=pixels, image_tokens=pixels // TOKEN_AREA)
    return replace(inputs, picture=picture)
