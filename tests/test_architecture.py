"""The plan of the house: floors, no circles, types in every room, plugins reached through entry points only."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
MAPPED = ("baselines", "tasks", "reports")
ROOMS = sorted(path.parent.name for path in (REPOSITORY / "uamix_bench").glob("[!_]*/__init__.py"))
DOCUMENTED = {
    "audio": "data.audio",
    "card": "plugins.card",
    "checkpoint": "models.checkpoint",
    "contract": "models.contract",
    "frontend": "models.frontend",
    "registry": "plugins.registry",
    "store": "records.store",
    "tuning.finetune_recipe": "finetuning.recipe",
}
HEAVY = ("torch", "timm", "pandas", "scipy", "sklearn", "matplotlib", "numpy", "pydantic")


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the product, for a test to plant faults in."""
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    for folder in ("uamix_bench", *MAPPED):
        ignored = shutil.ignore_patterns("__pycache__", "weights")
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, symlinks=True, ignore=ignored)
    return tmp_path


def lint(house: Path) -> subprocess.CompletedProcess[str]:
    if not importlib.util.find_spec("importlinter"):
        pytest.skip("import-linter is not installed (the extra [dev])")
    code = "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache'])"
    surroundings = {**os.environ, "PYTHONPATH": str(house), "COLUMNS": "200"}
    return subprocess.run([sys.executable, "-c", code], cwd=house, env=surroundings, capture_output=True, text=True)


def test_every_folder_is_a_room() -> None:
    folders = {path.name for path in (REPOSITORY / "uamix_bench").iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == set(ROOMS)
    assert set(MAPPED) < set(ROOMS)
    assert len(list((REPOSITORY / "uamix_bench").glob("*.py"))) <= 10


def test_a_stair_that_leads_up_is_found_in_every_room(house: Path) -> None:
    for room in ROOMS:
        above = "uamix_bench.card" if room == "cli" else "uamix_bench.cli"
        (house / "uamix_bench" / room / "planted.py").write_text(f"import {above}\n")
    done = lint(house)
    assert done.returncode == 1, done.stdout + done.stderr
    assert [room for room in ROOMS if f"uamix_bench.{room}.planted -> uamix_bench.c" not in done.stdout] == []


def test_a_circle_of_rooms_on_one_floor_is_found(house: Path) -> None:
    (house / "uamix_bench" / "engines" / "planted.py").write_text("import uamix_bench.comparison\n")
    (house / "uamix_bench" / "comparison" / "planted.py").write_text("import uamix_bench.engines\n")
    done = lint(house)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "No stairs lead up KEPT" in done.stdout
    assert "No circle of rooms BROKEN" in done.stdout


def test_a_plugin_s_import_is_found_in_the_library(house: Path) -> None:
    (house / "uamix_bench" / "cli" / "planted.py").write_text("import uamix_bench.baselines.uamix\n")
    done = lint(house)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "through entry points BROKEN" in " ".join(done.stdout.split())


def test_a_wrong_type_is_found_in_every_room(house: Path) -> None:
    if not importlib.util.find_spec("mypy"):
        pytest.skip("mypy is not installed (the extra [dev])")
    for room in ROOMS:
        (house / "uamix_bench" / room / "planted.py").write_text('wrong: int = "a word"\n')
    # What the files import is another test's matter: `mypy` itself runs over the whole before the tests do.
    command = [sys.executable, "-m", "mypy", "--follow-imports=skip", "--cache-dir", str(house / "cache")]
    found = subprocess.run(command, cwd=house, capture_output=True, text=True).stdout
    assert [room for room in ROOMS if f"uamix_bench/{room}/planted.py:1: error" not in found] == []


def test_torchaudio_is_an_oracle_of_the_tests_alone() -> None:
    files = [path for folder in ("uamix_bench", *MAPPED) for path in (REPOSITORY / folder).rglob("*.py")]
    assert len(files) > 100
    assert [path.name for path in files if re.search(r"^\s*(import|from) torchaudio", path.read_text(), re.M)] == []


def test_no_file_is_imported_under_its_folder_s_generic_name() -> None:
    loaded = [name for name in sys.modules if name.split(".")[0] in MAPPED]
    assert loaded == []


@pytest.mark.parametrize(
    "module", ["uamix_bench", "uamix_bench.cli", "uamix_bench.util.errors", "uamix_bench.util.files"]
)
def test_importing_has_no_weight(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_there() -> None:
    import uamix_bench

    assert all(getattr(uamix_bench, name) is not None for name in uamix_bench.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        uamix_bench.nonsense  # noqa: B018


@pytest.mark.parametrize(("path", "home"), DOCUMENTED.items())
def test_documented_import_paths_keep_working(path: str, home: str) -> None:
    shown, real = import_module(f"uamix_bench.{path}"), import_module(f"uamix_bench.{home}")
    names = [name for name in vars(shown) if not name.startswith("_")]
    assert names
    assert all(getattr(shown, name) is getattr(real, name) for name in names)


@pytest.mark.parametrize("name", ["fewshot", "compare", "finetune", "tune"])
def test_a_public_function_stays_one_whatever_is_imported(name: str) -> None:
    """A module of the same name that is imported later does not take its place."""
    code = (
        "import uamix_bench, uamix_bench.evaluation.fewshot, uamix_bench.comparison.compare, "
        f"uamix_bench.finetuning.finetune, uamix_bench.tuning.run; print(type(uamix_bench.{name}).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "function"
