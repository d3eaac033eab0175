"""How much host memory do 8 ranks take for one model of more than 1 GB? (PSS over their base, against one copy)

The base is a gang of the same layout with the built-in model of a few MB, after a picture: everything
that ranks cost without weights. What the large model's gang takes above it is the weights, counted by
the kernel as each process' proportional share (``/proc/PID/smaps_rollup``).
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from tests.support.model_folders import BUILTIN, model_args
from tests.support.random_flux import EIGHTH, GIGABYTE, Shape, build
from tests.support.requests import draw, request

from fluxsampler_api.app_args import Layout, ModelArgs
from fluxsampler_serve.engines.parallel import ParallelEngine
from fluxsampler_serve.gang.forkserver import Forkserver
from fluxsampler_serve.weights import PreparedModel, prepare

MIB = 1 << 20
GOAL = 1.15
LAYOUT = Layout(ulysses=8)


def run(quick: bool = False) -> dict[str, Any]:
    """Sequence-parallel ranks, each of which uses every weight: the worst case."""
    with tempfile.TemporaryDirectory(prefix="fluxsampler-memory-") as folder:
        forkserver = Forkserver("cpu")
        try:
            measured = measure(
                Path(folder), EIGHTH if quick else GIGABYTE, LAYOUT, forkserver, repeats=1 if quick else 3
            )
        finally:
            forkserver.close()
    return {
        **measured,
        "goal": GOAL,
        "summary": [
            ("weights of one copy", f"{measured['copy_mib']:.0f} MiB", "", None),
            (f"{LAYOUT.ranks} ranks over their base", f"{measured['over_base_mib']:.0f} MiB", "", None),
            (
                "ratio",
                f"{measured['ratio']:.3f} (spread {measured['spread']:.3f})",
                f"≤ {GOAL}",
                measured["ratio"] <= GOAL,
            ),
            ("base of one rank", f"{measured['base_mib'] / LAYOUT.ranks:.0f} MiB", "", None),
        ],
    }


def measure(
    folder: Path, shape: Shape, layout: Layout, forkserver: Forkserver, repeats: int = 1
) -> dict[str, Any]:
    """PSS of gangs of a random bfloat16 model of ``shape``, built in ``folder``, and of the built-in model."""
    cache = folder / "cache"
    small = model_args(f"file://{BUILTIN}", cache, dtype="bfloat16")
    large = model_args(f"file://{build(folder / 'model', shape, torch.bfloat16)}", cache, dtype="bfloat16")
    prepared = {"small": prepare(small), "large": prepare(large)}
    runs = [
        {
            name: gang_pss(model, prepared[name], layout, forkserver)
            for name, model in (("small", small), ("large", large))
        }
        for _ in range(repeats)
    ]
    copy = prepared["large"].nbytes / MIB
    small_copy = prepared["small"].nbytes / MIB
    over = [one["large"] - (one["small"] - small_copy) for one in runs]
    return {
        "ranks": layout.ranks,
        "copy_mib": copy,
        "base_mib": statistics.median(one["small"] for one in runs) - small_copy,
        "over_base_mib": statistics.median(over),
        "ratio": statistics.median(over) / copy,
        "spread": (max(over) - min(over)) / copy,
    }


def gang_pss(model: ModelArgs, prepared: PreparedModel, layout: Layout, forkserver: Forkserver) -> float:
    """MiB that a gang's ranks take together, after a picture."""
    engine = ParallelEngine(model, layout, "cpu", prepared=prepared, forkserver=forkserver)
    try:
        engine.load()
        draw(engine, request(steps=2, width=128))
        return sum(pss(pid) for pid in engine.gang.pids)
    finally:
        engine.close()


def pss(pid: int) -> float:
    """MiB of a process' proportional set size."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"the kernel gives no PSS of process {pid}")
