"""Provenance against git's own word."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from uamix_bench.records.provenance import collect, git_state

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_revision_is_that_of_the_checkout() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("this is no git checkout")
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    head = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert git_state()[0] == head
    assert collect("cpu").git_revision == head


def test_a_folder_that_is_no_checkout_has_no_revision(tmp_path: Path) -> None:
    assert git_state(tmp_path) == (None, None)
