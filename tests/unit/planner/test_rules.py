"""Every refusal rule: what breaks it, what it says, and that it names a way out that works."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from fluxsampler_planner.models import FLUX_DEV, TINY_SHAPES
from fluxsampler_planner.rules import Request, divisors, refusal
from fluxsampler_planner.split import Split

SQUARE = Request(FLUX_DEV, 1024, 1024, (512,), exact=False)


@pytest.mark.parametrize(
    ("split", "request_", "reason", "field"),
    [
        (Split(pipefusion=2), Request(FLUX_DEV, 1024, 1024, (512,), exact=True), "NotExact", "pipefusion"),
        (Split(tensor=2, ulysses=2), SQUARE, "WrongPictures", "tensor"),
        (Split(tensor=2, pipefusion=2), SQUARE, "NotProven", "tensor"),
        (Split(tensor=2), replace(SQUARE, fp8=True), "ScaleNotSplit", "tensor"),
        (Split(ring=2), replace(SQUARE, float32_on_cuda=True), "NoKernel", "ring"),
        (Split(pipefusion=3, ulysses=2), SQUARE, "PatchesUneven", "pipefusion"),
        (Split(pipefusion=4, ring=2), replace(SQUARE, height=1056), "PatchesUneven", "pipefusion"),
        (Split(ulysses=5), SQUARE, "HeadsNotDivisible", "ulysses"),
        (Split(tensor=5), SQUARE, "ChannelsNotDivisible", "tensor"),
        (Split(ulysses=3), SQUARE, "TextNotDivisible", "ulysses"),
        (Split(ring=3), SQUARE, "TextNotDivisible", "ring"),
        (Split(ring=4), Request(FLUX_DEV, 1024, 1072, (512,), exact=False), "RowsNotDivisible", "ring"),
        (Split(ulysses=8), Request(FLUX_DEV, 1024, 1008, (512,), exact=False), "RowsNotDivisible", "ulysses"),
        (
            Split(pipefusion=7),
            Request(TINY_SHAPES, 128, 128, (64,), exact=False),
            "StageWithoutBlock",
            "pipefusion",
        ),
        (
            Split(pipefusion=6),
            Request(TINY_SHAPES, 64, 64, (64,), exact=False),
            "PatchWithoutRow",
            "pipefusion",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, Split | str) else "",
)
def test_broken(split: Split, request_: Request, reason: str, field: str) -> None:
    found = refusal(split, request_)
    assert found is not None
    assert (found.reason, found.field) == (reason, field)
    assert re.fullmatch(r"[A-Z][A-Za-z]+", found.reason)
    assert re.search(r"use |set ", found.message), "names no way out"


@pytest.mark.parametrize(
    "split",
    [
        Split(),
        Split(ulysses=8),
        Split(ring=4),
        Split(ulysses=2, ring=2),
        Split(pipefusion=8),
        Split(2, 1, 4, 1),
        Split(tensor=4),
    ],
)
def test_sound(split: Split) -> None:
    assert refusal(split, SQUARE) is None


def test_every_text_length_counts() -> None:
    assert refusal(Split(ring=16), Request(FLUX_DEV, 1024, 1024, (256, 512), exact=False)) is None
    found = refusal(Split(ring=16), Request(FLUX_DEV, 1024, 1024, (8, 512), exact=False))
    assert found is not None
    assert "8 text tokens" in found.message


def test_divisors() -> None:
    assert divisors(24, 8) == "1, 2, 3, 4, 6 or 8"
    assert divisors(7, 3) == "1"
