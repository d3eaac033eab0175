"""values.yaml, its schema, the page about it and the chart's metadata say the same."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.unit.chart.values_table import BEGIN, CHART, PAGE, ROOT, page, values

SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
# Written by the user in Kubernetes' own words, which the API server checks.
FREE = {"global", "affinity", "podSecurityContext", "securityContext"}


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in node:
        return node
    found: dict[str, Any] = SCHEMA["definitions"][node["$ref"].rpartition("/")[2]]
    return found


def objects(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    node = resolved(node)
    if node.get("type") == "object":
        yield path, node
    for name, child in node.get("properties", {}).items():
        yield from objects(child, f"{path}.{name}".lstrip("."))


def test_no_object_takes_unknown_keys() -> None:
    open_ones = {path for path, node in objects(SCHEMA) if "additionalProperties" not in node}
    assert open_ones == FREE


def test_schema_and_defaults_have_the_same_keys() -> None:
    for path, node in objects(SCHEMA):
        if "properties" not in node:
            continue
        found = DEFAULTS
        for name in filter(None, path.split(".")):
            found = found[name]
        optional = {"global"} if not path else {"claims"} if path == "resources" else set()
        if path.endswith("Probe"):
            optional = {"initialDelaySeconds", "successThreshold"}
        assert set(node["properties"]) - set(found) == optional, path
        assert set(found) <= set(node["properties"]), path


def test_the_page_holds_the_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert BEGIN in text
    assert text == page(text), "run `python -m tests.unit.chart.values_table`"


def test_every_value_says_what_it_is() -> None:
    found = list(values())
    assert len(found) >= 40
    for value in found:
        assert value.meaning.endswith("."), value.path


def test_versions_are_the_packages() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert (chart["version"], chart["appVersion"]) == (version, version)


def test_the_definition_in_the_chart_is_the_generated_one() -> None:
    name = "fluxsamplers.fluxsampler.io.yaml"
    generated = (ROOT / "crds" / name).read_text(encoding="utf-8")
    assert (CHART / "files" / name).read_text(encoding="utf-8") == generated, "run `make crds`"


@pytest.mark.parametrize("name", ["secrets", "configmaps", "*", "leases", "finalizers"])
def test_the_operator_is_granted_nothing_of(name: str) -> None:
    granted = (CHART / "templates" / "_rules.tpl").read_text(encoding="utf-8")
    rules = yaml.safe_load(granted.partition('"fluxsampler.rules" -}}')[2].partition("{{- end")[0])
    for rule in rules:
        assert name not in {*rule["resources"], *rule["verbs"]}
        assert not any(resource.endswith(f"/{name}") for resource in rule["resources"])
