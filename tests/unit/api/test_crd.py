"""The generated definition: structural, in step with the models, and its CEL says what Python says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celpy
import kubernetes_validate
import pytest
import yaml
from celpy import celtypes

from fluxsampler_api import crd
from fluxsampler_api.quantity import Quantity
from fluxsampler_api.sampler import GROUP, PLURAL
from tests.support.spec_cases import Case, cases

COMMITTED = Path(__file__).parents[3] / "crds" / f"{PLURAL}.{GROUP}.yaml"
ROOT = crd.build()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}.{key}")


def test_committed_file_is_what_the_models_say() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == crd.render(), "run `make crds`"


def test_accepted_by_the_schema_of_custom_resource_definitions() -> None:
    kubernetes_validate.validate(
        yaml.safe_load(crd.render()), kubernetes_validate.latest_version(), strict=True
    )


def test_structural() -> None:
    for path, node in nodes(ROOT):
        assert not {"$ref", "anyOf", "oneOf", "allOf", "const", "prefixItems", "title"} & set(node), path
        assert node.get("additionalProperties", {}) is not False, path
        assert isinstance(node.get("exclusiveMinimum", True), bool), path
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path


def test_every_field_of_the_spec_says_what_it_is() -> None:
    silent = [
        path
        for path, node in nodes(ROOT["properties"]["spec"])
        if not node.get("description") and not path.endswith(("items", "additionalProperties"))
    ]
    # Words that say it themselves, and Kubernetes' own toleration.
    self_explaining = {"mode", "enabled", "minReplicas", "maxReplicas", "initialSeconds", "maxSeconds", "placement", "prompt", "seed", "serviceType",
                       "podMonitor", "prometheusRule", "dashboard", "key", "operator", "value", "effect"}  # fmt: skip
    assert {path.rpartition(".")[2] for path in silent} <= self_explaining


def test_columns_and_subresources_point_at_fields_that_exist() -> None:
    version = crd.build()["spec"]["versions"][0]
    known = {path for path, _ in nodes(ROOT)} | {".metadata.creationTimestamp"}
    paths = [column["jsonPath"] for column in version["additionalPrinterColumns"]]
    paths += list(version["subresources"]["scale"].values())
    for path in paths:
        assert path.replace("[?(@.type=='Ready')]", ".items") in known, path


def with_defaults(value: Any, schema: dict[str, Any]) -> Any:
    """What the API server stores: defaults filled level by level (apiextensions, defaulting.go)."""
    if isinstance(value, dict):
        out = dict(value)
        for name, child in schema.get("properties", {}).items():
            if name not in out and "default" in child:
                out[name] = child["default"]
            if name in out:
                out[name] = with_defaults(out[name], child)
        return out
    return value


def _less(left: celtypes.DoubleType, right: celtypes.DoubleType) -> celtypes.BoolType:
    return celtypes.BoolType(left < right)


def broken(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """`path: message` of each CEL rule that does not hold."""
    found = []
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" in rule["rule"]:
            continue
        environment = celpy.Environment()
        program = environment.program(
            environment.compile(rule["rule"]),
            functions={
                "quantity": lambda text: celtypes.DoubleType(float(Quantity(str(text)).value)),
                "isLessThan": _less,
            },
        )
        if not program.evaluate({"self": celpy.json_to_cel(value)}):
            found.append(f"{path}{rule.get('fieldPath', '')}: {rule['message']}")
    for name, child in schema.get("properties", {}).items():
        if isinstance(value, dict) and name in value:
            found += broken(value[name], child, f"{path}.{name}" if path else name)
    return found


MESSAGES = {rule["message"] for _, node in nodes(ROOT) for rule in node.get("x-kubernetes-validations", [])}


def ruled(case: Case) -> bool:
    texts = [case.server] if case.server else list(case.problems.values())
    return any(text in message for text in texts for message in MESSAGES)


@pytest.mark.parametrize("case", [case for case in cases() if case.valid], ids=lambda case: case.name)
def test_cel_lets_valid_specs_in(case: Case) -> None:
    assert broken(with_defaults(case.document, ROOT), ROOT) == []


@pytest.mark.parametrize("case", [case for case in cases() if ruled(case)], ids=lambda case: case.name)
def test_cel_refuses_at_the_same_field_with_the_same_text(case: Case) -> None:
    found = broken(with_defaults(case.document, ROOT), ROOT)
    for path, text in case.problems.items():
        assert any(line.startswith(f"{path}: ") and (case.server or text) in line for line in found), found


def test_most_rules_are_provoked_by_the_table() -> None:
    provoked = {
        message
        for case in cases()
        if ruled(case)
        for message in MESSAGES
        if any((case.server or text) in message for text in case.problems.values())
    }
    silent = {
        message
        for message in MESSAGES
        if message not in provoked and "cannot change" not in message and "1 to 64" not in message
    }
    assert silent == set()


def test_written_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crd.main([str(tmp_path / "crd.yaml")]) == 0
    assert (tmp_path / "crd.yaml").read_text(encoding="utf-8") == crd.render()
    assert crd.main([]) == 0
    assert capsys.readouterr().out == crd.render()
