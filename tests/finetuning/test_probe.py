"""Linear probes of few labels, on embeddings that any sensible classifier tells apart."""

from __future__ import annotations

import numpy as np
import pytest

from uamix_bench.finetuning.probe import Probe, probe
from uamix_bench.finetuning.recipe import PROBE

CLASSES, DIMENSIONS, TESTED = 12, 64, 10


def probed(counts: list[int]) -> tuple[Probe, float]:
    """Probe of as many training clips of each class, and its accuracy on ten more of each."""
    generator = np.random.default_rng(5)
    label = np.concatenate([np.repeat(np.arange(CLASSES), counts), np.repeat(np.arange(CLASSES), TESTED)])
    centres = 10 * generator.standard_normal((CLASSES, DIMENSIONS))
    vectors = (centres[label] + generator.standard_normal((len(label), DIMENSIONS))).astype(np.float32)
    train, test, none = np.arange(sum(counts)), np.arange(sum(counts), len(label)), np.zeros(0, np.int64)
    targets, groups = np.eye(CLASSES, dtype=np.bool_)[label], np.arange(len(label)).astype(str)
    found = probe(PROBE, vectors, targets, groups, train, none, test, several=False)
    return found, float((found.scores.argmax(axis=1) == label[test]).mean())


@pytest.mark.parametrize("doubled", [0, 2, 5])
def test_a_few_doubled_classes_do_not_choose_the_strength(doubled: int) -> None:
    found, accuracy = probed([2] * doubled + [1] * (CLASSES - doubled))
    assert accuracy > 0.95
    assert "too few clips to choose the strength on" in found.note


def test_inner_folds_choose_where_most_classes_have_two_clips() -> None:
    found, accuracy = probed([2] * 8 + [1] * (CLASSES - 8))
    assert accuracy > 0.95
    assert not found.note
