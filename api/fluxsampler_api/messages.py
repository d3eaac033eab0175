"""Validation messages that name the fix, where pydantic's own do not."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError


def choices(values: tuple[str, ...]) -> str:
    """`a, b or c`."""
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"


def closest(word: str, known: tuple[str, ...]) -> str:
    """`; did you mean X?` when a known word is near, else nothing."""
    near = get_close_matches(word.lower(), [name.lower() for name in known], n=1, cutoff=0.6)
    return f"; did you mean {next(name for name in known if name.lower() == near[0])}?" if near else ""


def one_of(*values: str) -> BeforeValidator:
    """Refuse a word outside ``values`` with the nearest one named."""

    def check(value: Any) -> Any:
        if value not in values:
            raise PydanticCustomError(
                "one_of",
                "{value} is not one of {known}{near}",
                {"value": repr(value), "known": choices(values), "near": closest(str(value), values)},
            )
        return value

    return BeforeValidator(check)


def plain_bool(yes: str, no: str) -> BeforeValidator:
    """YAML reads a bare `true` as a boolean, which the API server's string schema refuses; say so."""

    def check(value: Any) -> Any:
        if isinstance(value, bool):
            raise PydanticCustomError(
                "plain_bool",
                "{value} is a boolean; write {word}",
                {"value": str(value).lower(), "word": yes if value else no},
            )
        return value

    return BeforeValidator(check)
