"""The mean embedding that weights keep, against embeddings of the clips themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from uamix_bench.data.task import TaskData
from uamix_bench.models.checkpoint import write_safetensors
from uamix_bench.models.loading import load_model
from uamix_bench.tuning import centre
from uamix_bench.tuning.centre import mean_embedding
from uamix_bench.tuning.data import load_frames
from uamix_bench.tuning.recipe import PRETRAIN, TUNE
from uamix_bench.tuning.run import pretrain, tune
from uamix_bench.tuning.sounds import find_data
from uamix_bench.util.errors import BadInputError
from uamix_bench.util.files import digest

HOW = "stacked-mean-max"


@pytest.fixture(scope="module")
def waves() -> list[np.ndarray]:
    """Noises of which one is shorter than a patch, and no two are equally loud."""
    draw = np.random.default_rng(5)
    found = [draw.normal(0, 0.02 * (1 + n), 700 * (1 + 4 * n)).astype(np.float32) for n in range(6)]
    return [wave - wave.mean() for wave in found]


@pytest.fixture(scope="module")
def data(waves: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> TaskData:
    folder = tmp_path_factory.mktemp("noises")
    for number, wave in enumerate(waves):
        soundfile.write(folder / f"{number}.wav", wave, 16_000, subtype="FLOAT")
    return find_data(str(folder))


@pytest.fixture(scope="module")
def kept(data: TaskData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = PRETRAIN["tiny"].model_copy(update={"epochs": 0, "save_dtype": "float32"})
    return pretrain(recipe, data, tmp_path_factory.mktemp("kept"), init="audiomae-tiny", workers=1)


def plain(waves: list[np.ndarray]) -> np.ndarray:
    return load_model("audiomae-tiny", device="cpu", pooling=HOW).embed(waves, 16_000).astype(np.float64)


def test_the_mean_is_that_of_the_clips_own_embeddings(
    data: TaskData, waves: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = load_model("audiomae-tiny", device="cpu")
    frames = load_frames(data, model.fbank, 16_000, workers=1)
    expected = plain(waves)
    found = mean_embedding(model, frames, HOW, seed=0).numpy()
    assert np.abs(found - expected.mean(axis=0)).max() < 0.02 * np.abs(expected).mean()  # frames are halves
    monkeypatch.setattr(centre, "_CLIPS", 1)
    of_one = [mean_embedding(model, frames, HOW, seed).numpy() for seed in range(9)]
    nearest = {int(np.linalg.norm(expected - one, axis=1).argmin()) for one in of_one}
    assert len(nearest) > 1
    assert all(np.linalg.norm(expected - one, axis=1).min() < 1 for one in of_one)


def test_weights_are_read_less_their_mean_at_unit_length(kept: Path, waves: list[np.ndarray]) -> None:
    expected = plain(waves)
    less = expected - expected.mean(axis=0)
    less /= np.linalg.norm(less, axis=1, keepdims=True)
    model = load_model("audiomae", kept, device="cpu")
    assert (model.pooling, model.embedding_dim) == ("centred", 3_072)
    assert np.abs(model.embed(waves, 16_000) - less).max() < 2e-3
    assert np.array_equal(load_model("audiomae", kept, device="cpu", pooling=HOW).embed(waves, 16_000), plain(waves))
    assert model.identity is not None
    assert model.identity.parameters == load_model("random").identity.parameters  # type: ignore[union-attr]


@pytest.mark.parametrize("keeps", [True, False])
def test_a_tuning_keeps_the_mean_of_its_own_clips_and_never_its_parent_s(
    keeps: bool, kept: Path, waves: list[np.ndarray], tmp_path: Path
) -> None:
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", waves[number], 16_000, subtype="FLOAT")
    nothing = {"head_epochs": 0, "epochs": 0, "centre": keeps, "save_dtype": "float32"}
    recipe = TUNE["tiny"].model_copy(update=nothing)
    written = tune(recipe, find_data(str(tmp_path)), f"audiomae={kept}", tmp_path / "out", workers=1)
    model: Any = load_model("uamix", written, device="cpu")
    assert model.pooling == ("centred" if keeps else HOW)
    assert ("centre" in model.state_dict()) == keeps
    if keeps:
        expected = plain(waves)
        assert np.abs(model.centre.numpy() - expected[:2].mean(axis=0)).max() < 0.02 * np.abs(expected).mean()


def test_a_mean_of_another_size_is_refused(kept: Path, tmp_path: Path) -> None:
    model: Any = load_model("audiomae", kept, device="cpu")
    tensors = {**model.state_dict(), "centre": torch.zeros(192)}
    texts = {name: text for name, text in model.metadata.items() if name != "sha256"}
    write_safetensors(tmp_path / "other.safetensors", tensors, texts)
    with pytest.raises(BadInputError, match=r"centre is \[192\], expected \[3072\]"):
        load_model("audiomae", tmp_path / "other.safetensors")


def test_a_recipe_without_a_mean_has_the_digest_that_it_had_before() -> None:
    recipe = TUNE["paper"]
    before = {name: value for name, value in recipe.whole().items() if name in recipe.model_dump(mode="json")}
    assert "centre" not in before
    assert recipe.sha256 == digest(before)
    assert TUNE["tiny"].head_only().sha256 == TUNE["tiny"].model_copy(update={"centre": False}).head_only().sha256
