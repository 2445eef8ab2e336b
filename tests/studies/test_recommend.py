"""Recommendations on halves of a task: models of known accuracy, and winners whose figure must not be their luck."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import norm

from uamix_bench.data.clip_table import ClipTable
from uamix_bench.data.task import Own, TaskData
from uamix_bench.evaluation.halves import REPORTING, halves
from uamix_bench.records.results import Cost, Pace, Result
from uamix_bench.scoring.classifiers import classify
from uamix_bench.scoring.statistics import ci95_classes, ci95_clips
from uamix_bench.studies.recommend import Plans, decide, drawn, plan
from uamix_bench.util.errors import UsageError

from ..sample_records import few_shot, score, scored


def table(sizes: Mapping[str, int], group: int = 1) -> TaskData:
    """A task of classes with so many clips; `group` neighbours of a class share a group. No file exists."""
    rows = [
        (f"{label}/{number:04d}.wav", f"{label}/{number:04d}.wav", label, f"{label}-{number // group:04d}", "")
        for label, size in sorted(sizes.items())
        for number in range(size)
    ]
    task = Own("made", lambda _: None)  # type: ignore[arg-type, return-value]
    return TaskData(task, task.card, Path(), ClipTable.of_rows(rows))


Embeddings = np.ndarray[tuple[int, int], np.dtype[np.float32]]


def evaluated(plans: Plans, whole: TaskData, models: Mapping[str, Embeddings], **costs: Cost) -> list[Result]:
    """Results of embeddings of all clips, on both halves, with intervals as an evaluation gives them."""
    found = []
    row_of = {clip: row for row, clip in enumerate(whole.table["clip"])}
    for half in plans:
        rows = np.array([row_of[clip] for clip in half.task.table["clip"]])
        for (name, vectors), (protocol, episodes) in itertools.product(
            models.items(), zip(half.protocols, half.draws, strict=True)
        ):
            correct, hits, _ = classify(protocol.classifier, vectors[rows[episodes.clips]], *episodes.compact())
            accuracies = correct / (protocol.n_way * protocol.n_query)
            clips = ci95_clips(accuracies, episodes.classes, episodes.drawn, episodes.class_of, episodes.group_of)
            classes = ci95_classes(accuracies, episodes.classes, episodes.class_of, episodes.group_of)
            ci95 = float(1.96 * accuracies.std() / len(accuracies) ** 0.5)
            given = (clips.half_width or clips.reason, classes.half_width or classes.reason)
            changes: dict[str, Any] = {
                "model": few_shot().model.model_copy(update={"name": name}),
                "score": score(float(accuracies.mean()), ci95, *given),
                "cost": costs.get(name, few_shot().cost),
            }
            found.append(scored(protocol, episodes, correct, hits, **changes))
    return found


def two_classes(task: TaskData, distance: float, generator: np.random.Generator) -> Embeddings:
    """Embeddings in two dimensions: classes a and b are normal with unit deviation, so far apart."""
    vectors = generator.standard_normal((len(task.table), 2))
    vectors[:, 0] += distance * (task.table["label"] == "a")
    return vectors.astype(np.float32)


# --- halves


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 30), min_size=1), st.integers(1, 4), st.integers(0, 9))
def test_halves_part_the_clips_and_keep_groups_whole(sizes: dict[str, int], group: int, seed: int) -> None:
    task = table(sizes, group)
    parts = halves(task, seed)
    assert sorted(itertools.chain(*(part.table["clip"] for part in parts))) == task.table["clip"].tolist()
    assert not set(parts[0].table["group"]) & set(parts[1].table["group"])
    for label, size in sizes.items():
        counts = [int((part.table["label"] == label).sum()) for part in parts]
        assert abs(counts[0] - counts[1]) <= group
        assert sum(counts) == size
    again = halves(task, seed)
    assert [part.clips_sha256 for part in again] == [part.clips_sha256 for part in parts]


def test_the_seed_moves_the_split_and_each_clip_falls_on_either_side_equally_often() -> None:
    task = table({"a": 9, "b": 20})
    first = [set(halves(task, seed)[0].table["clip"]) for seed in range(200)]
    assert len({frozenset(one) for one in first}) > 190
    times = [sum(clip in one for one in first) for clip in task.table["clip"]]
    assert 65 < min(times) <= max(times) < 135  # 100, five standard deviations of 7


def test_copies_stay_together(tmp_path: Path) -> None:
    task = table({"a": 12, "b": 12})
    paths = [tmp_path / f"{number}.wav" for number in range(24)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number % 6]) * 40)  # four copies of each, across classes
    task = TaskData(task.task, task.card, tmp_path, task.table.assign(path=[str(path) for path in paths]))
    for seed in range(5):
        parts = [{Path(path).read_bytes() for path in part.table["path"]} for part in halves(task, seed)]
        assert not parts[0] & parts[1]


# --- plan


def test_shots_are_all_powers_of_two_that_every_class_of_both_halves_allows() -> None:
    plans = plan(table({"a": 40, "b": 33, "c": 60}), episodes=50)
    shots = [one.k_shot for one in plans.choosing.protocols]
    assert shots == [1, 2, 4, 8]  # 16 clips in the smallest half: 4 queries, and 90% for both
    assert [one.k_shot for one in plans.reporting.protocols] == shots
    assert {one.n_way for half in plans for one in half.protocols} == {3}
    for half in plans:
        for fewer, more in itertools.pairwise(half.draws):
            assert (fewer.support == more.support[:, :, : fewer.support.shape[2]]).all()  # nested
            assert (fewer.query == more.query).all()
            assert fewer.class_names == more.class_names == ("a", "b", "c")


def test_small_classes_are_left_out_and_named() -> None:
    plans = plan(table({"a": 20, "b": 20, "c": 3}), episodes=50)
    assert plans.choosing.draws[0].class_names == plans.reporting.draws[0].class_names == ("a", "b")
    assert any("c (3)" in remark.text for remark in plans.choosing.task.remarks)
    plans = plan(table({"a": 40, "b": 40, "c": 12}), min_clips=16, episodes=50)
    assert plans.choosing.draws[0].class_names == ("a", "b")


def test_groups_of_several_clips_are_parted_in_the_episodes_too() -> None:
    plans = plan(table({"a": 24, "b": 24}, group=3), episodes=50)
    for half in plans:
        assert all(one.group_disjoint for one in half.protocols)
        assert all(episodes.shared_group_share == 0 for episodes in half.draws)


@pytest.mark.parametrize(
    ("sizes", "options", "words"),
    [
        ({"a": 9, "b": 3}, {}, "1 of 2 classes"),
        ({"a": 2, "b": 3}, {}, "0 of 2 classes"),
        ({"a": 20, "b": 20}, {"shots": (9,)}, "--k 9"),
        ({"a": 20, "b": 20}, {"ways": 3}, "3-way"),
    ],
)
def test_too_few_clips_or_classes_are_named(sizes: dict[str, int], options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan(table(sizes), episodes=20, **options)


# --- decision


def test_the_better_model_is_chosen_and_its_accuracy_is_the_true_one() -> None:
    task, generator = table({"a": 120, "b": 120}), np.random.default_rng(1)
    models = {"good": two_classes(task, 3.0, generator), "poor": two_classes(task, 1.0, generator)}
    plans = plan(task, seed=3)
    found = decide(evaluated(plans, task, models), drawn(plans, []))
    assert [one.model.name for one in found.candidates] == ["good", "poor"]
    assert found.chosen.model.name == "good"
    assert list(found.alike) == [found.chosen]
    assert (found.covers, found.why_not_new) == ("new clips", "")
    assert found.levels_off
    true, reported = norm.cdf(1.5), found.reported.score  # of the nearest of the true means
    assert found.reported.protocol.name == REPORTING
    assert abs(reported.accuracy - true) < 1.5 * (reported.ci95_clips or 0) + 0.02
    assert found.reported.score.ci95_classes is None
    gains = {here: gained for here, _, gained in found.chosen.steps()}
    assert all(gained < 0.01 for here, gained in gains.items() if here >= found.examples)
    assert gains[found.examples // 2] >= 0.01


def test_of_models_that_cannot_be_told_apart_the_cheapest_is_chosen() -> None:
    task, generator = table({"a": 60, "b": 60}), np.random.default_rng(2)
    base = two_classes(task, 2.0, generator)
    noisy = base + 0.05 * generator.standard_normal(base.shape).astype(np.float32)
    models = {"slow": base, "fast": noisy, "poor": two_classes(task, 0.2, generator)}
    fast = Cost(embedded_clips=120, embed_s=0.1, episodes_s=0.1, peak_memory_mb=200.0)
    plans = plan(task, shots=(2, 4))
    results = evaluated(plans, task, models, fast=fast)
    found = decide(results, drawn(plans, []))
    assert {one.model.name for one in found.alike} == {"slow", "fast"}
    assert (found.chosen.model.name, found.by_speed) == ("fast", True)
    assert found.chosen.speed is not None
    assert found.chosen.speed.clips_per_s == pytest.approx(1200)
    assert found.chosen.memory_mb == 200.0
    facts = found.facts()
    assert (facts["not_distinguishable"], facts["cheapest_by"]) == (["slow"], "clips_per_s")
    cached = Cost(embedded_clips=0, embed_s=0.0, episodes_s=0.1, peak_memory_mb=None)
    untimed = [one.model_copy(update={"cost": cached}) if one.model.name == "fast" else one for one in results]
    assert not decide(untimed, drawn(plans, [])).by_speed
    earlier = cached.model_copy(update={"earlier": (Pace(device="cpu: other", clips=240, seconds=0.1),)})
    elsewhere = [one.model_copy(update={"cost": earlier}) if one.model.name == "fast" else one for one in results]
    assert not decide(elsewhere, drawn(plans, [])).by_speed  # rates of two devices are not compared


@pytest.mark.parametrize(("times", "chosen"), [(0.5, "best"), (1.9, "best"), (2.1, "other")])
def test_a_model_is_taken_for_its_speed_only_if_it_is_twice_as_fast(times: float, chosen: str) -> None:
    task, generator = table({"a": 60, "b": 60}), np.random.default_rng(2)
    base = two_classes(task, 2.0, generator)
    models = {"one": base, "two": base + 0.05 * generator.standard_normal(base.shape).astype(np.float32)}
    plans = plan(task, shots=(2, 4))
    results = evaluated(plans, task, models)
    found = decide(results, drawn(plans, []))
    best, other = (one.model.name for one in found.candidates)
    costs = {
        best: Cost(embedded_clips=120, embed_s=1.0, episodes_s=0.1, peak_memory_mb=None),
        other: Cost(embedded_clips=120, embed_s=1.0 / times, episodes_s=0.1, peak_memory_mb=None),
    }
    timed = [one.model_copy(update={"cost": costs[one.model.name]}) for one in results]
    decided = decide(timed, drawn(plans, []))
    assert len(decided.alike) == 2
    assert decided.by_speed
    assert decided.chosen.model.name == {"best": best, "other": other}[chosen]


def test_without_intervals_for_new_clips_the_answer_is_of_these_clips_and_says_why() -> None:
    task, generator = table({"a": 40, "b": 40}), np.random.default_rng(4)
    models = {"good": two_classes(task, 3.0, generator), "poor": two_classes(task, 0.5, generator)}
    plans = plan(task, episodes=400)
    found = decide(evaluated(plans, task, models), drawn(plans, []))
    assert found.chosen.model.name == "good"
    assert found.covers == "these clips"
    assert "needs 10,000 episodes" in found.why_not_new


def test_one_model_and_a_model_that_lacks_results() -> None:
    task, generator = table({"a": 40, "b": 40}), np.random.default_rng(5)
    plans = plan(task, episodes=100, shots=(2,))
    results = evaluated(
        plans, task, {"one": two_classes(task, 3.0, generator), "half": two_classes(task, 9.0, generator)}
    )
    results = [one for one in results if (one.model.name, one.protocol.name) != ("half", REPORTING)]
    found = decide(results)
    assert [one.model.name for one in found.candidates] == ["one"]
    assert (found.examples, found.levels_off, found.chosen.steps()) == (2, False, [])
    with pytest.raises(UsageError, match="no model has results"):
        decide([one for one in results if one.model.name == "half"])


def test_a_model_trained_on_data_of_the_task_is_not_chosen_while_there_is_another() -> None:
    task, generator = table({"a": 40, "b": 40}), np.random.default_rng(7)
    models = {name: two_classes(task, distance, generator) for name, distance in (("knows", 9.0), ("new", 2.0))}
    plans = plan(task, episodes=100)
    overlap = next(iter(evaluated(plans, task, models))).overlap_known.model_copy(update={"level": "overlaps"})
    results = [
        one.model_copy(update={"overlap": overlap}) if one.model.name == "knows" else one
        for one in evaluated(plans, task, models)
    ]
    found = decide(results)
    assert [one.model.name for one in found.candidates] == ["new", "knows"]
    assert (found.chosen.model.name, found.candidates[1].trained_on_task) == ("new", True)
    alone = decide([one for one in results if one.model.name == "knows"])
    assert alone.chosen.model.name == "knows"


def test_the_winners_figure_is_not_its_luck() -> None:
    """Of twenty equal models the best on the choosing half is above their mean there, and not on the other half."""
    task, generator = table({"a": 48, "b": 48}), np.random.default_rng(6)
    chosen, reported = [], []
    for repetition in range(24):
        plans = plan(task, episodes=50, shots=(4,), seed=repetition)
        models = {f"m{number}": two_classes(task, 1.5, generator) for number in range(20)}
        found = decide(evaluated(plans, task, models))
        best = found.candidates[0]
        for deviations, half in ((chosen, "choosing"), (reported, "reporting")):
            scores = [getattr(one, half)[4].score.accuracy for one in found.candidates]
            deviations.append(getattr(best, half)[4].score.accuracy - float(np.mean(scores)))
        assert found.reported.protocol.name == REPORTING
    error = np.std(reported, ddof=1) / np.sqrt(len(reported))
    assert abs(np.mean(reported)) < 3 * error
    assert np.mean(chosen) > 8 * error


def test_a_half_that_contradicts_the_choice_is_told() -> None:
    """One model sees the classes of the choosing half alone, the other those of the reporting half, a little less."""
    task = table({"a": 80, "b": 80})
    plans = plan(task, shots=[1], episodes=400)
    generator = np.random.default_rng(0)
    chosen = set(plans[0].task.table["clip"])
    mine = task.table.among("clip", chosen)[:, None]
    near, far = (two_classes(task, distance, generator) for distance in (0.3, 3.0))
    models = {"lucky": np.where(mine, far, near), "other": np.where(mine, near, far)}
    found = decide(evaluated(plans, task, models))
    assert found.chosen.model.name == "lucky"
    assert found.contradiction is not None
    rival, difference = found.contradiction
    assert rival.model.name == found.facts()["contradicted_by"] == "other"
    expected = rival.reporting[1].score.accuracy - found.chosen.reporting[1].score.accuracy
    assert difference.difference == pytest.approx(expected)
    agreed = decide(evaluated(plans, task, {"good": far, "bad": near}))
    assert (agreed.chosen.model.name, agreed.contradiction) == ("good", None)
