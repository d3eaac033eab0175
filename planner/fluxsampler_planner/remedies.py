"""When nothing fits: what would make it fit, found by asking the search again with one thing changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from fluxsampler_planner.errors import Infeasible, problem
from fluxsampler_planner.fallback import forms
from fluxsampler_planner.gpus import GIB, GPUS
from fluxsampler_planner.rejections import families
from fluxsampler_planner.search import Found, Inputs, search

if TYPE_CHECKING:
    from fluxsampler_api.spec import FluxSamplerSpec

MOST_CARDS = 16


def infeasible(spec: FluxSamplerSpec, inputs: Inputs, found: Found) -> Infeasible:
    """The error for ``found`` without a best candidate."""
    rejected = families(inputs, found)
    if found.considered == 0:
        node = inputs.node
        size = inputs.gpus_per_replica or 1
        return Infeasible(
            problem(
                "spec.replicas" if size <= node.cards else "spec.parallelism.gpusPerReplica",
                f"{inputs.replicas} replicas of {size} or more cards do not fit on {node.nodes} node(s) of {node.cards}; a replica never crosses nodes; "
                f"use at most {max(1, node.cards // size * node.nodes)} replicas, or more cards",
            ),
            rejected=rejected,
        )
    fixes = list(_fixes(inputs))
    advice = f"; use {', or '.join(fixes)}" if fixes else "; no change of one field makes it fit"
    usable = inputs.node.gpu.usable
    if found.least_bytes is not None and found.least_bytes > usable:
        need = f"{inputs.model.name} needs {found.least_bytes / GIB:.1f} GiB on a card at the least, {usable / GIB:.1f} usable on {inputs.node.gpu.title}"
        path = "spec.parallelism" if inputs.manual is not None else "spec.hardware"
        return Infeasible(problem(path, need + advice), rejected=rejected)
    if found.least_bytes is not None:
        smallest = min((form.size for form in inputs.fallback_forms), default=0)
        return Infeasible(
            problem(
                "spec.fallback.placement",
                f"no layout leaves room for {max(1, inputs.min_fallbacks)} fallback(s) of {smallest / GIB:.1f} GiB placed {' or '.join(inputs.placements)}{advice}",
            ),
            rejected=rejected,
        )
    reasons = "; ".join(sorted({f"{line.family}: {line.message}" for line in rejected})[:3])
    return Infeasible(
        problem("spec.parallelism", f"every layout breaks a rule ({reasons}){advice}"), rejected=rejected
    )


def _fixes(inputs: Inputs) -> Iterator[str]:
    """Single changes with which something fits, most useful first."""

    def fits(changed: Inputs) -> bool:
        return search(changed).best is not None

    picture, model = inputs.picture, inputs.model
    if inputs.cuda and not inputs.form.fp8:
        form = replace(inputs.form, fp8=True)
        if fits(
            replace(inputs, form=form, fallback_forms=forms(model, form.element, "fp8", picture, cuda=True))
        ):
            yield "spec.model.quantization: fp8"
    if inputs.request.exact and fits(replace(inputs, request=replace(inputs.request, exact=False))):
        yield "spec.parallelism.exact: false (allows pipefusion)"
    if inputs.manual is not None and fits(replace(inputs, manual=None)):
        yield "spec.parallelism.mode: Auto"
    elif inputs.gpus_per_replica is not None and fits(replace(inputs, gpus_per_replica=None, manual=None)):
        yield "another spec.parallelism.gpusPerReplica, or none"
    if inputs.placements != ("None",):
        if len(inputs.placements) == 1 and fits(
            replace(inputs, placements=("CoResident", "Reserved", "OnDemand"))
        ):
            yield "spec.fallback.placement: Auto"
        elif fits(replace(inputs, placements=("None",))):
            yield "spec.fallback.enabled: false"
    if inputs.min_fallbacks > 1 and fits(replace(inputs, min_fallbacks=1)):
        yield "spec.fallback.minReplicas: 1"
    if inputs.cuda:
        for cards in range(inputs.node.cards + 1, MOST_CARDS + 1):
            if fits(replace(inputs, node=replace(inputs.node, cards=cards))):
                yield f"{cards} cards a node or more"
                break
        for gpu in sorted(GPUS.values(), key=lambda each: each.memory):
            if (
                gpu.key != "cpu"
                and gpu.memory > inputs.node.gpu.memory
                and fits(replace(inputs, node=replace(inputs.node, gpu=gpu)))
            ):
                yield f"a card of {gpu.memory / GIB:.0f} GiB such as {gpu.key}"
                break
