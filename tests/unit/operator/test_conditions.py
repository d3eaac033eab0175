from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxsampler_api.status import Condition
from fluxsampler_operator.reasons import Reason
from fluxsampler_operator.status import conditions
from fluxsampler_operator.status.conditions import Finding

NOON = datetime(2026, 11, 22, 12, 0, 0, 987654, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)


def finding(type_: str = "Ready", status: str = "True", message: str = "m", generation: int = 1) -> Finding:
    return Finding(type_, status, Reason.READY, message, generation)  # type: ignore[arg-type]  # parametrised


def test_the_first_time_is_now_without_its_fraction() -> None:
    (made,) = conditions.merge((), [finding()], NOON)
    assert made["lastTransitionTime"] == "2026-11-22T12:00:00Z"


def test_another_time_zone_is_written_in_utc() -> None:
    east = NOON.astimezone(timezone(timedelta(hours=9)))
    assert conditions.timestamp(east) == "2026-11-22T12:00:00Z"


@pytest.mark.parametrize(
    ("status", "moved"),
    [("True", False), ("False", True), ("Unknown", True)],
    ids=["same", "lost", "unknown"],
)
def test_the_time_moves_only_with_the_status(status: str, moved: bool) -> None:
    before = conditions.merge((), [finding()], NOON)
    (made,) = conditions.merge(before, [finding(status=status, message="another", generation=2)], LATER)
    assert (made["lastTransitionTime"] != before[0]["lastTransitionTime"]) is moved
    assert (made["message"], made["observedGeneration"]) == ("another", 2)


def test_order_is_that_of_a_start_whatever_is_found_first() -> None:
    found = [finding("Ready"), finding("Degraded", "False"), finding("Accepted"), finding("Serving")]
    made = conditions.merge((), found, NOON)
    assert [each["type"] for each in made] == ["Accepted", "Serving", "Degraded", "Ready"]


def test_what_is_not_found_anew_is_kept() -> None:
    before = conditions.merge((), [finding("Accepted"), finding("Ready")], NOON)
    foreign = {"type": "FromTheFuture", "status": "True"}
    made = conditions.merge([*before, foreign], [finding("Ready", "False")], LATER)
    assert [(each["type"], each["status"]) for each in made] == [
        ("Accepted", "True"), ("Ready", "False"), ("FromTheFuture", "True"),
    ]  # fmt: skip


def test_conditions_are_those_of_the_contract() -> None:
    (made,) = conditions.merge((), [finding()], NOON)
    assert Condition.model_validate(made).reason == "Ready"


def test_a_long_message_keeps_its_ends() -> None:
    made = conditions.shorten("cause " + "x" * 9000 + " end", 100)
    assert len(made) <= 100
    assert made.startswith("cause ")
    assert made.endswith(" end")


@settings(deadline=None)
@given(
    statuses=st.lists(st.sampled_from(["True", "False", "Unknown"]), min_size=1, max_size=8),
)
def test_merging_the_same_again_changes_nothing(statuses: list[str]) -> None:
    kept: list[dict[str, object]] = []
    for hour, status in enumerate(statuses):
        kept = conditions.merge(kept, [finding(status=status)], NOON + timedelta(hours=hour))
    assert conditions.merge(kept, [finding(status=statuses[-1])], NOON + timedelta(days=9)) == kept
