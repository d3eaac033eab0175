"""Requests for engines, resolved as the gateway would."""

from __future__ import annotations

from dataclasses import replace

from fluxsampler_serve.engines.protocol import Cancel, Engine, Progress, Sample, SampleRequest

RED_CIRCLE = SampleRequest(
    prompt="a red circle",
    width=64,
    height=64,
    steps=8,
    seed=1,
    guidance_scale=0.0,
    max_text_tokens=16,
)


def request(**changes: object) -> SampleRequest:
    """A red circle, but for ``changes``."""
    return replace(RED_CIRCLE, **changes)  # type: ignore[arg-type]  # fields by name


def draw(engine: Engine, wanted: SampleRequest) -> Sample:
    """To the end, watched by nobody."""
    return engine.sample(wanted, lambda _: None, Cancel())


def draw_watched(engine: Engine, wanted: SampleRequest) -> tuple[Sample, list[Progress]]:
    """To the end, with what the progress callback heard."""
    heard: list[Progress] = []
    return engine.sample(wanted, heard.append, Cancel()), heard
