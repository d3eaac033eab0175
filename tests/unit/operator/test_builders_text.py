"""YAML text that every parser reads alike."""

from __future__ import annotations

import re

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from fluxsampler_operator.builders.text import as_stream, as_yaml

# YAML 1.2 core schema, section 10.3.2, and what Go's parser takes on top: underscores, 0b.
NUMBER = re.compile(
    r"[-+]?[0-9_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+|[-+]?(\.[0-9]+|[0-9_]+(\.[0-9_]*)?)([eE][-+]?[0-9]+)?"
)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=40))
@example("12e3")
@example("0o17")
@example("1_000")
@example("1234567890123e45")
@example("None")
@example("yes")
@example("")
@example("null")
@example("2026-11-22")
@example("1:30")
def test_texts_stay_texts(text: str) -> None:
    made = as_yaml({"key": text})
    assert yaml.safe_load(made) == {"key": text}
    plain = re.fullmatch(r"key: ([^'\"|>\n][^\n]*)\n", made)
    assert plain is None or not NUMBER.fullmatch(plain[1])


def test_texts_of_many_lines_are_blocks_and_nothing_is_an_alias() -> None:
    shared = {"port": 1}
    made = as_yaml({"one": shared, "two": shared, "text": "a: 1\nb: 2\n"})
    assert "&" not in made
    assert "text: |\n  a: 1\n  b: 2\n" in made


def test_a_stream_holds_a_document_for_each() -> None:
    assert list(yaml.safe_load_all(as_stream([{"a": 1}, {"b": 2}]))) == [{"a": 1}, {"b": 2}]
