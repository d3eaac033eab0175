"""What was not taken, as a person reads it."""

from __future__ import annotations

from dataclasses import replace

from fluxsampler_planner import Links, plan
from fluxsampler_planner.rejections import MOST_LINES, families
from fluxsampler_planner.search import Group
from tests.unit.planner.samplers import sampler


def test_degrees_of_one_reason_share_a_line() -> None:
    lines = {line.family: line for line in plan(sampler()).rejected}
    assert lines["ulysses 5, 7"].reason == "HeadsNotDivisible"
    assert lines["ulysses 5, 7"].candidates == 2


def test_rules_come_before_memory_and_memory_before_time() -> None:
    order = [
        {"InsufficientGPUMemory": 1, "NoRoomForFallback": 2, "Slower": 3, "FallbackWouldBeCold": 3}.get(
            line.reason, 0
        )
        for line in plan(sampler()).rejected
    ]
    assert order == sorted(order)
    assert set(order) == {0, 1, 3}


def test_more_than_a_dozen_families_end_in_one_line() -> None:
    made = plan(sampler())
    refused = {(f"family {chr(97 + number)}", "Odd"): Group("odd", 2, 0.0) for number in range(20)}
    lines = families(made.inputs, replace(made.found, refused=refused))
    assert len(lines) == MOST_LINES
    assert lines[-1].family == "others"
    slower = len({other.split for other in made.found.families.values()} - {made.split})
    assert sum(line.candidates for line in lines) == 2 * 20 + slower
    assert "family t: Odd" in lines[-1].message


def test_a_faster_layout_without_a_warm_fallback_is_named_as_such() -> None:
    # With links this fast pp4·u2 is ahead, but only pp8 has room for seven warm fallbacks.
    fast = Links(ring={2: 200, 8: 200}, all_to_all={2: 200, 8: 200})
    made = plan(sampler({"fallback.minReplicas": 7}), links=fast)
    line = next(line for line in made.rejected if line.reason == "FallbackWouldBeCold")
    assert "pipefusion × ulysses/ring" in line.family
    assert line.message.endswith("but its fallback would be OnDemand")
    assert made.fallback.placement == "CoResident"
