"""``uamix-bench recommend`` on small folders: the answer in words and JSON, what is passed over, and --n all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from uamix_bench.evaluation.redraw import Redraw
from uamix_bench.evaluation.replay import Replay, replay
from uamix_bench.records.results import Result
from uamix_bench.records.store import ResultStore

from .conftest import Bench

QUICK = ("--episodes", "60", "--device", "cpu")
BROKEN = """
import torch
from uamix_bench import AudioModel

class Broken(AudioModel):
    sample_rate, embedding_dim = 16_000, 8

    def frontend(self, waveforms, lengths):
        raise ValueError("no such day")

    def tokens(self, spectrogram, lengths):
        raise ValueError("no such day")
"""


def test_the_answer_the_record_of_the_split_and_the_same_again(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    arguments = ("recommend", "--task", sounds, "-m", "logmel,random", *QUICK, "-o", tmp_path / "results")
    first = bench(*arguments)
    assert first.code == 0, first.err
    assert "Model" in first.out
    assert "16 clips; the figures are of the other 16 (seed 0)" in first.out
    assert "needs 10,000 episodes, has 60" in first.out
    assert "wrote 8 results" in first.err
    again = bench(*arguments, "--json")
    assert "reused 8 results" in again.err
    (found,) = again.envelope["items"]
    assert found["split"] == {"seed": 0, "chosen_on": "recommend-choosing", "reported_on": "recommend-reporting"}
    assert {one["model"] for one in found["models"]} == {"logmel", "random"}
    records = {record.id: record for _, record in ResultStore(tmp_path / "results")}
    curves = [point for one in found["models"] for point in one["curve"]]
    assert {point[half] for point in curves for half in ("choosing_id", "reporting_id")} == set(records)
    for point in curves:
        reported = records[point["reporting_id"]]
        assert isinstance(reported, Result)
        assert reported.score.accuracy == point["reporting"]
    redraw = Redraw(own=[str(sounds)])  # a report finds the halves again
    for record in records.values():
        assert isinstance(record, Result)
        assert isinstance(replay(record, redraw), Replay)
    other = bench(*arguments, "--seed", "1")
    assert "wrote 8 results" in other.err


def test_what_is_recommended_is_fitted_with_the_options_that_it_was_found_with(
    bench: Bench, sounds: Path, tmp_path: Path
) -> None:
    arguments = ("recommend", "-m", "logmel", *QUICK, "--clip-seconds", "0.1", "--input", "official")
    found = bench(*arguments, "--task", sounds, "--k", "1")
    use = found.out.splitlines()[-1].split()
    assert use[:4] == ["Use", "uamix-bench", "fit", "--model"]
    assert use[5:] == ["--task", str(sounds), "--clip-seconds", "0.1", "--input", "official"]
    (made,) = bench(*use[2:], "-o", tmp_path / "clf", "--json").envelope["items"]
    assert made["task"]["clip_seconds"] == 0.1
    assert {len(line) <= 80 for line in found.out.splitlines() if ": accuracy %" in line} == {True}
    listed = bench("results", "ls").out
    assert "choosing" in listed
    assert "reporting" in listed


def test_models_that_cannot_run_are_named_and_passed_over(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(BROKEN)
    own = f"{tmp_path / 'own.py'}:Broken"
    arguments = ("recommend", "--task", sounds, *QUICK)
    found = bench(*arguments, "-m", f"{own},logmel", "--json")
    assert found.code == 6
    assert f"passed over {own}" in found.err
    (item,) = found.envelope["items"]
    assert (item["model"], list(item["passed_over"])) == ("logmel", [own])
    assert "no such day" in item["passed_over"][own]
    alone = bench(*arguments, "-m", own, "--quiet")
    assert alone.code == 3
    assert "no such day" in alone.error


def test_a_broken_clip_is_left_out_and_what_is_known_of_new_clips_stays(bench: Bench, sounds: Path) -> None:
    folder = sounds.with_name("with_a_broken_one")
    shutil.copytree(sounds, folder)
    broken = next((folder / "low").iterdir())
    broken.write_bytes(b"no sound")
    arguments = ("recommend", "--task", folder, "-m", "logmel,random", *QUICK, "--quiet")
    refused = bench(*arguments)
    assert (refused.code, str(broken) in refused.error) == (3, True)
    found = bench(*arguments, "--keep-going", "--json")
    assert found.code == 6
    (item,) = found.envelope["items"]
    assert "needs 10,000 episodes" in item["covers_reason"]  # and not the clip table, which is here


def test_without_models_all_that_can_run_are_compared(bench: Bench, sounds: Path) -> None:
    found = bench("recommend", "--task", sounds, "--episodes", "20", "--k", "1", "--device", "cpu", "--json")
    assert found.code == 0, found.err
    (item,) = found.envelope["items"]
    assert {one["model"] for one in item["models"]} >= {"audiomae-tiny", "uamix-tiny", "logmel", "random"}
    assert "weights" in item["passed_over"]["beats"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--task", "synthetic,esc50"), "--task: names 2, and a recommendation is of one"),
        (("--gain", "0"), "percentage points above 0"),
        (("--n", "1"), "neither a number from 2 on nor 'all'"),
        (("--n", "5"), "5-way episodes need 5 classes"),
        (("--k", "4"), "--k 4: the smallest class has 4 clips in a half"),
        (("--min-clips", "9"), "0 of 4 classes have 9 clips or more"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(bench: Bench, sounds: Path, arguments: tuple[str, ...], words: str) -> None:
    task = () if "--task" in arguments else ("--task", sounds)
    found = bench("recommend", "-m", "logmel", "--quiet", *task, *arguments)
    assert found.code == 2
    assert words in found.error


def test_all_classes_that_have_enough_clips(bench: Bench, sounds: Path) -> None:
    fixed = ("fewshot", "-m", "logmel", "--task", sounds, "--q", "4", "--episodes", "30", "--device", "cpu", "--json")
    four, every = bench(*fixed, "--n", "4"), bench(*fixed, "--n", "all")
    assert [one["id"] for one in every.envelope["results"]] == [one["id"] for one in four.envelope["results"]]
    mixed = bench(*fixed, "--n", "2,all", "--k", "1,2", "--dry-run")
    assert [item["protocol"]["n_way"] for item in mixed.envelope["items"]] == [2, 2, 4, 4]
    none = bench("fewshot", "-m", "logmel", "--task", sounds, "--n", "all", "--k", "20", "--quiet")
    assert (none.code, "2-way episodes need 2 classes" in none.error) == (2, True)


def test_own_data_go_by_their_folder_in_every_command_on_results(
    bench: Bench, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without a slash, where no task has the folder's name."""
    monkeypatch.chdir(sounds.parent)
    results = tmp_path / "results"
    assert bench("fewshot", "-m", "logmel", "-t", sounds.name, *QUICK, "--n", "3", "--q", "2", "-o", results).code == 0
    for given in (sounds.name, f"{sounds.name}/", f"./{sounds.name}"):
        for command in (
            ("results", "verify", results),
            ("compare", results, results),
            ("leaderboard", "build", results, "-o", tmp_path / "site"),
            ("report", results, "-o", tmp_path / "report"),
            ("tasks", "info"),
        ):
            done = bench(*command, *([] if command[0] == "tasks" else ["--task"]), given)
            assert done.code == 0, done.err
            assert "not drawn again" not in done.err
