"""The reference page holds every field and every rule of the schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fluxsampler_api import reference
from fluxsampler_api.crd import build

PAGE = reference.render()


def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("properties", {}).values():
        yield from walk(child)
    if isinstance(node.get("items"), dict):
        yield from walk(node["items"])


def schema(part: str) -> dict[str, Any]:
    version = build()["spec"]["versions"][0]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"][part]
    return found


@pytest.mark.parametrize("part", ["spec", "status"])
def test_every_field_and_rule_is_on_the_page(part: str) -> None:
    for node in walk(schema(part)):
        for name, child in node.get("properties", {}).items():
            assert f"| `{name}` |" in PAGE
            if child.get("description"):
                assert child["description"].replace("|", "\\|").replace("\n", " ") in PAGE
        for rule in node.get("x-kubernetes-validations", ()):
            assert rule["message"] in PAGE


def test_bounds_defaults_and_choices_are_readable() -> None:
    assert "| `replicas` | integer, 0 to 64 | `1` |" in PAGE
    assert "`cuda` \\| `cpu`" in PAGE
    assert "### `spec.model`\n" in PAGE
    assert "`spec.hardware.tolerations[]`" in PAGE


def test_no_table_is_broken() -> None:
    width = None
    for line in PAGE.splitlines():
        cells = line.replace("\\|", "").count("|")
        if not line.startswith("|"):
            width = None
            continue
        width = width or cells
        assert cells == width, line
