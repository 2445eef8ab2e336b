"""A question asked again, beside importing torch and timm: CPU time of whole processes, in one run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from .sections.process import HEAVY, _cpu_s


@pytest.mark.parametrize(("change", "at_most"), [([], 0.25), (["--k", "2"], 0.35)], ids=["again", "another k"])
@pytest.mark.over_3s
def test_a_repeated_question_costs_a_part_of_the_imports(
    change: list[str], at_most: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UAMIX_BENCH_HOME", str(tmp_path / "home"))
    for label in "abc":
        for index in range(8):
            (tmp_path / "sounds" / label).mkdir(parents=True, exist_ok=True)
            noise = 0.1 * np.random.default_rng(index).standard_normal(4_000)
            soundfile.write(tmp_path / "sounds" / label / f"{index}.wav", noise, 16_000)
    asked = [sys.executable, "-m", "uamix_bench", "fewshot", "-m", "logmel", "-t", str(tmp_path / "sounds")]
    asked += ["--n", "3", "--q", "4"]
    subprocess.run(asked, check=True, capture_output=True)
    shares = []
    for seed in range(3):
        again = change and [*change, "--seed", str(seed)]
        taken = _cpu_s([*asked, *again])
        shares.append(taken / _cpu_s([sys.executable, "-c", HEAVY]))
    print(f"{np.median(shares):.2f} of importing torch and timm")
    assert np.median(shares) <= at_most, shares
