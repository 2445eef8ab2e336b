"""The contract of an adapter, on one of ten lines, and all that load_model resolves and refuses."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import torch
from torch import Tensor, nn

from uamix_bench.models import loading
from uamix_bench.models.checkpoint import write_safetensors
from uamix_bench.models.convert import save
from uamix_bench.models.loading import load_model
from uamix_bench.models.model import AudioModel
from uamix_bench.models.sources import source_sha256
from uamix_bench.plugins.card import ModelCard
from uamix_bench.util.errors import BadInputError, BenchError, MachineError, UsageError

RATE = 1_000


class Blocks(AudioModel):
    """Tokens are blocks of ten samples, times a weight; what is left over at the end is dropped."""

    card = ModelCard(
        name="blocks",
        title="blocks",
        licence="MIT",
        sample_rate=RATE,
        embedding_dim=10,
        parameters=100,
        pretrained_on=("nothing",),
    )
    poolings = ("mean", "max")
    sample_rate = RATE
    embedding_dim = 10

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(10, 10, bias=False)
        nn.init.eye_(self.project.weight)

    @classmethod
    def from_checkpoint(cls, path: Path) -> AudioModel:
        model = cls()
        model.metadata = {"sha256": "a" * 64, "train_seed": "11"}
        return model

    def frontend(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        blocks = waveforms[:, : waveforms.shape[1] // 10 * 10].unflatten(1, (-1, 10))
        return blocks, lengths // 10

    def tokens(self, spectrogram: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.project(spectrogram), torch.arange(spectrogram.shape[1]) < lengths[:, None]

    def pool(self, tokens: Tensor, mask: Tensor, how: str) -> Tensor:
        if how == "max":
            return tokens.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)
        return super().pool(tokens, mask, how)


def loaded(**options: Any) -> AudioModel:
    return load_model(Blocks, "weights", **options)


def noise(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, length).astype(np.float32)


@pytest.mark.parametrize(("pooling", "statistic"), [("mean", np.mean), ("max", np.max)])
def test_embedding_is_the_pooled_tokens_of_each_clip(pooling: str, statistic: Any) -> None:
    clips = [noise(length, length) for length in (10, 57, 120, 57)]
    found = loaded(pooling=pooling).embed(clips, RATE)
    wanted = [statistic(clip[: len(clip) // 10 * 10].reshape(-1, 10), axis=0) for clip in clips]
    assert found.dtype == np.float32
    assert np.allclose(found, wanted, atol=1e-6)


def test_other_rates_are_resampled_once() -> None:
    clip = noise(4_000)
    found = loaded().embed([clip], 4 * RATE)
    wanted = loaded().embed([soxr.resample(clip, 4 * RATE, RATE, quality="HQ")], RATE)
    assert np.array_equal(found, wanted)


def test_waveforms_may_be_tensors_lists_or_doubles() -> None:
    clip = noise(30)
    wanted = loaded().embed([clip], RATE)
    for given in (torch.from_numpy(clip), clip.astype(np.float64), clip.tolist()):
        assert np.array_equal(loaded().embed([given], RATE), wanted)


@pytest.mark.parametrize(
    ("waveform", "reason"),
    [
        (np.zeros((2, 100), np.float32), r"has shape \(2, 100\); give 1-D mono waveforms"),
        (np.zeros(0, np.float32), r"has shape \(0,\); give 1-D mono waveforms of at least one sample"),
        (np.zeros(100, np.int16), r"holds int16 samples; give floating samples in \[-1, 1\]"),
        (np.where(np.arange(100) == 42, np.nan, 0.0), "sample 42 is not finite"),
        (np.where(np.arange(100) == 7, -np.inf, 0.0), "sample 7 is not finite"),
    ],
)
def test_what_is_no_waveform_is_refused(waveform: np.ndarray, reason: str) -> None:
    with pytest.raises(BadInputError, match=f"waveform 1: {reason}"):
        loaded().embed([noise(100), waveform], RATE)


def test_no_waveform_gives_no_row() -> None:
    assert loaded().embed([], RATE).shape == (0, 10)


def test_a_loaded_model_is_ready_and_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"any bytes")
    model = load_model(Blocks, tmp_path / "weights", input="official", pooling="max", label="mine/1")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.identity is not None
    assert model.identity.model_dump() == {
        "name": "mine/1",
        "adapter_version": "blocks/1",
        "weights_sha256": hashlib.sha256(b"any bytes").hexdigest(),  # whatever the class says of them
        "parameters": 100,
        "embedding_dim": 10,
        "input": "official",
        "pooling": "max",
        "dtype": "float32",
        "source_sha256": source_sha256(Blocks, AudioModel),
        "metadata_sha256": hashlib.sha256(b'{"sha256":"%s","train_seed":"11"}' % (b"a" * 64)).hexdigest(),
        "recipe_sha256": None,
        "parent_sha256": None,
        "train_seed": 11,
        "pretrained_on": ("nothing",),
        "licence": "MIT",
    }


def test_bf16_is_recorded_and_close() -> None:
    coarse = loaded(dtype="bf16")
    assert coarse.identity is not None
    assert coarse.identity.dtype == "bf16"
    given = noise(100)
    found, wanted = coarse.embed([given], RATE), loaded().embed([given], RATE)
    assert found.dtype == np.float32
    assert not np.array_equal(found, wanted)
    assert np.allclose(found, wanted, atol=0.01)


@pytest.mark.parametrize(
    ("arguments", "kind", "line"),
    [
        ({"name": "audiomae"}, UsageError, "--model audiomae: needs weights; give audiomae=PATH"),
        ({"name": "audiomae=a", "checkpoint": "b"}, UsageError, "--model audiomae=a: has a second checkpoint"),
        ({"name": "audiomae=absent.pth"}, BadInputError, "absent.pth: no such file; check the path"),
        ({"name": "a/b.pth"}, UsageError, "--model a/b.pth: is a file of weights; say whose, as audiomae=a/b.pth"),
        (
            {"name": "own.py"},
            UsageError,
            "--model own.py: is a file of code; name the class in it too, as own.py:CLASS",
        ),
        ({"name": "audioma"}, UsageError, "--model audioma: no such model; did you mean 'audiomae'?"),
        ({"name": "random", "checkpoint": "a"}, UsageError, "--model random: takes no checkpoint"),
        ({"name": "random", "pooling": "men"}, UsageError, "random has no such pooling; did you mean 'mean'?"),
        ({"name": "random", "device": "gpu"}, UsageError, "--device gpu: no such device; use auto, cpu, cuda"),
        ({"name": "random", "device": "cuda:99"}, MachineError, "--device cuda:99: is not available here ("),
        ({"name": "absent.py:Model"}, BadInputError, "absent.py: no such file; give --model FILE.py:NAME"),
    ],
)
def test_one_line_for_what_cannot_be_loaded(arguments: dict[str, Any], kind: type[BenchError], line: str) -> None:
    with pytest.raises(kind) as caught:
        load_model(**arguments)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "field"),
    [({"data": "x", "parent_sha256": 5}, "parent_sha256"), ({"train_seed": "9" * 5_000}, "train_seed")],
)
def test_metadata_that_no_result_can_hold_are_refused_by_name(metadata: dict[str, Any], field: str) -> None:
    class Own(Blocks):
        @classmethod
        def untrained(cls) -> AudioModel:
            model = cls()
            model.metadata = metadata
            return model

    with pytest.raises(BadInputError, match=rf"says of itself what no result can hold \({field}: "):
        load_model(Own)


def test_weights_that_change_while_they_are_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save(load_model("audiomae-tiny"), path)

    build = loading.build

    def build_and_change(*arguments: Any) -> AudioModel:
        built = build(*arguments)
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
        return built

    assert load_model("audiomae", tmp_path).identity == load_model("audiomae", path, label=tmp_path.name).identity
    monkeypatch.setattr(loading, "build", build_and_change)
    with pytest.raises(BadInputError, match="changed while it was read"):
        load_model("audiomae", path)


def test_weights_are_given_by_file_folder_or_option(tmp_path: Path) -> None:
    random = load_model("random")
    tmp_path = tmp_path / "tuned-a"
    tmp_path.mkdir()
    sha256 = write_safetensors(tmp_path / "model.safetensors", random.state_dict(), {"format": "pt"})
    wanted = random.embed([noise(16_000)], 16_000)
    for arguments in (
        {"name": f"audiomae={tmp_path / 'model.safetensors'}"},
        {"name": f"audiomae={tmp_path}"},
        {"name": "audiomae", "checkpoint": tmp_path},
        {"name": "audiomae", "checkpoint": str(tmp_path / "model.safetensors")},
        {"name": type(load_model("audiomae", tmp_path)), "checkpoint": tmp_path},
    ):
        model = load_model(**arguments)
        assert np.array_equal(model.embed([noise(16_000)], 16_000), wanted)
        assert model.identity is not None
        assert (model.identity.name, model.identity.weights_sha256) == ("tuned-a", sha256)
