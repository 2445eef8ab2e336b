"""Published copies: name and version stand for the sounds, and other bytes under one version are said."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from uamix_bench.comparison.compare import compare
from uamix_bench.data.task import TaskData, load_task
from uamix_bench.evaluation.earlier import find_earlier, sounds_here
from uamix_bench.evaluation.grid import evaluate
from uamix_bench.evaluation.plan import draw_episodes
from uamix_bench.models.loading import load_model
from uamix_bench.models.model import AudioModel
from uamix_bench.plugins import registry
from uamix_bench.records.store import ResultStore
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.storage.digests import file_digests

SMALL = Protocol(name="small", n_way=3, k_shot=1, n_query=2, episodes=5)


@pytest.fixture(scope="module")
def model() -> AudioModel:
    return load_model("logmel")


@pytest.fixture
def published(tmp_path: Path, bench_home: Path) -> TaskData:
    """A copy of ESC-50 that passes for the whole one: its miniature, with the card's counts and version."""
    root = (
        registry.find_task("esc50").load()().miniature(tmp_path / "esc50", classes=3, clips_per_class=10, seconds=0.3)
    )
    data = load_task("esc50", tmp_path)
    return TaskData(data.task, data.task.card, root, data.table)


def test_a_miniature_goes_by_its_bytes(published: TaskData) -> None:
    assert published.version_tells_sounds
    assert not load_task("esc50", published.root.parent).version_tells_sounds
    assert load_task("synthetic").version_tells_sounds


def test_other_bytes_under_one_version_are_said(model: AudioModel, published: TaskData, tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "r")
    (first,) = evaluate([model], [published], [SMALL], store=store)
    assert first.result.task.content_sha256 is None
    drawn = draw_episodes(published, SMALL).clips
    assert [first.result.provenance.content_sha256] == sounds_here(published, [drawn])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (again,) = evaluate([model], [published], [SMALL], store=store)
    assert again.how == "reused"

    path = Path(published.table["path"][drawn[0]])
    samples, rate = soundfile.read(path)
    soundfile.write(path, np.roll(samples, 1), rate)
    (here,) = sounds_here(published, [drawn])
    assert here is not None
    with pytest.warns(UserWarning, match=f"of a copy with other sounds .*here {here[:12]}"):
        (again,) = evaluate([model], [published], [SMALL], store=store)
    (fresh,) = evaluate([model], [published], [SMALL], store=ResultStore(tmp_path / "other"))
    (pair,) = compare([first.result], [fresh.result]).pairs
    assert pair.verdict != "not comparable"
    digests = [(kept.result.provenance.content_sha256 or "")[:12] for kept in (first, fresh)]
    assert f"sounds under one version: esc50@1 {digests[0]} in BASE, {digests[1]} in HEAD" in pair.notes


def test_sounds_that_are_not_generated_yet_are_not_asked_for(model: AudioModel, bench_home: Path) -> None:
    task = load_task("synthetic")
    assert sounds_here(task, [np.arange(3)]) == [None]
    (found,) = find_earlier(ResultStore(bench_home / "r"), model, task, [SMALL], "missing", None)
    assert found == ([], "")


@pytest.mark.slow
def test_sounds_of_a_large_set_are_looked_up_in_bulk(tmp_path: Path, bench_home: Path) -> None:
    """What is remembered costs a small share of reading it."""
    paths = []
    for number in range(20_000):
        path = tmp_path / f"{number // 1_000}" / f"{number}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(number.to_bytes(4, "little") * 1_000)
        paths.append(str(path))
    time.sleep(0.2)
    begun = time.perf_counter()
    first = file_digests(paths)
    reading = time.perf_counter() - begun
    begun = time.perf_counter()
    again = file_digests(paths)
    assert again.digests == first.digests
    assert time.perf_counter() - begun < reading / 2
