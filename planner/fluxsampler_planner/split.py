"""How one picture is split over ranks: the four degrees, and which blocks a pipeline stage holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from fluxsampler_planner.models import ModelFacts


@dataclass(frozen=True, slots=True)
class Split:
    """Degrees of pipefusion, tensor, ulysses and ring; their product is the number of ranks."""

    pipefusion: int = 1
    tensor: int = 1
    ulysses: int = 1
    ring: int = 1

    @property
    def ranks(self) -> int:
        """Ranks of one gang."""
        return self.pipefusion * self.tensor * self.ulysses * self.ring

    @property
    def sequence(self) -> int:
        """Degree of sequence parallelism."""
        return self.ulysses * self.ring

    def __str__(self) -> str:
        """`pp2·u4`; `single` for one rank."""
        named = (("pp", self.pipefusion), ("tp", self.tensor), ("u", self.ulysses), ("r", self.ring))
        return "·".join(f"{name}{degree}" for name, degree in named if degree > 1) or "single"

    @property
    def family(self) -> str:
        """The kind of layout, for people: `pipefusion × ulysses/ring`."""
        named = (("pipefusion", self.pipefusion), ("tensor", self.tensor), ("ulysses/ring", self.sequence))
        return " × ".join(name for name, degree in named if degree > 1) or "single card"


@lru_cache(maxsize=128)
def splits(ranks: int) -> tuple[Split, ...]:
    """All splits over exactly ``ranks`` ranks: ordered factorisations into four degrees."""
    return tuple(Split(*degrees) for degrees in _factorisations(ranks, 4))


def _factorisations(number: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (number,)
        return
    for first in range(1, number + 1):
        if number % first == 0:
            for rest in _factorisations(number // first, parts - 1):
                yield (first, *rest)


@lru_cache(maxsize=256)
def stage_blocks(model: ModelFacts, stages: int, by: str) -> tuple[int, ...]:
    """Blocks of each of ``stages`` pipeline stages, in order.

    ``by`` "time" gives every stage the same number of blocks (a token passes 12·h² parameters in
    either kind), the larger shares last, since the first stage also encodes and the early blocks are
    the heavy ones; "bytes" minimises the largest stage in parameters, then evens out the rest.
    """
    if stages > model.blocks:
        raise ValueError(f"{stages} stages need at least as many blocks, {model.name} has {model.blocks}")
    if by == "time":
        small, extra = divmod(model.blocks, stages)
        return tuple(small + (stage >= stages - extra) for stage in range(stages))
    weights = [model.double_parameters] * model.double_blocks + [
        model.single_parameters
    ] * model.single_blocks
    starts = [0]
    for weight in weights:
        starts.append(starts[-1] + weight)
    # best[i]: (largest stage, sum of squares) of the first i blocks in the stages so far; cuts[stage][i]: where its last stage began.
    best: list[tuple[int, int] | None] = [(0, 0)] + [None] * model.blocks
    cuts: list[list[int]] = []
    for stage in range(1, stages + 1):
        then: list[tuple[int, int] | None] = [None] * (model.blocks + 1)
        cut = [0] * (model.blocks + 1)
        for end in range(stage, model.blocks - (stages - stage) + 1):
            for start in range(stage - 1, end):
                if (before := best[start]) is None:
                    continue
                size = starts[end] - starts[start]
                option = (max(before[0], size), before[1] + size * size)
                if (kept := then[end]) is None or option < kept:
                    then[end], cut[end] = option, start
        best = then
        cuts.append(cut)
    ends = [model.blocks]
    for cut in reversed(cuts):
        ends.append(cut[ends[-1]])
    return tuple(end - start for end, start in pairwise(ends))[::-1]


@lru_cache(maxsize=4096)
def stage_parameters(model: ModelFacts, blocks: tuple[int, ...], tensor: int = 1) -> tuple[int, ...]:
    """Block parameters that a rank of each stage holds (the embedders, which every stage holds, come on top).

    xfuser 0.7.0's tensor parallelism splits the feed-forwards of double blocks only: 16·h² of their 36·h².
    """
    double = model.double_parameters - 16 * model.hidden**2 * (tensor - 1) // tensor
    sizes, first = [], 0
    for count in blocks:
        doubles = max(0, min(model.double_blocks, first + count) - first)
        sizes.append(doubles * double + (count - doubles) * model.single_parameters)
        first += count
    return tuple(sizes)


def patch_count(rows: int, stages: int, sequence: int) -> int:
    """PipeFusion patches of a picture of ``rows`` token rows: as many as stages, or fewer where they would be too thin.

    xfuser's rule (``DiTRuntimeState._calc_patches_metadata``): whole rows, a multiple of the sequence ranks.
    """
    each = -(-rows // stages)
    return -(-rows // (-(-each // sequence) * sequence))
