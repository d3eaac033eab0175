"""When nothing fits: what would make it fit, found by asking the search again with one thing changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fluxsampler_api.errors import Problem
from fluxsampler_planner.errors import Infeasible, problem
from fluxsampler_planner.fallback import forms
from fluxsampler_planner.gpus import GIB, GPUS
from fluxsampler_planner.rejections import families
from fluxsampler_planner.search import Found, Inputs, search

MOST_CARDS = 16


def infeasible(inputs: Inputs, found: Found) -> Infeasible:
    """The error for ``found`` without a best candidate."""
    rejected = families(inputs, found)
    if found.considered == 0:
        return Infeasible(_too_many(inputs), rejected=rejected)
    fixes = list(_fixes(inputs))
    advice = f"; use {', or '.join(fixes)}" if fixes else "; no change of one field makes it fit"
    model, gpu = inputs.model.name, inputs.node.gpu
    if found.least_bytes is None:
        reasons = "; ".join(f"{line.family}: {line.message}" for line in rejected[:3])
        return Infeasible(
            problem("spec.parallelism", f"every layout breaks a rule ({reasons}){advice}"), rejected=rejected
        )
    if found.least_bytes > gpu.usable:
        path = "spec.parallelism" if inputs.manual is not None else "spec.hardware"
        need = f"{model} needs {found.least_bytes / GIB:.1f} GiB {inputs.place} at the least, {gpu.usable / GIB:.1f} usable on {gpu.title}"
        return Infeasible(problem(path, need + advice), rejected=rejected)
    smallest = min((form.size for form in inputs.fallback_forms), default=0)
    wanted = f"{max(1, inputs.min_fallbacks)} fallback(s) of {smallest / GIB:.1f} GiB placed {' or '.join(inputs.placements)}"
    return Infeasible(
        problem("spec.fallback.placement", f"no layout leaves room for {wanted}{advice}"), rejected=rejected
    )


def _too_many(inputs: Inputs) -> Problem:
    node, size = inputs.node, inputs.gpus_per_replica or 1
    if size > node.cards:
        return problem(
            "spec.parallelism.gpusPerReplica",
            f"{size} cards a replica, a node has {node.cards}, and a replica never crosses nodes; use {node.cards} or fewer",
        )
    most = node.cards // size * node.nodes
    return problem(
        "spec.replicas",
        f"{inputs.replicas} replicas of {size} or more cards do not fit on {node.nodes} node(s) of {node.cards}; "
        f"use {most} or fewer, or more cards",
    )


def _fixes(inputs: Inputs) -> Iterator[str]:
    """Single changes with which something fits, most useful first."""
    for changed, text in _changes(inputs):
        if search(changed).best is not None:
            yield text
    if not inputs.cuda:
        return
    node = inputs.node
    for cards in range(node.cards + 1, MOST_CARDS + 1):
        if search(replace(inputs, node=replace(node, cards=cards))).best is not None:
            yield f"{cards} cards a node or more"
            break
    for gpu in sorted(GPUS.values(), key=lambda each: each.memory):
        larger = gpu.key != "cpu" and gpu.memory > node.gpu.memory
        if larger and search(replace(inputs, node=replace(node, gpu=gpu))).best is not None:
            yield f"a card of {gpu.memory / GIB:.0f} GiB such as {gpu.key}"
            break


def _changes(inputs: Inputs) -> Iterator[tuple[Inputs, str]]:
    if inputs.cuda and not inputs.form.fp8:
        form = replace(inputs.form, fp8=True)
        fallbacks = forms(inputs.model, form.element, "fp8", inputs.picture, cuda=True)
        yield replace(inputs, form=form, fallback_forms=fallbacks), "spec.model.quantization: fp8"
    if inputs.request.exact:
        yield (
            replace(inputs, request=replace(inputs.request, exact=False)),
            "spec.parallelism.exact: false (allows pipefusion)",
        )
    if inputs.manual is not None:
        yield replace(inputs, manual=None), "spec.parallelism.mode: Auto"
    elif inputs.gpus_per_replica is not None:
        yield replace(inputs, gpus_per_replica=None), "another spec.parallelism.gpusPerReplica, or none"
    if len(inputs.placements) == 1 and inputs.placements != ("None",):
        yield (
            replace(inputs, placements=("CoResident", "Reserved", "OnDemand")),
            "spec.fallback.placement: Auto",
        )
    if inputs.placements != ("None",):
        yield replace(inputs, placements=("None",)), "spec.fallback.enabled: false"
    if inputs.min_fallbacks > 1:
        yield replace(inputs, min_fallbacks=1), "spec.fallback.minReplicas: 1"
