"""Episodes against easyfsl, scikit-learn and Generator.choice: CPU time per episode, one thread, both in one run.

Only the ratio is a claim. Each round times the two after one another, so that whatever else the machine does falls on
both, and the median of the rounds' ratios counts. Ours draws and scores 10,000 episodes as a run does, with everything
that this takes (sorting the table, centring the embeddings); the peers' time per episode does not depend on their
number, so they get fewer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch

from uamix_bench.classifiers import nearest_centroid
from uamix_bench.episodes import EpisodeSet, Protocol, draw, draw_sorted, sort_clips

OURS = 10_000
SIZE = 768
SIZES = {  # the clips of each class; VoxCeleb1's and NSynth's spread as their mean and range have it
    "esc50": [40] * 50,
    "fsdkaggle2018": np.linspace(120, 420, 41).astype(int).tolist(),
    "speech-commands": np.linspace(1_700, 4_347, 35).astype(int).tolist(),
    "voxceleb1": np.linspace(45, 200, 1_251).astype(int).tolist(),
    "nsynth": np.linspace(169, 440, 1_006).astype(int).tolist(),
}


def table(sizes: list[int]) -> tuple[list[str], list[str]]:
    """Clip ids and labels."""
    rows = [(c, i) for c, size in enumerate(sizes) for i in range(size)]
    return [f"class{c:04d}/{i:04d}.wav" for c, i in rows], [f"class{c:04d}" for c, _ in rows]


def embeddings(clips: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((clips, SIZE), np.float32)


def drawn(clips: list[str], labels: list[str], k_shot: int = 1, n_way: int = 5) -> EpisodeSet:
    protocol = Protocol(n_way=n_way, k_shot=k_shot, episodes=OURS)
    return draw(protocol, task="bench", version="1", clips=clips, labels=labels)


def ratio(ours: Callable[[], Any], peer: Callable[[int], Any], peer_episodes: int, rounds: int) -> float:
    """How many times longer the peer takes for an episode."""
    peer(2)
    ratios = []
    for _ in range(rounds):
        begun = time.process_time()
        peer(peer_episodes)
        between = time.process_time()
        ours()
        theirs, mine = (between - begun) / peer_episodes, (time.process_time() - between) / OURS
        print(f"peer {1 / theirs:,.0f} episodes/s, ours {1 / mine:,.0f}")
        ratios.append(theirs / mine)
    return median(ratios)


def easyfsl_peer(features: np.ndarray, labels: list[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[int], float]:
    """easyfsl's sampler, loader and `evaluate` over cached features, as its own notebooks put them together."""
    from easyfsl.datasets import FeaturesDataset
    from easyfsl.methods import PrototypicalNetworks
    from easyfsl.samplers import TaskSampler
    from easyfsl.utils import evaluate
    from torch.utils.data import DataLoader, Sampler

    # easyfsl 1.5.0 passes data_source, which torch's Sampler no longer takes
    monkeypatch.setattr(Sampler, "__init__", lambda self, data_source=None: None)
    names = sorted(set(labels))
    number = {name: code for code, name in enumerate(names)}
    data = FeaturesDataset([number[label] for label in labels], torch.from_numpy(features), names)

    def run(episodes: int) -> float:
        sampler = TaskSampler(data, n_way=5, n_shot=1, n_query=15, n_tasks=episodes)
        loader = DataLoader(data, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)
        return float(evaluate(PrototypicalNetworks(torch.nn.Identity()), loader, device="cpu", use_tqdm=False))

    return run


def sklearn_peer(features: np.ndarray, labels: list[str]) -> Callable[[int], float]:
    """scikit-learn's NearestCentroid, fitted to each of our own episodes."""
    import warnings

    from sklearn.neighbors import NearestCentroid

    clips = [f"{i:06d}" for i in range(len(labels))]
    episodes = drawn(clips, labels)
    slots = np.arange(5)

    def run(count: int) -> float:
        right = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it divides by n - n_way, which is 0 for one shot
            for support, query in zip(episodes.support[:count], episodes.query[:count], strict=True):
                model = NearestCentroid().fit(features[support.ravel()], slots)
                right += int((model.predict(features[query.ravel()]) == slots.repeat(15)).sum())
        return right / (count * 75)

    return run


def choice_peer(labels: list[str]) -> Callable[[int], None]:
    """A loop over numpy's `Generator.choice`: classes, then clips, from rows listed by class beforehand."""
    rows: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    members = [np.array(rows[name]) for name in sorted(rows)]
    rng = np.random.default_rng(0)

    def run(count: int) -> None:
        for _ in range(count):
            for c in rng.choice(len(members), 5, replace=False):
                rng.choice(members[c], 16, replace=False)

    return run


CASES = [
    ("easyfsl", 50, 40, 15.0),
    ("sklearn", 50, 40, 25.0),
    ("easyfsl", 50, 2_000, 10.0),
]


@pytest.mark.parametrize(("peer", "classes", "clips_each", "at_least"), CASES)
@pytest.mark.parametrize("rounds", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_evaluation_outruns(
    peer: str, classes: int, clips_each: int, at_least: float, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, labels = table([clips_each] * classes)
    features = embeddings(len(clips))
    other = easyfsl_peer(features, labels, monkeypatch) if peer == "easyfsl" else sklearn_peer(features, labels)

    def ours() -> None:
        episodes = drawn(clips, labels)
        nearest_centroid(features, episodes.support, episodes.query)

    found = ratio(ours, other, 200 if rounds == 1 else 500, rounds)
    assert found >= at_least, found


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("rounds", [3, pytest.param(9, marks=pytest.mark.slow)])
def test_drawing_outruns_generator_choice(name: str, rounds: int) -> None:
    """Both from a table that is sorted by class beforehand."""
    clips, labels = table(SIZES[name])
    ours = partial(draw_sorted, Protocol(episodes=OURS), sort_clips(clips, labels), task="bench", version="1")
    found = ratio(ours, choice_peer(labels), 500 if rounds == 3 else 2_000, rounds)
    assert found >= 10.0, found


@pytest.mark.parametrize(("n_way", "k_shot"), [(5, 1), (5, 5), (20, 5)])
def test_episode_time(n_way: int, k_shot: int, benchmark: Any) -> None:
    """For the benchmark table (`--benchmark-only`): 1,000 episodes over 2,000 cached embeddings."""
    clips, labels = table(SIZES["esc50"])
    features, episodes = embeddings(len(clips)), drawn(clips, labels, k_shot, n_way)
    benchmark(nearest_centroid, features, episodes.support[:1_000], episodes.query[:1_000])
