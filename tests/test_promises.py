"""docs/promises.md: every fault that stands has its row, and every test that it names is there to be run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from uamix_bench.cli.errors import EXIT_CODES

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "promises.md").read_text(encoding="utf-8")
STANDING = [f"F{number}" for number in range(1, 58) if number not in (40, 41, 42)]
ROWS = {row[0]: row for line in PAGE.splitlines() if len(row := [cell.strip() for cell in line.split("|")[1:-1]]) == 5}
TESTS = re.findall(r"`(tests/[\w/]+\.py::\w+)`", PAGE)


def test_every_fault_has_a_promise_an_exit_code_and_a_test() -> None:
    assert [number for number in ROWS if re.fullmatch(r"F\d+", number)] == STANDING
    for number in STANDING:
        _, fault, promise, code, tests = ROWS[number]
        assert fault
        assert promise
        assert code == "–" or {int(part) for part in code.split(", ")} <= {*EXIT_CODES, 143}, number
        assert re.fullmatch(r"(`tests/[\w/]+\.py::test_\w+` ?)+", tests), number


def test_every_test_that_is_named_is_there() -> None:
    defined = {
        f"{path}::{node.name}"
        for path in {name.partition("::")[0] for name in TESTS}
        for node in ast.parse((REPOSITORY / path).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    assert set(TESTS) <= defined, set(TESTS) - defined


@pytest.mark.slow
def test_every_test_that_is_named_is_collected() -> None:
    """pytest itself says which of the names it does not find; it imports most of the suite for that."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *sorted(set(TESTS))]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, "\n".join(line for line in done.stderr.splitlines() if "not found" in line)
