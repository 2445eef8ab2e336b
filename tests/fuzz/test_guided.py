"""Readers fuzzed by coverage (atheris), each in a process of its own: seconds in the checks, minutes with --slow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .readers import READERS

pytest.importorskip("atheris", reason="atheris is not installed (pip install -e '.[fuzz]'; Linux alone has wheels)")


def fuzz(name: str, folder: Path, *options: str) -> None:
    command = [sys.executable, str(Path(__file__).with_name("guided.py")), name, str(folder), "-seed=1", *options]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=500, cwd=folder.parent)
    assert done.returncode == 0, done.stderr[-4_000:] + done.stdout[-2_000:]


def test_two_seconds_of_guided_mutants(tmp_path: Path) -> None:
    fuzz("pickle", tmp_path / "fuzz", "-max_total_time=2")


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_minute_of_guided_mutants(name: str, tmp_path: Path) -> None:
    fuzz(name, tmp_path / "fuzz", "-max_total_time=60")
