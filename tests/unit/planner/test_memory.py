"""Memory per card against DESIGN §6's measurements, and the fast sums against the itemised ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxsampler_planner.gpus import GIB
from fluxsampler_planner.memory import (
    Form,
    Picture,
    encoders_size,
    extra_of_decoder,
    extra_of_first,
    rank_parts,
    single_parts,
    stage_totals,
    total,
    transformer_size,
)
from fluxsampler_planner.models import FLUX_DEV, TINY_SHAPES, ModelFacts
from fluxsampler_planner.split import Split, splits, stage_blocks

BF16 = Form(element=2, fp8=False, cuda=True)
SQUARE = Picture(image_tokens=4096, text_tokens=512, pixels=1024 * 1024)


def transformer_gib(stages: int) -> list[float]:
    blocks = stage_blocks(FLUX_DEV, stages, "bytes")
    return [
        next(
            part.size / GIB
            for part in rank_parts(
                FLUX_DEV,
                Split(pipefusion=stages),
                blocks,
                BF16,
                SQUARE,
                stage=stage,
                first=False,
                decodes=False,
                encoders=False,
            )
            if part.name == "transformer"
        )
        for stage in range(stages)
    ]


def test_whole_transformer_and_encoders() -> None:
    assert transformer_size(FLUX_DEV, BF16) / GIB == pytest.approx(22.2, abs=0.05)
    assert transformer_size(FLUX_DEV, Form(2, fp8=True, cuda=True)) / GIB == pytest.approx(11.2, abs=0.1)
    assert encoders_size(FLUX_DEV, BF16) / GIB == pytest.approx(9.1, abs=0.05)


@pytest.mark.parametrize(("stages", "least", "most"), [(2, 10.9, 11.4), (4, 5.2, 5.9), (8, 2.7, 3.3)])
def test_stages_weigh_what_was_measured(stages: int, least: float, most: float) -> None:
    sizes = transformer_gib(stages)
    assert min(sizes) >= least - 0.06
    assert max(sizes) <= most + 0.06


def test_a_rank_holds_encoders_and_decoder_only_where_they_run() -> None:
    plain = rank_parts(
        FLUX_DEV, Split(ulysses=2), (57,), BF16, SQUARE, stage=0, first=False, decodes=False, encoders=True
    )
    first = rank_parts(
        FLUX_DEV, Split(ulysses=2), (57,), BF16, SQUARE, stage=0, first=True, decodes=False, encoders=True
    )
    last = rank_parts(
        FLUX_DEV, Split(ulysses=2), (57,), BF16, SQUARE, stage=0, first=False, decodes=True, encoders=True
    )
    assert {part.name for part in first} - {part.name for part in plain} == {"T5", "CLIP"}
    assert {part.name for part in last} - {part.name for part in plain} == {"VAE"}
    assert total(first) - total(plain) == extra_of_first(FLUX_DEV, BF16)


def test_one_bf16_card_does_not_hold_flux_and_fp8_does() -> None:
    usable = 23.5 * GIB
    fp8 = Form(2, fp8=True, cuda=True)
    assert total(single_parts(FLUX_DEV, BF16, SQUARE, encoders=False)) > usable
    assert total(single_parts(FLUX_DEV, fp8, SQUARE, encoders=False)) < usable


@given(
    st.sampled_from([FLUX_DEV, TINY_SHAPES]),
    st.integers(1, 16).flatmap(lambda ranks: st.sampled_from(splits(ranks))),
    st.booleans(),
    st.booleans(),
    st.sampled_from([2, 4]),
    st.integers(64, 4096),
)
def test_fast_sums_equal_itemised_ones(
    model: ModelFacts, split: Split, fp8: bool, cuda: bool, element: int, side: int
) -> None:
    if split.pipefusion > model.blocks:
        return
    form, picture = Form(element, fp8, cuda), Picture(side * side // 256, 512, side * side)
    blocks = stage_blocks(model, split.pipefusion, "bytes")
    totals = stage_totals(model, split, blocks, form, picture)
    for stage, fast in enumerate(totals):

        def itemised(stage: int = stage, *, decodes: bool, first: bool) -> int:
            return total(
                rank_parts(
                    model,
                    split,
                    blocks,
                    form,
                    picture,
                    stage=stage,
                    first=first,
                    decodes=decodes,
                    encoders=first,
                )
            )

        assert itemised(decodes=False, first=False) == fast
        assert itemised(decodes=False, first=True) == fast + extra_of_first(model, form)
        # Rounding of the allocator's share: a few bytes, never below.
        with_decoder = fast + extra_of_decoder(model, split, form, picture)
        assert 0 <= with_decoder - itemised(decodes=True, first=False) <= 2
