from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from uamix_bench.comparison.gate import parse_gates
from uamix_bench.comparison.timings import Timing, Timings, compare_timings, parse
from uamix_bench.util.errors import BadInputError, UsageError

MACHINE = {"cpu": {"brand_raw": "Z80", "count": 2}, "system": "Linux", "python_version": "3.11.7", "node": "home"}


def file(*rounds: Any, machine: dict[str, Any] = MACHINE) -> Timings:
    """What pytest-benchmark writes of benchmarks with these times of their rounds."""
    benchmarks = []
    for number, times in enumerate(rounds):
        low, high = np.percentile(times, [25, 75])
        figures = {
            "min": min(times),
            "max": max(times),
            "mean": float(np.mean(times)),
            "stddev": float(np.std(times, ddof=1)) if len(times) > 1 else 0.0,
            "rounds": len(times),
            "median": float(np.median(times)),
            "iqr": float(high - low),
            "ops": 1 / float(np.mean(times)),
            "data": list(times),
        }
        benchmarks.append({"fullname": f"test_bench.py::test_{number}", "name": f"test_{number}", "stats": figures})
    return parse({"machine_info": machine, "benchmarks": benchmarks, "version": "5.1.0"}, "file")


def draw(mean: float, count: int, seed: int) -> list[float]:
    times: list[float] = (mean * (1 + 0.1 * np.random.default_rng(seed).random(count))).tolist()
    return times


def only(timings: tuple[Timing, ...]) -> Timing:
    (timing,) = timings
    return timing


def test_verdicts_are_those_of_welch() -> None:
    base, head = draw(1.0, 30, 1), draw(1.02, 20, 2)
    timing = only(compare_timings(file(base), file(head)))
    expected = stats.ttest_ind(head, base, equal_var=False)
    assert timing.p_holm == pytest.approx(expected.pvalue)
    assert timing.verdict == ("slower" if expected.pvalue < 0.05 else "no difference found")
    assert only(compare_timings(file(base), file(draw(0.7, 9, 3)))).verdict == "faster"
    assert only(compare_timings(file(base), file(base))).verdict == "no difference found"


@pytest.mark.parametrize("field", ["mean", "median", "min"])
def test_gates_fail_beyond_their_margin(field: str) -> None:
    base, head = file(draw(1.0, 100, 1)), file(draw(1.3, 100, 2))
    for text, fails in (
        (f"{field}:10%", True),
        (f"{field}:40%", False),
        (f"{field}:0.2", True),
        (f"{field}:0.5", False),
    ):
        timing = only(compare_timings(base, head, parse_gates([text])))
        assert timing.failed == ((text,) if fails else ())
        assert only(compare_timings(head, base, parse_gates([text]))).failed == ()


def test_a_gate_on_the_mean_asks_for_more_than_chance() -> None:
    noisy = np.random.default_rng(5).exponential(1.0, 8)
    base, head = file(noisy.tolist()), file((noisy * 1.15).tolist())
    assert only(compare_timings(base, head, parse_gates(["mean:10%"]))).failed == ()
    assert only(compare_timings(base, head, parse_gates(["min:10%"]))).failed == ("min:10%",)
    assert only(compare_timings(file([1.0]), file([1.2]), parse_gates(["mean:10%"]))).failed == ("mean:10%",)


def test_other_machines_and_missing_benchmarks_are_named() -> None:
    other = {**MACHINE, "cpu": {"brand_raw": "6502", "count": 1}}
    timing = only(compare_timings(file([1.0, 2.0]), file([9.0, 9.1], machine=other), parse_gates(["min:10%"])))
    assert (timing.verdict, timing.failed) == ("not comparable", ())
    assert timing.reason == (
        "machine Z80, 2 cores, Linux, Python 3.11.7 in BASE, 6502, 1 cores, Linux, Python 3.11.7 in HEAD"
    )
    both = compare_timings(file([1.0, 2.0], [1.0, 2.0]), file([1.0, 2.0]))
    assert [timing.verdict for timing in both] == ["no difference found", "missing"]
    with pytest.raises(UsageError, match="holds no benchmark"):
        compare_timings(file(), file([1.0]))
    with pytest.raises(UsageError, match="is no time"):
        compare_timings(file([1.0]), file([1.0]), parse_gates(["accuracy:1pp"]))


@pytest.mark.parametrize(
    "change",
    [
        {"benchmarks": 3},
        {"benchmarks": [{"fullname": "a", "stats": {"min": -1}}]},
        {"machine_info": []},
    ],
)
def test_what_is_no_such_file_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadInputError, match="is no file of pytest-benchmark"):
        parse({"machine_info": {}, "benchmarks": []} | change, "file")


def test_it_reads_what_pytest_benchmark_writes(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text("def test_sum(benchmark):\n    benchmark(sum, range(10_000))\n")
    target = tmp_path / "timings.json"
    options = [f"--benchmark-json={target}", "--benchmark-max-time=0.05", "-q", "-p", "no:cacheprovider"]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    subprocess.run([sys.executable, "-m", "pytest", *options, "test_one.py"], cwd=tmp_path, env=alone, check=True)
    timings = parse(json.loads(target.read_text()), target)
    assert [benchmark.fullname for benchmark in timings.benchmarks] == ["test_one.py::test_sum"]
    assert 0 < timings.benchmarks[0].stats.min <= timings.benchmarks[0].stats.median
    assert only(compare_timings(timings, timings, parse_gates(["min:10%"]))).failed == ()
