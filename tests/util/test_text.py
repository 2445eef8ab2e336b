"""Figures as people read them: both sides of ± to the same decimals, and right to them."""

from __future__ import annotations

import pickle
import re
from decimal import Decimal

import pytest
from hypothesis import given, strategies as st

from uamix_bench.util.errors import UsageError
from uamix_bench.util.text import plus_minus, with_half

SHARES = st.floats(-1, 1)
HALVES = st.floats(0, 1)


@given(SHARES, HALVES, st.integers(1, 6), st.sampled_from(["", "+"]), st.sampled_from([1.0, 100.0]))
def test_both_sides_have_the_same_decimals(value: float, half: float, decimals: int, sign: str, scale: float) -> None:
    shown, wide = with_half(value, half, decimals, sign, scale)
    assert re.fullmatch(r"± \d+\.\d+", wide)
    assert re.fullmatch(r"[+-]\d+\.\d+" if sign else r"-?\d+\.\d+", shown)
    sides = [Decimal(shown), Decimal(wide.removeprefix("± "))]
    assert [side.as_tuple().exponent for side in sides] == [-decimals] * 2
    for side, number in zip(sides, (value, half), strict=True):
        exact = Decimal(number) * Decimal(scale)
        assert abs(side - exact) <= Decimal("0.5") / 10**decimals + abs(exact) * Decimal(2) ** -52


@pytest.mark.parametrize("half", [None, float("nan"), float("inf")])
def test_what_has_no_interval_stands_alone(half: float | None) -> None:
    assert with_half(0.7087, half) == ("70.87", "")
    assert plus_minus(half) == ""


def test_a_zero_at_the_end_is_a_digit() -> None:
    assert " ".join(with_half(0.7087, 0.009)) == "70.87 ± 0.90"


def test_an_error_s_line_is_short_whatever_a_file_holds() -> None:
    error = UsageError("run.toml", f"no option '{'9' * 100_000}'", "known: k, n")
    assert str(error).startswith("run.toml: no option '999")
    assert str(error).endswith("...; known: k, n")
    assert len(str(error)) < 1_300
    assert len(pickle.loads(pickle.dumps(error)).reason) > 100_000
