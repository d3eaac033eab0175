"""What a node offers: measured where it was measured, else from the spec and the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fluxsampler_planner.errors import Infeasible, UnknownGpu, problem
from fluxsampler_planner.gpus import Gpu, find_gpu

if TYPE_CHECKING:
    from fluxsampler_api.spec import FluxSamplerSpec

DEFAULT_CPU_RANKS = 2


@dataclass(frozen=True, slots=True)
class Hardware:
    """What one node really has; every field may be unknown (None).

    ``gpu`` is a key of the catalogue; ``card_memory``, ``host_memory`` and ``shm`` (the size of
    /dev/shm) are bytes; ``cores`` are physical cores that FluxSampler may use. ``peer_to_peer``
    False, or ``nvlink`` False on a card of the NVLink family, tells that cards talk through the host.
    """

    gpu: str | None = None
    cards_per_node: int | None = None
    card_memory: int | None = None
    host_memory: int | None = None
    shm: int | None = None
    cores: int | None = None
    peer_to_peer: bool | None = None
    nvlink: bool | None = None


@dataclass(frozen=True, slots=True)
class Links:
    """Measured bandwidths between cards, GB/s per card and direction, by group size; they replace the calibrated ones.

    ``ring``: send to the next, receive from the last (also what an all-reduce gets); ``all_to_all``: the
    exchange of Ulysses; ``neighbour``: one pair, as between two pipeline stages.
    """

    ring: Mapping[int, float] = field(default_factory=dict)
    all_to_all: Mapping[int, float] = field(default_factory=dict)
    neighbour: float | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """The spec's hardware with every Auto resolved; ``host_memory`` and ``shm`` stay None where nothing tells them."""

    gpu: Gpu
    device: str
    cards: int
    nodes: int
    host_memory: int | None
    shm: int | None
    cores: int
    through_host: bool

    @property
    def total_cards(self) -> int:
        """Cards of all nodes."""
        return self.cards * self.nodes


def resolve(spec: FluxSamplerSpec, found: Hardware | None) -> Node:
    """The node to plan for: the spec's own figures first, then what was found, then the catalogue.

    Raises :class:`UnknownGpu` when nothing names the card, :class:`Infeasible` when the spec asks for
    more than the node has.
    """
    wanted = spec.hardware
    found = found or Hardware()
    cpu = wanted.device == "cpu"
    key = "cpu" if cpu else _auto(wanted.gpu, found.gpu)
    if key is None:
        raise UnknownGpu(
            problem("spec.hardware.gpu", "Auto, and no node told its card; name one, such as rtx-4090")
        )
    gpu = find_gpu(key)
    cards = _auto(wanted.gpus_per_node, found.cards_per_node)
    if cards is None:
        if not cpu:
            raise UnknownGpu(
                problem("spec.hardware.gpusPerNode", "Auto, and no node told its number of cards; write it")
            )
        cards = DEFAULT_CPU_RANKS
    if not cpu and found.cards_per_node is not None and cards > found.cards_per_node:
        raise Infeasible(
            problem(
                "spec.hardware.gpusPerNode",
                f"{cards} cards asked for, the node has {found.cards_per_node}; lower it to that",
            )
        )
    host = None if wanted.memory == "Auto" else wanted.memory.bytes
    if host is not None and found.host_memory is not None and host > found.host_memory:
        raise Infeasible(
            problem(
                "spec.hardware.memory",
                f"{host / 2**30:.1f} GiB asked for, the node has {found.host_memory / 2**30:.1f}; lower it, or write Auto",
            )
        )
    host = host if host is not None else found.host_memory
    cores = found.cores or max(cards, 1) * (1 if cpu else 8)
    if cpu:
        # A rank is a process: it shares the host's memory and gets its part of the cores.
        share = (host or cards * gpu.memory) // cards
        speed = max(1.0, cores / cards)
        gpu = replace(gpu, memory=found.card_memory or share, bf16=gpu.bf16 * speed)
    elif found.card_memory is not None:
        gpu = replace(gpu, memory=found.card_memory)
    through_host = (
        not cpu and (found.nvlink is False or found.peer_to_peer is False) and gpu.interconnect == "nvlink"
    )
    return Node(gpu, wanted.device, cards, wanted.nodes, host, found.shm, cores, through_host)


def _auto(wanted: Any, found: Any) -> Any:
    return found if wanted == "Auto" else wanted
