"""What fewshot says of its results together: the best, intervals for new data, differences; on stdout and as JSON."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scipy import stats

from uamix_bench.cli.scores import show_results
from uamix_bench.comparison.ranking import Ranking, rank
from uamix_bench.records.record import HalfInterval
from uamix_bench.records.results import Episodes, Result, Score
from uamix_bench.records.store import ResultStore

from .conftest import SMALL, Bench


@pytest.fixture
def results(bench: Bench, sounds: Path) -> list[Result]:
    bench("fewshot", "-m", "logmel,random", "-t", sounds, *SMALL)
    return [result for _, result in ResultStore()]


def with_intervals(result: Result, accuracy: float | None = None, **given: float | str) -> Result:
    """With half-widths or, as texts, the reasons why there are none."""
    changes = {
        name: HalfInterval(half_width=None, reason=one) if isinstance(one, str) else HalfInterval(half_width=one)
        for name, one in given.items()
    }
    intervals = result.score.intervals.model_copy(update=changes)
    accuracy = result.score.accuracy if accuracy is None else accuracy
    return result.model_copy(update={"score": Score(accuracy=accuracy, intervals=intervals)})


def printed(capsys: pytest.CaptureFixture[str], results: list[Result], ranking: Ranking | None = None) -> str:
    capsys.readouterr()
    show_results(results, ranking or rank(results))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    return out


def test_the_best_is_marked_and_json_has_the_same_facts(bench: Bench, sounds: Path) -> None:
    arguments = ("fewshot", "-m", "logmel,random,logmel", "-t", sounds, *SMALL)
    table, envelope = bench(*arguments).out, bench(*arguments, "--json").envelope
    first, second = (Result.model_validate(result, strict=False) for result in envelope["results"])
    comparison = envelope["comparison"]
    better = max((first, second), key=lambda result: result.score.accuracy)
    assert comparison["best"] == [better.id]
    (found,) = comparison["differences"]
    test = stats.ttest_rel(second.accuracies(), first.accuracies())
    assert (found["result"], found["reference"]) == (second.id, first.id)
    assert found["p"] == found["p_holm"] == pytest.approx(test.pvalue)
    assert found["difference"] == pytest.approx(second.score.accuracy - first.score.accuracy)
    assert (found["ci95_clips"], found["ci95_clips_reason"]) == (None, "needs 10,000 episodes, has 40")
    alike = [] if test.pvalue < 0.05 else [min((first, second), key=lambda result: result.score.accuracy).id]
    assert comparison["not_distinguishable_from_best"] == alike
    assert [line.split()[0] for line in table.splitlines() if " (best) " in line] == [better.model.name]
    assert comparison["best_for_new_clips"] == []
    assert "(best): best on these clips; --episodes 10000 tests new clips" in table
    assert ("≈ cannot be told apart from the best" in table) == bool(alike)
    assert "--episodes 10000 adds intervals for new clips" in " ".join(table.split())
    alone = bench("fewshot", "-m", "logmel", "-t", sounds, *SMALL)
    assert "best" not in alone.out
    assert "Difference" not in alone.out


def test_intervals_for_new_data_stand_beside_the_conventional(
    results: list[Result], capsys: pytest.CaptureFixture[str]
) -> None:
    half = results[0].score.ci95
    assert half is not None
    out = printed(capsys, [with_intervals(results[0], clips=2.5 * half, classes=1.5 * half), results[1]])
    (row,) = [line for line in out.splitlines() if "(2.5x)" in line]
    assert row.split()[2:] == ["±", f"{100 * half:.2f}", "±", f"{250 * half:.2f}", "(2.5x)", "±", f"{150 * half:.2f}"]
    assert "more than twice as wide" in out
    out = printed(capsys, [with_intervals(result, clips=1.5 * half) for result in results])
    assert "x)" not in out
    assert "new classes" in out


def test_reasons_that_more_episodes_do_not_mend_are_printed(
    results: list[Result], capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = {"clips": "a class has 4 groups, and 8 are needed", "classes": "needs 4,000 episodes, has 40"}
    lacking = with_intervals(results[0], **reasons)
    out = printed(capsys, [lacking])
    assert "no interval for new clips: a class has 4 groups, and 8 are needed" in out
    assert "no interval for new classes" not in out
    assert "--episodes 10000" in out
    elsewhere = results[1].model_copy(update={"task": results[1].task.model_copy(update={"name": "local/more"})})
    both = printed(capsys, [lacking, elsewhere], rank([]))
    assert "no interval for new clips on local/tones: a class has 4 groups" in both


def test_the_share_of_queries_that_share_a_group_is_told(
    results: list[Result], capsys: pytest.CaptureFixture[str]
) -> None:
    def sharing(share: float | None) -> list[Result]:
        return [result.model_copy(update={"episodes": shared(result, share)}) for result in results]

    def shared(result: Result, share: float | None) -> Episodes:
        return result.episodes.model_copy(update={"shared_group_share": share})

    words = " ".join(printed(capsys, [*sharing(0.019), *sharing(0.154)], rank([])).split())
    assert "share their group with a support clip: local/tones 1.9 to 15.4% (--group-disjoint)" in words
    assert "local/tones 8.7% (--group-disjoint)" in " ".join(printed(capsys, sharing(0.087)).split())
    assert "share their group" not in printed(capsys, [*sharing(0.0), *sharing(None)], rank([]))


def test_no_certainty_from_episodes_that_are_all_alike(
    bench: Bench, sounds: Path, results: list[Result], capsys: pytest.CaptureFixture[str]
) -> None:
    done = bench("fewshot", "-m", "logmel", "-t", sounds, *SMALL[:-2], "--episodes", "1")
    (one,) = [result for _, result in ResultStore() if result.protocol.episodes == 1]
    wilson = stats.binomtest(one.episodes.correct[0], 12).proportion_ci(method="wilson")
    assert f"{100 * wilson.low:.1f} to {100 * wilson.high:.1f} by Wilson's 95% bounds for 12 trials" in done.out
    perfect = with_intervals(results[0], 1.0, episodes=0.0)
    wilson = stats.binomtest(40, 40).proportion_ci(method="wilson")
    assert f"{100 * wilson.low:.1f} to 100.0 by Wilson's" in printed(capsys, [perfect], rank([]))


def test_a_sweep_fits_a_narrow_terminal(
    bench: Bench, sounds: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench("fewshot", "-m", "logmel,random", "-t", sounds, "--n", "2,3", "--q", "4", "--episodes", "20")
    results = [result for _, result in ResultStore()]
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")  # plain text
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    out = printed(capsys, results)
    assert "…" not in out
    assert next(line.split()[:3] for line in out.splitlines() if line.startswith("model")) == [
        "model",
        "1-shot",
        "clips/s",
    ]


def test_shots_are_columns_and_what_is_too_wide_is_continued_below(
    bench: Bench, sounds: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shots = [1, 2, 3, 4, 5, 6]
    arguments = ("--n", "2", "--k", ",".join(map(str, shots)), "--q", "1", "--episodes", "20")
    wide = bench("fewshot", "-m", "logmel,random", "-t", sounds, *arguments).out
    (heading,) = [line.split() for line in wide.splitlines() if line.startswith("model ") and "1-shot" in line]
    assert heading == ["model", *(f"{shot}-shot" for shot in shots), "clips/s", "episodes/s"]
    results = [result for _, result in ResultStore()]
    (row,) = [line for line in wide.splitlines() if line.startswith("logmel") and "±" in line and "%" not in line][:1]
    means = {one.protocol.k_shot: one.score.accuracy for one in results if one.model.name == "logmel"}
    assert re.findall(r"(\d+\.\d+) ±", row) == [f"{100 * means[shot]:.2f}" for shot in shots]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    narrow = printed(capsys, sorted(results, key=lambda one: one.protocol.k_shot))
    tables = [line.split()[1:] for line in narrow.splitlines() if line.startswith("model ") and "-shot" in line]
    assert len(tables) > 1
    assert [word for words in tables for word in words if word.endswith("-shot")] == heading[1:-2]
    assert "…" not in narrow
