"""The chart's values as the table of docs/user/install.md. `python -m tests.unit.chart.values_table` writes it there.

values.yaml is the source: a key with a comment right above it is a value, and the comment says what it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "fluxsampler"
PAGE = ROOT / "docs" / "user" / "install.md"
BEGIN, END = "<!-- values: written by python -m tests.unit.chart.values_table -->\n\n", "\n<!-- /values -->"


@dataclass(frozen=True)
class Value:
    path: str
    default: Any
    meaning: str


def values() -> Iterator[Value]:
    """Every value, in the order of the file."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    yield from _below(root, "", text.splitlines(), yaml.safe_load(text))


def _below(node: yaml.MappingNode, prefix: str, lines: list[str], data: Any) -> Iterator[Value]:
    for key, value in node.value:
        path = f"{prefix}{key.value}"
        above = lines[key.start_mark.line - 1].strip()
        if above.startswith("#"):
            yield Value(path, data[key.value], above.removeprefix("#").strip())
        else:
            assert isinstance(value, yaml.MappingNode), f"{path} of values.yaml has no comment above it"
            yield from _below(value, f"{path}.", lines, data[key.value])


def table() -> str:
    """The table as Markdown."""
    rows = [f"| `{value.path}` | `{json.dumps(value.default)}` | {value.meaning} |\n" for value in values()]
    return "| value | default | what it is |\n| --- | --- | --- |\n" + "".join(rows)


def page(text: str) -> str:
    """``text`` of the page with the present table in it."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
