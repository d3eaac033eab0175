"""The reference page of the FluxSampler, generated from its schema. `python -m fluxsampler_api.reference FILE` writes it.

It reads what :mod:`fluxsampler_api.crd` gives the API server, so a field cannot be in one and not in the other.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from fluxsampler_api.crd import COLUMNS, build, write
from fluxsampler_api.sampler import API_VERSION, KIND, SHORT_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

Schema = dict[str, Any]

_LONGEST_DEFAULT = 40


def render() -> str:
    """The page as Markdown."""
    version = build()["spec"]["versions"][0]
    root = version["schema"]["openAPIV3Schema"]["properties"]
    lines = [
        f"# Reference: {KIND} (`{API_VERSION}`, short name `{SHORT_NAME}`)",
        "",
        "<!-- Generated from api/fluxsampler_api by `make crds`; do not edit. -->",
        "",
        "Every field with its type, default and bounds, and the rules that hold between fields. `kubectl explain fluxsampler.spec --recursive`",
        "shows the same on a cluster, `fluxsampler validate FILE` checks a file by the same rules without one. What a condition or a reason",
        "in `status` means stands in [conditions](../operations/conditions.md).",
        "",
    ]
    for part in ("spec", "status"):
        for path, node in _objects(part, root[part]):
            lines += _section(path, node)
    lines += ["## Columns of `kubectl get fxs`", "", "| column | from | shown |", "| --- | --- | --- |"]
    lines += [
        f"| {one['name']} | `{one['jsonPath']}` | {'with `-o wide`' if one.get('priority') else 'always'} |"
        for one in COLUMNS
    ]
    scale = version["subresources"]["scale"]
    lines += [
        "",
        f"`kubectl scale fxs/NAME --replicas=N` writes `{scale['specReplicasPath'].lstrip('.')}`.",
        "",
    ]
    return "\n".join(lines)


def _objects(path: str, node: Schema) -> Iterator[tuple[str, Schema]]:
    """Every object with fields, parents first, with its path; ``[]`` marks items of a list."""
    yield path, node
    for name, child in node["properties"].items():
        where, inner = f"{path}.{name}", child
        if child.get("type") == "array":
            where, inner = f"{where}[]", child["items"]
        if "properties" in inner:
            yield from _objects(where, inner)


def _section(path: str, node: Schema) -> Iterator[str]:
    yield f"{'#' * min(5, 2 + path.count('.'))} `{path}`"
    yield ""
    if "description" in node:
        yield node["description"]
        yield ""
    yield "| field | type | default | what it is |"
    yield "| --- | --- | --- | --- |"
    required = node.get("required", ())
    for name, child in node["properties"].items():
        default = "required" if name in required else _default(child)
        text = child.get("description") or child.get("items", {}).get("description") or ""
        yield f"| `{name}` | {_type(child)} | {default} | {_cell(text)} |"
    yield ""
    rules = list(_rules(node))
    if rules:
        yield from ("Rules:", "", *rules, "")


def _rules(node: Schema) -> Iterator[str]:
    """The rules of an object, and those of its plain fields."""
    found = [
        (rule.get("fieldPath", "").lstrip("."), rule) for rule in node.get("x-kubernetes-validations", ())
    ]
    found += [
        (name, rule)
        for name, child in node["properties"].items()
        if "properties" not in child
        for rule in child.get("x-kubernetes-validations", ())
    ]
    for field, rule in found:
        yield f"- {f'`{field}`: ' if field else ''}{rule['message']}"


def _default(child: Schema) -> str:
    if "default" not in child:
        return ""
    text = json.dumps(child["default"], ensure_ascii=False)
    if isinstance(child["default"], dict | list) and len(text) > _LONGEST_DEFAULT:
        return "see below"
    return f"`{text}`"


def _type(child: Schema) -> str:
    if child.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if "enum" in child:
        return " \\| ".join(f"`{value}`" for value in child["enum"])
    kind = str(child.get("type", "any"))
    if kind == "array":
        return f"list of {_type(child['items'])}"
    if kind == "object" and "additionalProperties" in child:
        return f"map of {_type(child['additionalProperties'])}"
    return f"{kind}{_bounds(child)}"


def _bounds(child: Schema) -> str:
    low, high = child.get("minimum"), child.get("maximum")
    if low is not None and high is not None:
        return f", {low} to {high}"
    if low is not None:
        return f", {'above' if child.get('exclusiveMinimum') else 'at least'} {low}"
    if high is not None:
        return f", {'below' if child.get('exclusiveMaximum') else 'at most'} {high}"
    return f", at most {child['maxLength']} characters" if "maxLength" in child else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    raise SystemExit(write(render(), sys.argv[1:]))
