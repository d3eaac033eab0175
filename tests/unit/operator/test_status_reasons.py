from __future__ import annotations

import re
from pathlib import Path

from fluxsampler_api.status import Condition
from fluxsampler_operator.reasons import PROGRESS, WAITING, Reason
from fluxsampler_operator.status.conditions import TYPES

PAGE = (Path(__file__).parents[3] / "docs" / "operations" / "conditions.md").read_text()


def test_every_reason_is_explained() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert rows - set(TYPES) - {"Ready"} == {str(reason) for reason in Reason} - {"Ready"}
    assert "Ready" in rows


def test_every_condition_is_explained() -> None:
    assert set(TYPES) <= set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))


def test_reasons_are_words_as_kubernetes_wants_them() -> None:
    # metav1.Condition: ^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$
    assert all(re.fullmatch(r"[A-Z][A-Za-z0-9]*", reason) for reason in Reason)
    assert len(set(Reason)) == len(list(Reason.__members__))
    assert Condition.model_fields["reason"].is_required()


def test_what_waits_is_not_what_progresses() -> None:
    assert not PROGRESS & WAITING


def test_every_row_says_what_to_do() -> None:
    for row in re.findall(r"^\| `\w+` \|.*$", PAGE, re.MULTILINE):
        assert all(cell.strip() for cell in row.strip("|").split("|")[:2]), row
