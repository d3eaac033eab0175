"""The cost model's shape: what must grow, what must shrink, and that the published effects are in it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxsampler_planner.calibration import CALIBRATION, CPU, HOST_BOUNCE, Calibration, load
from fluxsampler_planner.cost import XDIT, Stack, Workload, bandwidth, seconds, with_links
from fluxsampler_planner.gpus import GPUS
from fluxsampler_planner.models import FLUX_DEV, TINY_SHAPES
from fluxsampler_planner.split import Split, splits

WORK = Workload(1024, 1024, 512, 28)
CARDS = sorted(CALIBRATION.cards)
A_CARD = st.sampled_from(CARDS)
A_SPLIT = st.integers(1, 16).flatmap(lambda ranks: st.sampled_from(splits(ranks)))


@given(A_CARD, A_SPLIT, st.integers(4, 120), st.integers(4, 120), st.booleans())
def test_time_grows_with_resolution(card: str, split: Split, small: int, more: int, compiled: bool) -> None:
    cost = CALIBRATION.cards[card]
    times = [
        seconds(FLUX_DEV, split, Workload(side * 16, 1024, 512, 28, compiled=compiled), cost).total
        for side in (small, small + more)
    ]
    assert times[0] < times[1]


@given(A_CARD, A_SPLIT, st.integers(1, 100), st.integers(1, 100))
def test_time_grows_with_steps(card: str, split: Split, steps: int, more: int) -> None:
    cost = CALIBRATION.cards[card]
    assert (
        seconds(FLUX_DEV, split, replace(WORK, steps=steps), cost).total
        < seconds(FLUX_DEV, split, replace(WORK, steps=steps + more), cost).total
    )


@given(A_CARD, A_SPLIT, st.booleans())
def test_parts_are_positive_and_add_up(card: str, split: Split, compiled: bool) -> None:
    time = seconds(FLUX_DEV, split, replace(WORK, compiled=compiled), CALIBRATION.cards[card])
    assert time.total == pytest.approx(time.encode + time.first + 27 * time.step + time.decode)
    assert min(time.encode, time.first, time.step, time.decode, time.arithmetic) > 0
    assert time.step == pytest.approx(time.arithmetic + time.launch + time.links)


def test_pipefusion_carries_the_text_with_every_patch() -> None:
    # DESIGN §6: 1.78 × compute at 1024² with 8 patches and 512 text tokens. Without launch floors, the ratio shows.
    cost = replace(CALIBRATION.cards["l20"], floor=(0.0, 0.0), pipe_block=(0.0, 0.0))
    whole = seconds(FLUX_DEV, Split(), WORK, cost).arithmetic
    eighth = seconds(FLUX_DEV, Split(pipefusion=8), WORK, cost).arithmetic
    assert eighth * 8 / whole == pytest.approx(1.78, abs=0.01)
    no_text = replace(WORK, text_tokens=0)
    assert seconds(FLUX_DEV, Split(pipefusion=8), no_text, cost).arithmetic * 8 == pytest.approx(
        seconds(FLUX_DEV, Split(), no_text, cost).arithmetic
    )


def test_uneven_stages_and_too_few_patches_cost_time() -> None:
    cost = CALIBRATION.cards["l20"]
    even = seconds(FLUX_DEV, Split(pipefusion=8), WORK, cost).total
    assert seconds(FLUX_DEV, Split(pipefusion=8), WORK, cost, unevenness=11 / 8).total > even
    assert seconds(FLUX_DEV, Split(pipefusion=8), WORK, cost, patches=4).total > even


def test_xfusers_tensor_parallelism_helps_less_than_megatrons() -> None:
    cost, split = CALIBRATION.cards["l20"], Split(tensor=4)
    alone = seconds(FLUX_DEV, Split(), WORK, cost).total
    assert seconds(FLUX_DEV, split, WORK, cost, stack=XDIT).total > 0.75 * alone
    assert seconds(FLUX_DEV, split, WORK, cost, stack=Stack()).total < 0.6 * alone


def test_splitting_the_decoder_saves_time() -> None:
    cost = CALIBRATION.cards["a100"]
    large = replace(WORK, width=4096, height=4096)
    saved = (
        seconds(FLUX_DEV, Split(ulysses=8), large, cost).total
        - seconds(FLUX_DEV, Split(ulysses=8), large, cost, split_decode=True).total
    )
    assert saved == pytest.approx(cost.decode * 16 * 7 / 8)


def test_bandwidth_is_interpolated_and_constant_outside() -> None:
    table = ((2, 20.0), (8, 5.0))
    assert bandwidth(table, 1) == bandwidth(table, 2) == 20
    assert bandwidth(table, 4) == pytest.approx(10)
    assert bandwidth(table, 8) == bandwidth(table, 16) == 5


def test_measured_links_replace_calibrated_ones() -> None:
    cost = with_links(CALIBRATION.cards["l40"], {2: 10.0}, {})
    assert cost.ring == ((2, 10e9),)
    assert cost.all_to_all == CALIBRATION.cards["l40"].all_to_all


def test_cards_without_rows_are_scaled_and_say_so() -> None:
    found = CALIBRATION.parameters(GPUS["rtx-4090"])
    donor = CALIBRATION.cards["l20"]
    assert not found.calibrated
    assert found.error == CALIBRATION.scaled_error > 0
    assert found.peak == GPUS["rtx-4090"].bf16
    assert found.ring[0][1] == pytest.approx(donor.ring[0][1] * HOST_BOUNCE)
    assert CALIBRATION.parameters(GPUS["l20"]).calibrated
    assert CALIBRATION.parameters(GPUS["cpu"]) == replace(CPU, peak=GPUS["cpu"].bf16)


def test_nvlink_cards_without_nvlink_get_pcie_links() -> None:
    found = CALIBRATION.parameters(GPUS["a100"], through_host=True)
    assert found.ring == CALIBRATION.cards["l20"].ring
    assert not found.calibrated


def test_one_4090_takes_about_sixteen_seconds() -> None:
    # DESIGN §1: a FLUX image takes about 16 s on one RTX 4090.
    assert seconds(FLUX_DEV, Split(), WORK, CALIBRATION.parameters(GPUS["rtx-4090"])).total == pytest.approx(
        16, rel=0.2
    )


def test_a_small_model_has_a_small_floor() -> None:
    cost = CALIBRATION.cards["a100"]
    assert seconds(TINY_SHAPES, Split(), Workload(128, 128, 32, 8), cost).step < cost.floor[0] / 5


def test_unknown_stacks_are_like_xdit_but_for_tensor() -> None:
    known = Calibration({}, {("l20", "mine"): Stack(1.1, 0.9)}, 0.2)
    assert known.stack("l20", "mine") == Stack(1.1, 0.9)
    assert known.stack("l20", "xdit") is XDIT
    assert known.stack("l20", "other") == Stack()


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"cards": {"l20": {}}, "stacks": {}, "scaled_error": 1}', "nonsense"]
)
def test_a_file_that_is_no_calibration_is_refused(text: str) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        load(text)
