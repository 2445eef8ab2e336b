"""The front end against torchaudio's Kaldi filterbank: CPU time per clip, one thread, both in one run.

Only the ratio is a claim; milliseconds are for reading. Each round times the two after one another, so that whatever
else the machine does falls on both, and the median of the rounds' ratios counts.
"""

from __future__ import annotations

import pytest

from uamix_bench.models.frontend import KaldiFbank

from .peers import torchaudio_fbank
from .timing import Side, measure
from .workloads import SAMPLE_RATE, noise


@pytest.mark.parametrize(
    ("count", "seconds", "rounds", "at_least"),
    [
        (1, 10.0, 15, 2.0),
        (2, 5.0, 15, 2.0),
        (4, 10.0, 9, 2.0),
        (16, 1.0, 9, 2.0),
        pytest.param(1, 10.0, 100, 2.0, marks=pytest.mark.slow),
        pytest.param(16, 10.0, 30, 2.0, marks=pytest.mark.slow),
        pytest.param(8, 5.0, 50, 2.0, marks=pytest.mark.slow),
        pytest.param(64, 1.0, 50, 2.0, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("window", ["hanning", "povey"])
def test_fbank_outruns_torchaudio(window: str, count: int, seconds: float, rounds: int, at_least: float) -> None:
    fbank = KaldiFbank(SAMPLE_RATE, 128, "povey" if window == "povey" else "hanning")
    waveforms, lengths = noise(count, seconds)
    sides = {
        "torchaudio": Side(lambda: torchaudio_fbank(waveforms, SAMPLE_RATE, 128, window), count),
        "ours": Side(lambda: fbank(waveforms, lengths), count),
    }
    times = measure(sides, rounds)
    for side in sides:
        print(f"{count} x {seconds:g} s, {window}, {side}: {1e3 * times.median(side):.2f} ms")
    print(f"{times.ratio('torchaudio', 'ours'):.2f} times as fast")
    assert times.ratio("torchaudio", "ours") >= at_least, times


@pytest.mark.parametrize("seconds", [1.0, 10.0])
def test_fbank_time(seconds: float, benchmark: object) -> None:
    """For the benchmark table (`--benchmark-only`): the time of a batch of ten seconds of sound."""
    batch = noise(round(10 / seconds), seconds)
    benchmark(KaldiFbank(SAMPLE_RATE), *batch)  # type: ignore[operator]
