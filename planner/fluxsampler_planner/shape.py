"""What engines are made for, and what of it is wanted now.

A change of what an engine is started with starts every engine again, and loads every weight again. So
the plan is made as though one gang ran at the least and the fallback was on; how many there are of each
is told apart from it, and changes in place. Two exceptions: a fallback that is off keeps its place only
where the layout is the one that would be chosen without it, and engines that fit without any gang but
not beside one are planned without.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fluxsampler_planner.fallback import FallbackChoice, Placement, switched_off
from fluxsampler_planner.search import Candidate, Inputs, layout_seconds, search
from fluxsampler_planner.split import Split

if TYPE_CHECKING:
    from fluxsampler_api.spec import FluxSamplerSpec
    from fluxsampler_api.spec.serving import Fallback


def placements(wanted: Fallback) -> tuple[Placement, ...]:
    """The placements that `spec.fallback` allows, were it on."""
    return ("CoResident", "Reserved", "OnDemand") if wanted.placement == "Auto" else (wanted.placement,)


def least_gangs(spec: FluxSamplerSpec) -> int:
    """Number of gangs to plan for: `replicas`, or the most of `autoscaling`, and one where none is wanted now."""
    return max(1, spec.replicas) if spec.autoscaling is None else spec.autoscaling.max_replicas


def no_gang(spec: FluxSamplerSpec) -> bool:
    """Whether gangs are scaled to none."""
    return spec.autoscaling is None and spec.replicas == 0


def shape_of(spec: FluxSamplerSpec, inputs: Inputs, best: Candidate) -> Candidate:
    """The candidate that engines are started as: ``best``, with room for a fallback that is off where that costs nothing.

    Without a gang (one rank) there is no card to share, and so nothing to keep.
    """
    if spec.fallback.enabled or best.split.ranks == 1:
        return best
    beside = search(replace(inputs, placements=placements(spec.fallback))).best
    same = beside is not None and (beside.split, beside.blocks, beside.encoders) == (
        best.split,
        best.blocks,
        best.encoders,
    )
    return beside if beside is not None and same else best


def gangs_now(spec: FluxSamplerSpec, inputs: Inputs, best: Candidate, fallback: FallbackChoice) -> Candidate:
    """``best`` with as many gangs as are wanted now, and with the speed of the fallbacks where that is none."""
    if not no_gang(spec):
        return best
    encoders = fallback.form.encoders if fallback.form is not None else "device"
    alone = layout_seconds(inputs, Split(), (inputs.model.blocks,), encoders)
    return replace(
        best, replicas=0, seconds=alone, images_per_minute=60.0 * max(1, fallback.warm) / alone.total
    )


def fallback_now(
    spec: FluxSamplerSpec, inputs: Inputs, shape: Candidate, planned: FallbackChoice
) -> FallbackChoice:
    """``planned``, the fallback beside the gangs of ``shape``, as it is wanted now."""
    wanted, cards = spec.fallback, inputs.node.total_cards
    if not wanted.enabled:
        return switched_off(kept=shape.placement != "None")
    if not no_gang(spec):
        return planned
    if not inputs.cuda:
        return replace(planned, warm=wanted.min_replicas, alone=True)
    # Ray gives a share of whichever card is used most already: with no rank beside it a second fallback would land
    # on the card of the first, which holds one, and leave no share of it to the gang that comes back.
    room = 1 if planned.placement == "CoResident" and shape.split.ranks > 1 else cards
    most = room if wanted.max_replicas == "Auto" else min(room, wanted.max_replicas)
    return replace(
        planned,
        cards=tuple(range(most)),
        warm=min(wanted.min_replicas, most),
        most=most,
        alone=True,
        placement="CoResident" if planned.placement == "CoResident" else "Reserved",
    )
