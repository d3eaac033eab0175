"""The manifests of every example and of odd specs, as files that a person has looked at."""

from __future__ import annotations

import pytest
import yaml

from tests.support.golden import CASES, FOLDER, Case


@pytest.mark.parametrize("case", CASES, ids=str)
def test_manifests_are_what_was_looked_at(case: Case) -> None:
    assert case.golden.is_file(), "write it with `make golden`, and look at it"
    assert case.text() == case.golden.read_text(encoding="utf-8"), "see `make golden` and its diff"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_text_says_what_the_manifests_say(case: Case) -> None:
    assert list(yaml.safe_load_all(case.text())) == list(case.manifests())


def test_no_golden_file_is_left_over() -> None:
    on_disk = {*FOLDER.glob("*.yaml"), *(FOLDER / "odd").glob("*.yaml")}
    assert on_disk == {case.golden for case in CASES}
