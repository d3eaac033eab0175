"""How much faster do two ranks draw than one process, on gloo with one thread each? (efficiency by layout)

Efficiency is the single process' denoising time over twice the gang's, for the same request on a model
large enough to be bound by computation. Single process and gangs take turns within one run, and each
round gives one ratio, so that other work on the machine falls on both.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tests.support.model_folders import model_args
from tests.support.random_flux import EIGHTH, SMALL, build
from tests.support.requests import draw, request

from fluxsampler_api.app_args import Layout
from fluxsampler_serve.engines.parallel import ParallelEngine
from fluxsampler_serve.engines.single import SingleEngine
from fluxsampler_serve.gang.forkserver import Forkserver
from fluxsampler_serve.weights import prepare

if TYPE_CHECKING:
    from fluxsampler_serve.engines.protocol import Engine

GOAL = 0.85
EXACT_LAYOUTS = (Layout(ulysses=2), Layout(ring=2), Layout(tensor=2))
STAGES = (Layout(pipefusion=2, stage_blocks=(1, 2)),)


def run(quick: bool = False) -> dict[str, Any]:
    """Two ranks by each layout; the goal is the best exact one's."""
    os.environ["OMP_NUM_THREADS"] = "1"  # also of the ranks
    torch.set_num_threads(1)
    shape, rounds = (SMALL, 2) if quick else (EIGHTH, 7)
    layouts = EXACT_LAYOUTS if quick else EXACT_LAYOUTS + STAGES
    wanted = request(width=256, height=256, max_text_tokens=64, steps=2 if quick else 4, guidance_scale=3.5)
    forkserver = Forkserver("cpu")
    engines: dict[str, Engine] = {}
    with tempfile.TemporaryDirectory(prefix="fluxsampler-gloo-") as folder:
        model = model_args(f"file://{build(Path(folder) / 'model', shape)}", Path(folder) / "cache")
        prepared = prepare(model)
        engines["single"] = SingleEngine(model, "cpu", prepared=prepared)
        for layout in layouts:
            engines[str(layout)] = ParallelEngine(
                model, layout, "cpu", prepared=prepared, forkserver=forkserver
            )
        try:
            for engine in engines.values():
                engine.load()
                draw(engine, wanted)  # first use is slower everywhere
            times = [
                {name: draw(engine, wanted).seconds["denoise"] for name, engine in engines.items()}
                for _ in range(rounds)
            ]
        finally:
            for engine in engines.values():
                engine.close()
            forkserver.close()
    by_layout = {
        str(layout): ratios([one["single"] / (layout.ranks * one[str(layout)]) for one in times])
        for layout in layouts
    }
    best = max((by_layout[str(layout)]["median"], str(layout)) for layout in EXACT_LAYOUTS)
    return {
        "efficiency": by_layout,
        "single_seconds": statistics.median(one["single"] for one in times),
        "best": best[0],
        "goal": GOAL,
        "summary": [
            (
                f"efficiency of {name}",
                f"{found['median']:.0%} ({found['low']:.0%} to {found['high']:.0%})",
                f"≥ {GOAL:.0%}" if name == best[1] else "",
            )
            for name, found in by_layout.items()
        ],
    }


def ratios(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}
