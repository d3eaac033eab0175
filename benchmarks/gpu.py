"""On CUDA: how long does a step of FLUX.1-dev take and how much does a card hold, against the planner's prediction?

The transformer has FLUX.1-dev's 57 blocks and random weights in bfloat16 (24 GB, built in a temporary
folder); the encoders and the VAE are the built-in model's, so a card holds what a rank without encoders
holds. Runs on the cards that are there: one alone if the model fits, and every layout over all of them
that the planner's memory model lets fit.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tests.support.model_folders import model_args
from tests.support.random_flux import POOLED_DIM, TEXT_DIM, Shape, build
from tests.support.requests import draw, request

from fluxsampler_api.app_args import Layout
from fluxsampler_planner import GPUS
from fluxsampler_planner.calibration import CALIBRATION
from fluxsampler_planner.cost import Workload, seconds
from fluxsampler_planner.memory import Form, Picture, rank_parts, total
from fluxsampler_planner.models import FLUX_DEV, ModelFacts
from fluxsampler_planner.split import Split, splits, stage_blocks
from fluxsampler_serve.engines.limits import refuses_layout, refuses_split
from fluxsampler_serve.engines.parallel import ParallelEngine
from fluxsampler_serve.engines.single import SingleEngine
from fluxsampler_serve.gang.forkserver import Forkserver
from fluxsampler_serve.weights import prepare

GIB = 1 << 30
SHAPE = Shape(FLUX_DEV.double_blocks, FLUX_DEV.single_blocks, FLUX_DEV.heads, FLUX_DEV.head_dim)
SIZE, TEXT, STEPS = 1024, 512, 8


def run(quick: bool = False) -> dict[str, Any]:
    """Each layout over all cards of this machine, at 1024²."""
    cards = torch.cuda.device_count()
    name = torch.cuda.get_device_name(0)
    key = next(
        (key for key, gpu in GPUS.items() if gpu.title.split(" 80GB")[0].lower() in name.lower()), None
    )
    usable = torch.cuda.get_device_properties(0).total_memory
    model = replace(
        FLUX_DEV, text_width=TEXT_DIM, pooled_width=POOLED_DIM, t5_parameters=0, clip_parameters=0
    )
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="fluxsampler-gpu-") as folder:
        shape = replace(SHAPE, double=2, single=4) if quick else SHAPE
        model = replace(model, double_blocks=shape.double, single_blocks=shape.single)
        source = f"file://{build(Path(folder) / 'model', shape, torch.bfloat16)}"
        args = model_args(source, Path(folder) / "cache", dtype="bfloat16", max_text_tokens=TEXT)
        prepared = prepare(args)
        wanted = request(
            width=SIZE, height=SIZE, steps=STEPS, max_text_tokens=TEXT, guidance_scale=3.5, preview_every=0
        )
        forkserver = Forkserver("cuda")
        try:
            for split in (Split(), *(splits(cards) if cards > 1 else ())):
                blocks = stage_blocks(model, split.pipefusion, "bytes")
                predicted = _memory(model, split, blocks)
                layout = Layout(
                    pipefusion=split.pipefusion, tensor=split.tensor, ulysses=split.ulysses, ring=split.ring,
                    stage_blocks=blocks if split.pipefusion > 1 else None,
                )  # fmt: skip
                if max(predicted) > usable or (
                    split.ranks > 1
                    and (refuses_layout(layout, prepared.facts) or refuses_split(wanted, layout))
                ):
                    continue
                engine = (
                    SingleEngine(args, "cuda", prepared=prepared)
                    if split.ranks == 1
                    else ParallelEngine(args, layout, "cuda", prepared=prepared, forkserver=forkserver)
                )
                try:
                    engine.load()
                    engine.warm_up(((SIZE, SIZE),), 2)
                    times = [
                        draw(engine, wanted).seconds["denoise"] / STEPS for _ in range(3 if quick else 7)
                    ]
                    memory = engine.card_memory
                finally:
                    engine.close()
                found.append(
                    {
                        "layout": str(layout),
                        "step_seconds": statistics.median(times),
                        "step_spread": [min(times), max(times)],
                        "predicted_step_seconds": _step(model, split, key),
                        "peak_gib": max(facts["peak_reserved_gib"] for facts in memory),
                        "predicted_gib": max(predicted) / GIB,
                    }
                )
        finally:
            forkserver.close()
    return {
        "card": name,
        "catalogue": key,
        "cards": cards,
        "layouts": found,
        "summary": [_row(one) for one in found],
    }


def _step(model: ModelFacts, split: Split, key: str | None) -> float | None:
    """The planner's seconds of a steady step; None for a card that is not in its catalogue."""
    if key is None:
        return None
    work = Workload(SIZE, SIZE, TEXT, STEPS)
    return seconds(model, split, work, CALIBRATION.parameters(GPUS[key])).step


def _memory(model: ModelFacts, split: Split, blocks: tuple[int, ...]) -> list[int]:
    """The planner's bytes of every rank."""
    form = Form(element=2, fp8=False, cuda=True)
    picture = Picture(model.image_tokens(SIZE, SIZE), TEXT, SIZE * SIZE)
    return [
        total(
            rank_parts(
                model, split, blocks, form, picture, stage=stage, first=stage == 0,
                decodes=stage == split.pipefusion - 1, encoders=False,
            )
        )
        for stage in range(split.pipefusion)
    ]  # fmt: skip


def _row(one: dict[str, Any]) -> tuple[str, str, str]:
    predicted = one["predicted_step_seconds"]
    expected = "card not in the catalogue" if predicted is None else f"predicted {predicted:.3f} s"
    return (
        f"{one['layout']}: step, peak of a card",
        f"{one['step_seconds']:.3f} s, {one['peak_gib']:.1f} GiB",
        f"{expected}, {one['predicted_gib']:.1f} GiB",
    )
