"""The pages show real output. To renew them: `python -m tests.unit.planner.test_docs`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tools.calibrate.__main__ import SHIPPED

from fluxsampler_api.loading import load_file
from fluxsampler_planner import Infeasible, plan
from tests.unit.planner.samplers import sampler

ROOT = Path(__file__).parents[3]
PLANNING, CALIBRATION = ROOT / "docs/user/planning.md", ROOT / "docs/dev/calibration.md"
BLOCK = re.compile(r"(<!-- (explain|refusal): ([^>]*) -->\n```text\n)(.*?)(```)", re.DOTALL)
TABLE = re.compile(r"(<!-- figures -->\n)((?:\n?\|.*\n)*)")


def output(kind: str, subject: str) -> str:
    """What the planner says today."""
    if kind == "explain":
        (each,) = load_file(ROOT / subject.strip())
        return plan(each).explain() + "\n"
    with pytest.raises(Infeasible) as caught:
        plan(sampler(gpusPerNode=1))
    return f"{caught.value}\n"


def figures() -> str:
    """The calibration's figures as a table."""
    lines = ["", "| rows | n | mean error | worst | hits | regret |", "| --- | --- | --- | --- | --- | --- |"]
    for name, each in json.loads(SHIPPED.read_text())["figures"].items():
        hits = f"{each['hits']} of {each['groups']}"
        lines.append(
            f"| {name} | {each['rows']} | {each['error']:.1%} | {each['worst']:.0%} | {hits} | {each['regret']:.2%} |"
        )
    return "\n".join(lines) + "\n"


def test_the_planning_page_shows_real_output() -> None:
    blocks = BLOCK.findall(PLANNING.read_text("utf-8"))
    assert [kind for _, kind, _, _, _ in blocks] == ["explain", "refusal"]
    for _, kind, subject, shown, _ in blocks:
        assert shown == output(kind, subject), "stale; run python -m tests.unit.planner.test_docs"


def test_the_calibration_page_shows_the_shipped_figures() -> None:
    match = TABLE.search(CALIBRATION.read_text("utf-8"))
    assert match is not None
    assert match[2] == figures(), "stale; run python -m tests.unit.planner.test_docs"


def renew() -> None:
    """Write today's output into the pages."""
    page = PLANNING.read_text("utf-8")
    PLANNING.write_text(BLOCK.sub(lambda m: f"{m[1]}{output(m[2], m[3])}{m[5]}", page), "utf-8")
    page = CALIBRATION.read_text("utf-8")
    CALIBRATION.write_text(TABLE.sub(lambda m: f"{m[1]}{figures()}", page), "utf-8")


if __name__ == "__main__":
    renew()
