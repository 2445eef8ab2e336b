"""Verdicts on pairs of results: what is comparable, worked numbers, no alarm where nothing changed, power."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from uamix_bench.comparison.compare import Comparison, Pair, compare
from uamix_bench.comparison.gate import parse_gates
from uamix_bench.records.record import Skipped, Status
from uamix_bench.records.results import Result
from uamix_bench.scoring.classifiers import nearest_centroid
from uamix_bench.scoring.episodes import EpisodeSet
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.scoring.statistics import exceeds_p, paired_t, power_of, smallest_drop
from uamix_bench.util.errors import BadInputError, UsageError

from ..sample_records import few_shot, scored
from ..scoring.test_statistics import World

(POINT,) = parse_gates(["accuracy:1pp"])
(NONE,) = parse_gates(["accuracy:0pp"])


def of(part: str, **changes: Any) -> Result:
    """The usual result with fields of one part changed."""
    return few_shot(**{part: getattr(few_shot(), part).model_copy(update=changes)})


def only(comparison: Comparison) -> Pair:
    (pair,) = comparison.pairs
    return pair


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (of("episodes", digest="9" * 64), "episode digest 222222222222 in BASE, 999999999999 in HEAD"),
        (of("episodes", algorithm="philox-2"), "episode algorithm philox-1 in BASE, philox-2 in HEAD"),
        (of("task", clips_sha256="8" * 64), "clip table 111111111111 in BASE, 888888888888 in HEAD"),
        (of("task", version="2"), "task version 1 in BASE, 2 in HEAD"),
        (of("task", clip_seconds=1.0), "clip length 2.0 in BASE, 1.0 in HEAD"),
        (of("model", dtype="bf16"), "dtype float32 in BASE, bf16 in HEAD"),
        (of("model", input="official"), "input native in BASE, official in HEAD"),
        (of("protocol", seed=1), "protocol: seed 0 in BASE, 1 in HEAD"),
        (of("protocol", classifier="cosine"), "protocol: classifier nearest-centroid in BASE, cosine in HEAD"),
        (few_shot(status=Status(complete=False)), "partial: HEAD lacks clips"),
    ],
)
def test_what_is_not_comparable_says_why_with_both_values(head: Result, reason: str) -> None:
    pair = only(compare([few_shot()], [head], POINT))
    assert (pair.verdict, pair.reason, pair.evidence, pair.failed) == ("not comparable", reason, None, False)


def test_results_without_the_same_broken_clips_are_a_pair() -> None:
    def without(*clips: str, correct: tuple[int, ...] = (3, 4, 1)) -> Result:
        skipped = tuple(Skipped(clip=clip, reason="no samples") for clip in clips)
        return few_shot(correct, status=Status(complete=not clips, skipped=skipped))

    pair = only(compare([without("x/1.wav")], [without("x/1.wav", correct=(2, 3, 0))]))
    assert pair.evidence is not None
    assert pair.evidence.difference == pytest.approx(-1 / 4)
    names = [f"{number}.wav" for number in range(8)]
    pair = only(compare([without()], [without(*names)]))
    words = "broken clips left out none in BASE, 8 (0.wav, 1.wav, 2.wav, 3.wav, 4.wav and 3 more) in HEAD"
    assert (pair.verdict, pair.reason) == ("not comparable", words)


def test_what_may_differ_is_noted() -> None:
    pair = only(compare([few_shot()], [of("model", weights_sha256="a" * 64, adapter_version="m/2", pooling="max")]))
    assert pair.verdict == "no difference found"
    assert pair.notes == (
        "weights 000000000000 in BASE, aaaaaaaaaaaa in HEAD",
        "adapter version m/1 in BASE, m/2 in HEAD",
        "pooling mean in BASE, max in HEAD",
    )


@pytest.mark.parametrize(
    "head", [[], [of("model", name="other")], [of("task", name="other")], [of("protocol", k_shot=5)]]
)
def test_a_pair_that_the_head_lacks_is_missing(head: list[Result]) -> None:
    comparison = compare([few_shot()], head, POINT)
    assert only(comparison).verdict == "missing"
    assert all(pair.evidence is None for pair in comparison.pairs)
    assert list(comparison.added) == head


def test_the_nearest_setting_is_compared() -> None:
    other = of("task", clips_sha256="8" * 64)
    assert [pair.reason for pair in compare([few_shot(), other], [other, few_shot()]).pairs] == ["", ""]
    head = [of("protocol", seed=1), few_shot((3, 4, 2)), of("protocol", k_shot=5), of("model", input="official")]
    pair = only(compare([few_shot()], head))
    assert pair.head == head[1]
    assert len(compare([few_shot()], head).added) == 3


def test_sides_that_are_ambiguous_or_empty_are_refused() -> None:
    with pytest.raises(UsageError, match="BASE: holds no few-shot result"):
        compare([], [few_shot()])
    with pytest.raises(UsageError, match="HEAD: m on t: two results could be meant"):
        compare([few_shot()], [few_shot(), of("model", weights_sha256=None)])
    with pytest.raises(BadInputError, match="BASE: m on t: the same evaluation has two outcomes"):
        compare([few_shot(), few_shot((3, 4, 2))], [few_shot()])
    assert only(compare([few_shot(), few_shot()], [few_shot()])).verdict == "no difference found"
    with pytest.raises(UsageError, match="no field of few-shot results"):
        compare([few_shot()], [few_shot()], parse_gates(["min:10%"])[0])


def test_worked_numbers_of_these_clips() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(1, 5, 50), rng.integers(0, 4, 50)
    base, head = few_shot(tuple(first.tolist())), few_shot(tuple(second.tolist()))
    pair = only(compare([base], [head], POINT))
    evidence = pair.evidence
    assert evidence is not None
    expected = stats.ttest_rel(second / 4, first / 4)
    interval = expected.confidence_interval()
    assert evidence.difference == pytest.approx((second - first).mean() / 4)
    assert evidence.half_width == pytest.approx((interval.high - interval.low) / 2)
    assert evidence.p == evidence.p_holm == pytest.approx(expected.pvalue)
    within = stats.ttest_1samp((second - first) / 4, -0.01, alternative="less")
    assert evidence.gate_p == pytest.approx(within.pvalue)
    assert (evidence.population, evidence.why) == ("these clips", "the clip table is not here")
    assert (pair.verdict, pair.failed) == ("worse", True)
    assert only(compare([head], [base], POINT)).verdict == "better"
    assert not only(compare([head], [base], POINT)).failed


def test_a_gate_fails_only_where_the_interval_excludes_the_margin() -> None:
    rng = np.random.default_rng(1)
    base = few_shot(tuple(rng.integers(1, 5, 600).tolist()))
    fell = np.maximum(0, np.subtract(base.episodes.correct, rng.random(600) < 0.12))
    head = few_shot(tuple(fell.tolist()))
    drop = -float(np.mean(fell - np.asarray(base.episodes.correct))) / 4
    for text, fails in ((f"accuracy:{100 * drop - 1}pp", True), (f"accuracy:{100 * drop - 0.1}pp", False)):
        pair = only(compare([base], [head], *parse_gates([text])))
        assert (pair.verdict, pair.failed) == ("worse", fails)


def test_holm_runs_over_all_pairs() -> None:
    rng = np.random.default_rng(2)
    base = few_shot(tuple(rng.integers(0, 5, 40).tolist()))
    head = few_shot(tuple(np.maximum(0, np.subtract(base.episodes.correct, rng.random(40) < 0.12)).tolist()))
    alone = only(compare([base], [head], NONE))
    assert alone.failed

    def named(result: Result, number: int) -> Result:
        model = result.model.model_copy(update={"name": f"m{number}"})
        return few_shot(result.episodes.correct, model=model)

    many = compare(
        [named(base, number) for number in range(30)],
        [named(head if number == 0 else base, number) for number in range(30)],
        NONE,
    )
    assert many.pairs[0].evidence is not None
    assert alone.evidence is not None
    assert many.pairs[0].evidence.gate_p == pytest.approx(min(1, 30 * (alone.evidence.gate_p or 0)))
    assert not any(pair.failed for pair in many.pairs)
    assert (many.pairs[0].evidence.smallest or 0) > (alone.evidence.smallest or 1)


def test_episodes_that_all_changed_alike_are_tested_by_sign_flips() -> None:
    three = only(compare([few_shot((3, 3, 3))], [few_shot((2, 2, 2))], NONE))
    assert three.evidence is not None
    assert (three.evidence.gate_p, three.failed) == (0.125, False)
    many = only(compare([few_shot((3,) * 300)], [few_shot((2,) * 300)], NONE))
    assert many.failed
    same = only(compare([few_shot()], [few_shot()], POINT))
    assert same.evidence is not None
    assert (same.evidence.difference, same.evidence.p, same.evidence.smallest, same.failed) == (0.0, 1.0, None, False)


@pytest.mark.parametrize("freedom", [math.inf, 30.0])
def test_power_and_smallest_drop_are_inverse_and_as_scipy_has_them(freedom: float) -> None:
    null: Any = stats.norm() if math.isinf(freedom) else stats.t(freedom)
    assert exceeds_p(0.03, 0.01, 0.01, freedom) == pytest.approx(null.sf(2.0))
    least = smallest_drop(0.01, 0.02, freedom, level=0.01, power=0.9)
    assert least == pytest.approx(0.02 + 0.01 * (null.ppf(0.99) + null.ppf(0.9)))
    assert power_of(least, 0.01, 0.02, freedom, level=0.01) == pytest.approx(0.9)


class Redrawn:
    """Pairs of equally good models: each gives the clips of the same Gaussian classes embeddings of its own."""

    def __init__(self, classes: int, clips: int) -> None:
        self.world, self.rng = World(classes, clips), np.random.default_rng(4)
        self.means = self.world.means(self.rng)
        self.episodes: EpisodeSet = self.world.episodes(10_000, seed=0, n_query=5)
        self.protocol = Protocol(n_query=5, episodes=10_000)

    def result(self, share: float = 1.0) -> Result:
        """A model whose classes lie `share` times as far apart."""
        noise = self.rng.normal(size=(len(self.world.labels), self.world.size))
        embeddings = (share * self.means.repeat(self.world.clips, axis=0) + noise).astype(np.float32)
        found = nearest_centroid(embeddings, self.episodes.support, self.episodes.query)
        return scored(self.protocol, self.episodes, found.correct, found.hits)

    def pair(self, share: float = 1.0, gate: Any = None) -> Pair:
        return only(compare([self.result()], [self.result(share)], gate, {self.episodes.digest: self.episodes}))

    def drop(self, share: float) -> float:
        """The population's: of so many clips that its own error hardly counts, and the same ones for both."""
        large = Redrawn(self.world.classes, 2_000)
        large.means, drops = self.means, []
        for seed in range(2):
            large.episodes = large.world.episodes(10_000, seed, n_query=5)
            scores = []
            for factor in (1.0, share):
                large.rng = np.random.default_rng(seed)
                scores.append(large.result(factor).score.accuracy)
            drops.append(scores[0] - scores[1])
        return float(np.mean(drops))


@pytest.mark.parametrize("pairs", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_equally_good_models_raise_no_alarm(pairs: int) -> None:
    simulation = Redrawn(classes=30, clips=40)
    found = [simulation.pair(gate=POINT) for _ in range(pairs)]
    assert all(pair.evidence is not None and pair.evidence.population == "new clips" for pair in found)
    assert sum(pair.verdict == "worse" for pair in found) <= 0.05 * pairs
    assert sum(pair.failed for pair in found) <= 0.05 * pairs
    of_these_clips = sum(
        (paired_t(pair.head.accuracies(), pair.base.accuracies()).p or 0) < 0.05 for pair in found if pair.head
    )
    assert of_these_clips > 0.3 * pairs  # the paired t test alone takes the luck of these clips for a difference


@pytest.mark.parametrize("pairs", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_a_drop_of_one_point_is_found_with_the_power_that_is_stated(pairs: int) -> None:
    simulation = Redrawn(classes=30, clips=200)
    share = 0.9746
    assert simulation.drop(share) == pytest.approx(0.01, abs=0.001)
    found = [simulation.pair(share, NONE) for _ in range(pairs)]
    stated = np.mean([pair.evidence.point_power or 0 for pair in found if pair.evidence])
    caught = np.mean([pair.failed for pair in found])
    assert 0.5 < stated < 0.95
    assert abs(caught - stated) < 3 * math.sqrt(stated * (1 - stated) / pairs)
