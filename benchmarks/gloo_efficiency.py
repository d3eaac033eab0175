"""How much faster do two ranks draw than one process, on gloo with one thread each? (efficiency by layout)

Efficiency is the single process' denoising time over twice the gang's, for the same request on a model
large enough to be bound by computation. Single process and gangs take turns within one run, and each
round gives one ratio. Other work on the machine still distorts it (two ranks get twice the share of one
process), so the same ratio of processor seconds stands beside it: it misses the ranks' waiting for each
other and counts everything else, and hardly depends on the load.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
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
    from fluxsampler_serve.engines.protocol import Engine, SampleRequest

GOAL = 0.85
EXACT_LAYOUTS = (Layout(ulysses=2), Layout(ring=2), Layout(tensor=2))
STAGES = (Layout(pipefusion=2, stage_blocks=(1, 2)),)


def run(quick: bool = False) -> dict[str, Any]:
    """Two ranks by each layout; the goal is the best exact one's."""
    os.environ["OMP_NUM_THREADS"] = "1"  # also of the ranks
    torch.set_num_threads(1)
    shape, rounds = (SMALL, 2) if quick else (EIGHTH, 5)
    layouts = EXACT_LAYOUTS if quick else EXACT_LAYOUTS + STAGES
    # 1024 image tokens: fewer leave each rank reading all weights for too little work, which measures memory.
    side = 256 if quick else 512
    wanted = request(width=side, height=side, max_text_tokens=64, steps=2, guidance_scale=3.5)
    forkserver = Forkserver("cpu")
    measured: dict[str, list[tuple[tuple[float, float], tuple[float, float]]]] = {}
    with tempfile.TemporaryDirectory(prefix="fluxsampler-gloo-") as folder:
        model = model_args(f"file://{build(Path(folder) / 'model', shape)}", Path(folder) / "cache")
        prepared = prepare(model)
        single = SingleEngine(model, "cpu", prepared=prepared)
        try:
            single.load()
            draw(single, wanted)  # first use is slower everywhere
            for layout in layouts:
                # One gang at a time: an idle one would take its share of the processors from the two that are compared.
                gang = ParallelEngine(model, layout, "cpu", prepared=prepared, forkserver=forkserver)
                try:
                    gang.load()
                    draw(gang, wanted)
                    measured[str(layout)] = [
                        (timed(single, wanted), timed(gang, wanted)) for _ in range(rounds)
                    ]
                finally:
                    gang.close()
        finally:
            single.close()
            forkserver.close()
    names = [str(layout) for layout in layouts]
    wall = {name: ratios([one[0] / (2 * two[0]) for one, two in measured[name]]) for name in names}
    processor = {name: ratios([one[1] / two[1] for one, two in measured[name]]) for name in names}
    best = max((str(layout) for layout in EXACT_LAYOUTS), key=lambda name: wall[name]["median"])
    return {
        "efficiency": wall,
        "processor_efficiency": processor,
        "single_seconds": statistics.median(one[0] for name in names for one, _ in measured[name]),
        "best": best,
        "goal": GOAL,
        "load_1min": os.getloadavg()[0],
        "summary": [
            (
                f"efficiency of {name} (by processor seconds)",
                f"{wall[name]['median']:.0%}, {wall[name]['low']:.0%} to {wall[name]['high']:.0%} "
                f"({processor[name]['median']:.0%})",
                f"≥ {GOAL:.0%}" if name == best else "",
                wall[name]["median"] >= GOAL if name == best else None,
            )
            for name in names
        ],
    }


def timed(engine: Engine, wanted: SampleRequest) -> tuple[float, float]:
    """Seconds of denoising, and processor seconds of the whole request in all of the engine's processes."""

    def processor() -> float:
        if isinstance(engine, ParallelEngine):
            times = [psutil.Process(pid).cpu_times() for pid in engine.gang.pids]
            return float(sum(one.user + one.system for one in times))
        return time.process_time()

    before = processor()
    return draw(engine, wanted).seconds["denoise"], processor() - before


def ratios(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}
