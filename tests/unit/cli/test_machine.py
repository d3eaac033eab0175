"""What nvidia-smi says, as the planner wants to know it."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fluxsampler_cli import machine
from fluxsampler_cli.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Callable

TOPOLOGY = """\
\t\x1b[4mGPU0\tGPU1\tGPU2\tCPU Affinity\tNUMA Affinity\x1b[0m
GPU0\t X \tNV4\tSYS\t0-31\t0
GPU1\tNV4\t X \tPHB\t0-31\t0
GPU2\tSYS\tPHB\t X \t32-63\t1

Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes
"""
CARDS = """\
0, NVIDIA GeForce RTX 4090, 24564, 575.57
1, NVIDIA GeForce RTX 4090, 24217, 575.57
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """An nvidia-smi made of a shell script."""

    def write(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return write


def test_cards() -> None:
    first, second = machine.parse_cards(CARDS)
    assert first == machine.Card(0, "NVIDIA GeForce RTX 4090", 24564 << 20, "575.57", "rtx-4090")
    assert second.index == 1
    assert machine.parse_cards("") == ()
    assert machine.parse_cards("No devices were found\n") == ()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 5090", "rtx-5090"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L40", "l40"),
        ("NVIDIA L20", "l20"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 3090", None),
        ("Some CPU", "cpu"),
    ],
)
def test_catalogue_keys(name: str, key: str | None) -> None:
    assert machine.catalogue_key(name) == key


def test_links() -> None:
    assert machine.parse_links(TOPOLOGY) == ((0, 1, "NV4"), (0, 2, "SYS"), (1, 2, "PHB"))
    assert machine.parse_links("") == ()


def test_a_machine_with_cards(smi: Callable[[str], None], tmp_path: Path) -> None:
    (tmp_path / "cards").write_text(CARDS, encoding="utf-8")
    (tmp_path / "topology").write_text(TOPOLOGY, encoding="utf-8")
    smi(f'case "$1" in topo) cat {tmp_path}/topology;; *) cat {tmp_path}/cards;; esac')
    found = machine.look()
    assert len(found.cards) == 2
    assert found.cores >= 1
    hardware = found.hardware("cuda")
    assert (hardware.gpu, hardware.cards_per_node, hardware.card_memory) == ("rtx-4090", 2, 24217 << 20)
    assert hardware.nvlink is False
    on_cpu = found.hardware("cpu")
    assert (on_cpu.gpu, on_cpu.cards_per_node, on_cpu.cores) == (None, None, found.cores)


def test_a_broken_driver_is_said(smi: Callable[[str], None]) -> None:
    smi("echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9")
    with pytest.raises(LocalError, match="nvidia-smi fails: NVIDIA-SMI has failed because"):
        machine.look()


def test_a_container_s_limits_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text(f"{2 << 30}\n", encoding="ascii")
    (tmp_path / "cpu.max").write_text("150000 100000\n", encoding="ascii")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_cards", lambda: ())
    found = machine.look()
    assert (found.memory, found.cores) == (2 << 30, 1)
