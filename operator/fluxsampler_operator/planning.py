"""A live FluxSampler and the nodes in, a plan or a refusal in the words of the Accepted condition out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fluxsampler_api.errors import Problem, SpecError
from fluxsampler_api.loading import parse
from fluxsampler_api.sampler import FluxSampler
from fluxsampler_operator.hardware import Found, found_hardware, kinds
from fluxsampler_operator.manifest import Manifest
from fluxsampler_operator.observed import Json, Refusal
from fluxsampler_operator.reasons import Reason
from fluxsampler_planner.errors import Infeasible, PlanError, UnknownGpu, UnknownModel
from fluxsampler_planner.plan import Plan, plan

_HOST_PATHS = ("spec.objectStore.memory", "spec.hardware.memory")
_CARD_PATHS = ("spec.hardware", "spec.parallelism", "spec.fallback.placement")


@dataclass(frozen=True, slots=True)
class Planned:
    """``sampler`` is None for an invalid spec; ``plan`` and ``refusal`` exclude each other; ``notes`` qualify a plan."""

    sampler: FluxSampler | None
    plan: Plan | None = None
    refusal: Refusal | None = None
    notes: tuple[str, ...] = ()


def read(live: Manifest) -> FluxSampler | Refusal:
    """The object as the contract reads it. The API server holds the same rules, but an older CRD may not."""
    try:
        return parse(live)
    except SpecError as error:
        return Refusal(Reason.INVALID_SPEC, error.problems)


def planned(sampler: FluxSampler, nodes: Sequence[Json] | None) -> Planned:
    """Plan for the nodes of the cluster; ``nodes`` is None where the operator may not read them."""
    found = Found(None, 0, 0) if nodes is None else found_hardware(nodes, sampler.spec)
    try:
        made = plan(sampler, found.hardware)
    except PlanError as error:
        return Planned(sampler, refusal=_refusal(sampler, error, found, nodes))
    return Planned(sampler, made, notes=_notes(sampler, found, nodes))


def _notes(sampler: FluxSampler, found: Found, nodes: Sequence[Json] | None) -> tuple[str, ...]:
    wanted = sampler.spec.hardware.nodes
    if nodes is None:
        return ("the operator may not read nodes, so this is planned from the spec alone",)
    if found.hardware is None:
        return (f"no node matches spec.hardware ({kinds(nodes)}), so this is planned from the spec alone",)
    if found.nodes < wanted:
        return (f"spec.hardware.nodes is {wanted}, {found.nodes} of {found.seen} nodes match",)
    return ()


def _refusal(sampler: FluxSampler, error: PlanError, found: Found, nodes: Sequence[Json] | None) -> Refusal:
    problems = error.problems
    if isinstance(error, UnknownModel):
        return Refusal(Reason.UNKNOWN_MODEL, problems)
    if isinstance(error, UnknownGpu):
        if nodes is None:
            why = "the operator may not read nodes (namespaced installation), so Auto cannot be resolved"
            return Refusal(Reason.NODES_UNREADABLE, _with(problems, why))
        return Refusal(Reason.UNKNOWN_GPU, _with(problems, f"in the cluster: {kinds(nodes)}"))
    if isinstance(error, Infeasible):
        paths = {problem.path for problem in problems}
        cards = any(line.reason == "InsufficientGPUMemory" for line in error.rejected)
        if paths & set(_HOST_PATHS) or (cards and sampler.spec.hardware.device == "cpu"):
            return Refusal(Reason.INSUFFICIENT_HOST_MEMORY, problems)
        if cards and paths & set(_CARD_PATHS):
            return Refusal(Reason.INSUFFICIENT_GPU_MEMORY, problems)
        if nodes is not None and found.hardware is not None and paths & {"spec.hardware.gpusPerNode"}:
            return Refusal(Reason.INFEASIBLE, _with(problems, f"in the cluster: {kinds(nodes)}"))
    return Refusal(Reason.INFEASIBLE, problems)


def _with(problems: tuple[Problem, ...], more: str) -> tuple[Problem, ...]:
    first, *rest = problems
    return (replace(first, message=f"{first.message} ({more})"), *rest)
