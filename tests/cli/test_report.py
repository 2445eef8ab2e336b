"""report from the command line: from kept results to pages, with confusions and t-SNE from the cache, without torch."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from uamix_bench.records.store import ResultStore
from uamix_bench.tasks.miniature import make
from uamix_bench.util import files

from ..sample_records import few_shot, training
from .conftest import SMALL, Bench


@pytest.fixture
def results(bench: Bench, tmp_path: Path) -> Path:
    """Results of two floors on four classes of ESC-50, whose embeddings are cached."""
    make("esc50", tmp_path / "data" / "esc50", classes=4, clips_per_class=6, seconds=0.1)
    done = bench("fewshot", "-m", "logmel,random", "-t", "esc50", "--data-dir", tmp_path / "data", *SMALL)
    assert done.code == 0, done.err
    return files.home() / "results"


def test_results_become_a_page_with_confusions_and_clusters(bench: Bench, results: Path, tmp_path: Path) -> None:
    more = ("--data-dir", tmp_path / "data", "--tsne", "dog,cow,pig", "-o", tmp_path / "out")
    done = bench("report", results, *more)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [str(tmp_path / "out" / name) for name in ("fewshot.html", "fewshot.md")]
    page = (tmp_path / "out" / "fewshot.md").read_text(encoding="utf-8")
    for words in (
        "Confusion matrix of logmel",
        "Most often confused by random",
        "3 classes of esc50 by t-SNE",
        "silhouette",
    ):
        assert words in page
    assert "No confusion matrix" not in page
    again = tmp_path / "again"
    assert bench("report", *results.rglob("*.json"), *more[:-1], again).code == 0
    assert (again / "fewshot.html").read_bytes() == (tmp_path / "out" / "fewshot.html").read_bytes()


def test_every_setting_has_its_confusions_and_a_model_its_colour(bench: Bench, results: Path, tmp_path: Path) -> None:
    asked = ("-m", "logmel,random", "-t", "esc50", "--data-dir", tmp_path / "data", *SMALL)
    assert bench("fewshot", *asked, "--k", 2).code == 0
    assert bench("report", results, "--data-dir", tmp_path / "data", "-o", tmp_path / "out").code == 0
    page = (tmp_path / "out" / "fewshot.md").read_text(encoding="utf-8")
    other = page.partition("## Confusions at the other settings")[2].partition("\n## ")[0]
    for model in ("logmel", "random"):
        assert page.count(f"**Confusion matrix of {model}, %**") == 2
        assert other.count(f"**Confusion matrix of {model}, %**") == 1
    assert page.count("Shares of confusions are of") == 1


@pytest.mark.over_3s
def test_classes_that_only_one_of_two_tasks_has_are_shown_of_that_one(
    bench: Bench, results: Path, sounds: Path, tmp_path: Path
) -> None:
    assert bench("fewshot", "-m", "logmel,random", "-t", sounds, *SMALL).code == 0
    more = ("--data-dir", tmp_path / "data", "--task", sounds, "-o", tmp_path / "out")
    assert bench("report", results, *more, "--tsne", "dog,cow").code == 0
    page = (tmp_path / "out" / "fewshot.md").read_text(encoding="utf-8")
    assert "2 classes of esc50 by t-SNE" in page
    assert f"dog is no class of local/{sounds.name}" in page
    assert bench("report", results, *more, "--tsne", "dog,absent").code == 2


def test_no_torch_is_imported_and_a_notebook_s_backend_not_needed(results: Path, tmp_path: Path) -> None:
    """A notebook's kernel leaves its matplotlib backend in the environment of the commands it starts."""
    environment = {**os.environ, "MPLBACKEND": "module://of_the_notebook.alone"}
    code = (
        "import sys; from uamix_bench.cli import main; code = main(sys.argv[1:]);"
        "assert not {'torch', 'timm'} & set(sys.modules), 'heavy'; sys.exit(code)"
    )
    asked = ["report", str(results), "--data-dir", str(tmp_path / "data"), "--tsne", "default", "-o", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *asked], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Confusion matrix of logmel" in (tmp_path / "fewshot.md").read_text(encoding="utf-8")


def test_each_kind_gets_a_page_and_what_is_no_record_is_set_aside(bench: Bench, results: Path, tmp_path: Path) -> None:
    store = ResultStore()
    store.write(training())
    (results / "recipe.json").write_text("{}")
    refused = bench("report", results, "-o", tmp_path / "out")
    assert refused.code == 3
    assert "recipe.json: says no kind of record" in refused.error
    assert not (tmp_path / "out").exists()
    done = bench("report", results, "-o", tmp_path / "out", "--keep-going", "--json")
    assert done.code == 6
    assert [(item["kind"], item["records"]) for item in done.envelope["items"]] == [("fewshot", 2), ("training", 1)]
    assert (tmp_path / "out" / "training.html").is_file()


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["nowhere.json"], 3, "nowhere.json: no such file"),
        (["."], 3, ".: holds no record; run 'uamix-bench fewshot' first"),
        ([], 3, "results: holds no record; run 'uamix-bench fewshot' first"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = bench("report", *words)
    assert done.code == code
    assert line in done.error


def test_a_class_that_is_not_there_and_a_kind_without_embeddings(bench: Bench, results: Path, tmp_path: Path) -> None:
    done = bench("report", results, "--data-dir", tmp_path / "data", "--tsne", "dog,pigg")
    assert done.code == 2
    assert "--tsne pigg: is no class of esc50; did you mean 'pig'?" in done.error
    path = ResultStore(tmp_path / "trainings").write(training())
    assert bench("report", path, "--tsne", "default").code == 2
    path.write_text(json.dumps({"kind": "unheard"}))
    assert "is of the kind 'unheard'" in bench("report", path).error


def test_a_folder_that_changed_is_shown_by_its_newest_version_in_every_form(
    bench: Bench, sounds: Path, tmp_path: Path
) -> None:
    folder, asked = tmp_path / "mine", ("-m", "logmel,random", *SMALL)
    shutil.copytree(sounds, folder)
    old = bench("fewshot", "-t", folder, *asked, "--json").envelope["results"]
    (folder / "low" / "3.wav").unlink()
    new = bench("fewshot", "-t", folder, *asked, "--json").envelope["results"]
    shown, gone = ([f"{100 * one['score']['accuracy']:.1f} ± " for one in results] for results in (new, old))
    results, line = files.home() / "results", "local/mine: 2 records of an earlier version of the data"
    for command, page in (
        (("report", results, "-o", tmp_path / "out"), "out/fewshot.md"),
        (("leaderboard", "build", results, "-o", tmp_path / "site"), "site/index.md"),
    ):
        done = bench(*command)
        assert done.code == 0
        assert done.err.startswith(line)
        text = (tmp_path / page).read_text(encoding="utf-8")
        assert line in text
        assert all(score in text for score in shown)
        assert not any(score in text for score in gone if score not in shown)
    alone = [path for path in results.rglob("*.json") if old[0]["id"][:12] in path.name]
    assert bench("report", *alone, "-o", tmp_path / "alone").err == ""
    assert gone[0] in (tmp_path / "alone" / "fewshot.md").read_text(encoding="utf-8")
    exported = bench("results", "export", results)
    assert exported.err.startswith(line)
    assert sorted(row["id"] for row in csv.DictReader(io.StringIO(exported.out))) == sorted(one["id"] for one in new)
    assert bench("results", "export", results, "--format", "latex").code == 0


def test_models_that_left_out_the_same_broken_clips_are_compared(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(sounds, folder)
    for name in ("low/3.wav", "mid/4.wav"):
        (folder / name).write_bytes(b"RIFF")
    asked = ("fewshot", "-t", folder, "-m", "logmel,random", *SMALL)
    done = bench(*asked, "--keep-going")
    assert done.code == 6
    assert "Difference to logmel on the same episodes" in done.out
    assert " best " in done.out
    said = " ".join(done.out.split())
    assert (
        said.count("left out") == said.count("logmel, random on local/cut: partial (2 broken clips left out: low") == 1
    )
    assert bench("report", files.home() / "results", "-o", tmp_path / "out", "--task", folder).code == 0
    page = (tmp_path / "out" / "fewshot.md").read_text(encoding="utf-8")
    assert "| logmel less random | local/cut less 2 clips |" in page
    assert page.count("local/cut less 2 clips: without low/3.wav") == 1
    assert "Confusion matrix of logmel" in page  # its episodes are drawn again, without these clips
    (logmel, random) = (record for _, record in ResultStore())
    assert logmel.episodes.digest == random.episodes.digest
    one = bench(*asked, "--keep-going", "--limit", "6")
    assert "Difference" not in one.out


def test_what_a_model_was_trained_on_is_unknown_where_nothing_is_said(bench: Bench, tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    path = store.write(few_shot())
    store.write(few_shot(model=few_shot().model.model_copy(update={"name": "fresh", "pretrained_on": ("none",)})))
    assert "pretrained on: unknown" in " ".join(bench("results", "show", path).out.replace("_", " ").split())
    exported = csv.DictReader(io.StringIO(bench("results", "export", tmp_path).out))
    assert {row["model"]: row["pretrained_on"] for row in exported} == {"m": "unknown", "fresh": "none"}
    assert bench("report", tmp_path, "-o", tmp_path / "out").code == 0
    assert bench("leaderboard", "build", path, "-o", tmp_path / "site").code == 0
    assert "pre-trained on: unknown" in (tmp_path / "out" / "fewshot.md").read_text(encoding="utf-8")
    assert "| unknown |" in (tmp_path / "site" / "index.md").read_text(encoding="utf-8")
    assert "pre-trained on: none" in (tmp_path / "out" / "fewshot.md").read_text(encoding="utf-8")
    assert "nothing" not in bench("models", "ls").out
