"""The fit: least squares on log(predicted/measured), robust, with a prior on every parameter.

A published table has three to twelve rows per (card, model, stack), so each parameter starts at a
physically plausible value, the same for all cards of a kind, and the rows move it as far as they can
justify. That is what makes rows unseen in the fit (another resolution, another number of cards)
come out about as well as the seen ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log, sqrt

import numpy as np
from scipy.optimize import least_squares

from fluxsampler_planner.calibration import Calibration, scaled
from fluxsampler_planner.cost import XDIT, CostParameters, Stack
from fluxsampler_planner.gpus import GPUS
from tools.calibrate.prediction import predict
from tools.calibrate.rows import Row

# Residuals beyond this share of the measurement count linearly, not squared: some published rows contradict each other.
NOISE = 0.06
GROUP_SIZES = (2, 4, 8)


@dataclass(frozen=True, slots=True)
class Prior:
    """Where a parameter starts, and how far (as a log standard deviation) it may go."""

    mean: float
    spread: float


def priors(card: str, stacks: Iterable[str]) -> dict[str, Prior]:
    """One prior per fitted number. Times in seconds, rates in GB/s of the data sheet's link."""
    gpu = GPUS[card]
    nvlink = gpu.interconnect == "nvlink"
    found = {
        "linear_eager": Prior(0.60, 0.25),
        "linear_compiled": Prior(0.72, 0.25),
        # Flash attention 2 reaches about 0.7 of an Ampere or Ada card's peak, and less than half of Hopper's.
        "attention": Prior(0.45, 0.25) if card == "h100" else Prior(0.68, 0.15),
        "floor": Prior(0.09, 0.30),
        "ulysses_block": Prior(0.6e-3, 0.6),
        "ring_block": Prior(0.5e-3, 0.6),
        "tensor_block": Prior(0.6e-3, 0.6),
        "pipe_block": Prior(0.6e-3, 0.6),
        "hop": Prior(0.2e-3, 0.7),
        "compiled_launch": Prior(0.25, 0.4),
        # Half of NVLink's and two thirds of PCIe 4.0's paper figure for a pair; each doubling multiplies.
        "ring_2": Prior(gpu.link / 1e9 * (0.5 if nvlink else 0.7), 0.4),
        "ring_4": Prior(1.0, 0.2),
        "ring_8": Prior(1.0 if nvlink else 0.85, 0.25),
        "all_to_all_2": Prior(gpu.link / 1e9 * (0.6 if nvlink else 0.7), 0.4),
        # An all-to-all that crosses sockets may collapse (the published L40 host: 3 GB/s at 4, 0.8 at 8).
        "all_to_all_4": Prior(1.0, 0.3) if nvlink or card != "l40" else Prior(0.3, 1.5),
        "all_to_all_8": Prior(1.0, 0.3) if nvlink or card != "l40" else Prior(0.1, 1.5),
        "encode": Prior(0.12, 0.5),
        # VAE decoding is bound by memory bandwidth: 0.2 s a megapixel on an A100.
        "decode": Prior(0.2 * (GPUS["a100"].bandwidth / gpu.bandwidth) ** 0.8, 0.25),
    }
    for stack in sorted(set(stacks) - {"xdit"}):
        found[f"arithmetic:{stack}"] = Prior(1.0, 0.15)
        found[f"launch:{stack}"] = Prior(1.0, 0.5)
    return found


def build(card: str, values: Mapping[str, float]) -> tuple[CostParameters, dict[str, Stack]]:
    """Cost parameters and stack factors from the fitted numbers."""

    def pair(name: str) -> tuple[float, float]:
        return values[name], values[name] * values["compiled_launch"]

    def table(name: str) -> tuple[tuple[int, float], ...]:
        rate, entries = 1e9, []
        for size in GROUP_SIZES:
            rate *= values[f"{name}_{size}"]
            entries.append((size, rate))
        return tuple(entries)

    cost = CostParameters(
        peak=GPUS[card].bf16, linear=(values["linear_eager"], values["linear_compiled"]), attention=values["attention"],
        floor=(values["floor"], 0.0), ulysses_block=pair("ulysses_block"), ring_block=pair("ring_block"),
        tensor_block=pair("tensor_block"), pipe_block=pair("pipe_block"), hop=pair("hop"), ring=table("ring"),
        all_to_all=table("all_to_all"), encode=values["encode"], decode=values["decode"], error=0.0, calibrated=True,
    )  # fmt: skip
    names = {name.partition(":")[2] for name in values if ":" in name}
    return cost, {
        name: Stack(values[f"arithmetic:{name}"], values[f"launch:{name}"]) for name in sorted(names)
    }


def fit_card(card: str, rows: Sequence[Row]) -> tuple[CostParameters, dict[str, Stack]]:
    """Parameters of ``card`` from its rows (no rows: the priors)."""
    mine = [row for row in rows if row.card == card]
    given = priors(card, (row.stack for row in mine))
    names = list(given)
    start = np.array([log(given[name].mean) for name in names])
    spread = np.array([given[name].spread for name in names])

    def values(x: np.ndarray) -> dict[str, float]:
        return {name: exp(value) for name, value in zip(names, start + x * spread, strict=True)}

    def residuals(x: np.ndarray) -> np.ndarray:
        cost, stacks = build(card, values(x))
        errors = [log(predict(row, cost, stacks.get(row.stack, XDIT)) / row.measured) / NOISE for row in mine]
        # Twice the pseudo-Huber loss, as the square that least_squares wants.
        return np.array(
            [*((1 if error > 0 else -1) * sqrt(2 * (sqrt(1 + error * error) - 1)) for error in errors), *x]
        )

    return build(card, values(least_squares(residuals, np.zeros(len(names))).x))


def fit(rows: Sequence[Row]) -> Calibration:
    """Parameters of every card that has rows."""
    cards: dict[str, CostParameters] = {}
    stacks: dict[tuple[str, str], Stack] = {}
    for card in sorted({row.card for row in rows}):
        cards[card], factors = fit_card(card, rows)
        stacks |= {(card, name): factor for name, factor in factors.items()}
    return Calibration(cards, stacks, 0.0)


def scaled_error(calibration: Calibration, rows: Sequence[Row]) -> float:
    """Mean absolute error when a card's rows are predicted from another card, scaled by the data sheets.

    The error bar of cards without rows: L20 from L40 and back, A100 from H100 and back.
    """
    pairs = (("l20", "l40"), ("l40", "l20"), ("a100", "h100"), ("h100", "a100"))
    errors = []
    for card, donor in pairs:
        if donor in calibration.cards:
            cost = scaled(calibration.cards[donor], GPUS[donor], GPUS[card], 0.0)
            errors += [
                abs(predict(row, cost, XDIT if row.stack == "xdit" else Stack()) / row.measured - 1)
                for row in rows
                if row.card == card
            ]
    return float(np.mean(errors)) if errors else 1.0


def with_errors(calibration: Calibration, errors: Mapping[str, float], scaling: float) -> Calibration:
    """``calibration`` with the held-out error of each card filled in."""
    cards = {card: replace(cost, error=errors.get(card, scaling)) for card, cost in calibration.cards.items()}
    return Calibration(cards, calibration.stacks, scaling)
