"""Columns, rows and ranks against scipy and against what the draw was made of."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats

from uamix_bench.reports.board import board
from uamix_bench.scoring.episodes import METAAUDIO, Protocol
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
