"""Rankings against scipy's paired test and Holm's rule by hand, on results whose accuracies are known."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from uamix_bench.comparison.ranking import cells, rank, wider
from uamix_bench.records.record import Skipped, Status
from uamix_bench.records.results import Result
from uamix_bench.scoring.episodes import EpisodeSet
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.scoring.statistics import ci95_clips

from ..sample_records import draw, few_shot, score


def result(
    name: str,
    correct: np.ndarray,
    task: str = "t",
    digest: str = "2" * 64,
    dtype: str = "float32",
    clip_seconds: float = 2.0,
    **changes: Any,
) -> Result:
    """A result of 2-way episodes with 10 queries a class, `correct` of 20 each."""
    plain, accuracies = few_shot(), correct / 20
    right, total = int(correct.sum()), 10 * len(correct)
    parts: dict[str, Any] = {
        "model": plain.model.model_copy(update={"name": name, "dtype": dtype}),
        "task": plain.task.model_copy(update={"name": task, "clip_seconds": clip_seconds}),
        "protocol": Protocol(n_way=2, n_query=10, episodes=len(correct)),
        "episodes": plain.episodes.model_copy(update={"digest": digest, "correct": tuple(correct.tolist())}),
        "per_class": {"a": (min(right, total), total), "b": (max(0, right - total), total)},
        "score": score(float(accuracies.mean()), float(1.96 * accuracies.std() / np.sqrt(len(accuracies)))),
    }
    return few_shot(**(parts | changes))


def hits(rate: float, seed: int, episodes: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).binomial(20, rate, episodes)


def test_differences_agree_with_scipy_and_holm_runs_over_every_pair_of_the_table() -> None:
    table = [result(name, hits(rate, seed), task) for task, name, rate, seed in [
        ("t", "a", 0.5, 1), ("t", "b", 0.52, 2), ("t", "c", 0.7, 3), ("u", "a", 0.6, 4), ("u", "b", 0.63, 5),
    ]]  # fmt: skip
    found = rank(table)
    names = [(d.reference.task.name, d.reference.model.name, d.result.model.name) for d in found.differences]
    assert names == [("t", "a", "b"), ("t", "a", "c"), ("t", "b", "c"), ("u", "a", "b")]
    for one in found.differences:
        test = stats.ttest_rel(one.result.accuracies(), one.reference.accuracies())
        interval = test.confidence_interval()
        assert one.p == pytest.approx(test.pvalue, rel=1e-6)
        assert one.difference == pytest.approx((interval.high + interval.low) / 2)
        assert one.half_width == pytest.approx((interval.high - interval.low) / 2)
        assert one.clips.half_width is None
        assert "clip table" in one.clips.reason
    raw = sorted(one.p for one in found.differences)
    by_hand = [max(min(1.0, (4 - i) * raw[i]) for i in range(j + 1)) for j in range(4)]
    assert sorted(one.p_holm for one in found.differences) == pytest.approx(by_hand)
    facts = json.loads(json.dumps(found.facts(), allow_nan=False))
    assert (facts["family"], facts["best"]) == (4, sorted(found.best))
    assert [row["p_holm"] for row in facts["differences"]] == [one.p_holm for one in found.differences]


def test_the_best_and_what_cannot_be_told_from_it() -> None:
    best, near, far = hits(0.7, 1), hits(0.7, 1), hits(0.4, 3)
    near[:3] = np.maximum(0, near[:3] - 1)  # 3 of 4,000 queries fewer: p about 0.08
    table = [result("far", far), result("near", near), result("best", best), result("alone", best, "u")]
    found = rank(table)
    assert {one.model.name for one in table if one.id in found.best} == {"best"}
    assert {one.model.name for one in table if one.id in found.alike} == {"near"}
    assert rank(reversed(table))[:3] == found[:3]
    assert not found.best_for_new_clips  # without clip tables nothing is known of new clips


def test_equal_models_and_constant_differences_have_a_p() -> None:
    same = hits(0.5, 1)
    found = rank([result("a", same), result("b", same), result("c", same + (same < 20)), result("d", same // 2)])
    by_pair = {(one.reference.model.name, one.result.model.name): one for one in found.differences}
    assert (by_pair["a", "b"].difference, by_pair["a", "b"].p, by_pair["a", "b"].smallest) == (0.0, 1.0, None)
    assert by_pair["a", "c"].p < 1e-3


def test_only_what_is_comparable_shares_a_cell() -> None:
    one = result("a", hits(0.5, 1))
    others = [
        result("b", hits(0.5, 2), digest="3" * 64),
        result("b", hits(0.5, 2), dtype="bf16"),
        result("b", hits(0.5, 2), protocol=Protocol(n_way=2, n_query=10, episodes=200, seed=1)),
        result("b", hits(0.5, 2), clip_seconds=1.0),
        result("b", hits(0.5, 2), status=one.status.model_copy(update={"complete": False})),
    ]
    assert [len(cell) for cell in cells([one, *others])] == [1, 1, 1, 1, 1]
    *ids, differences = rank([one, *others])
    assert (ids, len(differences)) == ([frozenset()] * 4, 0)
    assert [len(cell) for cell in cells([one, result("b", hits(0.5, 2)), one])] == [2]
    cut, gone = (Skipped(clip=clip, reason="no samples") for clip in ("x/1.wav", "x/2.wav"))
    statuses = {
        name: Status(complete=False, **status)
        for name, status in {
            "cut": {"skipped": (cut,)},
            "cut too": {"skipped": (Skipped(clip="x/1.wav", reason="gave up after a minute"),)},
            "others": {"skipped": (cut, gone)},
            "limited": {"limited": True},
            "cut and limited": {"limited": True, "skipped": (cut,)},
            "cut of a part": {"partial": "30 of 32 clips", "skipped": (cut,)},
            "a part": {"partial": "30 of 32 clips"},
            "a part too": {"partial": "30 of 32 clips"},
        }.items()
    }
    found = cells([one, *(result(name, hits(0.5, 2), status=status) for name, status in statuses.items())])
    assert [[one.model.name for one in cell] for cell in found] == [["a"], ["cut", "cut too"], ["others"]]
    assert cells([]) == []


def drawn(episodes: int) -> EpisodeSet:
    protocol = Protocol(n_way=2, n_query=10, episodes=episodes)
    labels = [f"{i // 40:02d}" for i in range(480)]
    return draw(protocol, task="t", version="1", clips=[f"{i:03d}" for i in range(480)], labels=labels)


def test_the_interval_of_a_difference_for_new_clips() -> None:
    episodes = drawn(10_000)
    ease = np.random.default_rng(0).normal(0, 0.2, 480)[episodes.drawn].mean(axis=(1, 2))  # clips differ in ease
    first, second = (
        np.random.default_rng(seed).binomial(20, np.clip(0.6 + sign * ease, 0, 1)) for seed, sign in ((1, 1), (2, -1))
    )
    table = [result("a", first, digest=episodes.digest), result("b", second, digest=episodes.digest)]
    (one,) = rank(table, {episodes.digest: episodes}).differences
    expected = ci95_clips((second - first) / 20, episodes.classes, episodes.drawn, episodes.class_of)
    assert one.clips.half_width == pytest.approx(expected.half_width, rel=1e-9)
    assert one.clips.half_width is not None
    assert one.clips.half_width > 1.5 * one.half_width
    few = drawn(600)
    table = [result(name, values[:600], digest=few.digest) for name, values in (("a", first), ("b", second))]
    (one,) = rank(table, {few.digest: few}).differences
    assert one.clips == (None, "needs 10,000 episodes, has 600")


def test_the_best_on_these_clips_need_not_be_the_best_for_new_ones() -> None:
    episodes = drawn(10_000)
    ease = np.random.default_rng(0).normal(0, 0.2, 480)[episodes.drawn].mean(axis=(1, 2))

    def table(gain: float) -> list[Result]:
        rates = {"a": 0.6 + ease, "b": 0.6 + gain - ease}
        draws = {
            name: np.random.default_rng(len(rates)).binomial(20, np.clip(rate, 0, 1)) for name, rate in rates.items()
        }
        return [result(name, values, digest=episodes.digest) for name, values in draws.items()]

    for gain, expected in ((0.02, False), (0.2, True)):
        found = rank(table(gain), {episodes.digest: episodes})
        (one,) = found.differences
        assert found.best
        assert one.p_holm < 1e-6  # on these clips both gains are certain
        assert one.clips.half_width is not None
        assert (abs(one.difference) > one.clips.half_width) == bool(found.best_for_new_clips) == expected
        assert found.best_for_new_clips <= found.best
        assert found.facts()["best_for_new_clips"] == sorted(found.best_for_new_clips)


def test_an_interval_of_more_than_twice_the_conventional_is_told() -> None:
    plain = result("a", hits(0.5, 1)).score
    assert plain.ci95 is not None
    wide = score(plain.accuracy, plain.ci95, 2.5 * plain.ci95, 1.9 * plain.ci95)
    assert wider(result("a", hits(0.5, 1), score=wide)) == pytest.approx({"clips": 2.5})
    assert wider(result("a", hits(0.5, 1))) == {}
