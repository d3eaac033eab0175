"""Host memory of a node: object store, /dev/shm, heap, weights, limit, and the inequalities they satisfy.

Ray sizes its store at 30 % of what is free and KubeRay leaves it unset, so the plan owns all of it (DESIGN §5).
"""

from __future__ import annotations

from dataclasses import dataclass

from fluxsampler_api.app_args import ServingArgs
from fluxsampler_planner.errors import Infeasible, problem
from fluxsampler_planner.gpus import GIB, MIB

# At 4 GiB a node of eight spilled 22 GB to disk; 8 GiB a card is what held (DESIGN §5).
STORE_PER_GPU = 8 * GIB
# Ray needs 75 MiB to start; a few pictures and previews of the largest size fit in 256.
STORE_MINIMUM_CPU = 256 * MIB
PAYLOAD_HEADROOM = 1.2
# NCCL keeps its host buffers in /dev/shm where cards have no peer-to-peer: up to 33 MiB per pair of neighbours.
NCCL_SHM_PER_RANK = 64 * MIB
GLOO_SHM_PER_RANK = 4 * MIB
SHM_HEADROOM = 0.05
SHM = "/dev/shm"  # noqa: S108  (the kernel's name of shared memory, not a temporary file)
# Resident host memory besides mapped weights: a CUDA rank's context and pinned buffers, a gateway, Ray's daemons.
HEAP_PER_CUDA_RANK = int(2.5 * GIB)
HEAP_PER_CPU_RANK = 420 * MIB
HEAP_PER_GATEWAY = 320 * MIB
# As the Serve app is built (AppArgs.serving.gateway_replicas): one may be replaced while the other answers.
GATEWAYS: int = ServingArgs.model_fields["gateway_replicas"].default
# The largest `n` of a request (AppArgs.serving.max_pictures, OpenAI's own limit).
PICTURES: int = ServingArgs.model_fields["max_pictures"].default
RAY_DAEMONS_CUDA = 4 * GIB
RAY_DAEMONS_CPU = 900 * MIB


@dataclass(frozen=True, slots=True)
class Host:
    """Bytes on one node; ``node`` is None where nothing tells what it has."""

    store: int
    shm: int
    transport: int
    headroom: int
    heap: int
    weights: int
    system: int
    limit: int
    node: int | None
    asked: bool

    @property
    def proof(self) -> tuple[str, ...]:
        """Each inequality with its numbers, GiB."""
        lines = [
            f"shm {_g(self.shm)} ≥ store {_g(self.store)} + transport {_g(self.transport)} + headroom {_g(self.headroom)}",
            f"limit {_g(self.limit)} ≥ shm {_g(self.shm)} + heap {_g(self.heap)} + weights {_g(self.weights)} + system {_g(self.system)}",
        ]
        if self.node is None:
            lines.append(
                f"node ≥ limit {_g(self.limit)}: the node's memory is not stated, so this is what it must offer"
            )
        else:
            lines.append(f"node {_g(self.node)} ≥ limit {_g(self.limit)}")
        return tuple(lines)


def _g(size: int) -> str:
    return f"{size / GIB:.2f}".rstrip("0").rstrip(".")


def payload_size(
    *, ongoing: int, queued: int, text_tokens: int, text_width: int, image_tokens: int, channels: int, pixels: int
) -> int:  # fmt: skip
    """Bytes of everything in flight, when every one of the gateways is full.

    ``ongoing`` and ``queued`` are requests per gateway. A request being drawn has one picture under way
    (prompt context in bf16, latents in fp32, raw pixels) and up to ``PICTURES`` finished ones, which wait
    for the last in its encoded form: counted as large as the pixels, since noise does not compress. A
    queued request has no more than its prompt, counted as a context.
    """
    context, picture = text_tokens * text_width * 2, pixels * 3
    under_way = context + image_tokens * channels * 4 + picture
    return GATEWAYS * (ongoing * (under_way + PICTURES * picture) + queued * context)


def host_memory(
    *, cuda: bool, cards: int, ranks: int, fallbacks: int, payload: int, weights: int, activations: int, wanted_store: int | None,
    node: int | None, shm_size: int | None,
) -> Host:  # fmt: skip
    """Host memory for a node with ``cards`` cards, ``ranks`` rank processes and ``fallbacks`` fallback processes.

    ``payload``, ``weights`` (mapped files, one copy) and ``activations`` (on CPU: what the processes hold
    besides weights) are bytes. Raises :class:`Infeasible` when ``wanted_store`` is too small for the
    payloads, or the node cannot hold the sum.
    """
    needed = int(payload * PAYLOAD_HEADROOM)
    store = (
        wanted_store
        if wanted_store is not None
        else max(needed, STORE_PER_GPU * cards if cuda else STORE_MINIMUM_CPU)
    )
    if wanted_store is not None and wanted_store < needed:
        raise Infeasible(
            problem(
                "spec.objectStore.memory",
                f"{_g(wanted_store)} GiB do not hold the payloads in flight ({_g(needed)} GiB with 20 % headroom), so they would spill to disk; "
                f"raise it to {-(-needed // MIB)}Mi, or lower spec.serving.maxOngoingRequests",
            )
        )
    processes = ranks + fallbacks
    transport = processes * (NCCL_SHM_PER_RANK if cuda else GLOO_SHM_PER_RANK)
    headroom = int(store * SHM_HEADROOM)
    shm = store + transport + headroom
    heap = (
        processes * (HEAP_PER_CUDA_RANK if cuda else HEAP_PER_CPU_RANK)
        + GATEWAYS * HEAP_PER_GATEWAY
        + activations
    )
    system = RAY_DAEMONS_CUDA if cuda else RAY_DAEMONS_CPU
    limit = shm + heap + weights + system
    host = Host(store, shm, transport, headroom, heap, weights, system, limit, node, wanted_store is not None)
    if node is not None and limit > node:
        spare = node - (limit - int(store * (1 + SHM_HEADROOM)))
        hint = (
            f"set spec.objectStore.memory to {int(spare / (1 + SHM_HEADROOM)) // MIB}Mi or less"
            if spare / (1 + SHM_HEADROOM) >= max(needed, 75 * MIB)
            else "use a node with more memory, or fewer cards"
        )
        raise Infeasible(
            problem(
                "spec.objectStore.memory" if wanted_store is not None else "spec.hardware.memory",
                f"the node offers {_g(node)} GiB, the plan needs {_g(limit)} ({host.proof[1]}); {hint}",
            )
        )
    if shm_size is not None and shm > shm_size and not cuda:
        raise Infeasible(
            problem(
                "spec.objectStore.memory",
                f"{SHM} has {_g(shm_size)} GiB, the plan needs {_g(shm)} ({host.proof[0]}), and Ray would quietly use the disk; "
                f"set it to {max(0, int((shm_size - transport) / (1 + SHM_HEADROOM))) // MIB}Mi or less",
            )
        )
    return host
