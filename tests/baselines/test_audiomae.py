"""The AudioMAE adapter against the official code's outputs (goldens) and against timm's own vision transformer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torchaudio.compliance import kaldi
from torchaudio.functional import resample

from uamix_bench.models.checkpoint import Checkpoint, write_safetensors
from uamix_bench.models.loading import load_model
from uamix_bench.models.model import AudioModel
from uamix_bench.plugins.registry import models
from uamix_bench.tuning.recipe import PRETRAIN, PretrainRecipe
from uamix_bench.util.errors import BadInputError, UsageError

from .measured import distance

Floats = npt.NDArray[np.float32]
WAVES = range(1, 6)
FULL_SAMPLES = 400 + 1023 * 160  # the waveform of exactly 1,024 frames


@pytest.fixture(scope="module")
def goldens(test_data: Path) -> Path:
    return test_data / "goldens"


@pytest.fixture(scope="module")
def official(goldens: Path) -> Path:
    return goldens / "audiomae/audiomae_small.pth"


@pytest.fixture(scope="module")
def expected(goldens: Path) -> dict[str, Floats]:
    return dict(np.load(goldens / "audiomae/expected.npz"))


@pytest.fixture(scope="module")
def tensors(official: Path) -> dict[str, Tensor]:
    """The small official file's state dict, read by torch itself."""
    import argparse
    import pathlib

    with torch.serialization.safe_globals([argparse.Namespace, pathlib.PosixPath]):
        state: dict[str, Tensor] = torch.load(official, weights_only=True)["model"]
    return state


@cache
def wave(goldens: Path, number: int) -> Floats:
    """A golden's waveform as the golden was made: mean of the channels, torchaudio's default resampler."""
    (path,) = (goldens / "waves").glob(f"w{number}_*.wav")
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return resample(torch.from_numpy(samples.mean(axis=1)), rate, 16_000).numpy()


def encoder_only(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if "decoder" not in key and key != "mask_token"}


def finetuned(tensors: dict[str, Tensor], weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """A state dict as the official fine-tuned files have it: `fc_norm` and `head`, no `norm` and no decoder."""
    state = {key: value for key, value in encoder_only(tensors).items() if not key.startswith("norm.")}
    return {**state, "fc_norm.weight": weight, "fc_norm.bias": bias, "head.weight": torch.ones(527, len(weight))}


def embedded(path: Path, samples: Floats, pooling: str | None = None) -> Floats:
    return load_model("audiomae", path, input="official", pooling=pooling).embed([samples], 16_000)[0]


# --- the official code


@pytest.mark.parametrize("number", WAVES)
def test_front_end(goldens: Path, official: Path, expected: dict[str, Floats], number: int) -> None:
    model = load_model("audiomae", official, input="official")
    samples = torch.from_numpy(wave(goldens, number)).unsqueeze(0)
    frames, counts = model.frontend(samples, torch.tensor([samples.shape[1]]))
    assert counts.tolist() == [1024]
    error = np.abs(frames[0].numpy() - expected[f"w{number}__frontend"])
    assert error.mean() <= 1e-5
    assert error.max() <= 1e-3


@pytest.mark.parametrize("number", WAVES)
def test_tokens_and_embeddings(goldens: Path, official: Path, expected: dict[str, Floats], number: int) -> None:
    samples = wave(goldens, number)
    for pooling, key in (("mean", "mean_patches"), ("cls", "cls"), ("prenorm-mean", "prenorm_mean_patches")):
        assert distance(embedded(official, samples, pooling), expected[f"w{number}__emb_{key}"]) <= 1e-3, pooling
    model: Any = load_model("audiomae", official, input="official")
    given = torch.from_numpy(samples).unsqueeze(0)
    before_norm, mask = model.tokens(*model.frontend(given, torch.tensor([len(samples)])))
    tokens = model.encoder.norm(before_norm[0])
    assert mask.all()
    assert distance(tokens.mean(dim=0), expected[f"w{number}__emb_mean_all"]) <= 1e-3
    if f"w{number}__tokens" in expected:
        assert distance(tokens, expected[f"w{number}__tokens"]) <= 1e-3
    stacked = model.pool(before_norm, mask, "stacked")[0]
    assert distance(stacked, tokens[1:].reshape(64, 8 * 128).mean(dim=0)) <= 1e-6


@pytest.mark.parametrize("number", WAVES)
def test_finetuned_files(
    goldens: Path, tensors: dict[str, Tensor], expected: dict[str, Floats], number: int, tmp_path: Path
) -> None:
    variants = {
        "fresh": (torch.ones(128), torch.zeros(128)),
        "from_norm": (tensors["norm.weight"], tensors["norm.bias"]),
    }
    for name, (weight, bias) in variants.items():
        path = tmp_path / f"{name}.pth"
        torch.save({"model": finetuned(tensors, weight, bias), "epoch": 59}, path)
        found = embedded(path, wave(goldens, number))  # fc-norm is what such a file pools with, unasked
        assert distance(found, expected[f"w{number}__emb_ft_fcnorm_{name}"]) <= 1e-3


def test_poolings_follow_the_file(official: Path, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(finetuned(tensors, torch.ones(128), torch.zeros(128)), tmp_path / "tuned.pth")
    with pytest.raises(UsageError, match="--pooling fc-norm: audiomae_small has no such pooling"):
        load_model("audiomae", official, pooling="fc-norm")
    with pytest.raises(UsageError, match="--pooling mean: tuned has no such pooling; known: fc-norm, prenorm-mean"):
        load_model("audiomae", tmp_path / "tuned.pth", pooling="mean")
    assert load_model("audiomae", official).identity.pooling == "mean"  # type: ignore[union-attr]
    assert load_model("audiomae", official, pooling="stacked").embedding_dim == 8 * 128


# --- timm as the oracle


def oracle(tensors: dict[str, Tensor], fc_norm: bool, frames: int = 1024) -> VisionTransformer:
    """timm's own model of the small size with the golden's weights, positions cut to the clip's columns."""
    model = VisionTransformer(
        img_size=(frames, 128),
        in_chans=1,
        num_classes=0,
        embed_dim=128,
        depth=2,
        num_heads=2,
        global_pool="avg",
        fc_norm=fc_norm,
    )
    state = {**encoder_only(tensors), "pos_embed": tensors["pos_embed"][:, : 1 + frames // 16 * 8]}
    if fc_norm:
        state["fc_norm.weight"], state["fc_norm.bias"] = state.pop("norm.weight"), state.pop("norm.bias")
    model.load_state_dict(state)
    return model.eval()


def spectrogram(samples: Floats, frames: int) -> Tensor:
    """AudioMAE's input made by torchaudio, (1, 1, frames, 128): zero rows first, then normalised."""
    given = torch.from_numpy(samples - samples.mean()).unsqueeze(0)
    fbank = kaldi.fbank(given, htk_compat=True, use_energy=False, window_type="hanning", num_mel_bins=128, dither=0.0)[
        :frames
    ]
    padded = torch.nn.functional.pad(fbank, (0, 0, 0, frames - len(fbank)))
    return ((padded + 4.2677393) / (2 * 4.5689974))[None, None]


def save_pth(tensors: dict[str, Tensor], path: Path) -> None:
    torch.save(tensors, path)


@pytest.mark.parametrize("save", [save_file, save_pth], ids=["safetensors", "pth"])
@pytest.mark.parametrize("fc_norm", [False, True], ids=["norm", "fc_norm"])
def test_timm_state_dicts_give_what_timm_gives(
    goldens: Path, tensors: dict[str, Tensor], fc_norm: bool, save: Callable[..., None], tmp_path: Path
) -> None:
    timm_model, path, samples = oracle(tensors, fc_norm), tmp_path / "timm.bin", wave(goldens, 4)
    save(timm_model.state_dict(), path)
    model: Any = load_model("audiomae", path, input="official")
    with torch.inference_mode():
        features = timm_model.forward_features(spectrogram(samples, 1024))
        embedding = timm_model.forward_head(features)
        found, _ = model.tokens(*model.frontend(torch.from_numpy(samples)[None], torch.tensor([len(samples)])))
    assert distance(found if fc_norm else model.encoder.norm(found), features) <= 1e-5
    assert distance(model.embed([samples], 16_000), embedding) <= 1e-5


@pytest.mark.parametrize(
    ("seconds", "frames"), [(0.01, 16), (0.3, 16), (1.0, 96), (5.0, 496), (9.98, 992), (12.0, 1024)]
)
def test_native_is_timm_on_the_clips_own_columns(
    official: Path, tensors: dict[str, Tensor], seconds: float, frames: int
) -> None:
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, max(400, round(16_000 * seconds))).astype(np.float32)
    with torch.inference_mode():
        wanted = oracle(tensors, False, frames)(spectrogram(noise, frames))
    model = load_model("audiomae", official)
    assert model.token_columns(len(noise)) == frames // 16
    assert distance(model.embed([noise], 16_000), wanted) <= 1e-5


# --- batches and lengths


@pytest.mark.parametrize("input", ["native", "official"])
def test_a_batch_of_lengths_equals_each_alone(official: Path, input: Any) -> None:
    rng = np.random.default_rng(1)
    lengths = [40, 1_000, 8_000, 16_000, 52_803, 164_000, FULL_SAMPLES, 200_000]
    clips = [(0.2 * rng.standard_normal(length)).astype(np.float32) for length in lengths]
    model = load_model("audiomae", official, input=input)
    for pooling in model.poolings if input == "native" else model.poolings[:1]:
        model.pooling = pooling
        together = model.embed(clips, 16_000)
        for clip, found in zip(clips, together, strict=True):
            assert distance(found, model.embed([clip], 16_000)[0]) <= 1e-5, (pooling, len(clip))


def test_batches_of_one_and_sixteen(official: Path) -> None:
    clips = list((0.2 * np.random.default_rng(2).standard_normal((16, 12_345))).astype(np.float32))
    model = load_model("audiomae", official)
    alone = np.concatenate([model.embed([clip], 16_000) for clip in clips])
    assert distance(model.embed(clips, 16_000), alone) <= 1e-5


def test_a_clip_of_the_official_length_is_native(official: Path) -> None:
    clip = (0.2 * np.random.default_rng(3).standard_normal(FULL_SAMPLES)).astype(np.float32)
    native, padded = (load_model("audiomae", official, input=input) for input in ("native", "official"))
    assert np.array_equal(native.embed([clip], 16_000), padded.embed([clip], 16_000))
    shorter = clip[: FULL_SAMPLES // 2]
    assert distance(native.embed([shorter], 16_000), padded.embed([shorter], 16_000)) > 0.01


@pytest.mark.parametrize("input", ["native", "official"])
def test_token_columns_are_those_of_the_tokens(official: Path, input: Any) -> None:
    model = load_model("audiomae", official, input=input)
    for samples in (1, 399, 400, 2_799, 2_800, 5_359, 5_360, 16_000, FULL_SAMPLES, FULL_SAMPLES + 99_999):
        given = torch.zeros(1, samples)
        tokens, mask = model.tokens(*model.frontend(given, torch.tensor([samples])))
        assert tokens.shape[1] == mask.sum() == 1 + 8 * model.token_columns(samples)


def test_silence_and_a_constant_are_finite_and_equal(official: Path) -> None:
    model = load_model("audiomae", official)
    silence, constant = model.embed([np.zeros(16_000, np.float32), np.full(16_000, 0.5, np.float32)], 16_000)
    assert np.isfinite(silence).all()
    assert distance(constant, silence) <= 1e-5  # the front end takes the mean off


# --- files


@pytest.fixture(scope="module")
def full_size(goldens: Path) -> dict[str, Tensor]:
    """The official ViT-B file's keys and shapes, on the meta device."""
    entries = json.loads((goldens / "full_keys/keys_full_audiomae.json").read_text())["keys"]
    return {entry["key"]: torch.empty(entry["shape"], device="meta") for entry in entries}


def from_shapes(tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> AudioModel:
    """What the adapter builds of a file that holds these tensors."""
    kind: Any = models()["audiomae"].load()
    module = sys.modules[kind.__module__]
    monkeypatch.setattr(module, "read_checkpoint", lambda path: Checkpoint(path, "", tensors))
    model: AudioModel = kind.from_checkpoint(Path("pretrained.pth"))
    return model


def test_every_encoder_key_of_the_full_size_file_is_used(
    full_size: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = from_shapes(full_size, monkeypatch)
    shapes = sorted(tuple(value.shape) for value in model.state_dict().values())
    assert shapes == sorted(tuple(value.shape) for value in encoder_only(full_size).values())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert (
        parameters
        == model.card.parameters
        == sum(value.numel() for value in encoder_only(full_size).values()) - 513 * 768
    )
    assert model.embedding_dim == model.card.embedding_dim


def test_a_full_size_file_without_its_last_block_is_not_whole(
    full_size: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = {key: value for key, value in full_size.items() if not key.startswith("blocks.11.")}
    with pytest.raises(BadInputError, match=r"lacks 12 of 150 encoder tensors \(encoder.blocks.11.norm1.weight"):
        from_shapes(cut, monkeypatch)


@pytest.mark.slow
def test_a_file_of_full_size_loads(full_size: dict[str, Tensor], tmp_path: Path) -> None:
    zeros = {key: torch.zeros(value.shape, dtype=torch.float16) for key, value in full_size.items()}
    torch.save({"model": zeros}, tmp_path / "pretrained.pth")
    model = load_model("audiomae", tmp_path / "pretrained.pth")
    assert model.identity is not None
    assert (model.identity.parameters, model.embedding_dim) == (model.card.parameters, model.card.embedding_dim)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


def test_our_own_files_round_trip(goldens: Path, official: Path, tmp_path: Path) -> None:
    model, samples = load_model("audiomae", official), wave(goldens, 2)
    metadata = {"kind": "pretrain", "recipe_sha256": "ab" * 32, "train_seed": "7", "data": "synthetic@1"}
    sha256 = write_safetensors(tmp_path / "model.safetensors", model.state_dict(), metadata)
    again = load_model("audiomae", tmp_path)  # the folder, as `pretrain --out` writes it
    assert np.array_equal(again.embed([samples], 16_000), model.embed([samples], 16_000))
    identity = again.identity
    assert identity is not None
    assert (identity.weights_sha256, identity.recipe_sha256, identity.train_seed) == (sha256, "ab" * 32, 7)
    assert identity.pretrained_on == ("synthetic@1",)
    assert (model.identity.pretrained_on, model.identity.licence) == (model.card.pretrained_on, model.card.licence)  # type: ignore[union-attr]


def test_uamix_takes_only_what_tuning_wrote(official: Path, tmp_path: Path) -> None:
    state = load_model("audiomae", official).state_dict()
    write_safetensors(tmp_path / "tuned.safetensors", state, {"kind": "tune", "data": "d@1", "parent_sha256": "c" * 64})
    tuned = load_model("uamix", tmp_path / "tuned.safetensors")
    assert tuned.identity is not None
    assert tuned.identity.name == "tuned"
    assert tuned.identity.pretrained_on == ("weights cccccccccccc", "d@1")
    with pytest.raises(BadInputError, match="was not written by 'uamix-bench tune'"):
        load_model("uamix", official)


@pytest.mark.parametrize(
    ("recipe", "pooling"),
    [
        ('{"pooling": "stacked"}', "stacked"),
        ('{"pooling": "max"}', "mean"),
        ('{"pooling": []}', "mean"),
        ("[]", "mean"),
    ],
)
def test_uamix_pools_as_it_was_tuned(recipe: str, pooling: str, official: Path, tmp_path: Path) -> None:
    state = load_model("audiomae", official).state_dict()
    write_safetensors(tmp_path / "tuned.safetensors", state, {"kind": "tune", "recipe": recipe})
    tuned = load_model("uamix", tmp_path / "tuned.safetensors")
    assert (tuned.pooling, tuned.poolings[0]) == (pooling, pooling)
    assert sorted(tuned.poolings) == sorted(load_model("audiomae", official).poolings)
    assert load_model("uamix", tmp_path / "tuned.safetensors", pooling="cls").pooling == "cls"


OTHERS = {
    "beats/beats_small.pt": "is a checkpoint of beats, not of AudioMAE; give it as beats=PATH",
    "mae_ast/mae_ast_small.pt": "is a checkpoint of mae-ast, not of AudioMAE; give it as mae-ast=PATH",
    "mae_ast/mae_ast_small_frame_fp16.pt": "is a checkpoint of mae-ast, not of AudioMAE",
    "m2d/m2d_vit_base-80x608p16x16-221006-mr7": "is a checkpoint of m2d, not of AudioMAE; give it as m2d=PATH",
    "m2d/m2d_vit_base-80x608p16x16-230101-stats_enconly": "is a checkpoint of m2d, not of AudioMAE",
    "maskspec/maskspec_small.pth": "is a checkpoint of maskspec, not of AudioMAE; give it as maskspec=PATH",
}


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_other_models_are_named(goldens: Path, name: str) -> None:
    path = goldens / name
    path = next(path.glob("*.pth")) if path.is_dir() else path
    with pytest.raises(BadInputError, match=OTHERS[name]) as caught:
        load_model("audiomae", path)
    assert caught.value.exit_code == 3
    assert str(path) in str(caught.value)


def test_every_missing_key_is_named(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    encoder = encoder_only(tensors)
    path = tmp_path / "part.pth"
    for key in encoder:
        torch.save({other: value for other, value in encoder.items() if other != key}, path)
        with pytest.raises(BadInputError, match=rf"\(encoder\.(stem\.)?{key}") as caught:
            load_model("audiomae", path)
        assert "\n" not in str(caught.value)


def test_a_truncated_file_is_named(official: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.pth").write_bytes(official.read_bytes()[:100_000])
    with pytest.raises(BadInputError, match=r"cut.pth: truncated .*; download it again"):
        load_model("audiomae", tmp_path / "cut.pth")


@pytest.mark.parametrize("width", [0, 32, 96, 200])
def test_a_width_that_no_head_divides_is_refused(tensors: dict[str, Tensor], width: int, tmp_path: Path) -> None:
    patch = torch.zeros(width, 1, 16, 16)
    torch.save({**encoder_only(tensors), "patch_embed.proj.weight": patch}, tmp_path / "odd.pth")
    with pytest.raises(BadInputError, match=f"is {width} wide, no multiple of 64"):
        load_model("audiomae", tmp_path / "odd.pth")


def test_layers_hold_every_weight_but_the_norm_once(official: Path) -> None:
    model: AudioModel = load_model("audiomae", official)
    walked = [parameter for layer in model.layers() for parameter in layer.parameters()]
    rest = {name for name, parameter in model.named_parameters() if not any(parameter is other for other in walked)}
    assert len(model.layers()) == 1 + 2
    assert len({id(parameter) for parameter in walked}) == len(walked)
    assert rest == {"encoder.norm.weight", "encoder.norm.bias"}


def test_no_recipe_has_heads_that_its_file_does_not_imply() -> None:
    tiny = PRETRAIN["tiny"].model_dump()
    assert PretrainRecipe.model_validate({**tiny, "width": 256, "heads": 4}).heads == 4
    with pytest.raises(ValidationError, match="width is 64 x heads"):
        PretrainRecipe.model_validate({**tiny, "heads": 6})
