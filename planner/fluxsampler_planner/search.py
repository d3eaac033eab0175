"""The search: every split × stage balance × encoder placement × replicas × fallback placement, each taken or refused with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Literal

from fluxsampler_planner.cost import XDIT, CostParameters, Seconds, Workload, seconds
from fluxsampler_planner.fallback import PENALTY, FallbackForm, Placement
from fluxsampler_planner.gpus import GIB
from fluxsampler_planner.memory import Form, Picture, extra_of_decoder, extra_of_first, stage_totals
from fluxsampler_planner.rules import Request, refusal
from fluxsampler_planner.split import Split, patch_count, splits, stage_blocks

if TYPE_CHECKING:
    from fluxsampler_planner.hardware import Node
    from fluxsampler_planner.models import ModelFacts

Encoders = Literal["device", "cpu"]

# Text encoding on the host: 2 FLOPs per parameter and token at 40 GFLOP/s a core (see the CPU entry of gpus.py).
CPU_CORE_FLOPS = 40e9
# Places for the text encoders, by whether the device is CUDA.
ENCODER_PLACES: dict[bool, tuple[Encoders, ...]] = {True: ("device", "cpu"), False: ("device",)}


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything the search reads, resolved: no Auto left."""

    model: ModelFacts
    node: Node
    cost: CostParameters
    form: Form
    request: Request
    picture: Picture
    work: Workload
    throughput: bool
    manual: Split | None
    gpus_per_replica: int | None
    replicas: int
    fallback_forms: tuple[FallbackForm, ...]
    placements: tuple[Placement, ...]
    min_fallbacks: int

    @property
    def cuda(self) -> bool:
        """Whether cards are real."""
        return self.form.cuda

    @property
    def place(self) -> str:
        """Where memory is counted, in words."""
        return "on a card" if self.cuda else "in a rank process"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One complete answer. ``score`` orders: seconds per picture (or per picture of the whole node), penalised by the fallback's wait."""

    split: Split
    blocks: tuple[int, ...]
    encoders: Encoders
    replicas: int
    placement: Placement
    fallback: FallbackForm | None
    rooms: tuple[int, ...]
    seconds: Seconds
    images_per_minute: float
    score: float
    widest_first: bool

    @property
    def value(self) -> float:
        """The score without the price of a colder fallback: seconds per picture of one gang, or of the node."""
        return self.score / (1 + PENALTY[self.placement])

    @property
    def order(self) -> tuple[int, float, int, int, int, int]:
        """Sort key; ties go to fewer cards, then to the simpler split. On CPU all ranks that were asked for come first."""
        split = self.split
        wide = -split.ranks if self.widest_first else 0
        return (wide, self.score, split.ranks, split.pipefusion, split.tensor, split.ring)


@dataclass(slots=True)
class Group:
    """Refused candidates of one family and reason; ``weight`` is what the message's candidate was kept for (less is kept)."""

    message: str
    count: int
    weight: float


@dataclass(frozen=True, slots=True)
class Found:
    """The best candidate (None: nothing fits), the fastest whatever its fallback, the best of every family, what was
    refused, and the least memory anything needed."""

    best: Candidate | None
    fastest: Candidate | None
    families: dict[str, Candidate]
    refused: dict[tuple[str, str], Group]
    least_bytes: float | None
    considered: int


def _gang_sizes(inputs: Inputs) -> Iterator[tuple[int, int]]:
    """(cards of a gang, most gangs that fit on all nodes) for every size worth trying."""
    node = inputs.node
    for size in [inputs.gpus_per_replica] if inputs.gpus_per_replica else range(1, node.cards + 1):
        fit = node.cards // size * node.nodes
        if fit >= max(1, inputs.replicas):
            yield size, fit


def _replica_counts(inputs: Inputs, size: int, fit: int) -> tuple[int, ...]:
    if not inputs.throughput or inputs.replicas == 0:
        return (inputs.replicas,)
    # As many gangs as fit, or fewer by what a reserved fallback needs.
    fewer = fit - -(-max(1, inputs.min_fallbacks) // size)
    return (fit, fewer) if fewer >= max(1, inputs.replicas) else (fit,)


def rank_totals(inputs: Inputs, split: Split, blocks: tuple[int, ...], encoders: Encoders) -> list[int]:
    """Bytes on the card of each rank, ranks ordered tensor, sequence, stage from the inside out (xfuser's order)."""
    within = split.tensor * split.sequence
    stages = stage_totals(inputs.model, split, blocks, inputs.form, inputs.picture)
    totals = [size for size in stages for _ in range(within)]
    if encoders == "device":
        totals[0] += extra_of_first(inputs.model, inputs.form)
    totals[decoding_rank(split)] += extra_of_decoder(inputs.model, split, inputs.form, inputs.picture)
    return totals


def decoding_rank(split: Split) -> int:
    """The rank that decodes: the last one of a gang, whatever its layout."""
    return split.ranks - 1


def encode_seconds(inputs: Inputs, encoders: Encoders) -> float | None:
    """Seconds of text encoding on the CPU; None: on the card, as calibrated."""
    if encoders == "device":
        return None
    flops = 2.0 * inputs.model.t5_parameters * inputs.work.text_tokens
    return inputs.cost.encode + flops / (CPU_CORE_FLOPS * inputs.node.cores)


def _rooms(inputs: Inputs, totals: list[int], form: FallbackForm, replicas: int) -> tuple[int, ...]:
    """Ranks of a gang beside which a replica of ``form`` fits; on CPU any, as long as the host holds them all."""
    usable = inputs.node.gpu.usable
    if inputs.cuda:
        return tuple(rank for rank, size in enumerate(totals) if size + form.size <= usable)
    left = inputs.node.total_cards * usable - replicas * sum(totals)
    return (0,) if left >= max(1, inputs.min_fallbacks) * form.size else ()


def _placements(
    inputs: Inputs, split: Split, totals: list[int], replicas: int
) -> Iterator[tuple[Placement, FallbackForm | None, tuple[int, ...]]]:
    need = max(1, inputs.min_fallbacks)
    usable = inputs.node.gpu.usable
    for placement in inputs.placements:
        if placement == "None":
            yield placement, None, ()
            continue
        for form in inputs.fallback_forms:
            if placement == "CoResident" and replicas:
                rooms = _rooms(inputs, totals, form, replicas)
                if rooms and (not inputs.cuda or len(rooms) * replicas >= need):
                    yield placement, form, rooms
                    break
            elif placement == "Reserved":
                spare = inputs.node.total_cards - replicas * split.ranks
                if form.size <= usable and spare >= need:
                    yield placement, form, ()
                    break
            elif placement == "OnDemand" and form.size <= usable:
                yield placement, form, ()
                break


def search(inputs: Inputs) -> Found:
    """All candidates, ranked. Pure; a few microseconds each."""
    state = _Search(inputs)
    for size, fit in _gang_sizes(inputs):
        for split in (inputs.manual,) if inputs.manual is not None else splits(size):
            if split.ranks == size:
                state.consider(split, fit)
    return Found(state.top, state.fastest, state.best, state.refused, state.least, state.considered)


class _Search:
    """What a search has seen so far."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.top: Candidate | None = None
        self.fastest: Candidate | None = None
        self.best: dict[str, Candidate] = {}
        self.refused: dict[tuple[str, str], Group] = {}
        self.least: float | None = None
        self.considered = 0

    def consider(self, split: Split, fit: int) -> None:
        """Take or refuse ``split``, of which at most ``fit`` gangs find cards."""
        inputs, usable = self.inputs, self.inputs.node.gpu.usable
        self.considered += 1
        if (broken := refusal(split, inputs.request)) is not None:
            self._refuse(broken.family, broken.reason, broken.message, 0.0)
            return
        needed, roomless, fitted = inf, inf, False
        for blocks in _balances(inputs.model, split):
            for encoders in ENCODER_PLACES[inputs.cuda]:
                totals = rank_totals(inputs, split, blocks, encoders)
                needed = min(needed, max(totals))
                if max(totals) > usable:
                    continue
                time = layout_seconds(inputs, split, blocks, encoders)
                roomless = min(roomless, time.total)
                for replicas in _replica_counts(inputs, split.ranks, fit):
                    for placement, form, rooms in _placements(inputs, split, totals, replicas):
                        fitted = True
                        self._offer(
                            _candidate(
                                inputs, split, blocks, encoders, replicas, placement, form, rooms, time
                            )
                        )
        self.least = needed if self.least is None else min(self.least, needed)
        if needed > usable:
            name = "single" if split.ranks == 1 else f"the leanest, {split},"
            message = f"{name} needs {needed / GIB:.1f} GiB {inputs.place}, {usable / GIB:.1f} usable"
            self._refuse(split.family, "InsufficientGPUMemory", message, needed)
        elif not fitted:
            message = f"{split} leaves no room for {_needed_fallback(inputs)}"
            self._refuse(split.family, "NoRoomForFallback", message, roomless)

    def _offer(self, candidate: Candidate) -> None:
        family = candidate.split.family
        if (kept := self.best.get(family)) is None or candidate.order < kept.order:
            self.best[family] = candidate
        if self.top is None or candidate.order < self.top.order:
            self.top = candidate
        if self.fastest is None or candidate.value < self.fastest.value:
            self.fastest = candidate

    def _refuse(self, family: str, reason: str, message: str, weight: float) -> None:
        if (group := self.refused.get((family, reason))) is None:
            self.refused[family, reason] = Group(message, 1, weight)
            return
        group.count += 1
        if weight < group.weight:
            group.message, group.weight = message, weight


def _needed_fallback(inputs: Inputs) -> str:
    smallest = min((form.size for form in inputs.fallback_forms), default=0)
    return f"{max(1, inputs.min_fallbacks)} fallback(s) of {smallest / GIB:.1f} GiB placed {' or '.join(inputs.placements)}"


def _balances(model: ModelFacts, split: Split) -> tuple[tuple[int, ...], ...]:
    if split.pipefusion == 1:
        return ((model.blocks,),)
    even, light = (stage_blocks(model, split.pipefusion, by) for by in ("time", "bytes"))
    return (even,) if even == light else (even, light)


def layout_seconds(inputs: Inputs, split: Split, blocks: tuple[int, ...], encoders: Encoders) -> Seconds:
    """The time of one picture of the target on ``split``."""
    return seconds(
        inputs.model,
        split,
        inputs.work,
        inputs.cost,
        unevenness=max(blocks) / -(-inputs.model.blocks // split.pipefusion),
        patches=patch_count(inputs.request.rows, split.pipefusion, split.sequence),
        encode=encode_seconds(inputs, encoders),
        stack=XDIT,
    )


def _candidate(
    inputs: Inputs, split: Split, blocks: tuple[int, ...], encoders: Encoders, replicas: int, placement: Placement,
    form: FallbackForm | None, rooms: tuple[int, ...], time: Seconds,
) -> Candidate:  # fmt: skip
    # With no gang, the fallbacks draw alone.
    drawing = replicas or max(1, inputs.min_fallbacks)
    per_minute = 60.0 * drawing / time.total
    value = 60.0 / per_minute if inputs.throughput else time.total
    score = value * (1 + PENALTY[placement]) if value < inf else inf
    # Nothing is calibrated on CPU, and whoever names a number of rank processes wants them to draw.
    widest = not inputs.cuda and not inputs.throughput
    return Candidate(
        split,
        blocks,
        encoders,
        replicas,
        placement,
        form,
        rooms,
        time,
        per_minute,
        score,
        widest_first=widest,
    )
