"""The bundled recorded tasks: sounds that their version stands for, within what a repository can carry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from uamix_bench.data.task import TaskData, load_task
from uamix_bench.storage.digests import file_digests, sounds_sha256
from uamix_bench.tasks.bundled import SOUNDS

# A change of the sounds is a new version of the task: name and version identify them in results.
DIGESTS = {
    ("instruments", "1"): "7a86c7503afe7f8f b44ef26ed0ce338a",
    ("studio-samples", "1"): "2e4c7da8dea08312 43516d4a42efc878",
}
NAMES = [name for name, _ in DIGESTS]


@pytest.fixture(params=NAMES)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> TaskData:
    return load_task(request.param, tmp_path)


def test_the_version_tells_the_sounds(data: TaskData) -> None:
    assert data.version_tells_sounds
    found = sounds_sha256(file_digests(data.table["path"].tolist()).digests)
    assert (data.clips_sha256[:16], found[:16]) == tuple(DIGESTS[data.name, data.card.version].split())


def test_clips_are_a_second_at_most_of_16_khz_mono_in_11_bits(data: TaskData) -> None:
    for path in data.table["path"][::7]:
        samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
        assert (rate, samples.shape[1]) == (16_000, 1)
        assert 0 < len(samples) <= 16_000
        assert not (samples % 32).any()
        assert np.abs(samples).max() == pytest.approx(0.9 * 32_768, abs=32)  # loudness tells no class


def test_the_papers_protocol_fits_every_class(data: TaskData) -> None:
    assert min(data.table.sizes("label").values()) >= 1 + 15
    groups = data.table.to_pandas().groupby("group")["label"].nunique()
    assert (groups == 1).all()
    assert data.table.to_pandas().groupby("label")["group"].nunique().min() >= 4


def test_together_they_take_at_most_6_mb() -> None:
    assert sum(path.stat().st_size for path in SOUNDS.rglob("*") if path.is_file()) <= 6_000_000
