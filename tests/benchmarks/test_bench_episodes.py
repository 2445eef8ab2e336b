"""Episodes against easyfsl, scikit-learn and Generator.choice: CPU time per episode, one thread, both in one run.

Only the ratio is a claim. Each round times the two after one another, so that whatever else the machine does falls on
both, and the median of the rounds' ratios counts. Ours draws and scores 10,000 episodes as a run does, with everything
that this takes (sorting the table, centring the embeddings); the peers' time per episode does not depend on their
number, so they get fewer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch

from uamix_bench.classifiers import nearest_centroid
from uamix_bench.clip_order import sort_clips
from uamix_bench.episodes import EpisodeSet, Protocol, draw, draw_sorted

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
    """Clip ids, sorted, and labels, of a class one string, as the readers give them."""
    clips, labels = [], []
    for c, size in enumerate(sizes):
        label = f"class{c:04d}"
        clips += [f"{label}/{i:04d}.wav" for i in range(size)]
        labels += [label] * size
    return clips, labels


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


def listed(labels: list[str]) -> list[np.ndarray]:
    """The rows of each class."""
    rows: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    return [np.array(rows[name]) for name in sorted(rows)]


def choose(members: list[np.ndarray], episodes: int) -> None:
    """A loop over numpy's `Generator.choice`: classes, then clips of each."""
    rng = np.random.default_rng(0)
    for _ in range(episodes):
        for c in rng.choice(len(members), 5, replace=False):
            rng.choice(members[c], 16, replace=False)


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
@pytest.mark.parametrize("rounds", [5, pytest.param(15, marks=pytest.mark.slow)])
def test_drawing_outruns_generator_choice(name: str, rounds: int) -> None:
    """10,000 episodes from the columns of a clip table, which both first have to list by class."""
    clips, labels = table(SIZES[name])
    groups = [clip[:-5] for clip in clips]
    protocol, ratios, share = Protocol(episodes=OURS), [], 500
    for _ in range(rounds):
        begun = time.process_time()
        members = listed(labels)
        prepared = time.process_time()
        choose(members, share)
        between = time.process_time()
        draw_sorted(protocol, sort_clips(clips, labels, groups, ordered=True), task="bench", version="1")
        ours = time.process_time() - between
        ratios.append((prepared - begun + (between - prepared) * OURS / share) / ours)
    print(f"{name}: " + " ".join(f"{found:.1f}" for found in ratios))
    assert median(ratios) >= 10.0, ratios


@pytest.mark.parametrize(("n_way", "k_shot"), [(5, 1), (5, 5), (20, 5)])
def test_episode_time(n_way: int, k_shot: int, benchmark: Any) -> None:
    """For the benchmark table (`--benchmark-only`): 1,000 episodes over 2,000 cached embeddings."""
    clips, labels = table(SIZES["esc50"])
    features, episodes = embeddings(len(clips)), drawn(clips, labels, k_shot, n_way)
    benchmark(nearest_centroid, features, episodes.support[:1_000], episodes.query[:1_000])
