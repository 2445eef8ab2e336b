"""Episodes a second on cached embeddings, beside easyfsl and scikit-learn, and the draw alone."""

from __future__ import annotations

from functools import partial
from itertools import islice

import numpy as np
from sklearn.linear_model import LogisticRegression

from uamix_bench.reports.blocks import Prose, Section, Table
from uamix_bench.scoring.classifiers import logistic_regression, nearest_centroid
from uamix_bench.scoring.protocol import Protocol

from .. import limits, peers, tables
from ..scale import Scale
from ..tables import Case
from ..timing import Side, Times, measure
from ..workloads import alike, drawn, embeddings, episode_bytes, episode_operations, table

SETTINGS = ((5, 1), (5, 5), (20, 1), (20, 5))  # N, K
DATA_SETS = {  # the clips of each class; VoxCeleb1's and NSynth's spread as their mean and range have it
    "esc50": [40] * 50,
    "fsdkaggle2018": np.linspace(120, 420, 41).astype(int).tolist(),
    "speech-commands": np.linspace(1_700, 4_347, 35).astype(int).tolist(),
    "voxceleb1": np.linspace(45, 200, 1_251).astype(int).tolist(),
    "nsynth": np.linspace(169, 440, 1_006).astype(int).tolist(),
}


def section(scale: Scale) -> Section:
    text = f"""
        Embeddings of 768 numbers, 15 queries a class, nearest centroid. Here {scale.episodes:,} episodes are drawn and
        scored in a round, a fifth of them at 20 ways, with all that this takes: sorting the clip table, drawing,
        centring. easyfsl's own sampler, loader and evaluate get {scale.peer_episodes} episodes a round, without setting
        up; scikit-learn's NearestCentroid is fitted to episodes that are already drawn. The limit is the time that
        memory takes to deliver the episode's embeddings (random rows of the same table), or the processor the product
        of queries and centroids, whichever is longer. Many episodes of few clips are scored from the products of all
        pairs of clips, which move fewer bytes: so a share may be more than 100%.
    """
    return Section("Episodes", [Prose(text), scored(scale), _regression(scale), _drawn(scale)])


def scored(scale: Scale) -> Table:
    """Episodes drawn and scored, beside others."""
    clips, labels = table(DATA_SETS["esc50"])
    features = embeddings(len(clips))
    cases = [_score(scale, clips, labels, features, n_way, k_shot) for n_way, k_shot in SETTINGS]
    return tables.comparison("2,000 clips, 50 classes", cases, ("easyfsl", "scikit-learn"), "episodes/s", tables.rate)


def _score(scale: Scale, clips: list[str], labels: list[str], features: peers.Floats, n_way: int, k_shot: int) -> Case:
    count = scale.episodes if n_way <= 5 else scale.episodes // 5
    protocol = Protocol(n_way=n_way, k_shot=k_shot, episodes=count)

    def ours() -> list[int]:
        episodes = drawn(clips, labels, protocol)
        return nearest_centroid(features, episodes.support, episodes.query).correct.tolist()

    fitted = peers.nearest_centroid(features, drawn(clips, labels, protocol))
    few = scale.peer_episodes
    apart = np.count_nonzero(np.array(fitted(few)) - ours()[:few])
    if apart > 0.01 * few:  # some may be, where two centroids are equally near but for rounding
        raise AssertionError(f"scikit-learn finds other numbers of correct queries in {apart} of {few} episodes")
    sides = {
        "ours": Side(ours, count),
        "scikit-learn": Side(lambda: fitted(few), few),
        "gather": limits.gather(features),
        "product": limits.numpy_product(),
    }
    absent = {}
    if peers.is_installed("easyfsl"):
        evaluate = peers.easyfsl(features, labels, n_way, k_shot)
        sides["easyfsl"] = Side(lambda: evaluate(few), few)
    else:
        absent["easyfsl"] = tables.NOT_INSTALLED
    times = measure(sides, scale.rounds)
    limit = limits.least(
        times,
        gather=episode_bytes(n_way, k_shot, protocol.n_query),
        product=episode_operations(n_way, protocol.n_query),
    )
    return Case(f"{n_way}-way {k_shot}-shot", times, limit, absent)


def _regression(scale: Scale) -> Table:
    """Logistic regression beside scikit-learn's, of classes that differ, so that both find the same."""
    clips, labels = table(DATA_SETS["esc50"])
    features, cases = alike(labels), []
    for n_way, k_shot, share, few in ((30, 20, 100, 2), (5, 5, 10, 50)):
        protocol = Protocol(n_way=n_way, k_shot=k_shot, episodes=scale.episodes // share)
        episodes = drawn(clips, labels, protocol)
        ours = partial(logistic_regression, features, episodes.support, episodes.query)
        other = peers.fitted(LogisticRegression(tol=1e-6, max_iter=10_000), features, episodes)
        if other(few) != ours().correct[:few].tolist():
            raise AssertionError("scikit-learn finds other numbers of correct queries")
        sides = {
            "ours": Side(ours, protocol.episodes),
            "scikit-learn": Side(partial(other, few), few),
            "product": limits.numpy_product(),
        }
        times = measure(sides, scale.rounds)
        shares = 2 * n_way * (n_way * k_shot) * (n_way * (k_shot + protocol.n_query))
        cases.append(Case(f"{n_way}-way {k_shot}-shot", times, limits.least(times, product=shares)))
    note = """
        scikit-learn's defaults but for a tolerance of 1e-6, which gives the same predictions. The limit is one product
        of the classes' shares with the products of all pairs of supports, and of supports and queries.
    """
    return tables.comparison(
        "Logistic regression", cases, ("scikit-learn",), "ms an episode", tables.milliseconds, note
    )


def _drawn(scale: Scale) -> Table:
    cases = []
    for name, sizes in islice(DATA_SETS.items(), scale.data_sets):
        clips, labels = table(sizes)
        times = draw_beside_choice(clips, labels, scale.episodes, scale.rounds)
        cases.append(Case(f"{name}, {len(clips):,} clips", times, times.seconds["words"]))
    return tables.comparison(
        "Drawing alone, 5-way 1-shot",
        cases,
        ("Generator.choice",),
        "µs an episode",
        tables.microseconds,
        "On clip tables of the data sets' sizes, which both first list by class. The limit is making the random words.",
    )


def draw_beside_choice(clips: list[str], labels: list[str], episodes: int, rounds: int) -> Times:
    """Times the draw of 5-way 1-shot episodes from a clip table, and a loop over `Generator.choice`.

    The loop gets a twentieth of the episodes; listing the clips by class counts in full on both sides.
    """
    protocol = Protocol(episodes=episodes)
    share = max(1, episodes // 20)
    members = peers.listed(labels)
    words = np.random.Philox(0)
    parts = measure(
        {
            "ours": Side(lambda: drawn(clips, labels, protocol), episodes),
            "list": Side(lambda: peers.listed(labels), episodes),
            "choose": Side(lambda: peers.choose(members, share), share),
            "words": Side(lambda: words.random_raw(episodes * 5 * (1 + 16)), episodes),
        },
        rounds,
    ).seconds
    choice = parts["list"] + parts["choose"]
    return Times({"ours": parts["ours"], "Generator.choice": choice, "words": parts["words"]})
