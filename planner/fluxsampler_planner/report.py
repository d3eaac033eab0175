"""A plan in words and in the contract's units."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluxsampler_api.plan import (
    CardMemory,
    Estimate,
    HostMemory,
    MemoryComponent,
    PlannedFallback,
    PlannedLayout,
    PlannedMemory,
    PlanStatus,
)

from fluxsampler_planner.fallback import CORESIDENT_LOSS
from fluxsampler_planner.gpus import GIB

if TYPE_CHECKING:
    from fluxsampler_planner.plan import Card, Plan


def _gib(size: int) -> float:
    return round(size / GIB, 3)


def _encoders(made: Plan) -> str:
    if made.chosen.encoders == "cpu":
        return "CPU"
    return "process of rank 0" if made.node.device == "cpu" else "card of rank 0"


def status(made: Plan) -> PlanStatus:
    """`status.plan`."""
    chosen, split, host = made.chosen, made.split, made.host
    work = made.inputs.work
    return PlanStatus(
        layout=PlannedLayout(
            pipefusion=split.pipefusion, tensor=split.tensor, ulysses=split.ulysses, ring=split.ring,
            gpus_per_replica=split.ranks, replicas=chosen.replicas,
            stage_blocks=chosen.blocks if split.pipefusion > 1 else (),
            encoders=_encoders(made), summary=str(split),
        ),
        fallback=PlannedFallback(
            placement=made.fallback.placement, replicas=made.fallback.warm, max_replicas=made.fallback.most,
            cards=made.fallback.cards if made.node.device == "cuda" else (),
            quantization=made.fallback.form.quantization if made.fallback.form else "none",
            message=made.fallback.message,
        ),
        memory=PlannedMemory(
            cards=tuple(
                CardMemory(
                    index=card.index, role=card.role, total_gib=_gib(card.used), usable_gib=_gib(card.usable),
                    components=tuple(MemoryComponent(name=part.name, gib=_gib(part.size)) for part in card.parts),
                )
                for card in made.cards
            ),
            host=HostMemory(
                object_store_gib=_gib(host.store), shm_gib=_gib(host.shm), heap_gib=_gib(host.heap), weights_gib=_gib(host.weights),
                system_gib=_gib(host.system), limit_gib=_gib(host.limit), node_gib=_gib(host.node if host.node is not None else host.limit),
                proof=host.proof,
            ),
        ),
        estimate=Estimate(
            width=work.width, height=work.height, steps=work.steps, seconds_per_image=round(made.seconds_per_image, 3),
            images_per_minute=round(chosen.images_per_minute, 2), error_percent=round(100 * made.cost.error, 1),
            calibrated=made.cost.calibrated,
        ),
        rejected=made.rejected,
    )  # fmt: skip


def explain(made: Plan) -> str:
    """The plan as plain text: the layout, the arithmetic of its time, each kind of card, the host, and the families not taken."""
    chosen, split, node, work, time = (
        made.chosen,
        made.split,
        made.node,
        made.inputs.work,
        made.chosen.seconds,
    )
    cards = "rank processes" if node.device == "cpu" else f"× {node.gpu.title}"
    lines = [
        f"{made.model.name} on {node.nodes} node(s) of {node.cards} {cards}, {work.width}×{work.height}, {work.steps} steps, "
        f"{work.text_tokens} text tokens; objective: {'throughput' if made.inputs.throughput else 'latency'}",
        "",
        f"Layout     {chosen.replicas} × {split} ({split.ranks} {'ranks' if node.device == 'cpu' else 'cards'} a replica), text encoders on the {_encoders(made)}",
    ]
    if split.pipefusion > 1:
        lines.append(
            f"           blocks per stage: {', '.join(map(str, chosen.blocks))} of {made.model.blocks}"
        )
    lines += [
        f"Fallback   {made.fallback.placement}: {made.fallback.message}",
        f"           warm {made.fallback.warm}, at most {made.fallback.most}",
        f"Estimate   {time.total:.2f} s a picture, {chosen.images_per_minute:.1f} pictures/min"
        + (
            f" (±{100 * made.cost.error:.0f} % on held-out rows)"
            if made.cost.calibrated
            else f" (not calibrated, ±{100 * made.cost.error:.0f} % assumed)"
        ),
        f"           = encode {time.encode:.2f} + first step {time.first:.3f} + {time.steps - 1} × {time.step:.3f} + decode {time.decode:.2f}",
        f"           a step = arithmetic {time.arithmetic:.3f} + launches {time.launch:.3f} + links {time.links:.3f}",
        "",
        "Memory of the cards, GiB",
    ]
    for indices, card in _alike(made):
        parts = ", ".join(f"{part.name} {part.size / GIB:.2f}" for part in card.parts) or "nothing"
        lines.append(
            f"  {indices:<9} {card.used / GIB:5.1f} of {card.usable / GIB:.1f}  {card.role}: {parts}"
        )
    lines += ["", "Memory of a node, GiB", *(f"  {line}" for line in made.host.proof), "", "Not taken"]
    lines += [f"  {line.family} ({line.reason}): {line.message}" for line in made.rejected]
    if made.fallback.placement == "CoResident":
        lines += [
            "",
            f"A warm fallback may cost up to {100 * CORESIDENT_LOSS:.0f} % of speed against the best layout with one on demand.",
        ]
    return "\n".join(lines)


def _alike(made: Plan) -> list[tuple[str, Card]]:
    return [
        (f"card {card.index}" if made.node.device == "cuda" else f"rank {card.index}", card)
        for card in made.cards
    ]
