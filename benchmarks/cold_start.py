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
VARIANTS: dict[str, tuple[tuple[int, int], ...]] = {
    "no warm-up": (),
    "warmed up at another size": (OTHER,),
    "warmed up at its size": (SIZE,),
}


def run(quick: bool = False) -> dict[str, Any]:
    """A gang of two ranks with the built-in model."""
    os.environ["OMP_NUM_THREADS"] = "1"  # of the ranks
    imports, gangs, first = (1, 3, 3) if quick else (3, 7, 9)
    with tempfile.TemporaryDirectory(prefix="fluxsampler-cold-") as folder:
        model = model_args(f"file://{BUILTIN}", Path(folder))
        began = time.perf_counter()
        prepared = prepare(model)
        prepare_seconds = time.perf_counter() - began
        forkserver = Forkserver("cpu")
        engine = ParallelEngine(model, LAYOUT, "cpu", prepared=prepared, forkserver=forkserver)
        import_seconds: list[float] = []
        phases: list[dict[str, float]] = []
        ratios: dict[str, list[float]] = {name: [] for name in VARIANTS}
        try:
            forkserver.wait_ready()
            # All take turns, so that a busy minute of the machine falls on each alike.
            for turn in range(max(imports, gangs, first)):
                if turn < imports:
                    import_seconds.append(seconds_of_imports())
                if turn < gangs:
                    engine.load()
                    phases.append(engine.gang.seconds)
                if turn < first:
                    for name, sizes in VARIANTS.items():
                        ratios[name].append(first_against_steady(engine, sizes))
        finally:
            engine.close()
            forkserver.close()
    gang = {name: statistics.median(one[name] for one in phases) for name in phases[0]}
    warm = ratios["warmed up at its size"]
    ratio = statistics.median(warm)
    return {
        "prepare_seconds": prepare_seconds,
        "import_seconds": statistics.median(import_seconds),
        "import_seconds_spread": spread(import_seconds),
        "gang_seconds": gang,
        "gang_seconds_spread": {name: spread([one[name] for one in phases]) for name in gang},
        "first_over_steady": {name: statistics.median(values) for name, values in ratios.items()},
        "first_over_steady_spread": {name: spread(values) for name, values in ratios.items()},
        "goals": {"gang_seconds": GANG_GOAL, "first_over_steady_warm": FIRST_GOAL},
        "summary": [
            ("imports, once", shown(import_seconds, " s"), "", None),
            *(
                (
                    f"gang: {name}",
                    shown([one[name] for one in phases], " s"),
                    f"≤ {GANG_GOAL} s" if name == "total" else "",
                    seconds <= GANG_GOAL if name == "total" else None,
                )
                for name, seconds in gang.items()
            ),
            *(
                (
                    f"first picture / steady, {name}",
                    shown(values),
                    f"≤ {FIRST_GOAL}" if values is warm else "",
                    ratio <= FIRST_GOAL if values is warm else None,
                )
                for name, values in ratios.items()
            ),
        ],
    }


def spread(values: list[float]) -> list[float]:
    """Least and most."""
    return [min(values), max(values)]


def shown(values: list[float], unit: str = "") -> str:
    """Median and spread."""
    return f"{statistics.median(values):.2f}{unit} ({min(values):.2f} to {max(values):.2f})"


def seconds_of_imports() -> float:
    """How long a new forkserver imports."""
    forkserver = Forkserver("cpu")
    began = time.perf_counter()
    try:
        forkserver.wait_ready()
        return time.perf_counter() - began
    finally:
        forkserver.close()


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
