"""A stranger's code runs as its files are: whatever compiled copies or loaded modules of its names there are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from uamix_bench.plugins.registry import from_file

MAIN = "from level_of_mine import LEVEL\nclass Mine:\n    level = LEVEL\n"


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    yield
    sys.modules.pop("level_of_mine", None)


def write(folder: Path, level: str) -> Path:
    """A class and a helper of the same size and second of change, whatever the level."""
    folder.mkdir(exist_ok=True)
    for name, text in {"mine": f"OWN = {level}\n{MAIN}", "level_of_mine": f"LEVEL = {level}\n"}.items():
        (folder / f"{name}.py").write_text(text)
        os.utime(folder / f"{name}.py", (1e9, 1e9))
    return folder / "mine.py"


def levels(path: Path) -> tuple[int, int]:
    mine = from_file(f"{path}:Mine", "--model")
    return from_file(f"{path}:OWN", "--model"), mine.level


def compiled(folder: Path) -> None:
    """Compiled copies of both files, as a Python that ran them leaves."""
    import py_compile

    for path in folder.glob("*.py"):
        py_compile.compile(str(path), doraise=True)


def test_no_compiled_copy_is_run_for_a_file(tmp_path: Path) -> None:
    write(tmp_path, "1")
    compiled(tmp_path)
    assert levels(write(tmp_path, "2")) == (2, 2)


def test_what_has_changed_is_imported_anew(tmp_path: Path) -> None:
    assert levels(write(tmp_path, "1")) == (1, 1)
    loaded = sys.modules["level_of_mine"]
    assert levels(tmp_path / "mine.py") == (1, 1)
    assert sys.modules["level_of_mine"] is loaded
    assert levels(write(tmp_path, "2")) == (2, 2)


def test_two_folders_may_share_a_name(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", "1"), write(tmp_path / "b", "2")
    assert [levels(first), levels(second), levels(first)] == [(1, 1), (2, 2), (1, 1)]


def test_what_is_installed_is_not_shadowed_from_beside(tmp_path: Path) -> None:
    import numpy

    write(tmp_path, "1")
    (tmp_path / "numpy.py").write_text("1 / 0\n")
    (tmp_path / "mine.py").write_text("import numpy\nclass Mine:\n    level = numpy.pi\n")
    assert from_file(f"{tmp_path / 'mine.py'}:Mine", "--model").level == numpy.pi
