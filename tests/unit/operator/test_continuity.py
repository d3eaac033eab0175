from __future__ import annotations

from typing import Any

import pytest

from fluxsampler_operator.continuity import Continuity
from fluxsampler_operator.observed.serve_state import application
from fluxsampler_operator.queue import Key
from tests.unit.operator.observations import rayservice

KEY = Key("team", "one")


class Story:
    """What Serve says, round by round, of one sampler."""

    def __init__(self) -> None:
        self.continuity = Continuity()

    def look(
        self, said: str, generation: int, engines: str = "these", *, head: bool = True, current: bool = True, **words: str
    ) -> bool:  # fmt: skip
        live: dict[str, Any] = rayservice(said, **words)
        live["metadata"]["generation"] = generation
        return self.continuity.goes_on(KEY, live, application(live), engines, head=head, current=current)


@pytest.fixture
def ran() -> Story:
    story = Story()
    assert story.look("RUNNING", 1) is False, "nothing changes"
    return story


def test_a_change_of_other_things_leaves_the_engines(ran: Story) -> None:
    assert ran.look("RUNNING", 2, current=False) is True
    assert ran.look("DEPLOYING", 2) is True
    assert ran.look("DEPLOYING", 3) is True
    assert ran.look("RUNNING", 3) is False
    assert ran.look("DEPLOYING", 4) is True


def test_other_engines_start_anew_even_if_the_former_are_asked_for_again(ran: Story) -> None:
    assert ran.look("RUNNING", 2, "others", current=False) is False
    assert ran.look("RUNNING", 3, current=False) is False
    assert ran.look("DEPLOYING", 3) is False


def test_a_spec_without_a_plan_changes_nothing_that_runs(ran: Story) -> None:
    assert ran.look("DEPLOYING", 2) is True
    assert ran.look("DEPLOYING", 2, "") is True
    assert ran.look("RUNNING", 2, "") is True
    assert ran.look("RUNNING", 2) is False


def test_serve_that_deploys_without_a_change_has_lost_something(ran: Story) -> None:
    assert ran.look("DEPLOYING", 1) is False


@pytest.mark.parametrize("said", ["DEPLOY_FAILED", "UNHEALTHY", "NOT_STARTED"])
def test_what_broke_does_not_go_on_afterwards(ran: Story, said: str) -> None:
    assert ran.look(said, 2) is False
    assert ran.look("DEPLOYING", 2) is False


def test_a_deployment_that_breaks_ends_it(ran: Story) -> None:
    assert ran.look("DEPLOYING", 2, Gateway="UNHEALTHY") is False
    assert ran.look("DEPLOYING", 2) is False


def test_a_head_that_is_lost_ends_it(ran: Story) -> None:
    assert ran.look("DEPLOYING", 2, head=False) is False
    assert ran.look("DEPLOYING", 2) is False


def test_nothing_goes_on_that_never_ran() -> None:
    assert Story().look("DEPLOYING", 2) is False
    ended = Story()
    ended.look("RUNNING", 1)
    ended.continuity.forget(KEY)
    assert ended.look("DEPLOYING", 2) is False


def test_a_document_of_somebody_else_interrupts_what_ran(ran: Story) -> None:
    def live(document: str) -> dict[str, Any]:
        return {"spec": {"serveConfigV2": document}}

    assert ran.continuity.interrupted(KEY, live("ours")) is False, "nothing was written yet"
    ran.continuity.wrote(KEY, live("ours"))
    assert ran.continuity.interrupted(KEY, live("ours")) is False
    assert ran.look("DEPLOYING", 2) is True
    assert ran.continuity.interrupted(KEY, live("theirs")) is True
    assert ran.look("DEPLOYING", 3) is False
