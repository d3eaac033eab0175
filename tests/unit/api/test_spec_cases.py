"""Every case of the shared table, through pydantic: the dry run a user has on a laptop."""

from __future__ import annotations

import pytest
import yaml

from fluxsampler_api.errors import SpecError
from fluxsampler_api.loading import load_text, parse
from tests.support.spec_cases import Case, cases


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_case(case: Case) -> None:
    if case.valid:
        assert parse(case.document).metadata.name == case.document["metadata"]["name"]
        return
    with pytest.raises(SpecError) as caught:
        parse(case.document)
    found = {problem.path: problem.message for problem in caught.value.problems}
    assert set(found) == set(case.problems), found
    for path, text in case.problems.items():
        assert text in found[path]


def test_table_is_broad_enough() -> None:
    names = [case.name for case in cases()]
    assert len(names) == len(set(names))
    assert len(names) >= 40
    assert sum(not case.valid for case in cases()) >= 30


@pytest.mark.parametrize("case", [case for case in cases() if not case.valid], ids=lambda case: case.name)
def test_text_form_names_file_and_line(case: Case) -> None:
    with pytest.raises(SpecError) as caught:
        load_text(yaml.safe_dump(case.document), source="case.yaml")
    for problem in caught.value.problems:
        assert problem.line is not None
        assert str(problem).startswith(f"case.yaml:{problem.line}: ")
