"""How far off is the planner's estimate, and would it have chosen the best published layout?

`python -m benchmarks.planner_accuracy [--rows FILE] [--params FILE] [--json]` evaluates any CSV with the columns
source, gpu, n_gpus, resolution, steps, config, latency_s. A row that is not what FluxSampler runs (a step cache, another
precision, several nodes, a card without calibration) is refused with its reason, never dropped in silence.

Figures: MAPE is the mean of |predicted/measured - 1|. A group is all rows that differ in their layout only; it is
a hit when the layout with the least predicted time was measured within 5 % of the best one; regret is by how much
the chosen one was measured slower. For the repository's own CSV the held-out split is fitted and shown as well.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.calibrate.rows import ROWS, RefusedRow, Row, read_rows
from tools.calibrate.score import (
    HIT,
    Score,
    by_split,
    choices,
    folds,
    leave_group_out,
    predictions,
    score,
    split_key,
)

from benchmarks import Line
from fluxsampler_planner.calibration import CALIBRATION, Calibration, load
from fluxsampler_planner.gpus import GPUS


def evaluate(path: Path, calibration: Calibration, *, splits: bool) -> dict[str, Any]:
    """Figures of ``calibration`` on the rows of ``path``; ``splits`` adds the held-out figures (fits, needs scipy).

    Raises OSError or ValueError when ``path`` is no such table.
    """
    rows, refused = read_rows(path)
    used = [row for row in rows if row.card in calibration.cards]
    scaled = [row for row in rows if row.card not in calibration.cards]
    refused += [
        RefusedRow(row.line, row.source, row.label, f"no calibration for {row.card}") for row in scaled
    ]
    predicted = predictions(used, calibration)
    result: dict[str, Any] = {
        "file": str(path),
        "rows": len(used) + len(refused),
        "rows_used": len(used),
        "rows_refused": len(refused),
        **_figures(used, predicted),
        "by_card": {card: _figures([row for row in used if row.card == card], predicted) for card in sorted({row.card for row in used})},
        "refused": [asdict(row) for row in sorted(refused, key=lambda row: row.line)],
        "missed_groups": _missed(used, predicted),
        "predictions": [
            {
                "line": row.line, "row": row.label, "measured": row.measured, "predicted": round(predicted[row.line], 4),
                "error": round(predicted[row.line] / row.measured - 1, 4), "held_out_by_split": not split_key(row),
            }
            for row in used
        ],
    }  # fmt: skip
    if scaled:
        carried = Calibration(
            {row.card: calibration.parameters(GPUS[row.card]) for row in scaled},
            calibration.stacks,
            calibration.scaled_error,
        )
        result["cards_without_calibration"] = _figures(scaled, predictions(scaled, carried))
    if splits:
        stated = by_split(used)
        held = [row for row in used if not split_key(row)]
        result["split"] = {
            "rule": "fitted: rows up to 1024² or on one card; held out: larger pictures on several cards",
            "held_out": _figures(held, stated),
            "fitted": _figures([row for row in used if split_key(row)], stated),
            "both": _figures(used, stated),
            "leave_one_group_out": _figures(used, leave_group_out(used)),
            "eight_folds": _figures(used, folds(used)),
        }
    return result


def _figures(rows: list[Row], predicted: dict[int, float]) -> dict[str, Any]:
    found: Score = score(rows, predicted)
    return {
        "n": found.rows,
        "mape": round(found.error, 5),
        "median_error": round(found.median, 5),
        "worst_error": round(found.worst, 5),
        "bias": round(found.bias, 5),
        "groups": found.groups,
        "hits": found.hits,
        "mean_regret": round(found.regret, 5),
        "worst_regret": round(found.worst_regret, 5),
    }


def _missed(rows: list[Row], predicted: dict[int, float]) -> list[dict[str, Any]]:
    return [
        {
            "best": best.label,
            "chosen": str(chosen.split),
            "regret": round(chosen.measured / best.measured - 1, 4),
        }
        for chosen, best in choices(rows, predicted)
        if chosen.measured > best.measured * (1 + HIT)
    ]


def run(quick: bool = False) -> dict[str, Any]:
    """The repository's rows; ``quick`` leaves out the fits."""
    result = evaluate(ROWS, CALIBRATION, splits=not quick)
    summary: list[Line] = [
        ("rows used / refused", f"{result['rows_used']} / {result['rows_refused']}", "", None)
    ]
    if not quick:
        held, both = result["split"]["held_out"], result["split"]["both"]
        alone = result["split"]["leave_one_group_out"]["mape"]
        summary += [
            ("mean absolute error, held-out rows", f"{held['mape']:.1%}", "≤ 8 %", held["mape"] <= 0.08),
            (
                "best layout chosen, parameters of the split",
                f"{both['hits']} of {both['groups']}",
                "all",
                both["hits"] == both["groups"],
            ),
            (
                "mean regret, parameters of the split",
                f"{both['mean_regret']:.2%}",
                "≤ 0.5 %",
                both["mean_regret"] <= 0.005,
            ),
            ("mean absolute error, each group left out", f"{alone:.1%}", "", None),
        ]
    summary.append(("mean absolute error, shipped parameters (in-sample)", f"{result['mape']:.1%}", "", None))
    return {**result, "summary": summary}


def _print(result: dict[str, Any]) -> None:
    def line(name: str, found: dict[str, Any]) -> None:
        print(
            f"{name:34} {found['n']:4} rows  MAPE {found['mape']:7.2%}  median {found['median_error']:6.2%}  worst {found['worst_error']:5.0%}  "
            f"hits {found['hits']}/{found['groups']}  regret {found['mean_regret']:.2%}"
        )

    print(f"{result['file']}: {result['rows_used']} rows used, {result['rows_refused']} refused")
    line("all used rows", result)
    for card, found in result["by_card"].items():
        line(f"  {card}", found)
    if "cards_without_calibration" in result:
        line("cards scaled from a relative", result["cards_without_calibration"])
    if "split" in result:
        print(f"Held-out split ({result['split']['rule']}):")
        for name in ("held_out", "fitted", "both", "leave_one_group_out", "eight_folds"):
            line(f"  {name.replace('_', ' ')}", result["split"][name])
    for missed in result["missed_groups"]:
        print(f"missed: {missed['best']} was best, {missed['chosen']} chosen, {missed['regret']:.1%} slower")
    reasons: dict[str, list[int]] = {}
    for row in result["refused"]:
        reasons.setdefault(row["reason"], []).append(row["line"])
    for reason, lines in reasons.items():
        print(f"refused: {reason} (line {', '.join(map(str, lines))})")


def main(arguments: list[str] | None = None) -> int:
    """Entry point; 2 when a file cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planner_accuracy", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--rows", type=Path, default=None, help="CSV of measurements; default: the calibration's own"
    )
    parser.add_argument("--params", type=Path, default=None, help="parameters file; default: the shipped one")
    parser.add_argument("--split", action="store_true", help="fit and show held-out figures for --rows too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    try:
        calibration = CALIBRATION if options.params is None else load(options.params.read_text("utf-8"))
        result = evaluate(options.rows or ROWS, calibration, splits=options.split or options.rows is None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.exit(2, f"{type(error).__name__}: {error}\n")
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        _print(result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
