"""Which sizes can be drawn: the model's limits, the layout's rule, and the nearest sizes that obey both."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from fluxsampler_serve.engines.limits import refuses_split

if TYPE_CHECKING:
    from collections.abc import Callable

    from fluxsampler_api.app_args import AppArgs, SizeLimits
    from fluxsampler_serve.engines.protocol import SampleRequest

WINDOW = 6
"""Multiples to look around a size for its neighbours."""


def outside_limits(limits: SizeLimits, width: int, height: int) -> str | None:
    """Which limit of the model ``width``x``height`` breaks, or None."""
    step = limits.multiple_of
    if width % step or height % step:
        return f"width and height must be multiples of {step}"
    if min(width, height) < limits.min_side:
        return f"width and height must be at least {limits.min_side}"
    if max(width, height) > limits.max_side:
        return f"width and height must be at most {limits.max_side}"
    if width * height > limits.max_pixels:
        return f"width times height must be at most {limits.max_pixels} pixels"
    return None


def gang_refusal(args: AppArgs, request: SampleRequest) -> str | None:
    """Why the plan's gang cannot draw this, or None."""
    if args.parallel is None:
        return "this plan has no gang"
    return refuses_split(request, args.parallel.layout)


def refusal(args: AppArgs, request: SampleRequest) -> str | None:
    """Why no engine of the plan can draw this, or None."""
    problem = outside_limits(args.sizes, request.width, request.height)
    if problem is None and args.fallback is None:
        problem = gang_refusal(args, request)
    return problem


def nearest(
    limits: SizeLimits, width: int, height: int, accept: Callable[[int, int], bool], count: int = 3
) -> list[tuple[int, int]]:
    """Up to ``count`` sizes that ``accept`` takes, the nearest first (by the ratio of each side)."""
    step = limits.multiple_of
    low, high = -(-limits.min_side // step), limits.max_side // step
    columns, rows = _clamped(width / step, low, high), _clamped(height / step, low, high)
    for window in (WINDOW, high):
        found = [
            (x * step, y * step)
            for x in range(max(low, columns - window), min(high, columns + window) + 1)
            for y in range(max(low, rows - window), min(high, rows + window) + 1)
            if x * y * step * step <= limits.max_pixels and accept(x * step, y * step)
        ]
        if found:
            wide, tall = log(max(width, 1)), log(max(height, 1))
            found.sort(key=lambda size: ((log(size[0]) - wide) ** 2 + (log(size[1]) - tall) ** 2, size))
            return found[:count]
    return []


def _clamped(value: float, low: int, high: int) -> int:
    return min(max(round(value), low), high)
