"""A clock that is set forward and back: no score depends on it, nothing is lost, and the next run continues."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from uamix_bench.data.task import load_task
from uamix_bench.evaluation.fewshot import fewshot
from uamix_bench.models.loading import load_model
from uamix_bench.records.store import ResultStore, load_record
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.util.files import sweep

DAY_S = 86_400.0
CELL = Protocol(n_way=2, k_shot=1, n_query=2, episodes=20)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for number in range(4):
            soundfile.write(tmp_path / "sounds" / label / f"{number}.wav", generator.normal(0, 0.1, 4_000), 16_000)
    return tmp_path / "sounds"


@pytest.fixture
def jumping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock finds it a year on, or a year back."""
    real, jumps = time.time, itertools.cycle([0.0, 365 * DAY_S, -365 * DAY_S])
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))


@pytest.mark.usefixtures("bench_home")
def test_a_clock_that_jumps_changes_nothing(sounds: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    steady = fewshot(load_model("logmel"), load_task(str(sounds)), CELL, cache=False)
    request.getfixturevalue("jumping")
    for path in sounds.rglob("*.wav"):  # copied from a machine whose clock is ahead
        os.utime(path, (2**32, 2**32))
    store = ResultStore(tmp_path / "results")
    for embedded in (8, 0):
        result = fewshot(load_model("logmel"), load_task(str(sounds)), CELL)
        assert result.id == steady.id
        assert result.cost.embedded_clips == embedded  # the second run finds them all
        assert min(result.cost.embed_s, result.cost.episodes_s) >= 0
        assert load_record(store.write(result)).id == result.id
    assert len(list(store)) == 1


def test_leftovers_of_the_future_are_left_alone(tmp_path: Path) -> None:
    for name, age_s in (("old", 2 * DAY_S), ("fresh", 0.0), ("future", -2 * DAY_S)):
        path = tmp_path / f".tmp-{name}"
        path.touch()
        os.utime(path, (time.time() - age_s,) * 2)
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-fresh", ".tmp-future"]
