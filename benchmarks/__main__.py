"""Runs the benchmarks: `python -m benchmarks [NAME…] [--list]`. Results: `build/bench/NAME.json` and a table.

Each benchmark is a module with its question in its docstring and a ``run(quick: bool) -> dict``. Its
``summary`` lists rows of (what, value, goal) or (what, value, goal, met); what was met and missed is
listed in the JSON as well. A missed goal is a finding, not a failure: only a crash makes the exit code
1. A benchmark of the group `gpu` runs where CUDA is.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import traceback
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

# In order of length, short ones first.
CPU = ("planner_accuracy", "planner_latency", "overhead", "cold_start", "gloo_efficiency", "memory")
GPU = ("gpu",)
OUT = Path("build/bench")


def machine() -> dict[str, Any]:
    """What a reader must know to compare figures."""
    import psutil

    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def processor() -> str:
    """The model as the kernel names it; the architecture where it has no name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # another system
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def judged(rows: list[tuple[Any, ...]]) -> dict[str, list[str]]:
    """What was ``met`` and ``missed`` of the goals in a summary."""
    goals = [(str(row[0]), row[3]) for row in rows if len(row) > 3 and row[3] is not None]
    return {"met": [what for what, met in goals if met], "missed": [what for what, met in goals if not met]}


def cells(row: tuple[Any, ...]) -> tuple[str, str, str, str]:
    """A line of the table, its goal's mark last."""
    what, value, goal, met = (*row, None)[:4]
    mark = "" if met is None else "[green]✓[/]" if met else "[red]✗[/]"
    return escape(str(what)), escape(str(value)), escape(str(goal)), mark


def has_cuda() -> bool:
    """Whether the `gpu` group can run."""
    import torch

    return torch.cuda.is_available()


def main() -> int:
    """Run, write, print; exit 1 when a benchmark raised."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run FluxSampler's benchmarks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CPU + GPU)}; all by default")
    parser.add_argument("--list", action="store_true", help="print each benchmark's question")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, for trying things out")
    options = parser.parse_args()
    unknown = set(options.names) - set(CPU + GPU)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(CPU + GPU)}")
    names = options.names or [*CPU, *(GPU if has_cuda() else ())]
    console = Console()
    if options.list:
        for name in names:
            question = (importlib.import_module(f"benchmarks.{name}").__doc__ or "").strip().splitlines()[0]
            console.print(f"[bold]{name}[/]: {question}")
        return 0
    OUT.mkdir(parents=True, exist_ok=True)
    facts = machine()
    console.print(facts)
    failed = 0
    for name in names:
        console.rule(name)
        module = importlib.import_module(f"benchmarks.{name}")
        try:
            result = {"benchmark": name, "machine": facts, **module.run(quick=options.quick)}
            result |= judged(result["summary"])
        except Exception:  # noqa: BLE001  (the other benchmarks still run; shown, and counted in the exit code)
            traceback.print_exc()
            failed += 1
            continue
        (OUT / f"{name}.json").write_text(json.dumps(result, indent=2, default=str) + "\n", encoding="utf-8")
        table = Table(
            "what",
            "value",
            "goal",
            "met",
            title=(module.__doc__ or name).strip().splitlines()[0],
            title_justify="left",
        )
        for row in result["summary"]:
            table.add_row(*cells(row))
        console.print(table)
    if names and not has_cuda() and not options.names:
        console.print("Not run: gpu (no CUDA device here; run `make bench` on a machine with one).")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
