"""Shared fixtures: the test data, an isolated home folder, the --slow flag."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run long simulations, fuzzing and training")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="long; runs with --slow"))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of goldens and real recordings: UAMIX_BENCH_TEST_DATA, default ../shared."""
    folder = Path(os.environ.get("UAMIX_BENCH_TEST_DATA", REPOSITORY.parent / "shared"))
    if not (folder / "goldens").is_dir():
        pytest.skip(f"no test data in {folder} (set UAMIX_BENCH_TEST_DATA)")
    return folder


@pytest.fixture
def bench_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty UAMIX_BENCH_HOME of this test's own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("UAMIX_BENCH_HOME", str(folder))
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB; needs root."""
    yield from _mounted(tmp_path / "small", "size=400k")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """An empty file system that may only be read, by root too; needs root."""
    yield from _mounted(tmp_path / "read-only", "ro")


def _mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system of one's own: {mounted.stderr.strip() or 'mount failed'}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
