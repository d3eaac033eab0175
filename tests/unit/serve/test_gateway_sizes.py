"""Which sizes can be drawn, and which are near."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxsampler_serve.sizes import nearest, outside_limits
from tests.support.service import app_args

LIMITS = app_args().sizes.model_copy(update={"max_side": 2048, "max_pixels": 1 << 21})


@pytest.mark.parametrize(
    ("width", "height", "says"),
    [
        (64, 64, None),
        (72, 64, "multiples of 16"),
        (48, 64, "at least 64"),
        (2064, 64, "at most 2048"),
        (2048, 2048, "pixels"),
    ],
)
def test_limits(width: int, height: int, says: str | None) -> None:
    problem = outside_limits(LIMITS, width, height)
    assert problem is says if says is None else says in (problem or "")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(width=st.integers(0, 99_999), height=st.integers(0, 99_999), rows=st.integers(1, 8))
def test_the_nearest_sizes_can_be_drawn(width: int, height: int, rows: int) -> None:
    def splits(_: int, tall: int) -> bool:
        return tall // 16 % rows == 0

    sizes = nearest(LIMITS, width, height, splits)
    assert len(sizes) == 3
    for size in sizes:
        assert outside_limits(LIMITS, *size) is None
        assert splits(*size)


def test_a_size_that_is_fine_is_its_own_nearest() -> None:
    assert nearest(LIMITS, 1024, 768, lambda *_: True)[0] == (1024, 768)


def test_when_nothing_can_be_drawn_there_is_none() -> None:
    assert nearest(LIMITS, 64, 64, lambda *_: False) == []
