"""Decoding and resampling of 44.1-kHz recordings: clips a second on one core and on all, threads beside processes.

Threads share the interpreter, processes share nothing. Both keep all cores busy, so that whatever else the machine does
falls on both alike, and the time of one by that of the other says how threads scale. One core against all says the same
only on an idle machine.
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
from uamix_bench.util.threads import cores

SECONDS, RATE, FILES, ROUNDS = 5.0, 44_100, 24, 5
FORMATS = {"wav": {}, "flac": {}, "mp3": {}, "ogg": {"subtype": "VORBIS"}}


def heard(paths: list[str]) -> int:
    """Decodes files to 16 kHz in this thread, as an evaluation does."""
    return sum(1 for path in paths for _ in decoding._listen(Sound(path), 16_000, SECONDS, "first", id))


@pytest.fixture(params=FORMATS)
def clips(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Paths of recordings in one format, each many times."""
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / f"{index}.{request.param}") for index in range(FILES)]
    for path in paths:
        noise = np.cumsum(rng.standard_normal(round(SECONDS * RATE)))  # red, as most recordings
        soundfile.write(path, 0.5 * noise / np.abs(noise).max(), RATE, **FORMATS[request.param])
    return paths * 16


def threads(clips: list[str]) -> None:
    """Decodes files as an evaluation does, on as many threads as there are `decoding.cores`."""
    for clip in decoding.decode([Sound(path) for path in clips], 16_000, SECONDS, "first", SILENT):
        list(clip)


@pytest.mark.slow
def test_all_cores_decode_faster_than_one(clips: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    counts = [1, cores()]
    if counts[1] == 1:
        pytest.skip("one core")
    heard(clips[:FILES])
    spent: dict[int, list[float]] = {count: [] for count in counts}
    for number in range(ROUNDS):
        for count in counts[:: 1 - 2 * (number % 2)]:
            monkeypatch.setattr(decoding, "cores", lambda count=count: count)
            spent[count].append(_wall_s(lambda: threads(clips)))
    one, every = (len(clips) / np.median(spent[count]) for count in counts)
    ratio = np.median(np.divide(spent[1], spent[counts[1]]))
    kind = Path(clips[0]).suffix
    print(f"{kind}: {one:.0f} clips/s on 1 core, {every:.0f} on {counts[1]}, {ratio:.2f} times as many")
    assert ratio > 0.9, spent  # beside other work there may be no second core


@pytest.mark.slow
def test_threads_decode_as_fast_as_processes(clips: list[str]) -> None:
    begun = time.thread_time()
    heard(clips)
    rate = len(clips) / (time.thread_time() - begun)
    with ProcessPoolExecutor(cores(), get_context("spawn")) as pool:
        list(pool.map(heard, [clips[:1]] * cores() * 4))

        def processes() -> None:
            list(pool.map(heard, [clips[part : part + 16] for part in range(0, len(clips), 16)]))

        ratios = [_wall_s(processes) / _wall_s(lambda: threads(clips)) for _ in range(ROUNDS)]
    kind = Path(clips[0]).suffix
    print(f"{kind}: {rate:.0f} clips a CPU second, threads {np.median(ratios):.2f} times as fast as processes")
    assert np.median(ratios) >= 0.9, ratios


def _wall_s(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
