"""How good predictions are: mean absolute error, and whether the best published layout would have been chosen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from fluxsampler_planner.calibration import Calibration
from tools.calibrate.prediction import predict
from tools.calibrate.rows import Row

# A choice counts as a hit within this share of the best measured layout.
HIT = 0.05


@dataclass(frozen=True, slots=True)
class Score:
    """``error`` and ``regret`` are means, as shares; ``hits`` of ``groups``; ``worst`` is the largest absolute error."""

    rows: int
    error: float
    median: float
    worst: float
    bias: float
    groups: int
    hits: int
    regret: float
    worst_regret: float


def split_key(row: Row) -> bool:
    """Whether ``row`` is on the fitted side of the stated split: up to 1024² or a single card."""
    return row.work.width * row.work.height <= 1024 * 1024 or row.cards == 1


def predictions(rows: Sequence[Row], calibration: Calibration) -> dict[int, float]:
    """Predicted seconds by line, for rows whose card is calibrated."""
    return {
        row.line: predict(row, calibration.cards[row.card], calibration.stack(row.card, row.stack))
        for row in rows
        if row.card in calibration.cards
    }


def choices(rows: Sequence[Row], predicted: Mapping[int, float]) -> list[tuple[Row, Row]]:
    """(chosen, best measured) for every group of two or more layouts."""
    groups: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    return [
        (min(group, key=lambda row: predicted[row.line]), min(group, key=lambda row: row.measured))
        for group in groups.values()
        if len({row.split for row in group}) > 1
    ]


def score(rows: Sequence[Row], predicted: Mapping[int, float]) -> Score:
    """The figures for ``rows``, all of which have a prediction."""
    errors = [predicted[row.line] / row.measured - 1 for row in rows]
    sizes = sorted(map(abs, errors))
    regrets = [chosen.measured / best.measured - 1 for chosen, best in choices(rows, predicted)]

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values) if values else 0.0

    return Score(
        rows=len(rows), error=mean(sizes), median=sizes[len(sizes) // 2] if sizes else 0.0, worst=max(sizes, default=0.0),
        bias=mean(errors), groups=len(regrets), hits=sum(regret <= HIT for regret in regrets), regret=mean(regrets),
        worst_regret=max(regrets, default=0.0),
    )  # fmt: skip


def _held_out(rows: Sequence[Row], part: Callable[[Row], object]) -> dict[int, float]:
    """Each row predicted by a fit that saw none of its part."""
    from tools.calibrate.fit import fit_card  # scipy, which only fits need

    predicted: dict[int, float] = {}
    for key in dict.fromkeys((row.card, part(row)) for row in rows):
        inside = [row for row in rows if (row.card, part(row)) == key]
        cost, stacks = fit_card(key[0], [row for row in rows if (row.card, part(row)) != key])
        known = Calibration({key[0]: cost}, {(key[0], name): factor for name, factor in stacks.items()}, 0.0)
        predicted |= predictions(inside, known)
    return predicted


def by_split(rows: Sequence[Row]) -> dict[int, float]:
    """The stated split: fitted up to 1024² and on single cards, predicted for all rows."""
    from tools.calibrate.fit import fit  # scipy, which only fits need

    return predictions(rows, fit([row for row in rows if split_key(row)]))


def leave_group_out(rows: Sequence[Row]) -> dict[int, float]:
    """Each (card, number of cards, size, model, stack) predicted without any of its own rows."""
    return _held_out(rows, lambda row: (row.cards, row.work.width, row.work.height, row.model, row.stack))


def folds(rows: Sequence[Row], count: int = 8, seed: int = 0) -> dict[int, float]:
    """``count``-fold: each row predicted by a fit on the other folds."""
    lines = [row.line for row in rows]
    Random(seed).shuffle(lines)
    fold = {line: place % count for place, line in enumerate(lines)}
    return _held_out(rows, lambda row: fold[row.line])
