"""The catalogue of cards: facts from data sheets, nothing fitted.

Peaks are dense (no sparsity) with fp32 accumulation, which is what cuBLAS and flash attention use.
``memory`` is what the driver reports, not what the box says.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from fluxsampler_planner.errors import UnknownGpu, problem

MIB = 1 << 20
GIB = 1 << 30

# Held back on every card: the driver's own allocation and the display-less desktop of a stock image.
CUDA_RESERVED = GIB // 2

Interconnect = Literal["pcie4", "pcie5", "nvlink", "memory"]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of card.

    ``memory`` bytes, ``bandwidth`` bytes/s of device memory, ``bf16`` and ``fp8`` FLOP/s (``fp8`` None:
    no fp8 units), ``link`` bytes/s and direction between two cards of a node, ``peer_to_peer`` whether
    the driver lets two cards talk without the host.
    """

    key: str
    title: str
    memory: int
    bandwidth: float
    bf16: float
    fp8: float | None
    interconnect: Interconnect
    link: float
    peer_to_peer: bool
    source: str

    @property
    def usable(self) -> int:
        """Bytes a plan may fill."""
        return self.memory - CUDA_RESERVED if self.key != "cpu" else self.memory


def _gpu(
    key: str, title: str, mib: int, gbps: float, bf16: float, fp8: float | None, interconnect: Interconnect, link: float, source: str,
    peer_to_peer: bool = True,
) -> Gpu:  # fmt: skip
    return Gpu(
        key,
        title,
        mib * MIB,
        gbps * 1e9,
        bf16 * 1e12,
        None if fp8 is None else fp8 * 1e12,
        interconnect,
        link * 1e9,
        peer_to_peer,
        source,
    )


# PCIe 4.0 ×16 carries 31.5 GB/s each way on paper, 5.0 ×16 63; NVLink 3 and 4 carry 300 and 450.
GPUS: dict[str, Gpu] = {
    gpu.key: gpu
    for gpu in (
        _gpu(
            "rtx-4090", "GeForce RTX 4090", 24564, 1008, 165.2, 330.3, "pcie4", 31.5, peer_to_peer=False,
            source="NVIDIA Ada GPU architecture whitepaper, appendix A; no NVLink, peer-to-peer off in GeForce drivers",
        ),
        _gpu(
            "rtx-5090", "GeForce RTX 5090", 32607, 1792, 209.5, 419.0, "pcie5", 63.0, peer_to_peer=False,
            source="NVIDIA RTX Blackwell GPU architecture whitepaper, appendix A",
        ),
        _gpu("l20", "L20", 46068, 864, 119.5, 239.0, "pcie4", 31.5, "NVIDIA L20 data sheet"),
        _gpu("l40", "L40", 46068, 864, 181.05, 362.1, "pcie4", 31.5, "NVIDIA L40 data sheet (dense figures)"),
        _gpu("l40s", "L40S", 46068, 864, 362.05, 733.0, "pcie4", 31.5, "NVIDIA L40S data sheet (dense figures)"),
        _gpu("a100", "A100 80GB SXM", 81920, 2039, 312.0, None, "nvlink", 300.0, "NVIDIA A100 80GB data sheet"),
        _gpu("h100", "H100 80GB SXM", 81559, 3350, 989.4, 1978.9, "nvlink", 450.0, "NVIDIA H100 data sheet (dense figures)"),
        # One "card" is one rank process with its share of the cores. 40 GFLOP/s per core is what torch
        # 2.13 reaches in fp32 GEMMs on an AVX2 server core; the plan only compares layouts with it.
        _gpu("cpu", "CPU", 8 * 1024, 20, 0.04, None, "memory", 8.0, "assumed; one core of a server with AVX2"),
    )
}  # fmt: skip


def find_gpu(key: str, path: str = "spec.hardware.gpu") -> Gpu:
    """The card called ``key``; raises :class:`UnknownGpu` that names the nearest one."""
    if (gpu := GPUS.get(key.lower())) is not None:
        return gpu
    near = get_close_matches(key.lower(), GPUS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UnknownGpu(problem(path, f"{key!r} is not in the catalogue{hint}; known: {', '.join(GPUS)}"))
