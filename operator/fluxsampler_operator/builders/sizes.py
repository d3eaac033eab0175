"""How large the Ray pods are: from the plan's bytes to what Kubernetes and Ray are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fluxsampler_planner.gpus import GIB, MIB
from fluxsampler_planner.host import (
    GATEWAYS,
    HEAP_PER_GATEWAY,
    RAY_DAEMONS_CPU,
    RAY_DAEMONS_CUDA,
    SHM_HEADROOM,
)

if TYPE_CHECKING:
    from fluxsampler_planner import Plan

# Pictures only pass through the head's store, on their way from a sampler to a gateway there.
HEAD_STORE = GIB
# What only the head runs: GCS, dashboard, Serve's controller, HAProxy. Measured on CPU: 1.1 GiB for an idle
# head in all, daemons and one gateway among it.
HEAD_CONTROL_PLANE = 512 * MIB


@dataclass(frozen=True, slots=True)
class PodSize:
    """One Ray pod: bytes of its container, of /dev/shm and of Ray's object store in it, CPU it asks for.

    Memory is requested as a whole, since the plan counts on all of it. CPU is only requested, never
    limited: a limit would throttle the threads that feed the cards.
    """

    memory: int
    shm: int
    store: int
    system: int
    cpu: str

    @property
    def heap(self) -> int:
        """What Ray may book for actors (its resource `memory`): without tmpfs and Ray's own daemons."""
        return self.memory - self.shm - self.system


def worker(plan: Plan) -> PodSize:
    """A worker pod: one node of the plan."""
    host, cards = plan.host, plan.node.cards
    # On CPU ranks take whatever cores are free, on cards each needs a thread that launches kernels.
    cpu = str(cards) if plan.node.device == "cuda" else f"{100 * cards}m"
    return PodSize(host.limit, host.shm, host.store, host.system, cpu)


def head(plan: Plan) -> PodSize:
    """The head pod: control plane, proxy, and gateways where Serve puts them there; never a sampler."""
    cuda = plan.node.device == "cuda"
    store = min(plan.host.store, HEAD_STORE)
    shm = int(store * (1 + SHM_HEADROOM))
    system = (RAY_DAEMONS_CUDA if cuda else RAY_DAEMONS_CPU) + HEAD_CONTROL_PLANE
    memory = shm + GATEWAYS * HEAP_PER_GATEWAY + system
    return PodSize(memory, shm, store, system, "1" if cuda else "100m")


def quantity(size: int) -> str:
    """Bytes as a Kubernetes quantity, rounded up to whole MiB, in GiB where that is exact."""
    mib = -(-size // MIB)
    return f"{mib // 1024}Gi" if mib % 1024 == 0 else f"{mib}Mi"
