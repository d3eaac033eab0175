"""Ranks share one copy of the weights (`benchmarks/memory.py` measures it on a model of more than 1 GB)."""

from __future__ import annotations

from pathlib import Path

from benchmarks.memory import GOAL, measure

from fluxsampler_api.app_args import Layout
from fluxsampler_serve.gang.forkserver import Forkserver
from tests.support.random_flux import EIGHTH


def test_ranks_cost_one_copy_over_their_base(tmp_path: Path, forkserver: Forkserver) -> None:
    measured = measure(tmp_path, EIGHTH, Layout(ulysses=4), forkserver)
    assert measured["copy_mib"] > 150
    # Every rank uses every weight: less than a copy would mean that something was not counted.
    assert 0.9 <= measured["ratio"] <= GOAL, measured
