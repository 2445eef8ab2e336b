"""MAE-AST against torch's functional attention with separate projections, and against the golden files."""

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
from torch.nn import functional
from torchaudio.compliance import kaldi

from uamix_bench import load_model
from uamix_bench.baselines.mae_ast import MAEAST, Config, encoder_keys
from uamix_bench.models.checkpoint import write_safetensors
from uamix_bench.util.errors import BadInputError

from .measured import alone, assert_alike_in_any_batch, assert_end_is_its_own, distance, sound
from .official import Size, State, mae_ast_cfg, mae_ast_state

RATE = 16_000
CFG = mae_ast_cfg(Size(64, 3, 4))
PATCH: dict[str, Any] = CFG["model"] | {"encoder_ffn_embed_dim": 96, "max_token_length": 300}
FRAME = PATCH | {
    "ast_kernel_size_chan": 128,
    "ast_kernel_size_time": 2,
    "ast_kernel_stride_chan": 128,
    "ast_kernel_stride_time": 2,
    "encoder_layers": 2,
}
TASK = CFG["task"]


def reference(samples: Tensor, settings: dict[str, Any], state: State) -> list[Tensor]:
    """The tokens (L, D) of one clip after each layer, in float64: patches cut one by one, fairseq's attention."""
    state = {key: value.double() for key, value in state.items()}
    samples = torch.cat([samples, torch.zeros(max(0, 400 - len(samples)))])
    fbank = kaldi.fbank(samples.unsqueeze(0), num_mel_bins=128, sample_frequency=float(RATE), use_energy=False)
    frames, mel = settings["ast_kernel_size_time"], settings["ast_kernel_size_chan"]
    fbank = torch.cat([fbank, torch.zeros(max(0, frames - len(fbank)), 128)]).double()
    image = functional.batch_norm(
        fbank[None, None], state["batch_norm.running_mean"], state["batch_norm.running_var"], training=False
    )
    image = image[0, 0] * 0.5
    pixels = torch.stack(
        [
            torch.cat([image[frames * column + frame, mel * row : mel * row + mel] for frame in range(frames)])
            for column in range(len(image) // frames)
            for row in range(128 // mel)
        ]
    )
    width = settings["encoder_embed_dim"]

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (width,), state[f"{name}.weight"], state[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    x = linear(pixels, "post_extract_proj") + state["enc_sine_pos_embed.pe"][0, : len(pixels)]
    x = norm(x, "encoder.layer_norm")
    states = []
    for index in range(settings["encoder_layers"]):
        name = f"encoder.layers.{index}"
        attention = f"{name}.self_attn"
        attended, _ = functional.multi_head_attention_forward(
            x.unsqueeze(1),
            x.unsqueeze(1),
            x.unsqueeze(1),
            width,
            settings["encoder_attention_heads"],
            in_proj_weight=torch.empty(0),
            in_proj_bias=torch.cat([state[f"{attention}.{letter}_proj.bias"] for letter in "qkv"]),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=state[f"{attention}.out_proj.weight"],
            out_proj_bias=state[f"{attention}.out_proj.bias"],
            training=False,
            use_separate_proj_weight=True,
            q_proj_weight=state[f"{attention}.q_proj.weight"],
            k_proj_weight=state[f"{attention}.k_proj.weight"],
            v_proj_weight=state[f"{attention}.v_proj.weight"],
        )
        x = norm(x + attended.squeeze(1), f"{name}.self_attn_layer_norm")
        x = norm(x + linear(functional.gelu(linear(x, f"{name}.fc1")), f"{name}.fc2"), f"{name}.final_layer_norm")
        states.append(x)
    return states


def save(folder: Path, settings: dict[str, Any], state: State, task: dict[str, Any] = TASK) -> Path:
    path = folder / "mae_ast_tiny.pt"
    torch.save({"args": None, "cfg": {"model": settings, "task": task}, "model": state, "extra_state": {}}, path)
    return path


@pytest.fixture(params=[PATCH, FRAME], ids=["patch", "frame"])
def tiny(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    return load_model(MAEAST, save(tmp_path, request.param, mae_ast_state(request.param)), device="cpu")


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("settings", [PATCH, FRAME], ids=["patch", "frame"])
def test_both_variants_give_the_tokens_of_functional_attention(
    tmp_path: Path, settings: dict[str, Any], half: bool
) -> None:
    state = mae_ast_state(settings)
    if half:
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    path = save(tmp_path, settings, state)
    model, layers = (load_model(MAEAST, path, device="cpu", pooling=how) for how in ("mean", "layer-mean"))
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    for samples in (sound(32_000), sound(2_000), sound(17, seed=1)):
        expected = reference(samples, settings, state)
        assert distance(alone(model, samples)[1], expected[-1]) < 1e-5
        assert distance(model.embed([samples], RATE)[0], expected[-1].mean(0)) < 1e-5
        assert distance(layers.embed([samples], RATE)[0], torch.stack(expected).mean((0, 1))) < 1e-5


@pytest.mark.parametrize("pooling", ["mean", "layer-mean"])
def test_a_clip_gets_in_any_batch_what_it_gets_alone(tiny: Any, pooling: str) -> None:
    tiny.pooling = pooling
    assert_alike_in_any_batch(tiny)


def test_what_stands_past_a_clips_end_is_not_its_own(tiny: Any) -> None:
    assert_end_is_its_own(tiny, (100, 400, 16_000))


def test_a_clip_is_cut_where_the_positions_end(tiny: Any) -> None:
    rows = tiny.config.rows
    longest = tiny.config.max_token_length // rows
    samples = sound(400 + 160 * ((longest + 3) * tiny.config.ast_kernel_size_time - 1))
    assert tiny.token_columns(len(samples)) == longest
    assert len(alone(tiny, samples)[1]) == rows * longest
    kept = 400 + 160 * (longest * tiny.config.ast_kernel_size_time - 1)
    np.testing.assert_allclose(tiny.embed([samples], RATE), tiny.embed([samples[:kept]], RATE), atol=1e-5, rtol=0)


def test_columns_and_layers_are_what_they_say(tiny: Any) -> None:
    for samples in (1, 559, 560, 2_799, 2_800, 5_359, 5_360, 40_000):
        assert len(alone(tiny, sound(samples))[1]) == tiny.config.rows * tiny.token_columns(samples)
    in_layers = [parameter for layer in tiny.layers() for parameter in layer.parameters()]
    assert len(in_layers) == len(set(in_layers)) == len(list(tiny.parameters()))


def test_bfloat16_stays_close(tmp_path: Path) -> None:
    path = save(tmp_path, PATCH, mae_ast_state(PATCH))
    exact, half = (load_model(MAEAST, path, device="cpu", dtype=dtype) for dtype in ("float32", "bf16"))
    clips = [sound(32_000), sound(9_000)]
    difference = distance(half.embed(clips, RATE), exact.embed(clips, RATE))
    assert 1e-5 < difference < 0.1


def test_safetensors_of_the_state_load_as_the_same_model(tmp_path: Path, tiny: Any) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, tiny.state_dict(), tiny.metadata)
    again = load_model(MAEAST, path, device="cpu")
    np.testing.assert_array_equal(again.embed([sound(9_000)], RATE), tiny.embed([sound(9_000)], RATE))


def without(key: str) -> Callable[[State], State]:
    return lambda state: {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("settings", "change", "complaint"),
    [
        ({}, lambda s: {"cls_token": torch.ones(1, 1, 8)}, "no checkpoint of MAE-AST"),
        ({}, without("encoder.layers.1.fc1.weight"), r"lacks 1 of \d+ encoder tensors \(blocks.1.linear1.weight\)"),
        ({}, without("encoder.layers.1.self_attn.k_proj.bias"), r"lacks 1 .* \(blocks.1.self_attn.in_proj_bias\)"),
        ({}, lambda s: s | {"encoder.layers.0.self_attn.q_proj.weight": torch.ones(64, 8)}, "in_proj_weight"),
        ({}, without("batch_norm.running_var"), r"lacks 1 of \d+ encoder tensors \(running_var\)"),
        ({"encoder_ffn_embed_dim": 128}, dict, r"blocks.0.linear1.weight is \[96, 64\], expected \[128, 64\]"),
        ({"encoder_layers": 4}, dict, "blocks.3.self_attn"),
        ({"max_token_length": 400}, dict, r"stem.positions is \[1, 300, 64\]"),
        ({"layer_norm_first": True}, dict, "cfg.layer_norm_first"),
        ({"enc_conv_pos": True}, dict, "cfg.enc_conv_pos"),
        ({"ast_kernel_stride_time": 8}, dict, "patches overlap"),
        ({"encoder_layers": 10**9}, dict, "cfg.encoder_layers"),
        ({"encoder_attention_heads": 5}, dict, "does not divide"),
    ],
)
def test_other_files_are_named(
    tmp_path: Path, settings: dict[str, Any], change: Callable[[State], State], complaint: str
) -> None:
    path = save(tmp_path, PATCH | settings, change(mae_ast_state(PATCH)))
    with pytest.raises(BadInputError, match=complaint) as caught:
        MAEAST.from_checkpoint(path)
    assert caught.value.subject == str(path)


def test_a_model_of_other_features_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, PATCH, mae_ast_state(PATCH), task=TASK | {"feature_type": "mfcc"})
    with pytest.raises(BadInputError, match=r"cfg\.feature_type"):
        MAEAST.from_checkpoint(path)


def test_a_bare_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save(mae_ast_state(PATCH), tmp_path / "bare.pt")
    with pytest.raises(BadInputError, match="holds no cfg"):
        MAEAST.from_checkpoint(tmp_path / "bare.pt")


def test_the_card_counts_the_module() -> None:
    kernel = {name: 16 for name in PATCH if name.startswith("ast_kernel")}
    with torch.device("meta"):
        full = MAEAST(Config(enc_sine_pos=True, **kernel))
    assert sum(parameter.numel() for parameter in full.parameters()) == MAEAST.card.parameters
    assert full.embedding_dim == MAEAST.card.embedding_dim
    assert full.sample_rate == MAEAST.card.sample_rate


def test_the_official_key_list_is_covered(test_data: Path) -> None:
    listing = json.loads((test_data / "goldens/full_keys/keys_full_mae_ast.json").read_text())
    shapes = {entry["key"]: entry["shape"] for entry in listing["keys"]}
    cfg = listing["meta"]["cfg"]
    with torch.device("meta"):
        model = MAEAST(Config.model_validate({**cfg["model"], **cfg["task"]}))
    official = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    own, renamed = model.state_dict(), encoder_keys(official)
    assert {key: value.shape for key, value in own.items()} == {
        key: value.shape for key, value in renamed.items() if key in own
    }
    assert renamed.keys() - own.keys() == {"num_batches_tracked"}
    # The published 99M counts everything that was trained, the decoder above all.
    buffers = ("batch_norm.", "enc_sine_pos_embed.", "dec_sine_pos_embed.")
    trained = {key: math.prod(shape) for key, shape in shapes.items() if not key.startswith(buffers)}
    unused = ("decoder", "final_proj", "encoder_mask_emb", "layer_norm.")
    assert 99e6 < sum(trained.values()) < 100e6
    assert sum(count for key, count in trained.items() if not key.startswith(unused)) == MAEAST.card.parameters


# The golden files. Their batch_* keys record the reference's own padding mask, which keeps a partly padded column: a
# clip in such a batch does not get what it gets alone, so they are not compared with.


@pytest.fixture(scope="module", params=["", "_frame_fp16"], ids=["patch", "frame-fp16"])
def golden(test_data: Path, request: pytest.FixtureRequest) -> Any:
    folder = test_data / "goldens/mae_ast"
    with np.load(folder / f"expected{request.param}.npz") as expected:
        return load_model(MAEAST, folder / f"mae_ast_small{request.param}.pt", device="cpu"), dict(expected)


def wave(test_data: Path, number: int) -> Tensor:
    """A golden waveform as the goldens were made: channel mean, then torchaudio's default resampler."""
    path = next((test_data / "goldens/waves").glob(f"w{number}_*.wav"))
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torchaudio.functional.resample(torch.from_numpy(samples.mean(axis=1)), rate, RATE)


@pytest.mark.parametrize("number", range(1, 6))
def test_golden(test_data: Path, golden: Any, number: int) -> None:
    model, expected = golden
    samples = wave(test_data, number)
    model.pooling = "mean"
    spectrogram, tokens = alone(model, samples)
    if f"w{number}__frontend" in expected:  # the frame file's is the same front end and was not kept
        error = np.abs(spectrogram.numpy() - expected[f"w{number}__frontend"])
        assert error.mean() < 1e-5
        assert error.max() < 1e-3
    assert distance(tokens, expected[f"w{number}__tokens"]) < 1e-3
    for model.input in ("native", "official"):
        model.pooling = "mean"
        assert distance(model.embed([samples], RATE)[0], expected[f"w{number}__emb_mean"]) < 1e-3
        model.pooling = "layer-mean"
        assert distance(model.embed([samples], RATE)[0], expected[f"w{number}__emb_mean_all_layers"]) < 1e-3


def test_golden_waves_in_one_batch(test_data: Path, golden: Any) -> None:
    model, expected = golden
    model.pooling = "mean"
    waves = [wave(test_data, number) for number in range(1, 6)]
    wanted = np.stack([expected[f"w{number}__emb_mean"] for number in range(1, 6)])
    assert distance(model.embed(waves, RATE), wanted) < 1e-4
