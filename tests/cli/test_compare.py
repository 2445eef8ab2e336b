"""The command: exit codes, streams, files for build servers, and faults of the bench that it must notice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from uamix_bench.cli import ci, main
from uamix_bench.data.clip_table import ClipTable
from uamix_bench.data.task import load_task
from uamix_bench.records.results import Result
from uamix_bench.records.store import ResultStore
from uamix_bench.scoring import classifiers, episodes

from ..comparison.test_timings import draw, file
from ..sample_records import few_shot
from .conftest import Bench

WEIGHTS = Path(__file__).parents[2] / "baselines" / "weights" / "uamix-tiny.safetensors"
REPOSITORY = Path(__file__).parents[2]


def store(folder: Path, *results: Result) -> Path:
    folder.mkdir(exist_ok=True)
    for result in results:
        ResultStore(folder).write(result)
    return folder


def many(seed: int, low: int = 1, **changes: Any) -> Result:
    return few_shot(tuple(np.random.default_rng(seed).integers(low, low + 4, 300).tolist()), **changes)


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    """A base, and a head that is a query worse."""
    return store(tmp_path / "base", many(0)), store(tmp_path / "head", many(1, low=0))


@pytest.fixture(autouse=True)
def no_build_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


def test_a_regression_ends_with_five_and_names_the_pair(bench: Bench, sides: tuple[Path, Path]) -> None:
    done = bench("compare", *sides, "--fail-on", "accuracy:1pp")
    assert done.code == 5
    assert "1 of 1 comparisons: fail accuracy:1pp: m.t@1" in done.error
    assert "FAILS, worse (these clips)" in done.out
    assert bench("compare", *sides).code == 0
    assert bench("compare", *reversed(sides), "--fail-on", "accuracy:1pp").code == 0
    assert bench("compare", sides[0], sides[0], "--fail-on", "accuracy:0pp").code == 0
    envelope = bench("compare", *sides, "--fail-on", "accuracy:1pp", "--json").envelope
    assert envelope["error"]["exit_code"] == 5
    (item,) = envelope["items"]
    assert (item["verdict"], item["failed"]) == ("worse", True)
    assert item["evidence"]["smallest"] > 0.01


def test_it_fails_closed(bench: Bench, tmp_path: Path, sides: tuple[Path, Path]) -> None:
    base, head = sides
    gate = ("--fail-on", "accuracy:1pp")
    empty = store(tmp_path / "empty")
    assert bench("compare", tmp_path / "absent", head, *gate).code == 3
    assert bench("compare", base, tmp_path / "absent", *gate).code == 3
    assert bench("compare", empty, head, *gate).code == 2
    assert "missing" in bench("compare", base, empty, *gate).out
    assert bench("compare", base, empty, *gate).code == 2
    assert bench("compare", base, base, "--fail-on", "min:10%").code == 2
    (path,) = base.rglob("*.json")
    path.write_text(path.read_text()[:-50])
    refused = bench("compare", base, head, *gate)
    assert (refused.code, refused.out) == (3, "")
    assert path.name in refused.error


def test_mixed_outcomes_are_a_regression(bench: Bench, tmp_path: Path) -> None:
    other = few_shot().model.model_copy(update={"name": "other"})
    third = few_shot().model.model_copy(update={"name": "third"})
    base = store(tmp_path / "base", many(0), many(0, model=other), many(0, model=third))
    head = store(tmp_path / "head", many(1, low=0), many(1, model=other))
    assert bench("compare", base, head, "--fail-on", "accuracy:1pp").code == 5
    assert bench("compare", base, head).code == 2


def test_files_for_a_build_server(
    bench: Bench, tmp_path: Path, sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    names = [tmp_path / name for name in ("comment.md", "page.html", "junit.xml")]
    options = zip(("--markdown", "--html", "--junit"), names, strict=True)
    done = bench("compare", *sides, "--fail-on", "accuracy:1pp", *(part for pair in options for part in pair), "--json")
    assert done.envelope["error"]["exit_code"] == 5  # stdout is one document all the same
    title = "title=m.t@1%2C 2-way 1-shot%2C 2 queries%2C 300 episodes"
    assert done.err.startswith(f"::error {title}::worse: -")
    assert names[0].read_text().startswith("# Regression: 1 of 1 comparisons fail accuracy:1pp")
    assert summary.read_text() == "before\n" + names[0].read_text()
    assert "<table" in names[1].read_text()
    root = ElementTree.parse(names[2]).getroot()
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("1", "1", "0")
    (case,) = root.iter("testcase")
    assert (case.get("classname"), case.get("name")) == ("m.t@1", "2-way 1-shot, 2 queries, 300 episodes")
    assert case.find("failure") is not None


def test_what_is_too_long_is_cut_and_says_so() -> None:
    text = "".join(f"| ü row {number} |\n" for number in range(10_000))
    content = ci.cut(text, 65_000)
    assert len(content) <= 65_000
    lines = content.decode().splitlines()
    assert lines[-1] == "Cut here: the whole report is longer than 65,000 bytes."
    assert lines[:100] == text.splitlines()[:100]
    assert ci.cut("short", 65_000) == b"short"
    assert ci.cut(text, 0) == b""


def test_workflow_commands_are_escaped(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    hostile = ci.Case("a:b,c%", "n\n::set-output name=x::y", "failed", "100%\r\n::error::forged")
    ci.annotate([hostile, *[hostile] * 20])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[0] == ("::error title=a%3Ab%2Cc%25%2C n%0A%3A%3Aset-output name=x%3A%3Ay::100%25%0D%0A::error::forged")
    assert lines[-1] == "::error::11 more comparisons failed"


def test_speed_and_accuracy_in_one_report(bench: Bench, tmp_path: Path, sides: tuple[Path, Path]) -> None:
    for folder, mean in zip(sides, (1.0, 1.5), strict=True):
        (folder / "timings.json").write_text(_text(file(draw(mean, 50, 1))))
    done = bench("compare", sides[0], sides[0], "--fail-on", "accuracy:1pp", "--fail-on", "min:10%")
    assert done.code == 0
    page = tmp_path / "page.md"
    done = bench("compare", *sides, "--fail-on", "min:10%", "--markdown", page)
    assert done.code == 5
    assert "speed, test_bench.py::test_0: slower: median +50.0%, fails min:10%" in done.error
    assert "**Accuracy**" in page.read_text()
    assert "**Speed**" in page.read_text()
    both = [folder / "timings.json" for folder in sides]
    assert bench("compare", *both, "--fail-on", "mean:10%").code == 5
    assert bench("compare", both[0], sides[1] / "t@1").code == 2


def test_it_needs_no_torch(sides: tuple[Path, Path]) -> None:
    arguments = ["compare", *map(str, sides)]
    code = (
        "import sys\nfrom uamix_bench.cli import main\nmain(sys.argv[1:])\nprint({'torch', 'timm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()"


# What follows evaluates a bundled model on a part of the bundled task.
_SETTING = ("--n", "5", "--k", "2", "--q", "5", "--episodes", "10000", "--quiet", "--no-cache")


@pytest.fixture(scope="session")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips of each of twelve classes of the synthetic task, as a CSV."""
    data = load_task("synthetic", tmp_path_factory.mktemp("synthetic"))
    table = data.table.to_pandas().groupby("label").head(12).groupby("label", sort=True)
    table = pd.concat([clips for number, (_, clips) in enumerate(table) if number % 5 == 0][:12])
    data.task.materialise(ClipTable(table))
    path = tmp_path_factory.mktemp("part") / "part.csv"
    table[["path", "label"]].to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def evaluated(part: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    assert main(["fewshot", "-m", "uamix-tiny", "--task", str(part), "-o", str(folder), *_SETTING]) == 0
    return folder


@pytest.fixture
def fault(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Breaks the bench; gives the model to evaluate."""
    model = "uamix-tiny"
    if request.param == "weights nudged":
        rng = np.random.default_rng(0)
        tensors = {
            name: (tensor + 0.6 * tensor.std() * rng.standard_normal(tensor.shape)).astype(tensor.dtype)
            for name, tensor in load_file(WEIGHTS).items()
        }
        with safe_open(WEIGHTS, "np") as opened:
            save_file(tensors, tmp_path / "nudged.safetensors", metadata=opened.metadata())
        model = f"uamix={tmp_path / 'nudged.safetensors'}"
    elif request.param == "centroid bug":
        sound = classifiers.CLASSIFIERS["nearest-centroid"]

        def shifted(vectors: Any, support: npt.NDArray[np.int64], query: npt.NDArray[np.int64]) -> Any:
            return sound(vectors, np.concatenate([support[:, :1, :], support[:, :-1, :]], axis=1), query)

        monkeypatch.setitem(classifiers.CLASSIFIERS, "nearest-centroid", shifted)
    elif request.param == "episode bug":
        ranks = episodes._ranks
        monkeypatch.setattr(episodes, "_ranks", lambda words, pool: ranks(words, pool)[::-1])
    return model


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("none", 0, "no difference found"),
        ("weights nudged", 5, "FAILS, worse (new clips)"),
        ("centroid bug", 5, "FAILS, worse (new clips)"),
        ("episode bug", 2, "not comparable: episode digest"),
    ],
    indirect=["fault"],
)
def test_seeded_faults_are_caught(
    bench: Bench, evaluated: Path, part: Path, tmp_path: Path, fault: str, code: int, words: str
) -> None:
    label = ("--name", "uamix-tiny") if "=" in fault else ()
    head = tmp_path / "head"
    assert bench("fewshot", "-m", fault, *label, "--task", part, "-o", head, *_SETTING).code == 0
    done = bench("compare", evaluated, head, "--task", part, "--fail-on", "accuracy:1pp")
    assert done.code == code
    assert words in done.out


def test_the_committed_baseline_holds_together(bench: Bench, tmp_path: Path) -> None:
    baseline = REPOSITORY / "reports" / "baseline"
    done = bench("results", "verify", baseline, "--data-dir", tmp_path)
    assert (done.code, done.err) == (0, "")
    models = [result["model"]["name"] for result in bench("results", "ls", baseline, "--json").envelope["results"]]
    assert models == ["audiomae-tiny", "uamix-tiny", "logmel", "random"]
    shutil.copytree(baseline, tmp_path / "head")
    assert bench("compare", baseline, tmp_path / "head", "--fail-on", "accuracy:1pp").code == 0


def _text(timings: Any) -> str:
    return json.dumps({**timings.model_dump(), "version": "5.1.0"})
