from __future__ import annotations

import structlog

from fluxsampler_operator.queue import Key
from fluxsampler_operator.written import Written

KEY, OTHER = Key("team", "one"), Key("team", "two")
SENT = {"phase": "Ready", "plan": {"seconds": 1, "layout": "u2"}, "conditions": [{"type": "Ready", "more": 1}]}  # fmt: skip
KEPT = {"phase": "Ready", "plan": {"layout": "u2"}, "conditions": [{"type": "Ready"}]}


def test_what_was_sent_stands_for_what_came_back() -> None:
    written = Written()
    assert written.read(KEY, None) is None
    written.note(KEY, SENT, KEPT)
    assert written.read(KEY, dict(KEPT)) == SENT
    assert written.read(OTHER, dict(KEPT)) == KEPT


def test_any_other_status_is_read_as_it_is() -> None:
    written = Written()
    written.note(KEY, SENT, KEPT)
    edited = {**KEPT, "phase": "Failed"}
    assert written.read(KEY, edited) == edited
    assert written.read(KEY, None) is None


def test_a_status_that_comes_back_whole_needs_no_memory() -> None:
    written = Written()
    written.note(KEY, SENT, KEPT)
    written.note(KEY, SENT, dict(SENT))
    assert written.read(KEY, dict(KEPT)) == KEPT


def test_an_object_that_is_gone_is_forgotten() -> None:
    written = Written()
    written.note(KEY, SENT, KEPT)
    written.forget(KEY)
    assert written.read(KEY, dict(KEPT)) == KEPT


def test_each_field_is_told_once_with_its_fix() -> None:
    written = Written()
    with structlog.testing.capture_logs() as logs:
        written.note(KEY, SENT, KEPT)
        written.note(OTHER, SENT, KEPT)
        written.note(KEY, {**SENT, "phase": "Failed"}, {**KEPT, "phase": "Failed"})
    (line,) = logs
    assert line["dropped"] == ["conditions[].more", "plan.seconds"]
    assert "crds.install=true" in line["fix"]


def test_its_fix_is_complete_a_restart_shows_what_an_upgraded_definition_keeps() -> None:
    written = Written()
    with structlog.testing.capture_logs() as logs:
        written.note(KEY, SENT, KEPT)
    # The upgrade changes no object: nothing tells this operator that there is something to write.
    assert written.read(KEY, dict(KEPT)) == SENT
    assert "then restart the operator" in logs[0]["fix"]
    assert Written().read(KEY, dict(KEPT)) == KEPT


def test_what_the_server_adds_is_no_older_definition() -> None:
    written = Written()
    with structlog.testing.capture_logs() as logs:
        written.note(KEY, KEPT, {**KEPT, "added": 1})
    assert logs == []
    assert written.read(KEY, {**KEPT, "added": 1}) == KEPT
