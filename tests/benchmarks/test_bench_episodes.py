"""Episodes against easyfsl, scikit-learn and Generator.choice: CPU time per episode, one thread, both in one run.

Only the ratio is a claim. Each round times the two after one another, so that whatever else the machine does falls on
both, and the median of the rounds' ratios counts. Ours draws and scores 10,000 episodes as a run does, with everything
that this takes (sorting the table, centring the embeddings); the peers' time per episode does not depend on their
number, so they get fewer.
"""

from __future__ import annotations

from typing import Any

import pytest

from uamix_bench.scoring.classifiers import logistic_regression, nearest_centroid
from uamix_bench.scoring.protocol import Protocol

from . import peers
from .sections.episodes import DATA_SETS, draw_beside_choice
from .timing import Side, measure
from .workloads import alike, drawn, embeddings, table

OURS = 10_000
CASES = [
    ("easyfsl", 50, 40, 5, 40.0),
    ("easyfsl", 50, 40, 20, 20.0),
    ("sklearn", 50, 40, 5, 40.0),
    ("easyfsl", 50, 2_000, 5, 10.0),
]


@pytest.mark.parametrize(("peer", "classes", "clips_each", "n_way", "at_least"), CASES)
@pytest.mark.parametrize("rounds", [1, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.over_3s
def test_evaluation_outruns(peer: str, classes: int, clips_each: int, n_way: int, at_least: float, rounds: int) -> None:
    clips, labels = table([clips_each] * classes)
    features, protocol, few = embeddings(len(clips)), Protocol(n_way=n_way, episodes=OURS), 200 if rounds == 1 else 500

    def ours() -> None:
        episodes = drawn(clips, labels, protocol)
        nearest_centroid(features, episodes.support, episodes.query)

    if peer == "easyfsl":
        other: Any = peers.easyfsl(features, labels, n_way)
    else:
        other = peers.nearest_centroid(features, drawn(clips, labels, protocol))
    times = measure({peer: Side(lambda: other(few), few), "ours": Side(ours, OURS)}, rounds)
    for side in (peer, "ours"):
        print(f"{side} {1 / times.median(side):,.0f} episodes/s")
    assert times.ratio(peer, "ours") >= at_least, times


@pytest.mark.parametrize(("n_way", "k_shot", "count", "at_least"), [(30, 20, 20, 4.0), (5, 5, 400, 20.0)])
@pytest.mark.over_3s
def test_logistic_regression_outruns_scikit_learn(n_way: int, k_shot: int, count: int, at_least: float) -> None:
    """The same optimum: scikit-learn's defaults but for a tolerance, so that the predictions are the same."""
    from sklearn.linear_model import LogisticRegression

    clips, labels = table([40] * 50)
    features = alike(labels)
    episodes = drawn(clips, labels, Protocol(n_way=n_way, k_shot=k_shot, episodes=count))
    other, few = peers.fitted(LogisticRegression(tol=1e-6, max_iter=10_000), features, episodes), max(2, count // 10)

    def ours() -> list[int]:
        return logistic_regression(features, episodes.support, episodes.query).correct.tolist()

    assert ours()[:few] == other(few)
    times = measure({"sklearn": Side(lambda: other(few), few), "ours": Side(ours, count)}, rounds=1)
    print(f"ours {1e3 * times.median('ours'):.3g} ms an episode, {times.ratio('sklearn', 'ours'):.1f} times as fast")
    assert times.ratio("sklearn", "ours") >= at_least, times


@pytest.mark.parametrize("name", DATA_SETS)
@pytest.mark.parametrize("rounds", [5, pytest.param(15, marks=pytest.mark.slow)])
def test_drawing_outruns_generator_choice(name: str, rounds: int) -> None:
    """10,000 episodes from the columns of a clip table, which both first have to list by class."""
    times = draw_beside_choice(*table(DATA_SETS[name]), OURS, rounds)
    print(f"{name}: {times.ratio('Generator.choice', 'ours'):.1f}")
    assert times.ratio("Generator.choice", "ours") >= 10.0, times


@pytest.mark.parametrize(("n_way", "k_shot"), [(5, 1), (5, 5), (20, 5)])
def test_episode_time(n_way: int, k_shot: int, benchmark: Any) -> None:
    """For the benchmark table (`--benchmark-only`): 1,000 episodes over 2,000 cached embeddings."""
    clips, labels = table(DATA_SETS["esc50"])
    episodes = drawn(clips, labels, Protocol(n_way=n_way, k_shot=k_shot, episodes=1_000))
    benchmark(nearest_centroid, embeddings(len(clips)), episodes.support, episodes.query)
