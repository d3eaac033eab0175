"""`fluxsampler info`: what an error report should hold: versions, devices, links."""

from __future__ import annotations

import dataclasses
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import yaml
from rich.table import Table

from fluxsampler_cli import machine, output

# What decides how pictures come out, and what serves them.
PACKAGES = (
    "fluxsampler",
    "ray",
    "torch",
    "diffusers",
    "transformers",
    "xfuser",
    "yunchang",
    "distvae",
    "safetensors",
    "numpy",
)
_GIB = 1 << 30


def info(form: str) -> None:
    """Print this machine's facts as a table, JSON or YAML."""
    found = machine.look()
    facts = {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": sys.executable,
        "cores": found.cores,
        "threads": found.threads,
        "memoryGib": round(found.memory / _GIB, 1),
        "shmGib": round(found.shm / _GIB, 1),
        "cards": [dataclasses.asdict(card) for card in found.cards],
        "links": [{"cards": [one, other], "kind": kind} for one, other, kind in found.links],
    }
    match form:
        case "json":
            output.answer_json(facts)
        case "yaml":
            output.answer(yaml.safe_dump(facts, sort_keys=False).rstrip())
        case _:
            output.console().print(_table(facts))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _table(facts: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, found in facts["versions"].items():
        table.add_row(name, found or "not installed")
    table.add_row("system", facts["system"])
    table.add_row("cores", f"{facts['cores']} physical, {facts['threads']} threads")
    table.add_row("memory", f"{facts['memoryGib']} GiB, /dev/shm {facts['shmGib']} GiB")
    for card in facts["cards"]:
        kind = card["kind"] or "not in the planner's catalogue"
        table.add_row(
            f"card {card['index']}",
            f"{card['name']}, {card['memory'] / _GIB:.1f} GiB, driver {card['driver']} ({kind})",
        )
    if not facts["cards"]:
        table.add_row("cards", "no NVIDIA card; device: cpu runs rank processes instead")
    for link in facts["links"]:
        one, other = link["cards"]
        table.add_row(f"link {one}–{other}", link["kind"])
    return table
