"""From a file on the command line to a FluxSampler, and from that to a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluxsampler_api.errors import SpecError
from fluxsampler_api.loading import load_file, load_text
from fluxsampler_cli.errors import InfeasiblePlan, InputError

if TYPE_CHECKING:
    from pathlib import Path

    from fluxsampler_api.sampler import FluxSampler
    from fluxsampler_planner import Hardware, Plan


def load(path: Path) -> list[FluxSampler]:
    """Every FluxSampler of ``path`` (``-``: standard input). Raises :class:`InputError` with each problem."""
    try:
        if str(path) == "-":
            import sys  # noqa: PLC0415 - only here

            return load_text(sys.stdin.read(), source="standard input")
        return load_file(path)
    except SpecError as error:
        first, *others = (str(problem) for problem in error.problems)
        raise InputError(first, *others) from error


def select(samplers: list[FluxSampler], name: str | None, path: Path) -> FluxSampler:
    """The FluxSampler called ``name``, or the only one."""
    names = [sampler.name for sampler in samplers]
    if name is None:
        if len(samplers) == 1:
            return samplers[0]
        raise InputError(
            f"{path} holds {len(names)} FluxSamplers; choose one with --select: {', '.join(names)}"
        )
    for sampler in samplers:
        if sampler.name == name:
            return sampler
    raise InputError(f"{path} holds no FluxSampler called {name}; there is: {', '.join(names)}")


def make_plan(sampler: FluxSampler, hardware: Hardware | None) -> Plan:
    """The plan of ``sampler``. Raises :class:`InfeasiblePlan` with every problem and what would fit."""
    from fluxsampler_planner import PlanError, plan  # noqa: PLC0415 - `validate` needs none of it

    try:
        return plan(sampler, hardware)
    except PlanError as error:
        first, *others = (str(problem) for problem in error.problems)
        rejected = [f"{one.family}: {one.message}" for one in getattr(error, "rejected", ())]
        raise InfeasiblePlan(f"{sampler.name}: {first}", *others, *rejected) from error
