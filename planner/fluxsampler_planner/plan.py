"""The plan: what runs on which card, how much memory everything takes, how fast it will be, and why not otherwise."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from fluxsampler_planner import report
from fluxsampler_planner.calibration import CALIBRATION
from fluxsampler_planner.cost import CostParameters, Workload, with_links
from fluxsampler_planner.errors import Infeasible, ManualLayoutRefused, problem
from fluxsampler_planner.fallback import FallbackChoice, forms, switched_off
from fluxsampler_planner.hardware import Hardware, Links, Node, resolve
from fluxsampler_planner.host import Host, host_memory, payload_size
from fluxsampler_planner.memory import (
    FALLBACK_PREFIX,
    Form,
    Part,
    Picture,
    encoders_size,
    rank_parts,
    single_parts,
    total,
    transformer_size,
)
from fluxsampler_planner.models import ModelFacts, find_model
from fluxsampler_planner.rejections import families
from fluxsampler_planner.remedies import infeasible
from fluxsampler_planner.rules import Request, refusal
from fluxsampler_planner.search import Candidate, Found, Inputs, decoding_rank, rank_totals, search
from fluxsampler_planner.shape import fallback_now, gangs_now, least_gangs, no_gang, placements, shape_of
from fluxsampler_planner.split import Split

if TYPE_CHECKING:
    from fluxsampler_api.plan import PlanStatus, Rejection
    from fluxsampler_api.sampler import FluxSampler
    from fluxsampler_api.spec import FluxSamplerSpec

# On CPU a fallback is one more process on the same cores: room for a second one, not for one per rank.
SPARE_FALLBACKS = 2


@dataclass(frozen=True, slots=True)
class Card:
    """What sits on one card, in bytes; on CPU one "card" is one rank process."""

    index: int
    role: str
    parts: tuple[Part, ...]
    usable: int

    @property
    def used(self) -> int:
        """Bytes in all."""
        return total(self.parts)


@dataclass(frozen=True)
class Plan:
    """The answer of the planner; everything is resolved, nothing is a guess left for later.

    ``shape`` is what engines are started as, ``chosen`` and ``fallback`` how many there are now
    (:mod:`fluxsampler_planner.shape`).
    """

    name: str
    source: str
    model: ModelFacts
    node: Node
    inputs: Inputs
    shape: Candidate
    chosen: Candidate
    fallback: FallbackChoice
    cards: tuple[Card, ...]
    host: Host
    found: Found
    rejected: tuple[Rejection, ...]

    @property
    def split(self) -> Split:
        """The layout of one gang."""
        return self.chosen.split

    @property
    def cost(self) -> CostParameters:
        """The calibration the estimate rests on."""
        return self.inputs.cost

    @property
    def seconds_per_image(self) -> float:
        """Seconds per picture at the target."""
        return self.chosen.seconds.total

    def status(self) -> PlanStatus:
        """The plan as ``status.plan``, in GiB and seconds."""
        return report.status(self)

    def explain(self) -> str:
        """Why this plan and not the others, with the arithmetic, as plain text."""
        return report.explain(self)


def plan(
    sampler: FluxSampler,
    hardware: Hardware | None = None,
    links: Links | None = None,
    *,
    model: ModelFacts | None = None,
) -> Plan:
    """The best layout for ``sampler``.

    ``hardware`` is what a node was found to have (None: the spec and the catalogue only), ``links``
    measured bandwidths, ``model`` the facts of a model outside the catalogue
    (:meth:`ModelFacts.from_config`). Raises a :class:`~fluxsampler_planner.errors.PlanError`.
    """
    spec = sampler.spec
    facts = model or find_model(spec.model.source)
    node = resolve(spec, hardware)
    cost = CALIBRATION.parameters(node.gpu, through_host=node.through_host)
    if links is not None:
        ring = {**links.ring, **({2: links.neighbour} if links.neighbour and 2 not in links.ring else {})}
        cost = with_links(cost, ring, links.all_to_all)
    inputs = _inputs(spec, facts, node, cost)
    if inputs.manual is not None and (broken := refusal(inputs.manual, inputs.request)) is not None:
        raise ManualLayoutRefused(problem(f"spec.parallelism.{broken.field}", broken.message))
    found = search(inputs)
    if found.best is None and no_gang(spec):
        # What has no room for a gang may still draw alone.
        inputs = replace(inputs, replicas=0)
        found = search(inputs)
    if found.best is None:
        raise infeasible(inputs, found)
    shape = shape_of(spec, inputs, found.best)
    planned = _fallback(spec, inputs, shape)
    fallback = fallback_now(spec, inputs, shape, planned)
    chosen = gangs_now(spec, inputs, found.best, fallback)
    cards = _cards(inputs, chosen, fallback)
    host = _host(
        spec,
        inputs,
        shape.split,
        ((max(shape.replicas, chosen.replicas), planned), (chosen.replicas, fallback)),
    )
    return Plan(
        sampler.metadata.name,
        spec.model.source,
        facts,
        node,
        inputs,
        shape,
        chosen,
        fallback,
        cards,
        host,
        found,
        families(inputs, found),
    )


def _inputs(spec: FluxSamplerSpec, model: ModelFacts, node: Node, cost: CostParameters) -> Inputs:
    wanted, target = spec.parallelism, spec.parallelism.target
    cuda = node.device == "cuda"
    element = {"float32": 4, "bfloat16": 2}[dtype_of(spec)]
    most_text = spec.model.max_text_tokens or model.max_text_tokens
    if most_text > model.max_text_tokens:
        raise Infeasible(
            problem(
                "spec.model.maxTextTokens",
                f"{most_text} is more than {model.name} takes; use {model.max_text_tokens} or fewer",
            )
        )
    usual_text = min(model.default_text_tokens, most_text)
    width, height = target.width or model.default_width, target.height or model.default_height
    for field, value in (("width", width), ("height", height)):
        if not model.min_side <= value <= model.max_side:
            raise Infeasible(
                problem(
                    f"spec.parallelism.target.{field}",
                    f"{value} is outside what {model.name} draws; use {model.min_side} to {model.max_side}",
                )
            )
    form = Form(element, spec.model.quantization == "fp8", cuda)
    if form.fp8 and not cuda:
        raise Infeasible(
            problem(
                "spec.model.quantization",
                "fp8 is 4 to 17 times slower on CPU (DESIGN §6); use none, or device: cuda",
            )
        )
    picture = Picture(model.image_tokens(width, height), most_text, width * height)
    return Inputs(
        model=model,
        node=node,
        cost=cost,
        form=form,
        request=Request(
            model,
            width,
            height,
            tuple(sorted({usual_text, most_text})),
            wanted.exact,
            fp8=form.fp8,
            float32_on_cuda=cuda and element == 4,
        ),
        picture=picture,
        work=Workload(width, height, usual_text, target.steps or model.default_steps, element),
        throughput=wanted.objective == "throughput",
        manual=Split(*wanted.degrees) if wanted.mode == "Manual" else None,
        gpus_per_replica=wanted.gpus_per_replica,
        replicas=least_gangs(spec),
        fallback_forms=forms(model, element, spec.model.quantization, picture, cuda=cuda),
        placements=placements(spec.fallback) if spec.fallback.enabled else ("None",),
        min_fallbacks=spec.fallback.min_replicas,
    )


def dtype_of(spec: FluxSamplerSpec) -> Literal["float32", "bfloat16"]:
    """`spec.model.dtype` with Auto resolved: bfloat16 on CUDA, float32 on CPU."""
    if spec.model.dtype != "Auto":
        return spec.model.dtype
    return "bfloat16" if spec.hardware.device == "cuda" else "float32"


def _first_card(node: Node, ranks: int, gang: int) -> int:
    """Card (over all nodes) of rank 0 of a gang: gangs fill a node before the next."""
    per_node = node.cards // ranks
    return gang // per_node * node.cards + gang % per_node * ranks


def _fallback(spec: FluxSamplerSpec, inputs: Inputs, chosen: Candidate) -> FallbackChoice:
    """The fallback beside the gangs of ``chosen``, were it on."""
    wanted, node, ranks = spec.fallback, inputs.node, chosen.split.ranks
    taken = {
        _first_card(node, ranks, gang) + rank for gang in range(chosen.replicas) for rank in range(ranks)
    }
    spare = tuple(card for card in range(node.total_cards) if card not in taken)
    cards: tuple[int, ...] = ()
    if chosen.placement == "CoResident" and inputs.cuda:
        held = rank_totals(inputs, chosen.split, chosen.blocks, chosen.encoders)
        # Cards that hold nothing come first, then those with the most room.
        beside = [
            (held[rank], _first_card(node, ranks, gang) + rank)
            for gang in range(chosen.replicas)
            for rank in chosen.rooms
        ]
        cards = (*spare, *(card for _, card in sorted(beside)))
    elif chosen.placement == "Reserved":
        cards = spare
    elif chosen.placement == "OnDemand":
        cards = tuple(range(node.total_cards))
    room = len(cards) if inputs.cuda or chosen.placement == "Reserved" else max(1, wanted.min_replicas)
    warm = 0 if chosen.placement == "OnDemand" else wanted.min_replicas
    most = room if wanted.max_replicas == "Auto" else min(room, wanted.max_replicas)
    if chosen.placement == "None":
        return switched_off(kept=False)
    return FallbackChoice(
        chosen.placement,
        chosen.fallback,
        cards[: max(most, warm)],
        warm,
        max(1, most, warm),
        asked=wanted.placement == "OnDemand",
        cuda=inputs.cuda,
    )


def _cards(inputs: Inputs, chosen: Candidate, fallback: FallbackChoice) -> tuple[Card, ...]:
    """Every card, filled with what may live on it at once (a fallback on each card that may hold one)."""
    node, split, model = inputs.node, chosen.split, inputs.model
    parts: dict[int, tuple[Part, ...]] = dict.fromkeys(range(node.total_cards), ())
    roles: dict[int, str] = {}
    for gang in range(chosen.replicas):
        first = _first_card(node, split.ranks, gang)
        for rank in range(split.ranks):
            parts[first + rank] = rank_parts(
                model, split, chosen.blocks, inputs.form, inputs.picture,
                stage=rank // (split.tensor * split.sequence), first=rank == 0,
                decodes=rank == decoding_rank(split), encoders=chosen.encoders == "device",
            )  # fmt: skip
            roles[first + rank] = f"rank {rank} of gang {gang}"
    if fallback.form is not None and fallback.placement in ("CoResident", "Reserved"):
        form = replace(inputs.form, fp8=fallback.form.quantization == "fp8")
        alone = single_parts(model, form, inputs.picture, encoders=fallback.form.encoders == "device")
        for card in fallback.cards:
            if fallback.placement == "Reserved" or inputs.cuda:
                parts[card] = (
                    *parts[card],
                    *(Part(f"{FALLBACK_PREFIX}{part.name}", part.size) for part in alone),
                )
                suffix = "fallback" if card in fallback.cards[: fallback.warm] else "room for a fallback"
                roles[card] = f"{roles[card]}, {suffix}" if card in roles else suffix
        if fallback.placement == "CoResident" and not inputs.cuda:
            parts[node.total_cards] = alone
            roles[node.total_cards] = "fallback"
    return tuple(
        Card(index, roles.get(index, "idle"), held, node.gpu.usable) for index, held in sorted(parts.items())
    )


def _host(
    spec: FluxSamplerSpec,
    inputs: Inputs,
    split: Split,
    counts: tuple[tuple[int, FallbackChoice], ...],
) -> Host:
    """Host memory for the first of ``counts`` (gangs, fallback) that a node holds, the last one at the least."""
    model, node, form = inputs.model, inputs.node, inputs.form
    serving = spec.serving
    largest = max(inputs.picture.pixels, model.default_width * model.default_height)
    payload = payload_size(
        ongoing=serving.max_ongoing_requests, queued=serving.max_queued_requests,
        text_tokens=inputs.picture.text_tokens, text_width=model.text_width, image_tokens=model.image_tokens(1, largest),
        channels=model.channels, pixels=largest,
    )  # fmt: skip
    weights = transformer_size(model, form) + encoders_size(model, form) + model.vae_parameters * form.element
    # A fallback may hold the transformer in fp8 where the gang does not: a second file, mapped once more.
    second = transformer_size(model, replace(form, fp8=True)) if inputs.cuda and not form.fp8 else 0
    asked = [
        (
            -(-gangs // node.nodes) * split.ranks,
            -(-fallback.most // node.nodes),
            second if fallback.form is not None and fallback.form.quantization == "fp8" else 0,
        )
        for gangs, fallback in counts
    ]
    # A pod cannot grow while it runs. So it has the memory for every card as a rank and for the fallbacks that a
    # later edit of `replicas` or `fallback` may ask for; where a node does not hold that, for what engines leave
    # room for, and where not even that, for what is asked now.
    ranks, fallbacks, _ = asked[0]
    spare = node.cards if inputs.cuda else SPARE_FALLBACKS
    roomy = node.cards, max(spare, ranks + fallbacks - node.cards), second
    *sized, least = [
        partial(
            host_memory,
            cuda=inputs.cuda,
            cards=node.cards,
            ranks=gang,
            fallbacks=beside,
            payload=payload,
            weights=weights + copies,
            activations=0 if inputs.cuda else (gang + beside) * _activations(inputs),
            wanted_store=None if spec.object_store.memory == "Auto" else spec.object_store.memory.bytes,
            node=node.host_memory,
            shm_size=node.shm,
        )
        for gang, beside, copies in (roomy, *asked)
    ]
    for attempt in sized:
        with suppress(Infeasible):
            return attempt()
    return least()


def _activations(inputs: Inputs) -> int:
    """Bytes that one process on CPU holds besides weights, at most: those of a device that draws alone."""
    parts = single_parts(inputs.model, inputs.form, inputs.picture, encoders=True)
    return sum(part.size for part in parts if part.name.endswith(("activations", "values")))


__all__ = ["Card", "Hardware", "Links", "Plan", "dtype_of", "plan"]
