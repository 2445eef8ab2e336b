"""The front end against torchaudio's Kaldi filterbank: CPU time per clip, one thread, both in one run.

Only the ratio is a claim; milliseconds are for reading. Each round times the two after one another, so that whatever
else the machine does falls on both, and the median of the rounds' ratios counts.
"""

from __future__ import annotations

import time
from statistics import median
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torchaudio.compliance import kaldi

from uamix_bench.frontend import KaldiFbank

SAMPLE_RATE = 16_000


class Measured(NamedTuple):
    """Medians over the rounds; milliseconds of CPU time per clip."""

    peer_ms: float
    ours_ms: float
    ratio: float


def clips(count: int, seconds: float) -> tuple[Tensor, Tensor]:
    """Noise (B, S) float32 and its lengths (B,)."""
    samples = round(seconds * SAMPLE_RATE)
    noise = torch.randn(count, samples, generator=torch.Generator().manual_seed(0))
    return 0.1 * noise, torch.full((count,), samples)


def peer(waveforms: Tensor, window: str) -> list[Tensor]:
    """torchaudio's filterbank, clip by clip, as the models' own code calls it."""
    return [
        kaldi.fbank(
            clip.unsqueeze(0),
            num_mel_bins=128,
            sample_frequency=float(SAMPLE_RATE),
            window_type=window,
            dither=0.0,
            use_energy=False,
            htk_compat=True,
        )
        for clip in waveforms
    ]


def measure(fbank: KaldiFbank, count: int, seconds: float, rounds: int) -> Measured:
    waveforms, lengths = clips(count, seconds)
    fbank(waveforms, lengths)
    peer(waveforms, fbank.window)
    times = []
    for _ in range(rounds):
        begun = time.process_time()
        peer(waveforms, fbank.window)
        between = time.process_time()
        fbank(waveforms, lengths)
        times.append((between - begun, time.process_time() - between))
    per_clip = [[1e3 * spent / count for spent in side] for side in zip(*times, strict=True)]
    return Measured(median(per_clip[0]), median(per_clip[1]), median(theirs / ours for theirs, ours in times))


@pytest.mark.parametrize(
    ("count", "seconds", "rounds", "at_least"),
    [
        (1, 10.0, 15, 1.8),
        (4, 10.0, 9, 1.8),
        (16, 1.0, 9, 2.0),
        pytest.param(1, 10.0, 100, 1.8, marks=pytest.mark.slow),
        pytest.param(16, 10.0, 30, 1.8, marks=pytest.mark.slow),
        pytest.param(8, 5.0, 50, 1.8, marks=pytest.mark.slow),
        pytest.param(64, 1.0, 50, 2.0, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("window", ["hanning", "povey"])
def test_fbank_outruns_torchaudio(window: str, count: int, seconds: float, rounds: int, at_least: float) -> None:
    fbank = KaldiFbank(SAMPLE_RATE, 128, "povey" if window == "povey" else "hanning")
    found = measure(fbank, count, seconds, rounds)
    print(f"{count} x {seconds:g} s, {window}: torchaudio {found.peer_ms:.2f} ms, {found.ours_ms:.2f} ms")
    assert found.ratio >= at_least, found


@pytest.mark.parametrize("seconds", [1.0, 10.0])
def test_fbank_time(seconds: float, benchmark: object) -> None:
    """For the benchmark table (`--benchmark-only`): the time of a batch of ten seconds of sound."""
    batch = clips(round(10 / seconds), seconds)
    benchmark(KaldiFbank(SAMPLE_RATE), *batch)  # type: ignore[operator]
