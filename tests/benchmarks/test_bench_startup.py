"""Start-up: commands that need no model do not pay for torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def cpu_seconds(*arguments: str) -> float:
    """CPU time of a finished child process, user and system."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@pytest.mark.skipif(not hasattr(os, "times"), reason="no CPU times of children here")
def test_help_costs_at_most_a_tenth_of_importing_torch() -> None:
    rounds = [(cpu_seconds("-m", "uamix_bench", "--help"), cpu_seconds("-c", "import torch")) for _ in range(3)]
    ratio = sorted(ours / torch for ours, torch in rounds)[1]
    print(f"--help / import torch: {ratio:.3f}")
    assert ratio <= 0.1


@pytest.mark.parametrize(
    "command", [("models", "ls"), ("tasks", "ls"), ("models", "info", "uamix"), ("tasks", "info", "esc50")]
)
def test_listing_never_imports_torch(command: tuple[str, ...]) -> None:
    code = (
        "import sys; from uamix_bench.cli import main; code = main(sys.argv[1:]);"
        "sys.exit(code or bool({'torch', 'timm', 'torchaudio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or "torch was imported"
