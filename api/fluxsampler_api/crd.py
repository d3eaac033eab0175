"""The CustomResourceDefinition, generated from the models. `python -m fluxsampler_api.crd FILE` writes it.

Kubernetes wants a *structural* schema: types at every node, no `$ref`, no `anyOf` with null, no
`additionalProperties: false`, no `const`. pydantic's JSON schema is turned into that here, node by
node, and the rules of each model are added as CEL.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fluxsampler_api.rules import RuledModel
from fluxsampler_api.sampler import GROUP, KIND, PLURAL, SHORT_NAME, VERSION
from fluxsampler_api.spec import FluxSamplerSpec
from fluxsampler_api.status import FluxSamplerStatus

Schema = dict[str, Any]

# kubectl prints these in order; those with priority 1 only with `-o wide`.
COLUMNS: tuple[Schema, ...] = (
    {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
    {"name": "Plan", "type": "string", "jsonPath": ".status.plan.layout.summary"},
    {"name": "Engine", "type": "string", "jsonPath": ".status.engine"},
    {"name": "Fallback", "type": "integer", "jsonPath": ".status.fallbackReplicas"},
    {"name": "Images/min", "type": "number", "jsonPath": ".status.performance.imagesPerMinute"},
    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status"},
    {
        "name": "Reason",
        "type": "string",
        "jsonPath": ".status.conditions[?(@.type=='Ready')].reason",
        "priority": 1,
    },
    {"name": "URL", "type": "string", "jsonPath": ".status.url", "priority": 1},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
)


def build() -> Schema:
    """The whole CustomResourceDefinition (apiextensions.k8s.io/v1) as plain data."""
    root = {
        "type": "object",
        "description": "A FLUX picture service: one object, planned, deployed, watched and healed.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(FluxSamplerSpec),
            "status": structural(FluxSamplerStatus),
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": [SHORT_NAME],
                "categories": ["all"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": list(COLUMNS),
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "schema": {"openAPIV3Schema": root},
                }
            ],
        },
    }


def render() -> str:
    """The definition as YAML, as it stands in `crds/`."""
    return "# Generated from api/fluxsampler_api by `make crds`; do not edit.\n" + yaml.dump(
        build(), Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True
    )


def structural(model: type[BaseModel]) -> Schema:
    """The structural schema of a model, rules included."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    return _object(schema, schema.get("$defs", {}), model)


def _object(node: Schema, defs: dict[str, Schema], model: type[BaseModel]) -> Schema:
    # inherit the description only where the class says something of its own
    out: Schema = {"type": "object"}
    if "description" in node:
        out["description"] = " ".join(node["description"].split())
    if node.get("required"):
        out["required"] = node["required"]
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    out["properties"] = {}
    for name, child in node.get("properties", {}).items():
        field = fields[name]
        inner = _model_of(field.annotation)
        converted = _node(child, defs, inner)
        if field.description:
            converted["description"] = field.description
        out["properties"][name] = _with_default(converted, field)
    if issubclass(model, RuledModel):
        validations = [rule.validation() for rule in model.RULES] + [
            rule.validation() for rule in model.TRANSITIONS
        ]
        if validations:
            out["x-kubernetes-validations"] = validations
    return out


def _node(node: Schema, defs: dict[str, Schema], model: type[BaseModel] | None) -> Schema:
    if "$ref" in node:
        assert model is not None, f"{node['$ref']} is not a model"  # noqa: S101  (a bug here, never of a user)
        return _object(defs[node["$ref"].rpartition("/")[2]], defs, model)
    if "anyOf" in node:
        # Only `X | None` is left: absence says None, so X alone is the schema.
        (chosen,) = (option for option in node["anyOf"] if option.get("type") != "null")
        return _node(chosen, defs, model)
    dropped = (
        "title",
        "default",
        "additionalProperties",
        "items",
        "const",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "format",
    )
    out = {key: value for key, value in node.items() if key not in dropped}
    if "const" in node:
        out["enum"] = [node["const"]]
    if node.get("format") == "date-time":
        out["format"] = "date-time"
    for old, new in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if old in node:  # a number in JSON schema 2020, a flag beside the bound in OpenAPI 3.0
            out[new], out[old] = node[old], True
    if node.get("type") == "array":
        out["items"] = _node(node["items"], defs, model)
    if node.get("type") == "object" and "properties" not in node:
        values = node.get("additionalProperties")
        if isinstance(values, dict) and values:
            out["additionalProperties"] = _node(values, defs, model)
        else:
            out["x-kubernetes-preserve-unknown-fields"] = True
    return out


def _with_default(converted: Schema, field: FieldInfo) -> Schema:
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is None or default is PydanticUndefined:
        return converted
    # Written out whole: the API server runs an object's rules on its default before filling the fields below it.
    converted["default"] = (
        default.model_dump(mode="json", by_alias=True, exclude_none=True)
        if isinstance(default, BaseModel)
        else TypeAdapter(Any).dump_python(default, mode="json")
    )
    return converted


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in getattr(annotation, "__args__", ()) if (found := _model_of(arg))), None)


class _Plain(yaml.SafeDumper):
    """No anchors: the same column or rule twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  (PyYAML's signature)
        return True


def write(text: str, arguments: list[str]) -> int:
    """Write generated ``text`` to the file that ``arguments`` name, or to standard output; the exit status."""
    if arguments:
        Path(arguments[0]).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0


def main(arguments: list[str]) -> int:
    """Write the definition to the file named, or to standard output."""
    return write(render(), arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
