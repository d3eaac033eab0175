"""Everything that differs by device: CUDA cards or the CPU.

No other module of the Serve app asks which one it runs on. What could not be run on CUDA where this
was written is listed in ``docs/dev/gpu.md``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Kind = Literal["cuda", "cpu"]

LOOPBACK = "lo"  # a gang never leaves its node, so its sockets need not either


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Where one rank of a gang runs."""

    kind: Kind
    index: int  # the card's number among those visible to the replica; 0 on CPU
    threads: int  # of torch's pool in this process


def place(kind: Kind, rank: int, ranks: int) -> RankPlace:
    """The rank's card, or its share of the cores."""
    if kind == "cuda":
        return RankPlace("cuda", rank, threads=1)
    return RankPlace("cpu", 0, threads=max(1, usable_cores() // ranks))


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and ``OMP_NUM_THREADS`` where someone set a limit."""
    cores = len(os.sched_getaffinity(0))
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(limit)) if limit.isdigit() and int(limit) > 0 else cores


def forkserver_environment(environment: dict[str, str]) -> dict[str, str]:
    """The environment of a gang's processes.

    One thread for every library that would start a pool while it is imported, since a pool does not
    survive the fork; ranks then set torch's own number. Gloo is held on the loopback device:
    otherwise it listens on whatever address the host's name resolves to, or fails where it does not.
    """
    pools = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    quiet = {
        "XDIT_LOGGING_LEVEL": "ERROR",
        "DIFFUSERS_VERBOSITY": "error",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {"GLOO_SOCKET_IFNAME": LOOPBACK, **quiet, **environment, **pools}


def activate(where: RankPlace) -> torch.device:
    """Make it this process' device. Before anything computes."""
    import torch  # the parent of a gang never needs it

    torch.set_num_threads(where.threads)
    if where.kind == "cpu":
        return torch.device("cpu")
    torch.cuda.set_device(where.index)
    return torch.device("cuda", where.index)


def collective_backend(kind: Kind) -> Literal["nccl", "gloo"]:
    """torch.distributed's backend for tensors of that device."""
    return "nccl" if kind == "cuda" else "gloo"


def attention_backend(ring: int) -> str:
    """xfuser's name of the attention kernel.

    Ring attention merges partial results by their log-sum-exp, which only the flash kernel returns;
    elsewhere torch picks the best kernel of ``scaled_dot_product_attention`` itself, which is what the
    single-device engine runs too.
    """
    return "SDPA_FLASH" if ring > 1 else "SDPA"


def refuses_ring(kind: Kind, ring: int, dtype: str) -> str | None:
    """Why ring attention cannot run in ``dtype`` there, or None."""
    if kind == "cuda" and ring > 1 and dtype == "float32":
        return "ring attention on CUDA needs bfloat16: torch's flash kernel, which returns the log-sum-exp, takes no float32"
    return None


def limit_memory(device: torch.device, fraction: float | None) -> None:
    """Cap this process' share of a card, for a replica that shares it with a rank; nothing on CPU."""
    if device.type == "cuda" and fraction is not None:
        import torch  # see activate

        torch.cuda.set_per_process_memory_fraction(fraction, device)


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read now is honest; a CPU never lags."""
    if device.type == "cuda":
        import torch  # see activate

        torch.cuda.synchronize(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device could not hold what a call needed; what was loaded before is still good."""
    import torch  # see activate

    return isinstance(error, torch.OutOfMemoryError)


def release_memory(device: torch.device) -> None:
    """Give the card what torch keeps and nobody uses, for whoever shares it; nothing on CPU."""
    if device.type == "cuda":
        import torch  # see activate

        torch.cuda.empty_cache()


def memory_facts(device: torch.device) -> dict[str, float]:
    """Peak allocated and reserved GiB of this process on its card; empty on CPU."""
    if device.type != "cuda":
        return {}
    import torch  # see activate

    gib = float(1 << 30)
    return {
        "peak_allocated_gib": torch.cuda.max_memory_allocated(device) / gib,
        "peak_reserved_gib": torch.cuda.max_memory_reserved(device) / gib,
    }


def compile_transformer(transformer: Any) -> Any:
    """The transformer as it will be called.

    Uncompiled on every device today: a compiled graph recompiles for every new size and text length,
    so that the first request at a new size would break its promise. See ``docs/dev/gpu.md``.
    """
    return transformer
