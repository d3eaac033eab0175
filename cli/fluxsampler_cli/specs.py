"""From a file on the command line to a FluxSampler, and from that to a plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from fluxsampler_api.errors import SpecError
from fluxsampler_api.loading import load_file, load_text
from fluxsampler_cli.errors import InfeasiblePlan, InputError

if TYPE_CHECKING:
    from fluxsampler_api.sampler import FluxSampler
    from fluxsampler_planner import Hardware, ModelFacts, Plan


def load(path: Path) -> list[FluxSampler]:
    """Every FluxSampler of ``path`` (``-``: standard input). Raises :class:`InputError` with each problem."""
    try:
        if str(path) == "-":
            import sys  # only here

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
    """The plan of ``sampler``.

    Raises:
        InfeasiblePlan: with every problem and what would fit.
        InputError: its model is a folder of this machine, and damaged.
    """
    from fluxsampler_planner import PlanError, plan  # `validate` needs none of it

    try:
        return plan(sampler, hardware, model=_facts(sampler))
    except PlanError as error:
        first, *others = (str(problem) for problem in error.problems)
        rejected = [f"{one.family}: {one.message}" for one in getattr(error, "rejected", ())]
        raise InfeasiblePlan(f"{sampler.name}: {first}", *others, *rejected) from error


def local_folder(sampler: FluxSampler) -> Path | None:
    """The folder of a ``file://`` source."""
    source = sampler.spec.model.source
    return Path(unquote(urlsplit(source).path)) if source.startswith("file://") else None


def _facts(sampler: FluxSampler) -> ModelFacts | None:
    """Facts of a model in a folder that is here; None leaves it to the planner's catalogue."""
    from fluxsampler_cli import model_folder  # imports the planner
    from fluxsampler_planner import UnknownModel
    from fluxsampler_planner.models import find_model

    folder = local_folder(sampler)
    if folder is None:
        return None
    try:
        return find_model(sampler.spec.model.source)
    except UnknownModel:
        return model_folder.facts(folder) if folder.is_dir() else None
