"""How long does planning take for 8 and for 64 GPUs?

Every call plans from scratch (spec to Plan); only the tables of factorisations and stage balances are cached, as in a
service. Wall-clock time is what counts; processor time stands beside it, since on a busy machine the two differ.
`python -m benchmarks.planner_latency [--json]`.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median, quantiles
from typing import Any

from fluxsampler_api.sampler import FluxSampler
from fluxsampler_planner import Hardware, plan

GOALS_MS = {8: 10.0, 64: 100.0}


def sampler(cards: int, nodes: int) -> FluxSampler:
    """FLUX.1-dev on ``nodes`` nodes of ``cards`` RTX 4090."""
    return FluxSampler.model_validate(
        {
            "apiVersion": "fluxsampler.io/v1alpha1",
            "kind": "FluxSampler",
            "metadata": {"name": "latency"},
            "spec": {
                "model": {"source": "hf://black-forest-labs/FLUX.1-dev"},
                "hardware": {"gpu": "rtx-4090", "gpusPerNode": cards, "nodes": nodes},
                "parallelism": {"objective": "throughput" if nodes > 1 else "latency"},
            },
        }
    )


# 64 GPUs as a cluster has them (8 nodes of 8), and as one machine would (4 of 16, the largest node a spec can name).
CASES = {"8": (8, 1, 8), "64 as 8×8": (8, 8, 64), "64 as 4×16": (16, 4, 64)}


def run(quick: bool = False) -> dict[str, Any]:
    """Milliseconds per plan, cases interleaved: p50 and p95, and the first (cold) call of each case."""
    repeats = 10 if quick else 60
    samplers = {name: sampler(cards, nodes) for name, (cards, nodes, _) in CASES.items()}
    cold: dict[str, float] = {}
    times: dict[str, list[float]] = {name: [] for name in CASES}
    processor: dict[str, list[float]] = {name: [] for name in CASES}
    for turn in range(repeats + 1):
        for name, each in samplers.items():
            start, busy = time.perf_counter(), time.thread_time()
            plan(each, Hardware())
            spent = (time.perf_counter() - start) * 1e3
            if turn == 0:
                cold[name] = spent
            else:
                times[name].append(spent)
                processor[name].append((time.thread_time() - busy) * 1e3)
    results = {
        name: {
            "p50_ms": round(median(spent), 3),
            "processor_p50_ms": round(median(processor[name]), 3),
            "p95_ms": round(quantiles(spent, n=20)[-1], 3),
            "first_ms": round(cold[name], 3),
            "goal_p50_ms": GOALS_MS[CASES[name][2]],
            "candidates": plan(samplers[name]).found.considered,
        }
        for name, spent in times.items()
    }
    return {
        "repeats": repeats,
        "cases": results,
        "summary": [
            (
                f"{name} GPUs, p50",
                f"{found['p50_ms']:.2f} ms ({found['processor_p50_ms']:.2f} of processor)",
                f"≤ {found['goal_p50_ms']:.0f} ms",
                found["p50_ms"] <= found["goal_p50_ms"],
            )
            for name, found in results.items()
        ],
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    result = run(options.quick)
    if options.json:
        print(json.dumps(result, indent=1))
        return
    for what, value, goal, _ in result["summary"]:
        print(f"{what:20} {value:>32}  goal {goal}")


if __name__ == "__main__":
    main()
