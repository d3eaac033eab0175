"""AppArgs for tests, written by hand so that a test of the Serve app needs no planner."""

from __future__ import annotations

from fluxsampler_api.app_args import (
    AppArgs,
    FallbackArgs,
    Layout,
    ModelArgs,
    ParallelArgs,
    RequestDefaults,
    ServingArgs,
    SizeLimits,
)
from tests.support.plans import TWO_PROCESSES

ULYSSES_2 = Layout(ulysses=2)
TINY = ModelArgs(name="tiny-shapes", source="builtin://tiny-shapes", dtype="float32", max_text_tokens=64)


def tiny_app_args(
    layout: Layout | None = ULYSSES_2,
    *,
    model: ModelArgs = TINY,
    fallback_replicas: int = 1,
    serving: ServingArgs | None = None,
) -> AppArgs:
    """The built-in model on CPU, a gang of `layout` (None: no gang) beside fallback replicas (0: none)."""
    return AppArgs(
        name="tiny",
        device="cpu",
        model=model,
        defaults=RequestDefaults(width=128, height=128, steps=8, guidance_scale=0.0, max_text_tokens=32),
        sizes=SizeLimits(multiple_of=16, min_side=64, max_side=256, max_pixels=256 * 256),
        parallel=ParallelArgs(layout=layout) if layout else None,
        fallback=FallbackArgs(
            placement="Reserved", min_replicas=fallback_replicas, max_replicas=fallback_replicas
        )
        if fallback_replicas
        else None,
        serving=serving
        or ServingArgs(max_ongoing_requests=2, max_queued_requests=8, request_timeout_seconds=60),
        plan=TWO_PROCESSES,
    )
