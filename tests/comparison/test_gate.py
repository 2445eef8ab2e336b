from __future__ import annotations

import argparse
import math

import pytest
from hypothesis import given, strategies as st
from pytest_benchmark.utils import parse_compare_fail

from uamix_bench.comparison.gate import TIMES, parse_gates
from uamix_bench.util.errors import UsageError


@pytest.mark.parametrize(
    ("text", "limit"),
    [("accuracy:1pp", 0.01), ("accuracy:2%", 0.01), ("accuracy:0.03", 0.03), ("accuracy:0pp", 0.0), ("min:10%", 0.05)],
)
def test_margins_in_the_unit_of_the_field(text: str, limit: float) -> None:
    (gate,) = parse_gates([text])
    assert gate.limit(0.5) == pytest.approx(limit)
    assert gate.text == text


@given(st.sampled_from(TIMES), st.one_of(st.integers(0, 999).map("{}%".format), st.floats(0, 9).map(repr)))
def test_what_pytest_benchmark_takes_means_the_same_here(field: str, number: str) -> None:
    text = f"{field}:{number}"
    try:
        theirs = parse_compare_fail(text)
    except argparse.ArgumentTypeError:
        return  # such as 1e-05, without a point
    (ours,) = parse_gates([text])
    for head in (1.0, 1.05, 1.5, 3.0):
        change, limit = head - 1.0, ours.limit(1.0)
        if not math.isclose(change, limit):  # where rounding decides
            assert (change > limit) == (theirs.compute({field: head}, {field: 1.0}) > theirs.threshold)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["accuracy"], "is not understood"),
        (["accuracy:-1pp"], "is not understood"),
        (["accuracy:1 pp"], "is not understood"),
        (["accuracy:nan"], "is not understood"),
        (["accuracy:1e999"], "no drop can exceed it"),
        (["accuracy:100pp"], "no drop can exceed it"),
        (["f1:1pp"], "known: accuracy, min"),
        (["min:1pp"], "percentage points are for accuracy"),
        (["accuracy:1pp", "accuracy:2pp"], "given twice"),
    ],
)
def test_what_is_no_gate_is_refused(texts: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_gates(texts)
