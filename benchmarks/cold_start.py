"""Where does the time go until the first picture, and is it as fast as later ones at a new size?

By phase: the forkserver's imports (once in a replica's life), then a gang's fork, group and load (again
after every failure), then the first picture at a size with and without warm-up, against steady ones.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.model_folders import BUILTIN, model_args
from tests.support.requests import draw, request

from fluxsampler_api.app_args import Layout
from fluxsampler_serve.engines.parallel import ParallelEngine
from fluxsampler_serve.gang.forkserver import Forkserver
from fluxsampler_serve.weights import prepare

GANG_GOAL = 1.5
FIRST_GOAL = 1.1
LAYOUT = Layout(ulysses=2)
SIZE, OTHER = (128, 128), (128, 96)
STEPS = 8


def run(quick: bool = False) -> dict[str, Any]:
    """A gang of two ranks with the built-in model."""
    os.environ["OMP_NUM_THREADS"] = "1"  # of the ranks
    imports, gangs, first = (1, 3, 3) if quick else (3, 7, 9)
    with tempfile.TemporaryDirectory(prefix="fluxsampler-cold-") as folder:
        model = model_args(f"file://{BUILTIN}", Path(folder))
        began = time.perf_counter()
        prepared = prepare(model)
        prepare_seconds = time.perf_counter() - began
        import_seconds: list[float] = []
        for _ in range(imports):
            forkserver = Forkserver("cpu")
            began = time.perf_counter()
            forkserver.wait_ready()
            import_seconds.append(time.perf_counter() - began)
            if len(import_seconds) < imports:
                forkserver.close()
        engine = ParallelEngine(model, LAYOUT, "cpu", prepared=prepared, forkserver=forkserver)
        try:
            phases: list[dict[str, float]] = []
            for _ in range(gangs):
                engine.load()
                phases.append(engine.gang.seconds)
            cold, other, warm = (
                [first_against_steady(engine, sizes) for _ in range(first)]
                for sizes in ((), (OTHER,), (SIZE,))
            )
        finally:
            engine.close()
            forkserver.close()
    gang = {name: statistics.median(one[name] for one in phases) for name in phases[0]}
    ratio = statistics.median(warm)
    return {
        "prepare_seconds": prepare_seconds,
        "import_seconds": statistics.median(import_seconds),
        "gang_seconds": gang,
        "gang_seconds_spread": [min(one["total"] for one in phases), max(one["total"] for one in phases)],
        "first_over_steady_cold": statistics.median(cold),
        "first_over_steady_warm_elsewhere": statistics.median(other),
        "first_over_steady_warm": ratio,
        "first_over_steady_warm_spread": [min(warm), max(warm)],
        "goals": {"gang_seconds": GANG_GOAL, "first_over_steady_warm": FIRST_GOAL},
        "summary": [
            ("imports, once", f"{statistics.median(import_seconds):.2f} s", ""),
            *(
                (f"gang: {name}", f"{seconds:.2f} s", f"≤ {GANG_GOAL} s" if name == "total" else "")
                for name, seconds in gang.items()
            ),
            ("first picture / steady, no warm-up", f"{statistics.median(cold):.2f}", ""),
            ("first picture / steady, warmed up at another size", f"{statistics.median(other):.2f}", ""),
            (
                "first picture / steady, warmed up at its size",
                f"{ratio:.2f} ({min(warm):.2f} to {max(warm):.2f})",
                f"≤ {FIRST_GOAL}",
            ),
        ],
    }


def first_against_steady(engine: ParallelEngine, sizes: tuple[tuple[int, int], ...]) -> float:
    """In a new gang warmed up at ``sizes``: the first picture at SIZE over the median of the next ones."""
    engine.load()
    engine.warm_up(sizes, STEPS)
    wanted = request(width=SIZE[0], height=SIZE[1], steps=STEPS, max_text_tokens=32)

    def seconds() -> float:
        began = time.perf_counter()
        draw(engine, wanted)
        return time.perf_counter() - began

    first = seconds()
    return first / statistics.median(seconds() for _ in range(7))
