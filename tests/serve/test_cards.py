"""Ray really books a gang and its fallback on cards that both may use: eight cards, in number only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def report(example: str, folder: Path) -> tuple[str, list[tuple[str, list[str]]]]:
    """Which engine answered, and each engine's name with the cards it was shown."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.card_report", str(ROOT / "examples" / example), str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    lines = [path.read_text(encoding="utf-8").split() for path in folder.iterdir()]
    (engine,) = [line.split()[1] for line in run.stdout.splitlines() if line.startswith("engine ")]
    return engine, [(name, cards.split(",")) for name, cards in lines]


@pytest.mark.timeout(300)
def test_gang_of_eight_and_a_warm_fallback_beside_one_of_its_ranks(tmp_path: Path) -> None:
    engine, seen = report("flux-dev-8x4090.yaml", tmp_path)
    assert engine == "parallel"
    ((_, gang),) = [entry for entry in seen if entry[0] == "parallel"]
    ((_, fallback),) = [entry for entry in seen if entry[0] == "fallback"]
    assert sorted(gang) == [str(card) for card in range(8)], "each rank has a card of its own"
    assert len(fallback) == 1
    assert fallback[0] != gang[0], "rank 0 holds the text encoders: no room beside it"
