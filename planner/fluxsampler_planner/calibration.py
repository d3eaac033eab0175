"""The fitted parameters that ship with the planner (``data/calibration.json``, written by ``tools/calibrate``).

Read once, when this module is imported: planning itself does no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from fluxsampler_planner.cost import XDIT, CostParameters, Stack
from fluxsampler_planner.gpus import GPUS, Gpu

# PCIe without peer-to-peer copies through the host, twice over the same links. Assumed, not measured.
HOST_BOUNCE = 0.55
# The donors of cards without rows: the nearest relative with rows, by interconnect.
DONORS = {"nvlink": "a100", "pcie4": "l20", "pcie5": "l20"}

# Ranks on gloo and shared memory. Assumed and rough: it ranks layouts of the built-in model, no more.
CPU = CostParameters(
    peak=40e9, linear=(0.9, 0.9), attention=0.7, floor=(0.02, 0.02), ulysses_block=(3e-4, 3e-4), ring_block=(3e-4, 3e-4),
    tensor_block=(4e-4, 4e-4), pipe_block=(4e-4, 4e-4), hop=(2e-4, 2e-4), ring=((2, 3e9), (8, 1e9)), all_to_all=((2, 3e9), (8, 1e9)),
    encode=0.02, decode=1.5, error=0.5, calibrated=False,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Calibration:
    """A parameters file: per card, per (card, stack), and the error of scaling a card without rows from its donor."""

    cards: Mapping[str, CostParameters]
    stacks: Mapping[tuple[str, str], Stack]
    scaled_error: float

    def stack(self, card: str, name: str) -> Stack:
        """Factors of ``name`` on ``card``; one without rows there is taken to be as fast as xDiT."""
        return self.stacks.get((card, name), XDIT if name == "xdit" else Stack())

    def parameters(self, gpu: Gpu, *, through_host: bool = False) -> CostParameters:
        """Parameters for ``gpu``: its own where rows were published for it, else its donor's, scaled by the data sheets.

        ``through_host``: an NVLink card whose cards talk through the host, so it gets a PCIe card's links.
        """
        if gpu.key == "cpu":
            return replace(CPU, peak=gpu.bf16)
        if through_host:
            pcie = self.cards["l20"]
            return replace(
                self.parameters(gpu),
                ring=pcie.ring,
                all_to_all=pcie.all_to_all,
                error=self.scaled_error,
                calibrated=False,
            )
        if gpu.key in self.cards:
            return self.cards[gpu.key]
        return scaled(
            self.cards[DONORS[gpu.interconnect]], GPUS[DONORS[gpu.interconnect]], gpu, self.scaled_error
        )


def scaled(cost: CostParameters, donor: Gpu, gpu: Gpu, error: float) -> CostParameters:
    """``donor``'s parameters carried over to ``gpu`` by the ratios of their data sheets."""
    faster = gpu.link / donor.link * (1.0 if gpu.peer_to_peer else HOST_BOUNCE)
    return replace(
        cost,
        peak=gpu.bf16,
        ring=tuple((size, rate * faster) for size, rate in cost.ring),
        all_to_all=tuple((size, rate * faster) for size, rate in cost.all_to_all),
        decode=cost.decode * donor.bandwidth / gpu.bandwidth,
        error=error,
        calibrated=False,
    )


def load(text: str) -> Calibration:
    """The calibration in the text of a parameters file. Raises KeyError, TypeError or ValueError when it is none."""
    content = json.loads(text)
    return Calibration(
        cards={key: _parameters(entry) for key, entry in content["cards"].items()},
        stacks={
            (card, name): Stack(**factors)
            for card, names in content["stacks"].items()
            for name, factors in names.items()
        },
        scaled_error=float(content["scaled_error"]),
    )


def _parameters(entry: Mapping[str, Any]) -> CostParameters:
    values: dict[str, Any] = {}
    for name, value in entry.items():
        if isinstance(value, dict):
            values[name] = tuple(sorted((int(size), float(rate)) for size, rate in value.items()))
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    return CostParameters(**values)


CALIBRATION = load(
    resources.files("fluxsampler_planner").joinpath("data/calibration.json").read_text("utf-8")
)
