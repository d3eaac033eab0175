"""The cost model: seconds per picture of one layout on one kind of card.

A step is arithmetic, plus the time of launching a block's kernels and collectives, plus bytes over
links (DESIGN §5). What differs by card, host and software stack is :class:`CostParameters`, fitted
by ``tools/calibrate`` on published measurements; ``docs/dev/calibration.md`` explains each term.

Symbols: S tokens of picture and text, h hidden width, b bytes per element, L blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import log2

from fluxsampler_planner.models import ModelFacts
from fluxsampler_planner.split import Split

GB = 1e9
# The rows behind the calibration are FLUX.1's, which has 57 blocks; a launch floor scales with the blocks.
CALIBRATED_BLOCKS = 57


@dataclass(frozen=True, slots=True)
class CostParameters:
    """Fitted figures of one (card, host, stack). Pairs are (eager, compiled).

    ``peak``: dense FLOP/s. ``linear``: share of it that the matrix products reach; ``attention``: the
    attention kernel's share. ``floor``: seconds a step takes at the least because its kernels must be
    launched. ``ulysses_block``, ``ring_block``, ``tensor_block``: seconds per block that a kind of
    parallelism adds for launching its collectives and reshaping; ``hop``: per block and ring hop;
    ``pipe_block``: per block for PipeFusion's patches. ``ring``, ``all_to_all``: bytes/s per card, by
    group size. ``encode``: seconds per picture that do not grow with it; ``decode``: seconds per megapixel.
    ``error``: mean absolute relative error on rows the fit had not seen.
    """

    peak: float
    linear: tuple[float, float]
    attention: float
    floor: tuple[float, float]
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
class Stack:
    """How a software stack differs from xDiT's: factors on eager arithmetic and on eager launches.

    ``whole_tensor``: tensor parallelism splits every linear layer and the heads, as Megatron's does.
    xfuser 0.7.0 wraps diffusers' ``FeedForward`` only (``xfuser/model_executor/layers/feedforward.py``),
    which FLUX has in its double blocks: 8·h² of their 12·h² per token, and nothing of the single blocks.
    """

    arithmetic: float = 1.0
    launch: float = 1.0
    whole_tensor: bool = True


XDIT = Stack(whole_tensor=False)


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
    unevenness: float = 1.0,
    patches: int | None = None,
    split_decode: bool = False,
    encode: float | None = None,
    stack: Stack = XDIT,
) -> Seconds:
    """Time of one picture.

    ``unevenness`` is the largest pipeline stage over the largest of an even split; ``patches`` those of
    PipeFusion (default: as many as stages); ``split_decode``: the VAE runs on all ranks at once;
    ``encode`` replaces the fitted encoding time (seconds).
    """
    mode = int(work.compiled)
    slower = 1.0 if work.compiled else stack.arithmetic
    launches = 1.0 if work.compiled else stack.launch
    image = model.image_tokens(work.width, work.height)
    tokens = image + work.text_tokens
    blocks, sequence, stages = model.blocks, split.sequence, split.pipefusion
    linear = 2.0 * tokens * model.parameters_per_token / (cost.peak * cost.linear[mode])
    attention = 4.0 * tokens * tokens * model.hidden * blocks / (cost.peak * cost.attention)
    if split.tensor > 1:
        reach = 1.0 if stack.whole_tensor else 8 * model.double_blocks / (12 * blocks)
        linear *= 1 - reach + reach / split.tensor
        attention /= split.tensor if stack.whole_tensor else 1
    arithmetic = (linear + attention) * slower / sequence
    floor = cost.floor[mode] * launches * blocks / CALIBRATED_BLOCKS
    launch = blocks * _launch(split, cost, mode) * launches
    links = _links(split, tokens, model, work.element, cost, stack)
    first = step = _at_least(arithmetic, floor) + launch + links
    if stages > 1:
        cut = patches or stages
        # Every patch carries the text tokens through every stage (1.78× at 1024² with 8 patches and 512 text
        # tokens), and fewer patches than stages leave stages waiting.
        idle = max(1.0, stages / cut)
        arithmetic *= (image + cut * work.text_tokens) / tokens / stages * unevenness * idle
        hand_over = (image / cut + work.text_tokens) / sequence * model.hidden * work.element
        links = links / stages * unevenness * idle + hand_over / bandwidth(cost.ring, split.ranks)
        launch += blocks * cost.pipe_block[mode] * launches
        step = _at_least(arithmetic, floor) + launch + links
    decode = cost.decode * work.megapixels / (split.ranks if split_decode else 1)
    return Seconds(
        encode=cost.encode if encode is None else encode,
        first=first, step=step, steps=work.steps, decode=decode,
        arithmetic=_at_least(arithmetic, floor), launch=launch, links=links,
    )  # fmt: skip


def _at_least(arithmetic: float, floor: float) -> float:
    """The larger of two times that overlap, with the smooth corner that measurements show (fourth-power mean)."""
    return float((arithmetic**4 + floor**4) ** 0.25)


def _launch(split: Split, cost: CostParameters, mode: int) -> float:
    """Seconds per block for launching collectives."""
    per_block = 0.0
    if split.ulysses > 1:
        per_block += cost.ulysses_block[mode]
    if split.ring > 1:
        per_block += cost.ring_block[mode] + (split.ring - 1) * cost.hop[mode]
    if split.tensor > 1:
        per_block += cost.tensor_block[mode]
    return per_block


def _links(
    split: Split, tokens: int, model: ModelFacts, element: int, cost: CostParameters, stack: Stack
) -> float:
    """Seconds per step on the links; bytes per card as DESIGN §5."""
    ulysses, ring, tensor = split.ulysses, split.ring, split.tensor
    total = 0.0
    plane = tokens * model.hidden * element
    if ulysses > 1:
        moved = 4 * plane / (ring * tensor * ulysses) * (ulysses - 1) / ulysses * model.blocks
        total += moved / bandwidth(cost.all_to_all, ulysses)
    if ring > 1:
        moved = 2 * plane / (ulysses * tensor) * (ring - 1) / ring * model.blocks
        # The ring's neighbours are `ulysses` ranks apart, so it spans the whole group.
        total += moved / bandwidth(cost.ring, ring * ulysses)
    if tensor > 1:
        # One all-reduce over the tokens after attention and one after the MLP; single blocks have both in one.
        planes = 2 * model.double_blocks + model.single_blocks if stack.whole_tensor else model.double_blocks
        moved = planes * 2 * (tensor - 1) / tensor * plane / split.sequence
        total += moved / bandwidth(cost.ring, tensor)
    return total


def with_links(
    cost: CostParameters, ring: Mapping[int, float], all_to_all: Mapping[int, float]
) -> CostParameters:
    """``cost`` with measured bandwidths (GB/s by group size) in place of the calibrated ones."""
    return replace(
        cost,
        ring=tuple(sorted((size, value * GB) for size, value in ring.items())) or cost.ring,
        all_to_all=tuple(sorted((size, value * GB) for size, value in all_to_all.items())) or cost.all_to_all,
    )
