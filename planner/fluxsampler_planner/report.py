"""A plan in words and in the contract's units."""

from __future__ import annotations

import re
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
from fluxsampler_planner.memory import FALLBACK_PREFIX

if TYPE_CHECKING:
    from fluxsampler_planner.memory import Part
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
    each = f"{split.ranks} {'ranks' if node.device == 'cpu' else 'cards'} a replica"
    objective = "throughput" if made.inputs.throughput else "latency"
    lines = [
        f"{made.model.name} on {node.nodes} node(s) of {node.cards} {cards}, {work.width}×{work.height}, {work.steps} steps, "
        f"{work.text_tokens} text tokens; objective: {objective}",
        "",
        f"Layout     {chosen.replicas} × {split} ({each}), text encoders on the {_encoders(made)}",
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
            else f" (not calibrated: scaled from the data sheets, ±{100 * made.cost.error:.0f} %)"
        ),
        f"           = encode {time.encode:.2f} + first step {time.first:.3f} + {time.steps - 1} × {time.step:.3f} + decode {time.decode:.2f}",
        f"           a step = arithmetic {time.arithmetic:.3f} + launches {time.launch:.3f} + links {time.links:.3f}",
        "",
        "Memory of the cards, GiB",
    ]
    for name, group in _alike(made):
        own = [part for part in group[0].parts if not part.name.startswith(FALLBACK_PREFIX)]
        beside = [part for part in group[0].parts if part.name.startswith(FALLBACK_PREFIX)]
        lines.append(
            f"  {name:<11}{group[0].used / GIB:5.1f} of {group[0].usable / GIB:.1f}  {_roles(group)}"
        )
        lines += [f"{'':13}{_list(parts)}" for parts in (own, beside) if parts]
    lines += ["", "Memory of a node, GiB", *(f"  {line}" for line in made.host.proof), "", "Not taken"]
    lines += [f"  {line.family} ({line.reason}): {line.message}" for line in made.rejected]
    if made.fallback.placement == "CoResident":
        lines += [
            "",
            f"A warm fallback may cost up to {100 * CORESIDENT_LOSS:.0f} % of speed against the best layout with one on demand.",
        ]
    return "\n".join(lines)


def _list(parts: list[Part]) -> str:
    # Without what would print as 0.00 for a tiny model.
    return (
        ", ".join(f"{part.name} {part.size / GIB:.2f}" for part in parts if part.size >= GIB // 200)
        or "nothing of note"
    )


_ROLE = re.compile(r"rank (\d+) of gang (\d+)(.*)")


def _alike(made: Plan) -> list[tuple[str, list[Card]]]:
    """Neighbouring cards that hold the same for the same purpose, under one name."""
    noun = "card" if made.node.device == "cuda" else "process"
    groups: list[list[Card]] = []
    for card in made.cards:
        if groups and groups[-1][-1].parts == card.parts and _purpose(groups[-1][-1]) == _purpose(card):
            groups[-1].append(card)
        else:
            groups.append([card])
    return [
        (f"{noun} {group[0].index}" + (f"-{group[-1].index}" if len(group) > 1 else ""), group)
        for group in groups
    ]


def _purpose(card: Card) -> tuple[str, ...]:
    """The role without the rank's number."""
    match = _ROLE.fullmatch(card.role)
    return (card.role,) if match is None else (match[2], match[3])


def _roles(group: list[Card]) -> str:
    first, last = _ROLE.fullmatch(group[0].role), _ROLE.fullmatch(group[-1].role)
    if len(group) == 1 or first is None or last is None:
        return group[0].role
    return f"ranks {first[1]} to {last[1]} of gang {first[2]}{first[3]}"
