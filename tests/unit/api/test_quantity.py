from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxsampler_api.quantity import PATTERN, Quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("64Gi", 64 << 30), ("1.5Gi", 3 << 29), ("512Mi", 512 << 20), ("1Ki", 1024), ("2Ti", 2 << 40), ("1Pi", 1 << 50), ("1Ei", 1 << 60),
        ("1k", 1000), ("3M", 3_000_000), ("7G", 7_000_000_000), ("1e9", 10**9), ("1E3", 1000), ("12E", 12 * 10**18), ("0", 0), (17, 17), ("5.", 5),
    ],
)  # fmt: skip
def test_reads_what_kubernetes_writes(text: str | int, value: int) -> None:
    assert Quantity(text).bytes == value


def test_fractions_round_up_as_kubernetes_does() -> None:
    assert Quantity("500m").value == Decimal("0.5")
    assert Quantity("500m").bytes == 1
    assert Quantity("1500u").bytes == 1
    assert Quantity("3n").bytes == 1


@pytest.mark.parametrize(
    "text", ["", "lots", "64GB", "-1Gi", "1 Gi", "Gi", "1e", "0x10", "1Gi\n", "١Gi", "1e999", True, None, 1.5]
)
def test_refuses_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match="such as 64Gi"):
        Quantity(text)  # type: ignore[arg-type]  # what untyped YAML may give


def test_keeps_its_text_and_compares_by_value() -> None:
    assert str(Quantity("1024Mi")) == "1024Mi"
    assert repr(Quantity("1Gi")) == "Quantity('1Gi')"
    assert Quantity("1024Mi") == Quantity("1Gi")
    assert hash(Quantity("1024Mi")) == hash(Quantity("1Gi"))
    assert Quantity("1G") < Quantity("1Gi") <= Quantity("1.0Gi")
    assert Quantity("1Gi") != "1Gi"
    assert Quantity("1536Mi").gib == 1.5


@given(st.from_regex(PATTERN, fullmatch=True).filter(str.isascii))
def test_every_text_of_the_schema_pattern_is_a_quantity(text: str) -> None:
    # The API server checks the pattern only, so what it lets in must be readable here.
    if not text.endswith("\n"):
        assert Quantity(text).value >= 0


@given(st.text(max_size=8))
def test_nothing_else_is(text: str) -> None:
    if re.fullmatch(PATTERN[1:-1], text, re.ASCII) is None:
        with pytest.raises(ValueError, match="is not a quantity"):
            Quantity(text)
