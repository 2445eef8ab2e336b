"""Intervals and mAP against closed forms, scikit-learn, slow bootstraps and a simulated population."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings, strategies as st
from sklearn.metrics import average_precision_score

from uamix_bench.scoring.metrics import (
    Scored,
    average_precision,
    average_precisions,
    bootstrap_interval,
    clustered_interval,
)
from uamix_bench.scoring.statistics import Interval


def clustered(generator: np.random.Generator, groups: int) -> Scored:
    """Groups of 1 to 12 clips, each with a chance of its own of being right: the population's mean is 0.7."""
    sizes = generator.integers(1, 13, groups)
    chance = generator.beta(2.1, 0.9, groups)
    numbers = np.repeat(np.arange(groups), sizes)
    return Scored(numbers, (generator.random(len(numbers)) < chance[numbers]).astype(np.float64))


def test_of_single_clips_it_is_the_t_interval_of_the_mean() -> None:
    values = np.random.default_rng(0).integers(0, 2, 50).astype(np.float64)
    low, high = scipy.stats.t.interval(0.95, 49, values.mean(), scipy.stats.sem(values))
    assert clustered_interval([Scored(np.arange(50), values)]).half_width == pytest.approx((high - low) / 2)


def test_a_worked_example() -> None:
    # Groups of 2, 1 and 1 clips; mean 1/2. Influences (1 + 0 - 1)/4 = 0, +1/8, -1/8; s2 = 3/2 (2/64).
    run = Scored(np.array([0, 0, 1, 2]), np.array([1.0, 0.0, 1.0, 0.0]))
    assert clustered_interval([run]).half_width == pytest.approx(4.302653 * math.sqrt(1.5 * 2 / 64), rel=1e-6)


def test_it_agrees_with_resampled_groups() -> None:
    generator = np.random.default_rng(1)
    run = clustered(generator, 200)
    right = np.bincount(run.groups, run.values)
    clips = np.bincount(run.groups)
    drawn = generator.integers(0, 200, (4_000, 200))
    means = right[drawn].sum(axis=1) / clips[drawn].sum(axis=1)
    half_width = clustered_interval([run]).half_width
    assert half_width == pytest.approx(scipy.stats.t.ppf(0.975, 199) * means.std(), rel=0.05)
    alone = clustered_interval([Scored(np.arange(len(run.values)), run.values)]).half_width
    assert half_width is not None
    assert alone is not None
    assert half_width > 1.2 * alone  # what an interval that ignores the groups would hide


def test_it_covers_the_population() -> None:
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(500):
        run = clustered(generator, 40)
        half_width = clustered_interval([run]).half_width
        assert half_width is not None
        covered += abs(run.values.mean() - 0.7) <= half_width
    assert 0.92 <= covered / 500 <= 0.98


def test_more_seeds_on_the_same_clips_are_no_more_clips() -> None:
    run = clustered(np.random.default_rng(3), 30)
    assert clustered_interval([run, run, run]).half_width == pytest.approx(clustered_interval([run]).half_width)


def test_folds_that_test_one_group_each_still_have_a_spread() -> None:
    runs = [Scored(np.full(100, speaker), np.arange(100) < share) for speaker, share in enumerate((60, 80, 70, 90))]
    accuracies = np.array([0.6, 0.8, 0.7, 0.9])
    expected = scipy.stats.t.ppf(0.975, 3) * accuracies.std(ddof=1) / 2
    assert clustered_interval(runs).half_width == pytest.approx(expected)


def test_one_group_has_no_interval() -> None:
    assert clustered_interval([Scored(np.zeros(9, np.int64), np.ones(9))]).reason == "all test clips are of one group"


@pytest.mark.parametrize(("value", "word"), [(1.0, "right"), (0.0, "wrong")])
def test_a_perfect_score_has_no_interval(value: float, word: str) -> None:
    run = Scored(np.arange(9), np.full(9, value))
    assert clustered_interval([run]) == (None, f"every test clip is {word}, so there is no spread")


def test_average_precision_by_hand() -> None:
    scores, targets = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert average_precision(scores, targets)[0] == pytest.approx((1 / 1 + 2 / 3) / 2)
    tied = average_precision(np.array([0.9, 0.5, 0.5, 0.1]), np.array([False, True, False, True]))
    assert tied[0] == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert np.isnan(average_precision(scores, np.zeros(4, np.bool_))[0])


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 30), st.integers(1, 6), st.integers(0, 2**32))
def test_average_precision_is_scikit_learns(clips: int, levels: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, levels, clips) / levels  # ties among them
    targets = generator.random(clips) < 0.4
    targets[0] = True
    times = generator.integers(0, 4, (3, clips))
    times[:, 0] = 1
    assert average_precision(scores, targets)[0] == pytest.approx(average_precision_score(targets, scores))
    for found, row in zip(average_precision(scores, targets, times), times, strict=True):
        repeated = np.repeat(np.arange(clips), row)
        assert found == pytest.approx(average_precision_score(targets[repeated], scores[repeated]))


def test_a_class_without_positive_clips_has_no_average_precision() -> None:
    scores = np.random.default_rng(4).random((10, 3))
    targets = np.zeros((10, 3), np.bool_)
    targets[:4, 0] = targets[5:, 2] = True
    found = average_precisions(scores, targets)
    assert np.isnan(found).tolist() == [False, True, False]
    assert np.nanmean(found) == pytest.approx(
        average_precision_score(targets[:, [0, 2]], scores[:, [0, 2]], average="macro")
    )


def test_the_bootstrap_resamples_whole_groups() -> None:
    generator = np.random.default_rng(5)
    numbers = np.repeat(np.arange(12), 4)
    targets = generator.random((48, 3)) < 0.5
    scores = targets + generator.normal(0, 1, (48, 3))
    run = Scored(numbers, scores, targets)
    values = []
    for draw in np.random.Generator(np.random.Philox(key=0)).integers(0, 12, (1_000, 12)):
        rows = np.concatenate([np.flatnonzero(numbers == group) for group in draw])
        values.append(average_precision_score(targets[rows], scores[rows], average="macro"))
    assert bootstrap_interval([run]).half_width == pytest.approx(1.96 * np.std(values, ddof=1))


def test_a_resample_without_a_clip_of_a_run_is_of_the_others() -> None:
    """Two folds of one group each: of four equal draws one misses the first fold, one the second."""
    targets = np.array([[True, False], [False, True], [True, False]])
    runs = [
        Scored(np.full(3, number), scores, targets)
        for number, scores in enumerate((np.where(targets, 1.0, 0.0), np.where(targets, 0.0, 1.0)))
    ]
    maps = [average_precision_score(run.targets, run.values, average="macro") for run in runs]
    drawn = np.random.Generator(np.random.Philox(key=0)).integers(0, 2, (1_000, 2))
    values = [np.mean([maps[group] for group in np.unique(draw)]) for draw in drawn]
    assert bootstrap_interval(runs).half_width == pytest.approx(1.96 * np.std(values, ddof=1))


def test_the_bootstrap_gives_a_reason_where_it_has_no_interval() -> None:
    perfect = np.eye(6)
    alone = bootstrap_interval([Scored(np.arange(6), perfect, perfect > 0)])
    assert alone == Interval(None, "all resamples of the groups are alike, so there is no spread")


def test_a_resample_without_a_positive_clip_is_left_out() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.9], [0.4, 0.3]])
    targets = np.array([[True, False], [False, True], [False, False], [False, False]])
    values = []
    for rows in np.random.Generator(np.random.Philox(key=0)).integers(0, 4, (1_000, 4)):
        there = targets[rows].any(axis=0)
        if there.any():
            values.append(average_precision_score(targets[rows][:, there], scores[rows][:, there], average="macro"))
    assert len(values) < 1_000
    found = bootstrap_interval([Scored(np.arange(4), scores, targets)])
    assert found.half_width == pytest.approx(1.96 * np.std(values, ddof=1))
