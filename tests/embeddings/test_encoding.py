"""Batches of a small encoder on several cores: the bits of one thread, in order, a few ahead; other models as ever."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from uamix_bench.embeddings import encoding
from uamix_bench.embeddings.encoding import Batch, encode
from uamix_bench.models.loading import load_model
from uamix_bench.models.model import AudioModel
from uamix_bench.util.threads import computing_with

CORES = 3
RATE = 16_000


@pytest.fixture(autouse=True)
def several_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(encoding, "cores", lambda: CORES)
    with computing_with(CORES):
        yield


@pytest.fixture(scope="module", params=["float32", "bf16"])
def model(request: pytest.FixtureRequest) -> AudioModel:
    return load_model("uamix-tiny", device="cpu", dtype=request.param)


def made(count: int) -> list[Batch]:
    rng = np.random.default_rng(0)
    sizes = [1 + number % 4 for number in range(count)]
    noise = iter(0.1 * rng.standard_normal((sum(sizes), RATE // 2)).astype(np.float32))
    return [[(10 * number + place, next(noise)) for place in range(size)] for number, size in enumerate(sizes)]


class Watched:
    """Records in which thread, and with how many of torch's own, each batch is embedded."""

    def __init__(self, model: AudioModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[threading.Thread, int]] = []
        embed = model.embed

        def watched(waves: list[np.ndarray], sample_rate: int) -> np.ndarray:
            self.calls.append((threading.current_thread(), torch.get_num_threads()))
            return embed(waves, sample_rate)

        monkeypatch.setattr(model, "embed", watched)


def test_several_cores_give_the_bits_of_one_thread_in_order(model: AudioModel, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = made(12)
    with computing_with(1):
        alone = [model.embed([wave for _, wave in batch], RATE) for batch in batches]
    watched = Watched(model, monkeypatch)
    stdout = sys.stdout
    done = list(encode(model, batches, 4, 0.5))
    assert sys.stdout is stdout
    assert [batch for batch, _ in done] == batches
    for (_, vectors), expected in zip(done, alone, strict=True):
        np.testing.assert_array_equal(vectors, expected)
    assert len({thread for thread, _ in watched.calls}) > 1
    assert {threads for _, threads in watched.calls} == {1}
    assert torch.get_num_threads() == CORES


def test_few_batches_are_asked_for_ahead(model: AudioModel) -> None:
    asked = 0

    def endless() -> Iterator[Batch]:
        nonlocal asked
        for batch in 100 * made(1):
            asked += 1
            yield batch

    encoded = encode(model, endless(), 4, 0.5)
    for taken in range(1, 9):
        next(encoded)
        assert asked <= taken + CORES
    encoded.close()
    assert torch.get_num_threads() == CORES


def test_the_error_of_a_batch_is_raised_at_its_turn(model: AudioModel, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = model.embed

    def fails(waves: list[np.ndarray], sample_rate: int) -> np.ndarray:
        if len(waves) == 3:
            raise ZeroDivisionError
        return embed(waves, sample_rate)

    monkeypatch.setattr(model, "embed", fails)
    encoded = encode(model, made(12), 4, 0.5)
    next(encoded), next(encoded)
    with pytest.raises(ZeroDivisionError):
        next(encoded)
    assert torch.get_num_threads() == CORES


def test_large_batches_and_code_of_ones_own_stay_in_this_thread(
    model: AudioModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = type("Own", (type(model),), {"__module__": "somebody"})
    here = (threading.current_thread(), CORES)
    for change, arguments in (({}, (10_000, 10.0)), ({"__class__": own}, (4, 0.5))):
        with monkeypatch.context() as patch:
            for name, value in change.items():
                patch.setattr(model, name, value)
            watched = Watched(model, patch)
            assert len(list(encode(model, made(3), *arguments))) == 3
            assert watched.calls == 3 * [here]
    with computing_with(1), monkeypatch.context() as patch:
        watched = Watched(model, patch)
        list(encode(model, made(3), 4, 0.5))
        assert watched.calls == 3 * [(threading.current_thread(), 1)]
