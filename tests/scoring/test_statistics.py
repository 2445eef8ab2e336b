"""Intervals and tests: worked numbers, scipy, plain loops over the formulas, and their coverage in simulation."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from uamix_bench.scoring.classifiers import nearest_centroid
from uamix_bench.scoring.episodes import EpisodeSet
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.scoring.statistics import (
    Interval,
    ci95_classes,
    ci95_clips,
    conventional_interval,
    holm,
    paired_t,
    sign_flip_p,
    smallest_difference,
    wilson_interval,
)

from ..sample_records import draw

A = (0.6, 0.4, 0.8, 0.6, 0.7, 0.5, 0.9, 0.5)
B = (0.5, 0.4, 0.7, 0.4, 0.7, 0.4, 0.8, 0.5)
lists = st.lists(st.integers(0, 75).map(lambda n: n / 75), min_size=2, max_size=12)


def width(interval: Interval) -> float:
    assert interval.half_width is not None, interval.reason
    return interval.half_width


def test_worked_numbers_of_one_model() -> None:
    assert width(conventional_interval(A)) == pytest.approx(0.108189, abs=5e-7)
    assert conventional_interval([0.5]) == (None, "1 episode has no spread")
    assert width(conventional_interval([0.75] * 600)) == 0.0


def test_worked_numbers_of_a_pair() -> None:
    result = paired_t(A, B)
    assert result.difference == pytest.approx(0.075)
    assert result.half_width == pytest.approx(0.059116, abs=5e-7)
    assert result.t == pytest.approx(3.0)
    assert result.p == pytest.approx(0.019942, abs=5e-7)
    assert sign_flip_p(np.subtract(A, B)) == 16 / 256
    alone = paired_t(A, np.zeros(8))  # the t interval of one model
    assert alone.half_width == pytest.approx(0.139536, abs=5e-7)


def test_worked_numbers_of_holm() -> None:
    assert holm((0.012, 0.004, 0.030, 0.20, 0.011)) == pytest.approx((0.044, 0.020, 0.060, 0.200, 0.044))
    assert holm([]).tolist() == []


@settings(max_examples=40, deadline=None)
@given(lists, st.data())
def test_paired_agrees_with_scipy(first: list[float], data: st.DataObject) -> None:
    from scipy import stats

    second = data.draw(st.lists(st.integers(0, 75).map(lambda n: n / 75), min_size=len(first), max_size=len(first)))
    result, difference = paired_t(first, second), np.subtract(first, second)
    whole = np.rint(75 * difference)  # in which sums of equal size are equal
    exact = stats.permutation_test((whole,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(difference) == pytest.approx(exact.pvalue, abs=1e-12)
    if result.t is not None:
        expected = stats.ttest_rel(first, second)
        assert (result.t, result.p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-6)
        interval = expected.confidence_interval()
        assert result.half_width == pytest.approx((interval.high - interval.low) / 2)
    else:
        assert np.ptp(difference) == pytest.approx(0, abs=1e-9)


def test_sampled_sign_flips() -> None:
    rng = np.random.default_rng(3)
    difference = rng.integers(-6, 9, size=40)
    exact = {0: 1}  # how many sign patterns give each sum
    for value in difference.tolist():
        step: dict[int, int] = defaultdict(int)
        for total, count in exact.items():
            step[total + value] += count
            step[total - value] += count
        exact = step
    least = abs(difference.sum())
    p = sum(count for total, count in exact.items() if abs(total) >= least) / 2**40
    assert 0.005 < p < 0.5
    sampled = sign_flip_p(difference / 75)
    assert sampled == pytest.approx(p, abs=5 * math.sqrt(p / 9_999))
    assert sampled == sign_flip_p(difference / 75, seed=0) != sign_flip_p(difference / 75, seed=1)
    assert sign_flip_p(np.ones(300)) == 1 / 10_000
    assert sign_flip_p(np.zeros(300)) == 1.0


def test_nothing_is_ever_nan() -> None:
    same = paired_t([0.4, 0.4, 0.4], [0.4, 0.4, 0.4])
    assert same == (0.0, 0.0, None, None)
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1.0
    shifted = paired_t([0.5, 0.7, 0.9], [0.4, 0.6, 0.8])
    assert (shifted.half_width, shifted.t, shifted.p) == (0.0, None, None)
    assert sign_flip_p([0.1, 0.1, 0.1]) == 0.25
    assert smallest_difference([0.4, 0.4], [0.4, 0.4]) == 0.0
    for first, second in [([0.4], [0.4]), ([0.4, 0.5], [0.4]), ([], [])]:
        with pytest.raises(ValueError, match="at least 2"):
            paired_t(first, second)


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (10, 10), (3, 10), (45_000, 45_000), (30_000, 45_000)])
def test_wilson_agrees_with_scipy(correct: int, total: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(correct, total).proportion_ci(method="wilson")
    assert wilson_interval(correct, total) == pytest.approx(
        (expected.low, expected.high), abs=1e-5
    )  # 1.96, not 1.959964
    low, high = wilson_interval(correct, total)
    assert 0.0 <= low < high <= 1.0


def test_smallest_difference_is_found_as_often_as_it_says() -> None:
    from scipy import stats

    rng = np.random.default_rng(0)
    noise = rng.normal(size=(4_000, 60))
    noise = (noise - noise[0].mean()) / noise[0].std(ddof=1)
    least = smallest_difference(noise[0], np.zeros(60))
    assert least == pytest.approx((1.96 + 0.84) / math.sqrt(60), rel=0.03)
    found = stats.ttest_1samp(rng.normal(least, 1, size=(4_000, 60)), 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.02)


class World:
    """Gaussian classes; clips of a group share half of their variance."""

    def __init__(self, classes: int, clips: int, group_size: int = 1, scale: float = 0.5, size: int = 16) -> None:
        self.classes, self.clips, self.group_size, self.scale, self.size = classes, clips, group_size, scale, size
        self.labels = [f"{c:03d}" for c in range(classes) for _ in range(clips)]
        self.groups = [f"{i // group_size:06d}" for i in range(classes * clips)] if group_size > 1 else None

    def means(self, rng: np.random.Generator) -> np.ndarray:
        return self.scale * rng.normal(size=(self.classes, self.size))

    def episodes(self, count: int, seed: int, n_query: int = 15) -> EpisodeSet:
        protocol = Protocol(episodes=count, seed=seed, n_query=n_query)
        ids = [f"{i:06d}" for i in range(len(self.labels))]
        return draw(protocol, task="world", version="1", clips=ids, labels=self.labels, groups=self.groups)

    def accuracies(self, rng: np.random.Generator, means: np.ndarray, episodes: EpisodeSet) -> np.ndarray:
        clips = rng.normal(size=(len(self.labels), self.size))
        if self.group_size > 1:
            shared = rng.normal(size=(len(clips) // self.group_size, self.size)).repeat(self.group_size, axis=0)
            clips = (clips + shared) / math.sqrt(2)
        embeddings = (means.repeat(self.clips, axis=0) + clips).astype(np.float32)
        return nearest_centroid(embeddings, episodes.support, episodes.query).correct / episodes.query[0].size


@pytest.mark.parametrize("group_size", [1, 3])
def test_data_aware_intervals_follow_their_formulas(group_size: int) -> None:
    world, rng = World(classes=9, clips=36, group_size=group_size), np.random.default_rng(1)
    episodes = world.episodes(10_000, seed=0, n_query=8)
    a = world.accuracies(rng, world.means(rng), episodes)
    ways, drawn, classes = 5, 9, 9
    total, mean, s2 = len(a), float(a.mean()), float(a.var(ddof=1))

    by_class: dict[int, list[float]] = defaultdict(list)
    by_unit: dict[tuple[int, int], list[float]] = defaultdict(list)
    for value, slots, rows in zip(a.tolist(), episodes.classes.tolist(), episodes.drawn.tolist(), strict=True):
        for c, held in zip(slots, rows, strict=True):
            by_class[c].append(value)
            for unit in {row // group_size for row in held}:
                by_unit[c, unit].append(value)
    from scipy.stats import t

    e = {c: float(np.mean(values)) for c, values in by_class.items()}
    between = sum((e[c] - mean) ** 2 - s2 * (1 / len(by_class[c]) - 1 / total) for c in e)
    v = (classes - 1) / classes * (ways / (classes - ways)) ** 2 * max(0.0, between) + s2 / total
    expected = t.ppf(0.975, classes - 1) * math.sqrt(v)
    assert width(ci95_classes(a, episodes.classes, episodes.class_of)) == pytest.approx(expected, rel=1e-9)

    units, v = 36 // group_size, s2 / total
    for (c, _), values in by_unit.items():
        q = len(values) / len(by_class[c]) if group_size > 1 else drawn / units
        weight = (units - 1) / units * (ways / classes * q / (1 - q)) ** 2
        s2_c = float(np.var(by_class[c], ddof=1))
        v += weight * ((np.mean(values) - e[c]) ** 2 - s2_c * (1 / len(values) - 1 / len(by_class[c])))
    computed = ci95_clips(a, episodes.classes, episodes.drawn, episodes.class_of, episodes.group_of)
    assert width(computed) == pytest.approx(1.96 * math.sqrt(v), rel=1e-9)
    assert width(computed) > 2 * width(conventional_interval(a))


@pytest.mark.parametrize("accuracy", [1.0, 0.0, 0.3])
def test_a_score_without_any_spread_claims_nothing_of_new_clips_or_classes(accuracy: float) -> None:
    episodes, a = World(12, 40).episodes(10_000, seed=0), np.full(10_000, accuracy)
    for interval in (
        ci95_clips(a, episodes.classes, episodes.drawn, episodes.class_of),
        ci95_classes(a, episodes.classes, episodes.class_of),
    ):
        assert interval == Interval(None, "all episodes are alike, so there is no spread")


def test_intervals_that_cannot_be_given_say_why() -> None:
    def both(world: World, count: int = 10_000, n_query: int = 15, groups: list[str] | None = None) -> list[Interval]:
        world.groups = groups or world.groups
        episodes = world.episodes(count, seed=0, n_query=n_query)
        a = np.random.default_rng(0).random(count)
        table = episodes.class_of, episodes.group_of
        return [ci95_clips(a, episodes.classes, episodes.drawn, *table), ci95_classes(a, episodes.classes, *table)]

    def reasons(intervals: list[Interval]) -> list[str]:
        assert all((interval.half_width is None) == bool(interval.reason) for interval in intervals)
        return [interval.reason for interval in intervals]

    assert reasons(both(World(12, 40))) == ["", ""]
    assert reasons(both(World(12, 40), count=600)) == [
        "needs 10,000 episodes, has 600",
        "needs 4,000 episodes, has 600",
    ]
    assert reasons(both(World(12, 40), count=4_000)) == ["needs 10,000 episodes, has 4,000", ""]
    assert "7 classes are too few" in reasons(both(World(7, 40)))[1]
    assert reasons(both(World(8, 40)))[1] == ""
    assert "takes 94% of a class's clips" in reasons(both(World(12, 17)))[0]
    assert "a class has 5 groups" in reasons(both(World(12, 40, group_size=8)))[0]
    speakers = [f"{i % 10}" for i in range(480)]
    assert all("crossed with classes (100%" in reason for reason in reasons(both(World(12, 40), groups=speakers)))
    spanning = [str(i) for i in range(480)]
    spanning[40], spanning[41], spanning[100] = "0", "1", "90"  # as a few of ESC-50's recordings
    assert reasons(both(World(12, 40), groups=spanning)) == ["", ""]
    assert "in no episode" in reasons(both(World(4_000, 8), count=4_000, n_query=3))[1]


@pytest.mark.parametrize("kind", ["clips", "classes"])
@pytest.mark.parametrize(
    ("repeats", "low", "high"),
    [(25, 0.84, 1.0), pytest.param(500, 0.92, 0.98, marks=pytest.mark.slow)],
)
@pytest.mark.over_3s
def test_coverage(kind: str, repeats: int, low: float, high: float) -> None:
    """Redraws the clips of fixed classes (P1), or classes too (P2), and counts how often the interval holds the truth.

    The truth is the expected accuracy of an episode, from episodes of a far larger world, so many that their own error
    is below a tenth of the estimator's.
    """
    world, rng = World(classes=50, clips=40), np.random.default_rng(2)
    fixed = world.means(rng)
    if kind == "clips":
        large = World(classes=50, clips=4_000)
        truths = [large.accuracies(rng, fixed, large.episodes(20_000, seed=s)).mean() for s in range(4)]
    else:
        large = World(classes=2_000, clips=40)
        truths = [large.accuracies(rng, large.means(rng), large.episodes(10_000, seed=s)).mean() for s in range(4)]
    truth = float(np.mean(truths))

    held, estimates = 0, []
    for seed in range(repeats):
        episodes = world.episodes(10_000 if kind == "clips" else 4_000, seed)
        a = world.accuracies(rng, fixed if kind == "clips" else world.means(rng), episodes)
        table = episodes.class_of, episodes.group_of
        if kind == "clips":
            interval = ci95_clips(a, episodes.classes, episodes.drawn, *table)
        else:
            interval = ci95_classes(a, episodes.classes, *table)
        held += abs(float(a.mean()) - truth) <= width(interval)
        estimates.append(float(a.mean()))
    assert np.std(truths) / math.sqrt(len(truths)) < 0.1 * np.std(estimates)
    assert low <= held / repeats <= high, held / repeats
