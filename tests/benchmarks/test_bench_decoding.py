"""Decoding and resampling of 44.1-kHz recordings: clips a second of one core, and threads beside processes.

Threads share the interpreter, processes share nothing. Both keep two cores busy, so that whatever else the machine does
falls on both alike, and the time of one by that of the other says how threads scale.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import soundfile

from uamix_bench.data.sound import Sound
from uamix_bench.embeddings import decoding
from uamix_bench.util.progress import SILENT

SECONDS, RATE, FILES, WORKERS = 5.0, 44_100, 24, 2
FORMATS = {"wav": {}, "flac": {}, "mp3": {}, "ogg": {"subtype": "VORBIS"}}


def heard(paths: list[str]) -> int:
    """Decodes files to 16 kHz in this thread, as an evaluation does."""
    return sum(1 for path in paths for _ in decoding._listen(Sound(path), 16_000, SECONDS, "first"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_threads_decode_as_fast_as_processes(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / f"{index}.{kind}") for index in range(FILES)]
    for path in paths:
        noise = np.cumsum(rng.standard_normal(round(SECONDS * RATE)))  # red, as most recordings
        soundfile.write(path, 0.5 * noise / np.abs(noise).max(), RATE, **FORMATS[kind])
    monkeypatch.setattr(decoding, "cores", lambda: WORKERS)
    many = paths * 16

    def threads() -> None:
        for clip in decoding.decode([Sound(path) for path in many], 16_000, SECONDS, "first", SILENT):
            list(clip)

    begun = time.thread_time()
    heard(many)
    rate = len(many) / (time.thread_time() - begun)
    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
        list(pool.map(heard, [paths[:1]] * WORKERS * 4))

        def processes() -> None:
            list(pool.map(heard, [many[part : part + 16] for part in range(0, len(many), 16)]))

        ratios = [_wall_s(processes) / _wall_s(threads) for _ in range(5)]
    print(f"{kind}: {rate:.0f} clips/s a core, threads {np.median(ratios):.2f} times as fast as processes")
    assert np.median(ratios) >= 0.9, ratios


def _wall_s(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
