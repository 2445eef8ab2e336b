"""BEATs against an implementation in plain loops and float64, and against the golden files of the authors' own code."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from torch import Tensor
from torchaudio.compliance import kaldi

from uamix_bench import load_model
from uamix_bench.baselines.beats import BEATs, Config, encoder_keys
from uamix_bench.models.checkpoint import write_safetensors
from uamix_bench.util.errors import BadInputError

from .measured import alone, assert_alike_in_any_batch, assert_end_is_its_own, distance, sound
from .official import Size, State, beats_cfg, beats_state

RATE = 16_000
SETTINGS: dict[str, Any] = beats_cfg(Size(64, 2, 2)) | {"embed_dim": 24, "encoder_ffn_embed_dim": 96}


def layer_norm(x: Tensor, state: State, name: str) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    return (x - mean) / (variance + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x: Tensor, state: State, name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def bucket(offset: int, max_distance: int) -> int:
    distance = abs(offset)
    if distance >= 80:
        distance = min(159, 80 + int(80 * math.log(distance / 80) / math.log(max_distance / 80)))
    return distance + (160 if offset > 0 else 0)


def reference(samples: Tensor, settings: dict[str, Any], state: State) -> Tensor:
    """The tokens (L, D) of one clip, in float64, one head, tap and patch at a time."""
    state = {key: value.double() for key, value in state.items()}
    samples = torch.cat([samples, torch.zeros(max(0, 2_800 - len(samples)))])
    fbank = kaldi.fbank(samples.unsqueeze(0) * 2**15, num_mel_bins=128, sample_frequency=float(RATE))
    image = (fbank.double() - 15.41663) / (2 * 6.55582)
    kernel = state["patch_embedding.weight"][:, 0]
    x = torch.stack(
        [
            (kernel * image[16 * column : 16 * column + 16, 16 * row : 16 * row + 16]).sum((1, 2))
            for column in range(len(image) // 16)
            for row in range(8)
        ]
    )
    x = layer_norm(x, state, "layer_norm")
    if settings["embed_dim"] != settings["encoder_embed_dim"]:
        x = linear(x, state, "post_extract_proj")

    length, width = x.shape
    gain, direction = state["encoder.pos_conv.0.weight_g"], state["encoder.pos_conv.0.weight_v"]
    group = width // 16
    padded = torch.cat([torch.zeros(64, width), x, torch.zeros(64, width)])
    convolved = torch.zeros_like(x)
    for tap in range(128):
        weight = gain[0, 0, tap] * direction[:, :, tap] / direction[:, :, tap].norm()
        for start in range(0, width, group):
            part = slice(start, start + group)
            convolved[:, part] += padded[tap : tap + length, part] @ weight[part].T
    x = layer_norm(x + gelu(convolved + state["encoder.pos_conv.0.bias"]), state, "encoder.layer_norm")

    table = state["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    buckets = torch.tensor(
        [[bucket(key - query, settings["max_distance"]) for key in range(length)] for query in range(length)]
    )
    alpha = (2 * settings["encoder_layers"]) ** 0.25 if settings["deep_norm"] else 1.0
    size = width // settings["encoder_attention_heads"]
    for index in range(settings["encoder_layers"]):
        name = f"encoder.layers.{index}"
        attention = f"{name}.self_attn"
        q, k, v = (linear(x, state, f"{attention}.{letter}_proj") for letter in "qkv")
        heads = []
        for head in range(settings["encoder_attention_heads"]):
            part = slice(head * size, (head + 1) * size)
            eight = linear(q[:, part], state, f"{attention}.grep_linear")
            a, b = torch.sigmoid(eight[:, :4].sum(1)), torch.sigmoid(eight[:, 4:].sum(1))
            gate = a * (b * state[f"{attention}.grep_a"][0, head, 0, 0] - 1) + 2
            logits = q[:, part] @ k[:, part].T / math.sqrt(size) + gate[:, None] * table[buckets, head]
            heads.append(torch.softmax(logits, dim=1) @ v[:, part])
        attended = linear(torch.cat(heads, dim=1), state, f"{attention}.out_proj")
        x = layer_norm(alpha * x + attended, state, f"{name}.self_attn_layer_norm")
        inner = linear(gelu(linear(x, state, f"{name}.fc1")), state, f"{name}.fc2")
        x = layer_norm(alpha * x + inner, state, f"{name}.final_layer_norm")
    return x


def save(folder: Path, settings: dict[str, Any], state: State, **beside: object) -> Path:
    path = folder / "BEATs_tiny.pt"
    torch.save({"cfg": settings, "model": state, **beside}, path)
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Any:
    return load_model(BEATs, save(tmp_path, SETTINGS, beats_state(SETTINGS)), device="cpu")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"max_distance": 640},  # seen by distances of 80 tokens and more
        {"deep_norm": False},
        {"embed_dim": 64},  # no projection
        {"encoder_attention_heads": 4, "encoder_layers": 3},
    ],
)
def test_every_setting_gives_the_tokens_of_plain_loops(tmp_path: Path, change: dict[str, Any]) -> None:
    settings = SETTINGS | change
    state = beats_state(settings)
    model = load_model(BEATs, save(tmp_path, settings, state), device="cpu")
    for samples in (sound(32_000), sound(2_000), sound(17, seed=1)):
        expected = reference(samples, settings, state)
        assert distance(alone(model, samples)[1], expected) < 1e-5
        assert distance(model.embed([samples], RATE)[0], expected.mean(0)) < 1e-5


def test_half_precision_files_are_computed_in_float32(tmp_path: Path) -> None:
    state = {key: value.half() for key, value in beats_state(SETTINGS).items()}
    model = load_model(BEATs, save(tmp_path, SETTINGS, state), device="cpu")
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert distance(alone(model, sound(32_000))[1], reference(sound(32_000), SETTINGS, state)) < 1e-5


def test_a_fine_tuned_file_gives_the_encoder_without_the_predictor(tmp_path: Path, tiny: Any) -> None:
    state = beats_state(SETTINGS) | {"predictor.weight": torch.ones(5, 64), "predictor.bias": torch.ones(5)}
    settings = SETTINGS | {"finetuned_model": True, "predictor_class": 5}
    labels = {index: f"/m/{index}" for index in range(5)}
    model = load_model(BEATs, save(tmp_path, settings, state, label_dict=labels), device="cpu")
    assert model.identity.parameters == tiny.identity.parameters
    np.testing.assert_array_equal(model.embed([sound(32_000)], RATE), tiny.embed([sound(32_000)], RATE))


def test_a_clip_gets_in_any_batch_what_it_gets_alone(tiny: Any) -> None:
    assert_alike_in_any_batch(tiny)


def test_what_stands_past_a_clips_end_is_not_its_own(tiny: Any) -> None:
    assert_end_is_its_own(tiny, (400, 16_000))


def test_columns_and_layers_are_what_they_say(tiny: Any) -> None:
    for samples in (1, 2_799, 2_800, 5_359, 5_360, 52_803):
        assert len(alone(tiny, sound(samples))[1]) == 8 * tiny.token_columns(samples)
    in_layers = [parameter for layer in tiny.layers() for parameter in layer.parameters()]
    assert len(in_layers) == len(set(in_layers)) == len(list(tiny.parameters()))


def test_bfloat16_stays_close(tmp_path: Path, tiny: Any) -> None:
    path = save(tmp_path, SETTINGS, beats_state(SETTINGS))
    half = load_model(BEATs, path, device="cpu", dtype="bf16")
    clips = [sound(32_000), sound(9_000)]
    difference = distance(half.embed(clips, RATE), tiny.embed(clips, RATE))
    assert 1e-5 < difference < 0.2


def test_safetensors_of_the_state_load_as_the_same_model(tmp_path: Path, tiny: Any) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, tiny.state_dict(), tiny.metadata)
    again = load_model(BEATs, path, device="cpu")
    np.testing.assert_array_equal(again.embed([sound(9_000)], RATE), tiny.embed([sound(9_000)], RATE))


def test_a_cfg_without_deep_norm_is_said(tmp_path: Path, tiny: Any) -> None:
    """The class default is the other value than that of all published files."""
    assert not tiny.remarks
    path = save(
        tmp_path, without_deep_norm := {k: v for k, v in SETTINGS.items() if k != "deep_norm"}, beats_state(SETTINGS)
    )
    with pytest.warns(UserWarning, match="BEATs_tiny: the cfg lacks deep_norm, so it is taken as false"):
        model = load_model(BEATs, path, device="cpu")
    assert model.remarks == ("the cfg lacks deep_norm, so it is taken as false, BEATsConfig's default",)
    wanted = reference(sound(9_000), without_deep_norm | {"deep_norm": False}, beats_state(SETTINGS))
    assert distance(model.embed([sound(9_000)], RATE)[0], wanted.mean(0)) < 1e-5
    write_safetensors(tmp_path / "model.safetensors", model.state_dict(), model.metadata)
    with pytest.warns(UserWarning, match="lacks deep_norm"):
        assert load_model(BEATs, tmp_path / "model.safetensors", device="cpu").remarks == model.remarks


def without(key: str) -> Callable[[State], State]:
    return lambda state: {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("settings", "change", "complaint"),
    [
        ({}, lambda s: s | {"quantize.embedding.weight": torch.ones(2, 2)}, "this is a BEATs tokenizer, not a BEATs"),
        ({}, lambda s: {"cls_token": torch.ones(1, 1, 8)}, "no checkpoint of BEATs"),
        ({}, without("encoder.layers.1.fc1.weight"), r"lacks 1 of \d+ encoder tensors \(blocks.1.fc1.weight\)"),
        ({}, without("encoder.pos_conv.0.weight_g"), r"lacks 1 of \d+ encoder tensors \(stem.pos_conv.weight\)"),
        ({}, lambda s: s | {"encoder.pos_conv.0.weight_g": torch.ones(1, 1, 64)}, r"stem.pos_conv.weight"),
        ({}, lambda s: s | {"encoder.pos_conv.0.weight_v": torch.ones(64, 128)}, r"stem.pos_conv.weight"),
        ({"encoder_ffn_embed_dim": 128}, dict, r"blocks.0.fc1.weight is \[96, 64\], expected \[128, 64\]"),
        ({"encoder_layers": 3}, dict, "blocks.2.self_attn"),
        ({"layer_norm_first": True}, dict, "cfg.layer_norm_first"),
        ({"activation_fn": "glu"}, dict, "cfg.activation_fn"),
        ({"gru_rel_pos": False}, dict, "cfg.gru_rel_pos"),
        ({"encoder_layers": 10**9}, dict, "cfg.encoder_layers"),
        ({"encoder_attention_heads": 5}, dict, "does not divide"),
        ({"max_distance": 80}, dict, "max_distance"),
        ({"input_patch_size": "many"}, dict, "cfg.input_patch_size"),
    ],
)
def test_other_files_are_named(
    tmp_path: Path, settings: dict[str, Any], change: Callable[[State], State], complaint: str
) -> None:
    path = save(tmp_path, SETTINGS | settings, change(beats_state(SETTINGS)))
    with pytest.raises(BadInputError, match=complaint) as caught:
        BEATs.from_checkpoint(path)
    assert caught.value.subject == str(path)


def test_a_bare_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save(beats_state(SETTINGS), tmp_path / "bare.pt")
    with pytest.raises(BadInputError, match="holds no cfg"):
        BEATs.from_checkpoint(tmp_path / "bare.pt")


def test_the_card_counts_the_module() -> None:
    with torch.device("meta"):
        full = BEATs(Config(input_patch_size=16, relative_position_embedding=True, gru_rel_pos=True))
    assert sum(parameter.numel() for parameter in full.parameters()) == BEATs.card.parameters
    assert full.embedding_dim == BEATs.card.embedding_dim
    assert full.sample_rate == BEATs.card.sample_rate


def test_the_official_key_list_is_covered(test_data: Path) -> None:
    listing = json.loads((test_data / "goldens/full_keys/keys_full_beats.json").read_text())
    official = {entry["key"]: torch.empty(entry["shape"], device="meta") for entry in listing["keys"]}
    with torch.device("meta"):
        model = BEATs(Config.model_validate(listing["meta"]["cfg"]))
    own, renamed = model.state_dict(), encoder_keys(official)
    assert {key: value.shape for key, value in own.items()} == {
        key: value.shape for key, value in renamed.items() if key in own
    }
    copies = {f"blocks.{index}.self_attn.relative_attention_bias.weight" for index in range(1, 12)}
    assert renamed.keys() - own.keys() == copies | {"stem.pos_conv.weight_g", "stem.pos_conv.weight_v"}
    # The published 90.31M: the weight norm's 128 gains are folded into the kernel here.
    unique = sum(math.prod(entry["shape"]) for entry in listing["keys"]) - 11 * 320 * 12
    assert unique == BEATs.card.parameters + 128


# The golden files. Their batch_* keys record the reference's own padding mask, which cuts time columns in two: a clip
# in such a batch does not get what it gets alone, so they are not compared with.


@pytest.fixture(scope="module")
def golden(test_data: Path) -> Any:
    return load_model(BEATs, test_data / "goldens/beats/beats_small.pt", device="cpu")


def wave(test_data: Path, number: int) -> Tensor:
    """A golden waveform as the goldens were made: channel mean, then torchaudio's default resampler."""
    path = next((test_data / "goldens/waves").glob(f"w{number}_*.wav"))
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torchaudio.functional.resample(torch.from_numpy(samples.mean(axis=1)), rate, RATE)


@pytest.mark.parametrize("number", range(1, 6))
def test_golden(test_data: Path, golden: Any, number: int) -> None:
    samples = wave(test_data, number)
    with np.load(test_data / "goldens/beats/expected.npz") as expected:
        spectrogram, tokens = alone(golden, samples)
        error = np.abs(spectrogram.numpy() - expected[f"w{number}__frontend"])
        assert error.mean() < 1e-5
        assert error.max() < 1e-3
        assert distance(tokens, expected[f"w{number}__tokens"]) < 1e-3
        for golden.input in ("native", "official"):
            assert distance(golden.embed([samples], RATE)[0], expected[f"w{number}__emb_mean"]) < 1e-3


def test_golden_waves_in_one_batch(test_data: Path, golden: Any) -> None:
    waves = [wave(test_data, number) for number in range(1, 6)]
    with np.load(test_data / "goldens/beats/expected.npz") as expected:
        wanted = np.stack([expected[f"w{number}__emb_mean"] for number in range(1, 6)])
    assert distance(golden.embed(waves, RATE), wanted) < 1e-4
