"""The cost model: seconds per picture of one layout on one kind of card.

A step is arithmetic, plus the time of launching a block's kernels and collectives, plus bytes over
links (DESIGN §5). What differs by card, host and software stack is :class:`CostParameters`, fitted
by ``tools/calibrate`` on published measurements; ``docs/dev/calibration.md`` explains each term.

Symbols: S tokens of picture and text, h hidden width, b bytes per element, L blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log2

from fluxsampler_planner.models import ModelFacts
from fluxsampler_planner.split import Split

GB = 1e9
# Above this many pixels a card cannot decode at once; the published runs split the VAE over the ranks there.
SPLIT_DECODE_PIXELS = 2048 * 2048


@dataclass(frozen=True, slots=True)
class CostParameters:
    """Fitted figures of one (card, host, stack).

    ``peak``: dense FLOP/s. ``linear`` and ``attention``: share of it reached, (eager, compiled).
    ``block``: seconds per block and step that a parallel layout adds for its collectives' launches and
    reshapes, by kind of parallelism, (eager, compiled). ``hop``: seconds per ring hop and block, alike.
    ``ring``, ``all_to_all``: bytes/s per card by group size. ``encode``: seconds per picture that do not
    grow with it (text encoders, host); ``decode``: seconds per megapixel (VAE). ``error``: mean absolute
    relative error on held-out rows.
    """

    peak: float
    linear: tuple[float, float]
    attention: tuple[float, float]
    ulysses_block: tuple[float, float]
    ring_block: tuple[float, float]
    tensor_block: tuple[float, float]
    pipe_block: tuple[float, float]
    hop: tuple[float, float]
    ring: tuple[tuple[int, float], ...]
    all_to_all: tuple[tuple[int, float], ...]
    encode: float
    decode: float
    error: float
    calibrated: bool


@dataclass(frozen=True, slots=True)
class Workload:
    """One picture: pixels, tokens of its prompt (as padded), steps; bytes per element of the activations."""

    width: int
    height: int
    text_tokens: int
    steps: int
    element: int = 2
    compiled: bool = False

    @property
    def megapixels(self) -> float:
        """Millions of pixels, 1024² being 1."""
        return self.width * self.height / (1 << 20)


@dataclass(frozen=True, slots=True)
class Seconds:
    """Where the time of one picture goes; ``step`` is one steady denoising step, ``first`` the warm-up one."""

    encode: float
    first: float
    step: float
    steps: int
    decode: float
    arithmetic: float
    launch: float
    links: float

    @property
    def total(self) -> float:
        """Seconds per picture."""
        return self.encode + self.first + (self.steps - 1) * self.step + self.decode


def bandwidth(table: tuple[tuple[int, float], ...], size: int) -> float:
    """Bytes/s at a group of ``size``: interpolated over log2(size), constant outside the table."""
    before = table[0]
    for entry in table:
        if size <= entry[0]:
            if entry[0] == before[0] or size <= before[0]:
                return entry[1]
            share = (log2(size) - log2(before[0])) / (log2(entry[0]) - log2(before[0]))
            return float(before[1] ** (1 - share) * entry[1] ** share)
        before = entry
    return before[1]


def seconds(
    model: ModelFacts,
    split: Split,
    work: Workload,
    cost: CostParameters,
    *,
    largest_stage: float | None = None,
    split_decode: bool = False,
    encode: float | None = None,
) -> Seconds:
    """Time of one picture.

    ``largest_stage`` is the largest pipeline stage's share of the blocks (default: an even split);
    ``split_decode``: the VAE runs on all ranks at once; ``encode`` replaces the fitted encoding time.
    """
    mode = int(work.compiled)
    image = model.image_tokens(work.width, work.height)
    tokens = image + work.text_tokens
    blocks, hidden, element = model.blocks, model.hidden, work.element
    linear = 2.0 * tokens * model.parameters_per_token / (cost.peak * cost.linear[mode])
    attention = 4.0 * tokens * tokens * hidden * blocks / (cost.peak * cost.attention[mode])
    arithmetic = linear + attention
    sequence, stages = split.sequence, split.pipefusion
    within = arithmetic / (sequence * split.tensor)
    launch = _launch(split, blocks, cost, mode)
    links = _links(split, tokens, hidden, element, model, cost)
    first = step = within + launch + links
    if stages > 1:
        share = largest_stage if largest_stage is not None else -(-blocks // stages) / blocks
        # Every patch carries the text tokens through every stage (1.78× at 1024² with 8 patches and 512 text tokens).
        patched = (image + stages * work.text_tokens) / tokens
        hand_over = (
            stages
            * (image / stages + work.text_tokens)
            / sequence
            * hidden
            * element
            / bandwidth(cost.ring, split.ranks)
        )
        arithmetic = within * patched * share
        links = links * share + hand_over / stages
        launch = launch * share * stages + blocks * cost.pipe_block[mode]
        step = arithmetic + launch + links
    else:
        arithmetic = within
    ranks = split.ranks
    whole = work.width * work.height > SPLIT_DECODE_PIXELS
    decode = cost.decode * work.megapixels / (ranks if split_decode or whole else 1)
    return Seconds(
        encode=cost.encode if encode is None else encode,
        first=first, step=step, steps=work.steps, decode=decode, arithmetic=arithmetic, launch=launch, links=links,
    )  # fmt: skip


def _launch(split: Split, blocks: int, cost: CostParameters, mode: int) -> float:
    per_block = 0.0
    if split.ulysses > 1:
        per_block += cost.ulysses_block[mode]
    if split.ring > 1:
        per_block += cost.ring_block[mode] + (split.ring - 1) * cost.hop[mode]
    if split.tensor > 1:
        per_block += cost.tensor_block[mode]
    return blocks * per_block


def _links(
    split: Split, tokens: int, hidden: int, element: int, model: ModelFacts, cost: CostParameters
) -> float:
    """Seconds per step on the links; bytes per card as DESIGN §5."""
    ulysses, ring, tensor = split.ulysses, split.ring, split.tensor
    total = 0.0
    plane = tokens * hidden * element
    if ulysses > 1:
        moved = 4 * plane / (ring * tensor * ulysses) * (ulysses - 1) / ulysses * model.blocks
        total += moved / bandwidth(cost.all_to_all, ulysses)
    if ring > 1:
        moved = 2 * plane / (ulysses * tensor) * (ring - 1) / ring * model.blocks
        # The ring's neighbours are `ulysses` ranks apart, so it spans the whole group.
        total += moved / bandwidth(cost.ring, ring * ulysses)
    if tensor > 1:
        moved = (
            (2 * model.double_blocks + model.single_blocks)
            * 2
            * (tensor - 1)
            / tensor
            * plane
            / split.sequence
        )
        total += moved / bandwidth(cost.ring, tensor)
    return total


def with_links(
    cost: CostParameters, ring: Mapping[int, float], all_to_all: Mapping[int, float]
) -> CostParameters:
    """``cost`` with measured bandwidths (GB/s by group size) in place of the calibrated ones."""
    from dataclasses import replace

    return replace(
        cost,
        ring=tuple(sorted((size, value * GB) for size, value in ring.items())) or cost.ring,
        all_to_all=tuple(sorted((size, value * GB) for size, value in all_to_all.items())) or cost.all_to_all,
    )
