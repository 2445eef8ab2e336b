"""Forecasts of tunings: a step is measured once for all recipes whose steps take equally long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from uamix_bench.tuning.forecast import Rates, forecast
from uamix_bench.tuning.recipe import TUNE, TuneRecipe
from uamix_bench.tuning.trainings import HEAD, TUNING, Job, remaining


def job(folder: Path, **fields: Any) -> Job:
    recipe = TuneRecipe.model_validate(TUNE["tiny"].model_dump() | {"clips": 512} | fields)
    return Job("arm", recipe, "audiomae-tiny", "synthetic:valid", None, None, folder, None, "cpu", 1)


class Stopwatch:
    """Stand-in for a measurement: a step of stage 1 takes 1 s, of stage 2 one of 10 s; counts its calls."""

    calls = 0

    def __call__(self, job: Job) -> Rates:
        self.calls += 1
        return {HEAD: 1.0, TUNING: 10.0}


@pytest.mark.parametrize(
    ("fields", "measurements"),
    [
        ({"learning_rate": 1e-2, "seed": 3, "epochs": 9}, 1),
        ({"mix": "mixup", "alpha": 0.5}, 1),
        ({"mix": "none"}, 2),
        ({"batch": 64}, 2),
        ({"pooling": "mean"}, 2),
        ({"plain_weight": 1.0}, 2),
        ({"views": "crop"}, 1),
    ],
)
def test_equal_steps_are_measured_once(tmp_path: Path, fields: dict[str, Any], measurements: int) -> None:
    jobs, measured = [job(tmp_path / "a"), job(tmp_path / "b", **fields)], Stopwatch()
    expected = forecast(jobs, 1, lambda job: False, measured)
    assert measured.calls == measurements
    steps = [remaining(job) for job in jobs]
    assert expected.seconds == tuple(left[HEAD] + 10.0 * left[TUNING] for left in steps)
    assert expected.total == sum(expected.seconds)
    assert forecast(jobs, 2, lambda job: False, measured).total == max(sum(expected.seconds) / 2, *expected.seconds)


def test_a_finished_tuning_takes_no_time(tmp_path: Path) -> None:
    measured = Stopwatch()
    assert forecast([job(tmp_path)], 1, lambda job: True, measured).total == 0.0
    assert not measured.calls
