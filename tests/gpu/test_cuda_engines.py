"""The engines on CUDA: what `docs/dev/gpu.md` lists as never run elsewhere."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fluxsampler_api.app_args import Layout, ModelArgs
from fluxsampler_serve.engines.parallel import ParallelEngine
from fluxsampler_serve.engines.protocol import Cancel, Progress, SampleRequest
from fluxsampler_serve.engines.single import SingleEngine
from fluxsampler_serve.errors import Cancelled, EngineFailed, EngineStartFailed
from fluxsampler_serve.gang.forkserver import Forkserver
from tests.support.model_folders import BUILTIN, model_args
from tests.support.random_flux import EIGHTH, build
from tests.support.requests import RED_CIRCLE, draw, request
from tests.support.shape_checker import matches

pytestmark = pytest.mark.gpu

Need = Callable[..., None]

LAYOUTS = [
    Layout(ulysses=2),
    Layout(tensor=2),
    Layout(pipefusion=2, stage_blocks=(3, 3)),
    Layout(pipefusion=4, stage_blocks=(1, 1, 2, 2)),
    Layout(pipefusion=2, ulysses=2, stage_blocks=(3, 3)),
]
RINGS = [Layout(ring=2), Layout(ulysses=2, ring=2)]
CLOSE = 5e-3
"""Largest difference of float32 latents between kernels of different devices and split reductions (TF32 is off)."""


def test_single_card_draws_what_the_cpu_draws(need: Need, random24: ModelArgs) -> None:
    need(1)
    card, cpu = SingleEngine(random24, "cuda"), SingleEngine(random24, "cpu")
    try:
        card.load()
        cpu.load()
        for wanted in (request(guidance_scale=3.5), request(width=128, height=96, max_text_tokens=32)):
            assert np.abs(draw(card, wanted).latents - draw(cpu, wanted).latents).max() < CLOSE
    finally:
        card.close()
        cpu.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["none", "fp8"])
def test_single_card_draws_a_red_circle(dtype: str, quantization: str, need: Need, folder: Path) -> None:
    need(1)
    engine = SingleEngine(
        model_args(f"file://{BUILTIN}", folder, dtype=dtype, quantization=quantization), "cuda"
    )
    try:
        engine.load()
        assert matches(draw(engine, RED_CIRCLE).pixels, "a red circle")
    finally:
        engine.close()


def test_memory_cap_is_held(need: Need, folder: Path) -> None:
    need(1)
    model = model_args(f"file://{build(folder / 'model', EIGHTH)}", folder / "cache")
    # A thousandth of a card cannot hold 0.35 GiB of weights on any card of the catalogue.
    engine = SingleEngine(model, "cuda", memory_fraction=0.001)
    with pytest.raises(EngineStartFailed, match="memory"):
        engine.load()
    engine.close()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_gang_draws_what_one_card_draws(
    layout: Layout, need: Need, random24: ModelArgs, request: pytest.FixtureRequest
) -> None:
    need(layout.ranks)
    forkserver: Forkserver = request.getfixturevalue("cuda_forkserver")
    card = SingleEngine(random24, "cuda")
    gang = ParallelEngine(random24, layout, "cuda", warmup_steps=100, forkserver=forkserver)
    try:
        card.load()
        gang.load()
        expected = draw(card, RED_CIRCLE)
        got = draw(gang, RED_CIRCLE)
        assert np.abs(expected.latents - got.latents).max() < CLOSE
        assert len(gang.card_memory) == layout.ranks
        assert all(facts["peak_allocated_gib"] > 0 for facts in gang.card_memory)
    finally:
        gang.close()
        card.close()


@pytest.mark.parametrize("layout", RINGS, ids=str)
def test_ring_in_bfloat16(layout: Layout, need: Need, folder: Path, request: pytest.FixtureRequest) -> None:
    need(layout.ranks)
    model = model_args(f"file://{BUILTIN}", folder, dtype="bfloat16")
    card = SingleEngine(model, "cuda")
    gang = ParallelEngine(model, layout, "cuda", forkserver=request.getfixturevalue("cuda_forkserver"))
    try:
        card.load()
        gang.load()
        assert np.abs(draw(card, RED_CIRCLE).latents - draw(gang, RED_CIRCLE).latents).mean() < 2e-2
    finally:
        gang.close()
        card.close()


@pytest.mark.parametrize("layout", [LAYOUTS[0], LAYOUTS[2]], ids=str)
def test_gang_stops_at_one_step_and_survives_nothing_silently(
    layout: Layout, need: Need, tiny: ModelArgs, request: pytest.FixtureRequest
) -> None:
    need(layout.ranks)
    forkserver: Forkserver = request.getfixturevalue("cuda_forkserver")
    gang = ParallelEngine(tiny, layout, "cuda", forkserver=forkserver)
    try:
        gang.load()
        expected = draw(gang, RED_CIRCLE)
        cancel = Cancel()

        def stop(progress: Progress) -> None:
            if progress.step == 3:
                cancel.set()

        with pytest.raises(Cancelled):
            gang.sample(_long(), stop, cancel)
        assert len({state.step for state in gang.gang.board.states()}) == 1
        assert np.array_equal(draw(gang, RED_CIRCLE).latents, expected.latents)

        pids = gang.gang.pids

        def kill(progress: Progress) -> None:
            if progress.step == 3:
                os.kill(pids[1], signal.SIGKILL)

        with pytest.raises(EngineFailed, match="rank 1 was killed"):
            gang.sample(_long(), kill, Cancel())
        gang.load()
        assert np.array_equal(draw(gang, RED_CIRCLE).latents, expected.latents)
    finally:
        gang.close()


def _long() -> SampleRequest:
    return request(steps=200)
