"""`python -m tools.calibrate [ROWS.csv] [-o calibration.json]`: fit, report held-out figures, write the parameters."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fluxsampler_planner.calibration import Calibration
from tools.calibrate import fit as fitting
from tools.calibrate.rows import ROWS, Row, read_rows
from tools.calibrate.score import Score, by_split, folds, leave_group_out, predictions, score, split_key

SHIPPED = Path(__file__).parents[2] / "planner/fluxsampler_planner/data/calibration.json"


def figures(rows: list[Row], final: Calibration) -> dict[str, Score]:
    """Every way of holding rows out, and the final parameters on all rows (in-sample) for comparison."""
    stated = by_split(rows)
    held = [row for row in rows if not split_key(row)]
    return {
        "held-out side of the split": score(held, stated),
        "fitted side of the split": score([row for row in rows if split_key(row)], stated),
        "both sides, parameters of the split": score(rows, stated),
        "leave one group out": score(rows, leave_group_out(rows)),
        "8 folds": score(rows, folds(rows)),
        "fitted on all (in-sample)": score(rows, predictions(rows, final)),
    }


def calibrate(rows: list[Row]) -> tuple[Calibration, dict[str, Score]]:
    """Parameters fitted on all ``rows``, each card with its error when its groups are held out."""
    final = fitting.fit(rows)
    without = leave_group_out(rows)
    errors = {
        card: score(mine, without).error
        for card in final.cards
        if (mine := [row for row in rows if row.card == card])
    }
    final = fitting.with_errors(final, errors, fitting.scaled_error(final, rows))
    return final, figures(rows, final)


def document(calibration: Calibration, rows: list[Row], results: dict[str, Score]) -> dict[str, Any]:
    """The parameters file. Four significant digits: more would not survive the data's own noise."""

    def short(value: Any) -> Any:
        return float(f"{value:.4g}") if isinstance(value, float) else value

    cards = {}
    for card, cost in calibration.cards.items():
        entry: dict[str, Any] = {}
        for name, value in asdict(cost).items():
            if name in ("ring", "all_to_all"):
                entry[name] = {str(size): short(rate) for size, rate in value}
            else:
                entry[name] = [short(part) for part in value] if isinstance(value, tuple) else short(value)
        cards[card] = entry
    stacks: dict[str, dict[str, Any]] = {}
    for (card, name), factors in calibration.stacks.items():
        stacks.setdefault(card, {})[name] = {
            "arithmetic": short(factors.arithmetic),
            "launch": short(factors.launch),
        }
    return {
        "about": "Written by `python -m tools.calibrate`; do not edit. Times in seconds, rates in bytes/s; docs/dev/calibration.md.",
        "rows": len(rows),
        "figures": {
            name: {key: short(value) for key, value in asdict(each).items()} for name, each in results.items()
        },
        "scaled_error": short(calibration.scaled_error),
        "cards": cards,
        "stacks": stacks,
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="?", type=Path, default=ROWS, help="CSV of measurements")
    parser.add_argument("-o", "--output", type=Path, default=SHIPPED, help="parameters file to write")
    options = parser.parse_args()
    rows, refused = read_rows(options.rows)
    calibration, results = calibrate(rows)
    options.output.write_text(
        json.dumps(document(calibration, rows, results), indent=1) + "\n", encoding="utf-8"
    )
    print(f"{len(rows)} rows used, {len(refused)} refused; wrote {options.output}")
    for name, each in results.items():
        print(
            f"  {name:36} {each.rows:4} rows  error {100 * each.error:5.2f} %  worst {100 * each.worst:4.0f} %  "
            f"hits {each.hits}/{each.groups}  regret {100 * each.regret:.2f} %"
        )
    for card, cost in calibration.cards.items():
        print(f"  {card:9} held-out error {100 * cost.error:.1f} %")
    print(
        f"  cards without rows: {100 * calibration.scaled_error:.0f} % (each card predicted from its relative)"
    )


if __name__ == "__main__":
    main()
