"""The fitted parameters that ship with the planner (``data/calibration.json``, written by ``tools/calibrate``).

Read once, when this module is imported: planning itself does no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from typing import Any

from fluxsampler_planner.cost import CostParameters
from fluxsampler_planner.gpus import GPUS, Gpu


def parameters_from(entry: Mapping[str, Any]) -> CostParameters:
    """One entry of the file as :class:`CostParameters`."""
    values: dict[str, Any] = {}
    for name, value in entry.items():
        if isinstance(value, dict):
            values[name] = tuple(sorted((int(size), float(rate)) for size, rate in value.items()))
        elif isinstance(value, list):
            values[name] = tuple(value)
        else:
            values[name] = value
    return CostParameters(**values)


def load_parameters(text: str) -> dict[str, CostParameters]:
    """The parameters of a calibration file, by key of the card."""
    return {key: parameters_from(entry) for key, entry in json.loads(text)["cards"].items()}


CALIBRATED = load_parameters(
    resources.files("fluxsampler_planner").joinpath("data/calibration.json").read_text("utf-8")
)


def parameters_for(gpu: Gpu, *, through_host: bool = False) -> CostParameters:
    """Parameters for ``gpu``: its own where rows were published for it, else its nearest relative's, scaled by the data sheets.

    ``through_host``: an NVLink card whose cards talk through the host, so it gets a PCIe card's links.
    """
    if through_host:
        pcie = CALIBRATED["l20"]
        return replace(parameters_for(gpu), ring=pcie.ring, all_to_all=pcie.all_to_all, calibrated=False)
    if gpu.key in CALIBRATED:
        found = CALIBRATED[gpu.key]
        return found if found.peak == gpu.bf16 else replace(found, peak=gpu.bf16)
    nearest = CALIBRATED["h100" if gpu.interconnect == "nvlink" else "l20"]
    donor = GPUS["h100" if gpu.interconnect == "nvlink" else "l20"]
    faster = gpu.link / donor.link
    return replace(
        nearest,
        peak=gpu.bf16,
        ring=tuple((size, rate * faster) for size, rate in nearest.ring),
        all_to_all=tuple((size, rate * faster) for size, rate in nearest.all_to_all),
        decode=nearest.decode * donor.bandwidth / gpu.bandwidth,
        calibrated=False,
    )
