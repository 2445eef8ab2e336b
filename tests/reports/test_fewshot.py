"""The report of few-shot results: what it says is what the records hold, in both forms, whatever they are called."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from uamix_bench.records.finetune_record import FinetuneRun, FinetuneScore, GroupIntervals
from uamix_bench.records.record import HalfInterval, Status
from uamix_bench.records.results import Result
from uamix_bench.reports import clusters, figures
from uamix_bench.reports.board import board
from uamix_bench.reports.curves import accuracy_curves
from uamix_bench.reports.fewshot import report
from uamix_bench.scoring.metrics import clustered_interval
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.util.errors import UsageError

from ..sample_records import few_shot, finetuned
from .records import grid, result


@pytest.fixture(autouse=True)
def _empty_home(bench_home: Any) -> None:
    """No data set is here, so no confusion matrix can be had."""


@pytest.mark.over_3s
def test_every_accuracy_and_difference_is_there_in_both_forms() -> None:
    results = grid(tasks=2, ways=(5, 10), shots=(1, 5), models=3)
    page = report(results)
    for one in results:
        assert f"{100 * one.score.accuracy:.1f} ± {100 * (one.score.ci95 or 0):.1f}" in page.markdown
        assert f">{100 * one.score.accuracy:.1f}" in page.html
    for words in ("Accuracy over shots, 5-way", "Accuracy over ways, 1-shot", "Accuracy over shots, 10-way"):
        assert words in page.html
        assert words in page.markdown
    assert page.markdown.count("| audiomae less uamix |") == 2 * 4
    best = max((one for one in results if one.task.name == "esc50" and one.protocol.k_shot == 5), key=by_accuracy)
    assert f"**{100 * best.score.accuracy:.1f} ±" in page.markdown


def by_accuracy(one: Result) -> float:
    return one.score.accuracy


def test_what_is_missing_is_said_in_one_line() -> None:
    page = report([result("a"), result("b")])
    assert page.markdown.count("No confusion matrix of a, b: ") == 1
    assert "no ESC-50-master/meta/esc50.csv in " in page.markdown
    assert "over shots" not in page.markdown.lower()
    with pytest.raises(UsageError, match="--tsne: no embeddings exist"):
        report([result("a")], tsne=["default"])
    with pytest.raises(UsageError, match="no few-shot result"):
        report([])


def in_figures(results: list[Result]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """By figure and panel, the shots of each line."""
    with pytest.MonkeyPatch.context() as patch:
        drawn: dict[str, dict[str, dict[str, list[float]]]] = {}

        def curves(title: str, panels: Any, **_: Any) -> Any:
            drawn[title] = {name: {line.label: list(line.x) for line in lines} for name, lines in panels.items()}
            return title

        patch.setattr(figures, "curves", curves)
        list(accuracy_curves(board(results).settings)[1])
    return drawn


def test_cells_of_other_classes_or_clips_share_no_curve() -> None:
    """Of 12 classes, 3 have clips enough for 5 shots no more; one sweep was made of the others, one cell of all."""
    few = tuple(f"class {number:04d}" for number in range(9))
    fewest = {1: 20, 3: 20, 5: None}
    swept = [
        result("a", 0.5, task="own", protocol=Protocol(k_shot=k, min_clips=least), labels=few, left_out=3)
        for k, least in fewest.items()
    ]
    whole = result("a", 0.7, task="own", protocol=Protocol(k_shot=1))
    assert in_figures(swept) == {"Accuracy over shots, 5-way": {"own@1, 9 of 12 classes": {"a": [1, 3, 5]}}}
    assert in_figures([*swept, whole]) == in_figures(swept)
    assert in_figures([whole, swept[2]]) == {}
    also = result("a", 0.7, task="own", protocol=Protocol(k_shot=3))
    both = in_figures([*swept, whole, also])["Accuracy over shots, 5-way"]
    assert both == {"own@1": {"a": [1, 3]}, "own@1, 9 of 12 classes": {"a": [1, 3, 5]}}
    other = result("a", 0.7, task="own", protocol=Protocol(k_shot=5), clips_sha256="c" * 64)
    assert in_figures([whole, other]) == {}
    page = report([*swept, whole])
    cells = ["5-way 1-shot", *(f"5-way {shots}-shot, 9 of 12 classes" for shots in (1, 3, 5))]
    assert f"| model | {' | '.join(cells)} |" in page.markdown


def test_partial_results_are_shown_apart_and_never_best() -> None:
    page = report([result("whole", 0.4), result("part", 0.9, complete=False, limited=True)])
    assert "a part of each class, not ranked" in page.markdown
    assert "less" not in page.markdown.partition("## Results")[0]


def test_the_wide_intervals_are_shown_with_what_they_speak_of() -> None:
    one = result("a")
    wide = {"clips": HalfInterval(half_width=0.0213), "classes": HalfInterval(half_width=0.0357)}
    intervals = one.score.intervals.model_copy(update=wide)
    score = one.score.model_copy(update={"intervals": intervals})
    parts = {name: value for name, value in one if name not in ("schema_version", "kind", "id")}
    page = report([Result.create(**parts | {"score": score})])
    assert "new clips | new classes too" in page.markdown
    assert "± 2.13 | ± 3.57" in page.markdown


def test_classes_of_any_number_and_name_are_shown() -> None:
    labels = tuple(f"<b>{number} | *" for number in range(90))
    page = report([result("a", task="local/own", labels=labels, protocol=Protocol(episodes=300))])
    assert "the 20 hardest and the 20 easiest of 90 classes" in page.markdown
    assert "<b>" not in page.html
    assert "local/own is someone&#39;s own data" in page.html


# --- clusters


def test_measures_are_those_of_a_plain_loop() -> None:
    generator = np.random.default_rng(1)
    class_of = np.repeat(np.arange(3), 8)
    group_of = np.arange(24) // 2
    vectors = (generator.normal(size=(24, 5)) + 1.5 * class_of[:, None] + 100).astype(np.float32)
    found = clusters.measure(vectors, class_of, group_of)
    distances = cdist(vectors, vectors)
    widths, pure = [], []
    for at in range(24):
        means = [distances[at, (class_of == c) & (np.arange(24) != at)].mean() for c in range(3)]
        own = means.pop(int(class_of[at]))
        widths.append((min(means) - own) / max(own, *means[:0], min(means)))
        others = np.flatnonzero(group_of != group_of[at])
        pure.append(class_of[others[distances[at, others].argmin()]] == class_of[at])
    assert found.silhouette == pytest.approx(np.mean(widths), abs=1e-6)
    assert found.purity == pytest.approx(np.mean(pure))


def test_places_are_the_same_each_time_and_keep_far_classes_apart() -> None:
    vectors = np.random.default_rng(2).normal(size=(40, 6)).astype(np.float32)
    vectors[20:] += 30
    placed = clusters.place(vectors)
    assert np.array_equal(placed, clusters.place(vectors))
    near = cdist(placed, placed)
    np.fill_diagonal(near, np.inf)
    assert (near.argmin(axis=1) // 20 == np.arange(40) // 20).all()


def test_the_default_classes_are_the_paper_s_where_they_are() -> None:
    of_esc50 = [*clusters.PAPER_CLASSES["esc50"], "zebra"]
    assert clusters.choose("esc50", of_esc50)[:4] == ["sea_waves", "wind", "siren", "rain"]
    assert clusters.choose("esc50", list("jihgfedcba")) == list("abcdefgh")
    assert clusters.choose("x", list("abc"), ["c", "a", "c"]) == ["c", "a"]
    with pytest.raises(UsageError, match="is no class of x; did you mean 'wind'"):
        clusters.choose("x", ["wind", "rain"], ["win"])
    with pytest.raises(UsageError, match="name two or more"):
        clusters.choose("x", ["wind", "rain"], ["wind"])


def test_tables_of_other_protocols_say_what_is_other() -> None:
    plain = Protocol(episodes=100)
    protocols = [
        plain,
        *(plain.model_copy(update=change) for change in ({"group_disjoint": True}, {"segments": "mean"})),
    ]
    page = report([result(protocol=one) for one in protocols] + [result(protocol=plain, dtype="bf16")])
    captions = [line for line in page.markdown.splitlines() if line.startswith("**esc50@1: 100 episodes, 15 queries")]
    assert [caption.removesuffix("**").partition("seed 0")[2] for caption in captions] == [
        "",
        ", bf16",
        ", group-disjoint",
        ", segments mean",
    ]


def test_scores_beside_fine_tunings_are_marked_as_everywhere() -> None:
    task = result().task
    known = result("known", pretrained_on=("ESC-50",))
    partial = result("part", limited=True, complete=False)
    groups = FinetuneRun.model_validate(
        {**finetuned().runs[0].model_dump(), "correct": "111111", "per_class": {"a": (3, 3), "b": (3, 3)}}
    )
    score = FinetuneScore(
        value=1.0,
        intervals=GroupIntervals(groups=HalfInterval.of(clustered_interval([groups.tested()]))),
        method="t(G - 1) x cluster-robust standard error over G groups",
        seeds_std=None,
    )
    status = Status(complete=False, limited=True)
    perfect = finetuned(runs=(groups,), score=score, task=task, status=status)
    page = report([known, partial], supervised=[perfect])
    rows = page.markdown.partition("## Beside fine-tunings and probes")[2].partition("## ")[0].splitlines()
    shown = {row.split(" | ")[0].strip("| "): row for row in rows if row.startswith("| ")}
    assert " † |" in shown["known"]
    assert "(a part of each class, not ranked)" in shown["part"]
    assert (
        "| 100.0 ? (partial, not ranked; no interval: every test clip is right, so there is no spread) |" in shown["m"]
    )
    assert any(row.startswith("† The model was trained on data of this task") for row in rows)


def test_a_score_of_100_percent_is_shown_without_an_interval() -> None:
    perfect, same = few_shot((4, 4, 4)), few_shot((4, 4, 4), model=few_shot().model.model_copy(update={"name": "n"}))
    page = report([perfect, same])
    assert "**100.0 ?** (best on these clips; all episodes alike: no interval)" in page.markdown
    assert "± 0.0" not in page.markdown.partition("## Differences")[0]
    assert "95%, these clips: not given: all episodes are alike" in page.markdown
    (row,) = [line for line in page.markdown.splitlines() if line.startswith("| m less n |")]
    assert row.endswith("| 1.000 |  |")
