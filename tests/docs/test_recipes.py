"""docs/recipes.md is run as it stands; docs/architecture.md and docs/method.md name what exists."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from uamix_bench.cli import main
from uamix_bench.records.store import ResultStore
from uamix_bench.scoring.classifiers import CLASSIFIERS
from uamix_bench.scoring.protocol import Protocol

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = (REPOSITORY / "docs" / "recipes.md").read_text(encoding="utf-8")
LABELS = ("cat", "dog", "owl", "pig")


def section(title: str) -> tuple[str, list[list[str]]]:
    """A section's code, and the arguments of its commands."""
    text = RECIPES.split(f"## {title}\n")[1].split("\n## ")[0]
    code = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    commands = re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return code[0], [line.split()[1:] for block in commands for line in block.splitlines()]


def module(path: Path, code: str | None = None) -> ModuleType:
    if code is not None:
        path.write_text(code)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def desk(tmp_path: Path, bench_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with ``sounds``, tones of four classes, and the same as a data set with a list."""
    generator = np.random.default_rng(0)
    rows = ["file,animal,recording"]
    (tmp_path / "data" / "animals").mkdir(parents=True)
    for pitch, label in enumerate(LABELS, start=1):
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for number in range(6):
            tone = 0.3 * np.sin(600 * pitch * generator.uniform(0.95, 1.05) * np.arange(4_000) / 4_000)
            soundfile.write(tmp_path / "sounds" / label / f"{number}.wav", tone, 16_000)
            soundfile.write(tmp_path / "data" / "animals" / f"{label}{number}.wav", tone, 16_000)
            rows.append(f"{label}{number}.wav,{label},{label}{number // 2}")
    (tmp_path / "data" / "animals" / "list.csv").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("title", "name"), [("Add a model", "my_model.py"), ("Add a task", "my_task.py")])
def test_a_model_and_a_task(desk: Path, title: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, commands = section(title)
    (desk / name).write_text(code)
    for arguments in commands:
        assert main(arguments) == 0, capsys.readouterr().err
    ((_, result),) = ResultStore()
    assert result.score.accuracy > 0.5  # four classes told apart by pitch; chance of three is 0.33
    if name == "my_task.py":
        assert (result.task.name, result.task.classes, result.task.clips) == ("animals", 4, 24)
        assert result.episodes.shared_group_share  # the recordings are groups


def test_a_report(desk: Path, tmp_path: Path) -> None:
    code, _ = section("Add a report")
    best = module(tmp_path / "best.py", code).best
    for model in ("logmel", "random"):
        assert main(["fewshot", "--model", model, "--task", "./sounds", "--n", "3", "--q", "4", "--quiet"]) == 0
    results = [result for _, result in ResultStore()]
    page = best(results).markdown
    first = max(results, key=lambda result: result.score.accuracy)
    assert page.index(first.model.name) < page.index({"logmel": "random", "random": "logmel"}[first.model.name])
    assert f"{100 * first.score.accuracy:.1f}" in page


def test_a_classifier(tmp_path: Path) -> None:
    code, _ = section("Add a classifier")
    before = dict(CLASSIFIERS)
    try:
        made = module(tmp_path / "inner.py", code).inner_product
        assert Protocol(classifier="inner-product").classifier == "inner-product"
        generator = np.random.default_rng(1)
        table = generator.normal(size=(30, 5)).astype(np.float32)
        rows = np.stack([generator.permutation(30)[:12].reshape(3, 4) for _ in range(7)])
        score = made(table, rows[:, :, :2], rows[:, :, 2:])
        for episode, (support, query) in enumerate(zip(rows[:, :, :2], rows[:, :, 2:], strict=True)):
            right = 0
            for slot in range(3):
                for asked in query[slot]:
                    products = [max(float(table[asked] @ table[shot]) for shot in support[one]) for one in range(3)]
                    right += products.index(max(products)) == slot
            assert score.correct[episode] == right
    finally:
        CLASSIFIERS.clear()
        CLASSIFIERS.update(before)


def test_a_grid(desk: Path, tmp_path: Path) -> None:
    code, _ = section("Evaluate a grid from Python")
    rows = list(module(tmp_path / "grid.py", code).accuracies("./sounds"))
    assert [row[:2] for row in rows] == [("logmel", 1), ("logmel", 3), ("random", 1), ("random", 3)]
    fewshot = ["fewshot", "--model", "logmel,random", "--task", "./sounds", "--n", "3", "--k", "1,3", "--q", "2"]
    assert main([*fewshot, "-o", "other", "--quiet"]) == 0
    assert {(path.name, result.score.accuracy) for path, result in ResultStore(Path("other"))} == {
        (path.name, accuracy) for _, _, accuracy, path in rows
    }


def test_the_plan_names_what_is_there() -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| Where[^|]*\| ([^|]*) \| ([^|]*) \|$", page, re.MULTILINE)
    assert len(rows) > 10
    for files, functions in rows:
        paths = re.findall(r"`([\w/]+\.py)`", f"{files} {functions}")
        defined: set[str] = set()
        for path in paths:
            for node in ast.walk(ast.parse((REPOSITORY / "uamix_bench" / path).read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    defined.add(node.name)
        for name in re.findall(r"`([\w.]+)`", functions):
            if not name.endswith(".py"):
                assert set(name.split(".")) <= defined, (files, name)
    for path in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", page):
        assert (REPOSITORY / "uamix_bench" / path).is_file() or (REPOSITORY / path).is_file(), path


def test_the_equations_name_what_is_there() -> None:
    page = (REPOSITORY / "docs" / "method.md").read_text(encoding="utf-8")
    folder = REPOSITORY / "uamix_bench" / "tuning"
    text = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    names = re.findall(r"(?:mixing|nnclr)\.(\w+)|(?:_Contrastive|Queue|TuneStage)\.(\w+)", page)
    assert len(names) > 8
    for name in {one or other for one, other in names} - {"py"}:
        assert re.search(rf"def {name}\(", text), name


def test_the_picture_is_of_the_code() -> None:
    pytest.importorskip("grimp", reason="import-linter is not installed (the extra [dev])")
    drawing = module(REPOSITORY / "docs" / "draw_rooms.py")
    assert drawing.PICTURE.read_text() == drawing.draw(), "run: python docs/draw_rooms.py"
