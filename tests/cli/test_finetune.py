"""`finetune` as a user runs it: plans, tables, JSON, mistakes, being stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import Bench

SMALL = ("--set", "frames=[16]", "--set", "batch=8", "--set", "checkpoint_every=2", "--folds", "2")


def test_a_probe_prints_its_score_and_keeps_the_record(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    probe = ("finetune", "--model", "random", "--task", sounds, "--freeze", "all", "--folds", "2")
    done = bench(*probe, "-o", tmp_path)
    assert done.code == 0, done.err
    assert "linear probe" in done.out
    assert "2 folds drawn here" in done.out
    (path,) = tmp_path.rglob("probe-*.json")
    record = json.loads(path.read_text())
    value, half = 100 * record["score"]["value"], 100 * record["score"]["intervals"]["groups"]["half_width"]
    assert f"{value:.2f} ± {half:.2f}" in done.out
    again = bench(*probe, "-o", tmp_path, "--json")
    assert again.envelope["results"] == [
        {**record, **{key: again.envelope["results"][0][key] for key in ("cost", "provenance")}}
    ]
    assert [path] == list(tmp_path.rglob("probe-*.json"))


def test_shares_give_one_result_each(bench: Bench, sounds: Path) -> None:
    done = bench("finetune", "--task", sounds, "--freeze", "all", "--fraction", "0.25,1", "--folds", "2", "--json")
    results = done.envelope["results"]
    assert [result["setting"]["fraction"] for result in results] == [0.25, 1.0]
    assert [len(result["runs"]) for result in results] == [6, 6]  # two folds, three seeds
    clips = [{run["train_clips"] for run in result["runs"]} for result in results]
    assert clips == [{4}, {16}]


@pytest.mark.over_3s
def test_labels_are_counted_too_and_stand_beside_few_shot_results(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    probe = (
        "finetune",
        "-m",
        "logmel",
        "--task",
        sounds,
        "--freeze",
        "all",
        "--folds",
        "2",
        "-o",
        tmp_path / "results",
    )
    done = bench(*probe, "--fraction", "0.5,3", "-k", "1", "--json")
    results = done.envelope["results"]
    assert [(one["setting"]["fraction"], one["setting"].get("shots")) for one in results] == [
        (0.5, None),
        (None, 3),
        (None, 1),
    ]
    assert "shots" not in results[0]["setting"]  # so that no earlier id moves
    assert [one["runs"][0]["train_clips"] for one in results] == [8, 12, 4]
    shown = bench(*probe, "--fraction", "3")
    assert "3 a class" in shown.out
    assert "reused" in shown.err
    assert "--k 5: a class has 4 training clips in a fold; give at most 4" in bench(*probe, "-k", "5").err
    bench(
        "fewshot",
        "-m",
        "logmel",
        "-t",
        sounds,
        "--n",
        4,
        "--k",
        3,
        "--q",
        2,
        "--episodes",
        9,
        "-o",
        tmp_path / "results",
    )
    assert bench("report", tmp_path / "results", "-o", tmp_path / "page").code == 0
    page = (tmp_path / "page" / "fewshot.md").read_text().partition("## Beside fine-tunings and probes")[2]
    rows = [
        [cell.strip() for cell in line.split("|")[3:6]] for line in page.splitlines() if line.startswith("| logmel")
    ]
    assert rows == [
        ["linear probe", "4", "1"],
        ["few-shot, nearest-centroid", "4", "3"],
        ["linear probe", "4", "2 (50%)"],
        ["linear probe", "4", "3"],
    ] or sorted(row[2] for row in rows) == ["1", "2 (50%)", "3", "3"]


def test_the_table_fits_100_columns(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    shutil.copytree(sounds, tmp_path / "speech-comm")  # with local/ as long as speech-commands@1
    shown = ("--model", "audiomae-tiny", "--task", tmp_path / "speech-comm", "--fraction", "0.125,1", "--folds", "2")
    for method in (("--freeze", "all"), ("--freeze", "3", *SMALL, "--set", "epochs=1", "--seeds", "2")):
        done = bench("finetune", *shown, *method)
        assert done.code == 0, done.err
        assert max(map(len, done.out.splitlines())) <= 100, done.out
        assert done.out.count("local/speech-comm: 2 folds drawn here, groups whole") == 1


def test_a_dry_run_plans_and_writes_nothing(bench: Bench, sounds: Path, bench_home: Path) -> None:
    done = bench("finetune", "--task", sounds, *SMALL, "--set", "epochs=3", "--dry-run", "--json")
    (plan,) = done.envelope["items"]
    assert (plan["steps"], [run["train_clips"] for run in plan["runs"]]) == (2 * 3 * 2, [16, 16])
    assert plan["estimated_s"] > 0
    assert not (bench_home / "training").exists()
    assert not (bench_home / "results").exists()
    table = bench("finetune", "--task", sounds, *SMALL, "--dry-run")
    assert "steps" in table.out


def test_a_dry_run_says_what_must_be_known_of_the_sounds(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    rows = [f"{path},{path.parent.name},0.5" for path in sorted(sounds.rglob("*.wav"))]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,start", *rows]))
    done = bench("finetune", "--task", tmp_path / "list.csv", *SMALL, "--dry-run")
    assert "columns: column start of the list is not used" in done.out
    trained = bench("tune", "--data", tmp_path / "list.csv", "--dry-run", "--json")
    assert trained.envelope["items"][0]["notes"][0].startswith("columns: column start of the list is not used")


def test_a_task_brings_its_recipe(bench: Bench, tmp_path: Path) -> None:
    bench("tasks", "miniature", "esc50", tmp_path / "esc50")
    from uamix_bench.plugins import registry

    if not (tmp_path / "esc50").exists():
        registry.find_task("esc50").load()().miniature(tmp_path / "esc50", classes=3, clips_per_class=10)
    done = bench("finetune", "--task", "esc50", "--data-dir", tmp_path / "esc50", "--dry-run", "--json")
    (plan,) = done.envelope["items"]
    assert plan["recipe"]["name"] == "audiomae-esc50"
    assert [run["fold"] for run in plan["runs"]] == [f"fold{number}" for number in range(1, 6)]


@pytest.mark.over_3s
def test_audiosets_own_lists_are_scored_by_map(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    lists: dict[str, list[str]] = {"train": [], "eval": []}
    for label in ("low", "mid", "high", "top"):
        for index in range(8):
            name = f"{label}{index:08d}"
            (clips / f"Y{name}.wav").write_bytes((sounds / label / f"{index}.wav").read_bytes())
            classes = f"/m/{label},/m/even" if index % 2 else f"/m/{label}"
            lists["train" if index < 5 else "eval"].append(f'{name}, 0.000, 10.000, "{classes}"')
    for name, rows in lists.items():
        header = "# Segments csv\n# num_ytids=1\n# YTID, start_seconds, end_seconds, positive_labels\n"
        (tmp_path / f"{name}.csv").write_text(header + "\n".join(rows) + "\n")
    lists_and_clips = ("--task", tmp_path / "train.csv", "--test", tmp_path / "eval.csv", "--audio-root", clips)
    done = bench("finetune", *lists_and_clips, "--freeze", "all", "--json")
    (result,) = done.envelope["results"]
    assert result["setting"]["metric"] == "mAP"
    (run,) = result["runs"]
    assert (run["train_clips"], sum(count for _, count in run["groups"])) == (20, 12)
    assert set(run["average_precision"]) == {"/m/low", "/m/mid", "/m/high", "/m/top", "/m/even"}
    assert result["score"]["value"] > 0.5
    with_recipe = bench("finetune", *lists_and_clips, "--recipe", "audiomae-audioset20k", "--dry-run", "--json")
    assert with_recipe.envelope["items"][0]["recipe"]["loss"] == "binary"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--recipe", "tinny"], 2, "did you mean 'tiny'?"),
        (["--set", "epoch=1"], 2, "did you mean 'epochs'?"),
        (["--set", "loss=binary"], 2, "set smoothing=0 under the binary loss"),
        (["--freeze", "most"], 2, "neither a number from 0 on nor 'all'"),
        (["--freeze", "6"], 0, ""),
        (["--freeze", "7"], 2, "the model has 6 blocks"),
        (["--model", "logmel"], 2, "--freeze all for a linear probe"),
        (["--fraction", "0"], 2, "is not above 0"),
        (["--fraction", "1.5"], 2, "is not at most 1"),
        (["--label-separator", "q"], 0, ""),
        (["--test", "esc50"], 2, "joins your own data alone"),
        (["--task", "esk50"], 2, "did you mean 'esc50'?"),
        (["--task", "esc50"], 3, "no ESC-50-master/meta/esc50.csv"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], code: int, words: str, bench: Bench, sounds: Path) -> None:
    done = bench("finetune", "--task", sounds, *SMALL, *arguments, "--dry-run", "--quiet")
    assert done.code == code, done.err
    assert not code or words in done.error


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.over_3s
def test_sigterm_saves_and_the_same_command_continues(sounds: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "UAMIX_BENCH_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    arguments = [
        "finetune",
        "--task",
        sounds,
        *SMALL,
        "--set",
        "epochs=12",
        "--training-dir",
        tmp_path / "out",
        "--json",
    ]
    command = [sys.executable, "-m", "uamix_bench", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").rglob("*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert json.loads(out)["error"]["exit_code"] == 143
    assert "repeat the command to resume" in errors
    assert "Traceback" not in errors
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    assert "continuing from fine-tuning fold1-seed0, step" in done.stderr
    assert len(json.loads(done.stdout)["results"][0]["runs"]) == 2


@pytest.mark.parametrize("command", ["finetune", "ablate"])
def test_several_processes_are_refused_by_one_line(
    command: str, bench: Bench, bench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    refused = bench(command, "--json")
    assert refused.code == 2
    assert "works in one process, and WORLD_SIZE says that 2 were started; run it without torchrun" in refused.error
    assert refused.envelope["command"] == command
    monkeypatch.setenv("RANK", "1")
    silent = bench(command, "--json")
    assert (silent.code, silent.out, silent.err) == (2, "", "")
    assert not bench_home.exists()
