"""The same correct queries with any number of threads, any batch size, and after a resume, ties among them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from threadpoolctl import threadpool_limits

from uamix_bench.data.task import TaskData, load_task
from uamix_bench.embeddings.embedding import embed
from uamix_bench.evaluation.fewshot import draw_episodes, fewshot_grid
from uamix_bench.models.loading import load_model
from uamix_bench.models.model import AudioModel
from uamix_bench.scoring.classifiers import CLASSIFIERS
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.util.progress import SILENT, Progress

RATE = 16_000
PROTOCOLS = [
    Protocol(name=name, n_way=3, k_shot=2, n_query=3, episodes=200, classifier=name)  # type: ignore[arg-type]
    for name in CLASSIFIERS
]


@pytest.fixture(params=["uamix-tiny", "audiomae-tiny", "logmel", "uamix-tiny bf16"])
def model(request: pytest.FixtureRequest) -> AudioModel:
    name, _, dtype = request.param.partition(" ")
    return load_model(name, device="cpu", dtype=dtype or "float32")


@pytest.fixture
def task(tmp_path: Path, bench_home: Path) -> TaskData:
    """Three classes of six noises of 0.5 to 4 seconds; one noise is in every class, so that distances tie."""
    rng = np.random.default_rng(2)
    root = tmp_path / "noises"
    for label, colour in (("a", 1), ("b", 4), ("c", 7)):
        (root / label).mkdir(parents=True)
        for index, seconds in enumerate((0.5, 1.3, 2.0, 3.1, 4.0)):
            noise = np.convolve(rng.standard_normal(int(seconds * RATE)), np.ones(colour + index % 4), mode="same")
            soundfile.write(root / label / f"{index}.wav", 0.05 * noise, RATE)
        if label != "a":
            shutil.copy(root / "a" / "1.wav", root / label / "copy.wav")
    shutil.copy(root / "a" / "1.wav", root / "a" / "copy.wav")
    return load_task(str(root))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """As many threads in torch and in numpy's BLAS."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def several(model: AudioModel) -> int:
    """The threads up to which the promise holds: a sum split between them may round otherwise, in bf16 by 2^-8."""
    return 1 if model.dtype == torch.bfloat16 else 2


def outcome(model: AudioModel, task: TaskData, **options: object) -> list[tuple[str, tuple[int, ...]]]:
    """The ids, which cover all that is scored, and the correct queries of every episode, by classifier."""
    results = fewshot_grid(model, task, PROTOCOLS, **options)  # type: ignore[arg-type]
    return [(result.id, result.episodes.correct) for result in results]


class Stops(Progress):
    """Interrupts the encoder after some clips."""

    def __init__(self, after: int) -> None:
        self.left = after

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "clips") -> Iterator[Callable[[int, str], None]]:
        def advance(count: int, note: str) -> None:
            self.left -= count if what == "embedding" else 0
            if self.left < 0:
                raise KeyboardInterrupt

        yield advance


def test_the_last_correct_query_is_the_same(model: AudioModel, task: TaskData) -> None:
    with threads(1):
        expected = outcome(model, task, batch_size=16, cache=False)
    assert 0.4 < np.mean(expected[0][1]) / 9 < 0.99  # neither chance nor perfect, so that a flip would show
    for count, batch_size in ((1, 1), (1, 64), *((several(model), size) for size in (1, 3, 64))):
        with threads(count):
            assert outcome(model, task, batch_size=batch_size, cache=False) == expected, (count, batch_size)
    with threads(several(model)), pytest.raises(KeyboardInterrupt):
        outcome(model, task, batch_size=2, progress=Stops(5))
    with threads(1):
        resumed = fewshot_grid(model, task, PROTOCOLS, batch_size=7)
        assert [(result.id, result.episodes.correct) for result in resumed] == expected
        assert 0 < resumed[0].cost.embedded_clips < 16
        assert outcome(model, task, progress=SILENT) == expected  # from the cache alone


def test_bits_are_the_same_on_one_thread_and_nearly_on_two(model: AudioModel, task: TaskData) -> None:
    rows = np.arange(len(task.table))
    with threads(1):
        alone, together = (embed(model, task, rows, batch_size=size, cache=False).vectors for size in (1, 64))
    np.testing.assert_array_equal(alone, together)
    with threads(several(model)):
        other = embed(model, task, rows, batch_size=1, cache=False).vectors
    assert np.abs(other - alone).max() <= 1e-6 * np.abs(alone).max()


def test_the_planted_copies_tie_and_go_to_the_lowest_slot(task: TaskData) -> None:
    model = load_model("logmel", device="cpu")
    protocol = Protocol(name="ties", n_way=3, k_shot=1, n_query=5, episodes=300)
    episodes = draw_episodes(task, protocol)
    table = embed(model, task, episodes.clips, cache=False).vectors
    support, query = episodes.compact()
    chosen = CLASSIFIERS["nearest-centroid"](table, support, query).chosen
    exact = table.astype(np.float64)
    distance = np.square(exact[query][:, :, :, None] - exact[support][:, None, None, :, 0]).sum(-1)  # (E, N, Q, N)
    tied = distance - distance.min(-1, keepdims=True) <= 1e-12
    assert (tied.sum(-1) > 1).sum() > 20
    np.testing.assert_array_equal(chosen[tied.sum(-1) > 1], tied.argmax(-1)[tied.sum(-1) > 1])
