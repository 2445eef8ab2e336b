"""Faults planted in every room of a copy of the product are found by mypy and import-linter."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .test_architecture import MAPPED, REPOSITORY, ROOMS


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
