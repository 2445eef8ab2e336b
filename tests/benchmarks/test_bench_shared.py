"""CPU time of an evaluation beside two busy processes, against the same on one thread: OpenMP threads must not spin."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = ["fewshot", "--model", "uamix-tiny", "--limit", "10", "--q", "9", "--episodes", "20", "--no-cache", "--quiet"]


def cpu_s(folder: Path, name: str, **more: str) -> float:
    """CPU seconds of one run of the command, its children's included."""
    surroundings = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "uamix_bench", *COMMAND, "-o", str(folder / name)]
    subprocess.run(command, env={**surroundings, **more}, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.slow
def test_beside_other_work_threads_cost_little_more_than_one(tmp_path: Path, bench_home: Path) -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        cpu_s(tmp_path, "first")  # makes the sounds
        alone = cpu_s(tmp_path, "one", OMP_NUM_THREADS="1")
        ours = cpu_s(tmp_path, "ours")
    finally:
        for process in busy:
            process.kill()
            process.wait()
    print(f"one thread {alone:.1f} CPU s, as it comes {ours:.1f}: {ours / alone:.2f}x")
    assert ours < 1.5 * alone
