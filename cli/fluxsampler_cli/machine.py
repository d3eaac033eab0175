"""What this machine has: cores, memory, /dev/shm, NVIDIA cards and how they are linked.

Read from the kernel and from `nvidia-smi`, without torch, so that `plan` and `info` stay fast.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from fluxsampler_cli.errors import LocalError
from fluxsampler_planner.gpus import GPUS
from fluxsampler_planner.hardware import Hardware

_MIB = 1 << 20
_CGROUP = Path("/sys/fs/cgroup")
_SHM = "/dev/shm"  # noqa: S108 - the kernel's name of shared memory, not a temporary folder


@dataclass(frozen=True, slots=True)
class Card:
    """One NVIDIA card; ``memory`` in bytes, ``kind`` its key in the planner's catalogue, None if not there."""

    index: int
    name: str
    memory: int
    driver: str
    kind: str | None


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine; sizes in bytes, ``cores`` physical ones that this process may use.

    ``links``: pairs of cards with nvidia-smi's word for what joins them (NV4, PIX, PHB, SYS …).
    """

    cores: int
    threads: int
    memory: int
    shm: int
    cards: tuple[Card, ...]
    links: tuple[tuple[int, int, str], ...]

    def hardware(self, device: str) -> Hardware:
        """For the planner: of a CPU plan only the host counts, of a CUDA plan the cards too."""
        if device == "cpu" or not self.cards:
            return Hardware(host_memory=self.memory, shm=self.shm, cores=self.cores)
        first = self.cards[0]
        nvlink = all(kind.startswith("NV") for _, _, kind in self.links) if self.links else None
        return Hardware(
            gpu=first.kind,
            cards_per_node=len(self.cards),
            card_memory=min(card.memory for card in self.cards),
            host_memory=self.memory,
            shm=self.shm,
            cores=self.cores,
            nvlink=nvlink,
        )


def look() -> Machine:
    """Look at this machine. Raises :class:`LocalError` when nvidia-smi is there and fails."""
    threads = len(os.sched_getaffinity(0))
    physical = psutil.cpu_count(logical=False) or threads
    cards = _cards()
    return Machine(
        cores=max(1, min(physical, threads, _cgroup_cores() or threads)),
        threads=threads,
        memory=min(psutil.virtual_memory().total, _cgroup_memory() or 1 << 62),
        shm=shutil.disk_usage(_SHM).total if Path(_SHM).is_dir() else 0,
        cards=cards,
        links=_links() if len(cards) > 1 else (),
    )


def _cgroup_memory() -> int | None:
    text = _read(_CGROUP / "memory.max")
    return int(text) if text and text.isdigit() else None


def _cgroup_cores() -> int | None:
    """Whole cores that the cgroup's quota is worth."""
    quota, _, period = (_read(_CGROUP / "cpu.max") or "max 1").partition(" ")
    return max(1, int(quota) // int(period)) if quota.isdigit() else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None


def _smi(*arguments: str) -> str | None:
    """Output of nvidia-smi; None without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=30, check=True)  # noqa: S603 - nvidia-smi, no shell
    except (subprocess.SubprocessError, OSError) as error:
        detail = getattr(error, "stderr", None) or getattr(error, "stdout", None) or str(error)
        first = next((line for line in detail.splitlines() if line.strip()), str(error))
        raise LocalError(f"nvidia-smi fails: {first}; repair the driver, or use device: cpu") from error
    return done.stdout


def _cards() -> tuple[Card, ...]:
    text = _smi("--query-gpu=index,name,memory.total,driver_version", "--format=csv,noheader,nounits")
    return parse_cards(text or "")


def parse_cards(text: str) -> tuple[Card, ...]:
    """Cards of `nvidia-smi --query-gpu=index,name,memory.total,driver_version --format=csv,noheader,nounits`."""
    cards = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4 and fields[0].isdigit():
            cards.append(
                Card(int(fields[0]), fields[1], int(fields[2]) * _MIB, fields[3], catalogue_key(fields[1]))
            )
    return tuple(cards)


def catalogue_key(name: str) -> str | None:
    """The planner's key for a card that the driver calls ``name``; None for one it does not know."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    for key in sorted(GPUS, key=len, reverse=True):
        # "NVIDIA GeForce RTX 4090" is rtx-4090, "NVIDIA L40S" l40s, "NVIDIA A100-SXM4-80GB" a100;
        # "RTX 4090 Laptop GPU" and "RTX 4090 D" are other cards under the same number.
        if all(part in words for part in key.split("-")) and not {"laptop", "d"} & set(words):
            return key
    return None


def _links() -> tuple[tuple[int, int, str], ...]:
    return parse_links(_smi("topo", "-m") or "")


def parse_links(text: str) -> tuple[tuple[int, int, str], ...]:
    """Pairs of cards and their link from the matrix of `nvidia-smi topo -m`."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.splitlines()]
    header = next((line.split() for line in lines if "GPU0" in line), [])
    columns = [name for name in header if re.fullmatch(r"GPU\d+", name)]
    found = []
    for line in lines:
        fields = line.split()
        if not fields or not re.fullmatch(r"GPU\d+", fields[0]) or fields[: len(columns)] == columns:
            continue
        row = int(fields[0][3:])
        cells = zip(columns, fields[1:], strict=False)
        found += [(row, int(name[3:]), kind) for name, kind in cells if int(name[3:]) > row]
    return tuple(found)
