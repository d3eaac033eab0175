"""The table of valid and invalid FluxSamplers, as objects. Data: `tests/data/fluxsampler_cases.yaml`."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

TABLE = Path(__file__).parents[1] / "data" / "fluxsampler_cases.yaml"
BASE: dict[str, Any] = {
    "apiVersion": "fluxsampler.io/v1alpha1",
    "kind": "FluxSampler",
    "metadata": {"name": "case"},
    "spec": {"model": {"source": "builtin://tiny-shapes"}},
}


@dataclass(frozen=True)
class Case:
    name: str
    document: dict[str, Any]
    problems: dict[str, str]
    server: str | None

    @property
    def valid(self) -> bool:
        return not self.problems


def merged(base: Any, patch: Any) -> Any:
    """`patch` over `base` as a JSON merge patch (RFC 7396): null removes."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    out = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merged(out.get(key), value)
    return out


def cases() -> list[Case]:
    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return [
        Case(
            name=row["name"],
            document=merged(BASE, row["document"] if "document" in row else {"spec": row["spec"]}),
            problems=row.get("problems", {}),
            server=row.get("server"),
        )
        for row in rows
    ]
