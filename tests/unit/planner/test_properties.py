"""What must hold for every spec the planner can be given, beyond the data it was calibrated on."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fluxsampler_planner import Hardware, Infeasible, Plan, plan
from fluxsampler_planner.gpus import GIB, GPUS
from fluxsampler_planner.rules import refusal
from tests.unit.planner.samplers import DEV, SCHNELL, sampler

CARDS = st.sampled_from(sorted(set(GPUS) - {"cpu"}))
SIDES = st.sampled_from([512, 768, 1024, 1280, 1536, 2048])
PLACEMENTS = st.sampled_from(["Auto", "CoResident", "Reserved", "OnDemand", "Off"])


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """Changes to the base spec: model, form, target, objective, fallback."""
    placement = draw(PLACEMENTS)
    return {
        "model.source": draw(st.sampled_from([DEV, SCHNELL])),
        "model.quantization": draw(st.sampled_from(["none", "fp8"])),
        "parallelism.target": {
            "width": draw(SIDES),
            "height": draw(SIDES),
            "steps": draw(st.integers(1, 50)),
        },
        "parallelism.objective": draw(st.sampled_from(["latency", "throughput"])),
        "parallelism.exact": draw(st.booleans()),
        "replicas": draw(st.integers(1, 2)),
        **({"fallback.enabled": False} if placement == "Off" else {"fallback.placement": placement}),
    }


def attempt(changes: dict[str, Any], gpu: str, cards: int, **found: Any) -> Plan | None:
    try:
        return plan(sampler(changes, gpu=gpu, gpusPerNode=cards), Hardware(**found))
    except Infeasible:
        return None


def value(made: Plan) -> float:
    """What the search minimises: seconds per picture, with the stated price of a colder fallback."""
    return made.chosen.score


@settings(deadline=None, max_examples=30)
@given(requests(), CARDS, st.integers(1, 12), st.integers(1, 4))
def test_more_cards_never_worsen_the_plan(changes: dict[str, Any], gpu: str, cards: int, more: int) -> None:
    fewer = attempt(changes, gpu, cards)
    assume(fewer is not None)
    larger = attempt(changes, gpu, cards + more)
    assert fewer is not None
    assert larger is not None, "more cards made it infeasible"
    assert value(larger) <= value(fewer)


@settings(deadline=None, max_examples=25)
@given(requests(), CARDS, st.sampled_from([1, 2, 4, 8]), st.integers(16, 80), st.integers(1, 40))
def test_more_card_memory_never_makes_a_plan_infeasible_or_worse(
    changes: dict[str, Any], gpu: str, cards: int, memory: int, more: int
) -> None:
    tight = attempt(changes, gpu, cards, card_memory=memory * GIB)
    assume(tight is not None)
    roomy = attempt(changes, gpu, cards, card_memory=(memory + more) * GIB)
    assert tight is not None
    assert roomy is not None
    assert value(roomy) <= value(tight)


@settings(deadline=None, max_examples=20)
@given(requests(), CARDS, st.sampled_from([1, 2, 4, 8]), st.integers(64, 512), st.integers(1, 512))
def test_more_host_memory_never_makes_a_plan_infeasible(
    changes: dict[str, Any], gpu: str, cards: int, memory: int, more: int
) -> None:
    if attempt(changes, gpu, cards, host_memory=memory * GIB) is not None:
        assert attempt(changes, gpu, cards, host_memory=(memory + more) * GIB) is not None


@settings(deadline=None, max_examples=30)
@given(requests(), CARDS, st.integers(1, 16), st.integers(1, 4))
def test_every_plan_fits_and_breaks_no_rule(
    changes: dict[str, Any], gpu: str, cards: int, nodes: int
) -> None:
    try:
        made = plan(sampler(changes, gpu=gpu, gpusPerNode=cards, nodes=nodes))
    except Infeasible:
        return
    assert refusal(made.split, made.inputs.request) is None
    assert all(card.used <= card.usable for card in made.cards)
    assert made.chosen.replicas >= changes["replicas"]
    assert made.split.ranks <= cards
    # A replica's cards are neighbours on one node.
    for gang in range(made.chosen.replicas):
        mine = [card.index for card in made.cards if re.search(rf"of gang {gang}\b", card.role)]
        assert len({index // cards for index in mine}) == 1
        assert mine == list(range(mine[0], mine[0] + made.split.ranks))
    assert len(made.rejected) <= 12
    if made.fallback.placement == "CoResident":
        assert len(made.fallback.cards) >= made.fallback.warm


@settings(deadline=None, max_examples=25)
@given(requests(), CARDS, st.sampled_from([2, 4, 8]), SIDES, SIDES, st.integers(1, 49))
def test_a_plan_takes_longer_for_larger_pictures_and_more_steps(
    changes: dict[str, Any], gpu: str, cards: int, one: int, other: int, steps: int
) -> None:
    small, large = sorted((one, other))
    assume(small < large)

    def seconds(side: int, steps: int) -> float | None:
        target = {"width": side, "height": side, "steps": steps}
        made = attempt(
            {
                **changes,
                "parallelism.target": target,
                "fallback.enabled": False,
                "parallelism.objective": "latency",
            },
            gpu,
            cards,
        )
        return None if made is None else made.seconds_per_image

    changes.pop("fallback.placement", None)
    base, larger, longer = seconds(small, steps), seconds(large, steps), seconds(small, steps + 1)
    assume(base is not None)
    assert base is not None
    assert larger is None or larger > base
    assert longer is not None
    assert longer > base
