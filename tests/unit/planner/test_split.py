"""Splits, stage balances, patches."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxsampler_planner.models import FLUX_DEV, TINY_SHAPES
from fluxsampler_planner.split import Split, patch_count, splits, stage_blocks, stage_parameters


@given(st.integers(1, 64))
def test_splits_are_all_factorisations(ranks: int) -> None:
    found = splits(ranks)
    assert all(split.ranks == ranks for split in found)
    expected = {
        (a, b, c, ranks // (a * b * c))
        for a in range(1, ranks + 1)
        for b in range(1, ranks // a + 1)
        for c in range(1, ranks // (a * b) + 1)
        if ranks % (a * b * c) == 0
    }
    assert {(s.pipefusion, s.tensor, s.ulysses, s.ring) for s in found} == expected
    assert len(found) == len(expected)


def test_names() -> None:
    assert str(Split()) == "single"
    assert str(Split(2, 1, 4, 1)) == "pp2·u4"
    assert str(Split(1, 2, 1, 2)) == "tp2·r2"
    assert Split(2, 1, 4, 1).family == "pipefusion × ulysses/ring"
    assert Split().family == "single card"


@given(st.integers(1, 57), st.sampled_from(["time", "bytes"]))
def test_every_stage_has_a_block(stages: int, by: str) -> None:
    blocks = stage_blocks(FLUX_DEV, stages, by)
    assert len(blocks) == stages
    assert min(blocks) >= 1
    assert sum(blocks) == FLUX_DEV.blocks
    if by == "time":
        assert max(blocks) - min(blocks) <= 1


@pytest.mark.parametrize(
    ("stages", "measured"), [(2, (17, 40)), (4, (9, 8, 19, 21)), (8, (4, 5, 4, 4, 9, 10, 11, 10))], ids=str
)
def test_balance_by_bytes_is_no_worse_than_the_hand_made_one(stages: int, measured: tuple[int, ...]) -> None:
    # DESIGN §6 lists these splits for FLUX.1-dev.
    ours = stage_parameters(FLUX_DEV, stage_blocks(FLUX_DEV, stages, "bytes"))
    theirs = stage_parameters(FLUX_DEV, measured)
    assert sum(ours) == sum(theirs)
    assert max(ours) <= max(theirs)
    assert (
        max(abs(a - b) for a, b in zip(stage_blocks(FLUX_DEV, stages, "bytes"), measured, strict=True)) <= 2
    )


def test_balance_by_bytes_is_optimal_for_two_stages() -> None:
    best = min(max(stage_parameters(TINY_SHAPES, (first, 6 - first))) for first in range(1, 6))
    assert max(stage_parameters(TINY_SHAPES, stage_blocks(TINY_SHAPES, 2, "bytes"))) == best


def test_more_stages_than_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="7 stages need at least as many blocks"):
        stage_blocks(TINY_SHAPES, 7, "time")


def test_tensor_splits_the_feed_forwards_of_double_blocks_only() -> None:
    # xfuser 0.7.0 wraps diffusers' FeedForward; FLUX's single blocks have none.
    h2 = FLUX_DEV.hidden**2
    (whole,), (half,) = stage_parameters(FLUX_DEV, (57,)), stage_parameters(FLUX_DEV, (57,), 2)
    assert whole - half == 19 * 8 * h2
    assert stage_parameters(FLUX_DEV, (19, 38), 4)[1] == 38 * 15 * h2


@given(st.integers(1, 512), st.integers(1, 16), st.sampled_from([1, 2, 4, 8]))
def test_patches_are_never_more_than_stages(rows: int, stages: int, sequence: int) -> None:
    count = patch_count(rows, stages, sequence)
    assert 1 <= count <= stages
    assert prod((1, count)) == count


def test_eight_stages_at_1024_get_eight_patches() -> None:
    assert patch_count(64, 8, 1) == 8
    assert patch_count(64, 5, 4) == 4
