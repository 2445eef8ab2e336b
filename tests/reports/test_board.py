"""Columns, rows and ranks against scipy and against what the draw was made of."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats

from uamix_bench.reports.board import board, left_out_notes
from uamix_bench.reports.curves import accuracy_curves
from uamix_bench.scoring.protocol import METAAUDIO, Protocol
from uamix_bench.scoring.statistics import holm

FEW = Protocol(episodes=60)


def test_settings_are_told_apart_and_the_papers_comes_first(records: Any) -> None:
    several = [
        records.result("a", protocol=Protocol(n_way=10)),
        records.result("a", protocol=Protocol()),
        records.result("a", protocol=FEW),
        records.result("a", protocol=METAAUDIO.model_copy(update={"episodes": 50})),
        records.result("a", protocol=Protocol(), dtype="bf16"),
    ]
    made = board(several)
    assert [(setting.id, setting.title) for setting in made.settings] == [
        ("5w1s", "5-way 1-shot"),
        ("10w1s", "10-way 1-shot"),
        ("5w1s-60-episodes", "5-way 1-shot, 60 episodes"),
        ("5w1s-bf16", "5-way 1-shot, bf16"),
        ("5w1s-metaaudio-1-query-50-episodes", "5-way 1-shot, metaaudio, 1 query, 50 episodes"),
    ]
    assert made.main().id == "5w1s"


def test_only_shared_clips_and_episodes_share_a_column(records: Any) -> None:
    made = board(
        [
            records.result("a", protocol=FEW),
            records.result("b", protocol=FEW),
            records.result("c", protocol=FEW, clips_sha256="c" * 64),
        ]
    )
    columns = made.settings[0].columns
    assert len({column.label for column in columns}) == 2
    assert all(column.label.startswith("esc50@1 ") for column in columns)
    rows = {row.entrant.label: set(row.results) for row in made.settings[0].standings}
    assert rows["a"] == rows["b"]
    assert rows["a"].isdisjoint(rows["c"])


def test_a_mean_needs_every_task_and_what_is_partial_has_no_part_in_anything(records: Any) -> None:
    tasks = ("esc50", "nsynth")
    whole = [
        records.result(name, rate, task=task, protocol=FEW) for name, rate in (("a", 0.5), ("b", 0.6)) for task in tasks
    ]
    one = records.result("c", 0.9, task="esc50", protocol=FEW)
    limited = records.result("d", 0.95, task="esc50", protocol=FEW, complete=False, limited=True, clips_sha256="d" * 64)
    setting = board([*whole, one, limited]).settings[0]
    assert [(row.entrant.label, row.mean is None, row.ranks) for row in setting.standings] == [
        ("b", False, (1, 1)),
        ("a", False, (2, 2)),
        ("c", True, None),
    ]
    assert [(entrant.label, list(held)) for entrant, held in setting.apart] == [("d", ["esc50@1"])]
    assert limited.id not in setting.ranking.best | setting.ranking.alike
    mean = np.mean([result.score.accuracy for result in whole if result.model.name == "b"])
    assert setting.standings[0].mean == pytest.approx(mean, abs=1e-12)


def test_ranks_on_one_task_are_those_of_scipys_paired_tests(records: Any) -> None:
    rates = {"a": 0.60, "b": 0.59, "c": 0.585, "d": 0.5, "e": 0.495, "f": 0.3}
    results = {name: records.result(name, rate, protocol=Protocol(episodes=400)) for name, rate in rates.items()}
    pairs = list(combinations(results, 2))
    p = holm([stats.ttest_rel(results[one].accuracies(), results[other].accuracies()).pvalue for one, other in pairs])
    differ = {frozenset(pair) for pair, value in zip(pairs, p, strict=True) if value < 0.05}
    mean = {name: result.score.accuracy for name, result in results.items()}
    expected = {
        name: (
            1
            + sum(
                frozenset((name, other)) in differ and mean[other] > mean[name] for other in results if other != name
            ),
            6
            - sum(
                frozenset((name, other)) in differ and mean[other] < mean[name] for other in results if other != name
            ),
        )
        for name in results
    }
    found = {row.entrant.label: row.ranks for row in board(results.values()).settings[0].standings}
    assert found == expected
    assert any(low != high for low, high in expected.values())


def test_the_interval_of_a_mean_is_that_of_independent_tasks(records: Any) -> None:
    results = [records.result("a", 0.5, task=task, protocol=FEW) for task in ("esc50", "nsynth", "voxceleb1")]
    row = board(results).settings[0].standings[0]
    variance = sum(result.accuracies().var(ddof=1) / 60 for result in results) / 9
    assert row.half_width == pytest.approx(1.96 * variance**0.5, rel=1e-9)
    assert row.ranks == (1, 1)


def test_models_of_one_name_are_told_apart(records: Any) -> None:
    made = board(
        [
            records.result("a", protocol=FEW),
            records.result("a", protocol=FEW, input="official"),
            records.result("a", protocol=FEW, weights_sha256="9" * 64),
            records.result("b", protocol=FEW),
            records.result("b", protocol=FEW, pretrained_on=("AudioSet-2M",)),
        ]
    )
    labels = [entrant.label for entrant in made.entrants]
    assert len(set(labels)) == 5
    assert any("official" in label for label in labels)
    assert any("999999" in label for label in labels)


def test_names_that_spell_another_model_s_label_are_told_apart(records: Any) -> None:
    made = board(
        [
            records.result("a", protocol=FEW),
            records.result("a", protocol=FEW, input="official"),
            records.result("a official", protocol=FEW),
            records.result("b", protocol=FEW, weights_sha256=None),
            records.result("b", protocol=FEW, source_sha256="7" * 64),
        ]
    )
    labels = [entrant.label for entrant in made.entrants]
    assert len(set(labels)) == 5
    assert sum(label.startswith("a official") for label in labels) == 2
    assert any("no weights" in label for label in labels)
    assert len(made.settings[0].standings) == 5


VERSIONS = ("aaaaaaaaaaaa", "bbbbbbbbbbbb")


def changed_folder(records: Any, shots: tuple[int, ...] = (1,)) -> list[Any]:
    """Two models on a folder, and again after it changed: what is lower is of the first version."""
    return [
        records.result(
            name,
            rate + 0.1 * number,
            task="local/s",
            version=version,
            content_sha256=str(number) * 64,
            protocol=Protocol(episodes=60, k_shot=shot),
            started_at=f"2026-11-0{1 + number}T00:00:00+00:00",
        )
        for number, version in enumerate(VERSIONS)
        for name, rate in (("m", 0.4), ("n", 0.6))
        for shot in shots
    ]


def test_a_folder_that_changed_is_one_column_with_the_numbers_of_its_newest_version(records: Any) -> None:
    results = changed_folder(records, shots=(1, 5))
    made = board(results)
    assert [[column.label for column in setting.columns] for setting in made.settings] == [["local/s"]] * 2
    for setting in made.settings:
        shown = {row.entrant.label: row.results["local/s"] for row in setting.standings}
        expected = {
            one.model.name: one
            for one in results
            if (one.task.version, one.protocol) == ("bbbbbbbbbbbb", setting.protocol)
        }
        assert shown == expected
        pairs = [(pair.result.id, pair.reference.id) for pair in setting.ranking.differences]
        assert [set(pair) for pair in pairs] == [{one.id for one in expected.values()}]
    assert made.earlier[0].startswith("local/s: 4 records of an earlier version")
    alone = board([one for one in results if one.task.version == "aaaaaaaaaaaa"])
    assert (len(alone.results), list(alone.earlier)) == (4, [])


def test_crop_lengths_and_class_lists_of_one_folder_are_columns_with_names_of_their_own(records: Any) -> None:
    same = {"task": "local/s", "version": "aaaaaaaaaaaa", "content_sha256": "5" * 64, "protocol": FEW}
    results = [
        records.result("m", 0.3, **same),
        records.result("m", 0.5, **same, clip_seconds=1.0),
        records.result("m", 0.7, **same, clips_sha256="c" * 64),
    ]
    (setting,) = board(results).settings
    (row,) = setting.standings
    assert len(row.results) == 3
    assert {one.id for one in row.results.values()} == {one.id for one in results}
    assert [label for label, one in row.results.items() if one is results[1]] == ["local/s 1 s"]
    assert all(label.startswith("local/s 2 s ") for label, one in row.results.items() if one is not results[1])


def test_a_label_is_one_clip_table_at_all_shots(records: Any) -> None:
    one, other = "c" * 64, "d" * 64
    shots = [Protocol(episodes=60, k_shot=shot) for shot in (1, 5)]
    made = board(
        [
            records.result("m", protocol=shots[0], clips_sha256=one),
            records.result("m", protocol=shots[1], clips_sha256=other),
        ]
    )
    labels = [column.label for setting in made.settings for column in setting.columns]
    assert labels == ["esc50@1 cccccc", "esc50@1 dddddd"]
    assert [list(drawn) for drawn in accuracy_curves(made.settings)] == [[], []]


def without(records: Any, name: str, rate: float, *clips: str, **more: Any) -> Any:
    return records.result(name, rate, protocol=FEW, skipped=clips, **more)


def test_results_without_the_same_clips_are_ranked_among_themselves(records: Any) -> None:
    results = [without(records, name, rate, "a.wav", "b.wav") for name, rate in (("m", 0.4), ("n", 0.6), ("o", 0.8))]
    other = records.result("m", 0.5, task="nsynth", protocol=FEW)
    (setting,) = board([*results, other]).settings
    assert [column.label for column in setting.columns] == ["esc50@1 less 2 clips", "nsynth@1"]
    assert setting.ranking.best == {results[2].id}
    p = [stats.ttest_rel(a.accuracies(), b.accuracies()).pvalue for a, b in combinations(results, 2)]
    found = [pair.p for pair in setting.ranking.differences]
    assert found == pytest.approx(p)
    means = {row.entrant.label: row.mean for row in setting.standings}
    assert means["m"] == pytest.approx((results[0].score.accuracy + other.score.accuracy) / 2)
    assert means["n"] is None
    (note,) = left_out_notes(setting.columns)
    assert "a.wav (cut short), b.wav (cut short)" in note
    alone = board(results).settings[0]
    assert [(row.entrant.label, row.ranks) for row in alone.standings] == [("o", (1, 1)), ("n", (2, 2)), ("m", (3, 3))]


def test_what_left_out_clips_is_never_ranked_against_what_is_complete_or_left_out_others(records: Any) -> None:
    complete = [records.result(name, rate, protocol=FEW) for name, rate in (("m", 0.3), ("n", 0.4))]
    two = [without(records, name, rate, "a.wav", "b.wav") for name, rate in (("m", 0.6), ("n", 0.7), ("o", 0.8))]
    one = [without(records, name, rate, "a.wav") for name, rate in (("p", 0.8), ("q", 0.9))]
    limited = records.result("r", 0.9, protocol=FEW, complete=False, limited=True, clips_sha256="d" * 64)
    made = board([*complete, *two, *one, limited])
    rows = {setting.title: {row.entrant.label for row in setting.standings} for setting in made.settings}
    assert rows == {
        "5-way 1-shot, 60 episodes": {"m", "n"},
        "5-way 1-shot, 60 episodes, esc50@1 less 2 clips": {"m", "n", "o"},
        "5-way 1-shot, 60 episodes, esc50@1 less 1 clip": {"p", "q"},
    }
    groups = [{one.id for one in group} for group in (complete, two, one)]
    for setting in made.settings:
        for pair in setting.ranking.differences:
            assert any({pair.result.id, pair.reference.id} <= group for group in groups)
    assert sum(len(setting.ranking.differences) for setting in made.settings) == 1 + 3 + 1
    assert [entrant.label for entrant, _ in made.settings[0].apart] == ["r"]
    without_complete = board([*two, *one]).settings
    assert [len(setting.standings) for setting in without_complete] == [3, 2]
    assert len({setting.id for setting in made.settings}) == 3


def test_two_limited_results_of_one_model_are_both_there(records: Any) -> None:
    limited = [
        records.result("m", rate, protocol=FEW, complete=False, limited=True, clips_sha256=letter * 64)
        for rate, letter in ((0.3, "a"), (0.5, "b"))
    ]
    (setting,) = board(limited).settings
    assert {one.id for _, row in setting.apart for one in row.values()} == {one.id for one in limited}
    assert not setting.standings


def test_the_later_of_two_results_of_one_evaluation_counts(records: Any) -> None:
    old, new = (
        records.result("a", rate, protocol=FEW, seed=seed, started_at=f"2026-11-0{seed}T00:00:00+00:00")
        for seed, rate in ((1, 0.4), (2, 0.6))
    )
    made = board([new, old, new])
    assert made.results == [new]
    assert made.superseded == 1


def test_speed_is_of_the_run_that_embedded_most(records: Any) -> None:
    cached = records.result("a", protocol=FEW, embedded_clips=0)
    timed = records.result("a", protocol=Protocol(n_way=10, episodes=60), clips_per_s=125.0)
    assert board([cached]).entrants[0].speed is None
    speed = board([cached, timed]).entrants[0].speed
    assert speed is not None
    assert speed.clips_per_s == pytest.approx(125.0)


def test_protocols_that_no_id_can_tell_apart_get_ids_of_their_own(records: Any) -> None:
    names = ("custom", "音", "声", "../" * 30 + "a", "../" * 30 + "b")
    made = board([records.result("a", protocol=Protocol(name=name, episodes=60)) for name in names])
    ids = [setting.id for setting in made.settings]
    assert len(set(ids)) == len(names)
    assert all(re.fullmatch("[a-z0-9-]+", one) for one in ids)


def test_an_old_record_gives_way_to_one_that_tells_its_sounds(records: Any) -> None:
    now = records.result("a", 0.5, protocol=FEW)
    parts = {name: value for name, value in now if name not in ("schema_version", "kind", "id")}
    unsaid = now.provenance.model_copy(update={"content_sha256": None})
    old = type(now).create(**parts | {"provenance": unsaid})
    for both in ([old, now], [now, old]):
        assert board(both).results == [now]
    assert board([old]).results == [old]
    task = now.task.model_copy(update={"content_sha256": now.provenance.content_sha256})
    own = type(now).create(**parts | {"task": task})
    found = board([old, own])
    assert (found.results, found.superseded) == ([own], 1)
    assert len(found.settings[0].columns) == 1
