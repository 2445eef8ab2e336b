"""Checkpoints in the five official formats, and sounds, made from seeds by integer arithmetic.

They need nobody's files, and are the same bit for bit on every machine and with every release of a library: raw words
of Philox (a stream that numpy guarantees) and products with powers of two. ``python tests/baselines/official.py``
writes what our own adapters give for them to ``tests/golden/models.npz``; do that only when embeddings are meant to
change, with `adapter_version` raised.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]

GOLDEN = Path(__file__).parents[1] / "golden" / "models.npz"


class Size(NamedTuple):
    """Of an encoder: features of a token, blocks, attention heads."""

    width: int
    depth: int
    heads: int


TINY, VIT_B = Size(128, 2, 2), Size(768, 12, 12)

# --- weights


def words(name: str, count: int) -> npt.NDArray[np.uint64]:
    """Raw 64-bit words of the stream that belongs to `name`."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    return np.random.Philox(key=key).random_raw(count)


def uniform(name: str, shape: tuple[int, ...]) -> Tensor:
    """Multiples of 2**-23 in [-1, 1), float32."""
    values = (words(name, math.prod(shape)) >> np.uint64(40)).astype(np.float64) / 2**23 - 1
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def drawn(shapes: Shapes, seed: str = "") -> State:
    """Weights in which every part matters: peaky attention, gains about 1, biases, gates and positions far from 0."""
    state = {}
    for key, shape in shapes.items():
        value = uniform(f"{seed}{key}", shape)
        if key.endswith(("norm.weight", "norm1.weight", "norm2.weight", "weight_g", "grep_a")):
            value = 1 + value / 2
        elif len(shape) > 1 and not key.endswith((".pe", "pos_embed", "cls_token", "bias.weight")):
            value = value * 2.0 ** round(1.5 - math.log2(math.prod(shape[1:])) / 2)
        state[key] = value
    return state


def vit_state(width: int, depth: int, patch: tuple[int, int] = (16, 16), positions: int = 512) -> State:
    """The encoder of MAE's family under its names, with its norm: AudioMAE, MaskSpec, M2D."""
    shapes: Shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + positions, width),
        "patch_embed.proj.weight": (width, 1, *patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for block in (f"blocks.{index}." for index in range(depth)):
        for name, out, inner in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            shapes |= {f"{block}{name}.weight": (out, inner), f"{block}{name}.bias": (out,)}
        for name in ("norm1", "norm2"):
            shapes |= {f"{block}{name}.weight": (width,), f"{block}{name}.bias": (width,)}
    return drawn(shapes)


def _layer(layer: str, width: int, inner: int) -> Shapes:
    """A layer of fairseq's transformer, which BEATs and MAE-AST share."""
    shapes: Shapes = {}
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes |= {f"{layer}self_attn.{name}.weight": (width, width), f"{layer}self_attn.{name}.bias": (width,)}
    for name in ("self_attn_layer_norm", "final_layer_norm"):
        shapes |= {f"{layer}{name}.weight": (width,), f"{layer}{name}.bias": (width,)}
    shapes |= {f"{layer}fc1.weight": (inner, width), f"{layer}fc1.bias": (inner,)}
    return shapes | {f"{layer}fc2.weight": (width, inner), f"{layer}fc2.bias": (width,)}


def beats_state(cfg: dict[str, Any]) -> State:
    """The encoder that a cfg describes, under the official names; the table of layer 0 stands under every layer."""
    width, patch, heads = cfg["encoder_embed_dim"], cfg["embed_dim"], cfg["encoder_attention_heads"]
    shapes: Shapes = {
        "patch_embedding.weight": (patch, 1, 16, 16),
        "layer_norm.weight": (patch,),
        "layer_norm.bias": (patch,),
        "encoder.pos_conv.0.bias": (width,),
        "encoder.pos_conv.0.weight_g": (1, 1, 128),
        "encoder.pos_conv.0.weight_v": (width, width // 16, 128),
        "encoder.layer_norm.weight": (width,),
        "encoder.layer_norm.bias": (width,),
    }
    if patch != width:
        shapes |= {"post_extract_proj.weight": (width, patch), "post_extract_proj.bias": (width,)}
    layers = [f"encoder.layers.{index}." for index in range(cfg["encoder_layers"])]
    for layer in layers:
        shapes |= _layer(layer, width, cfg["encoder_ffn_embed_dim"])
        shapes |= {
            f"{layer}self_attn.grep_linear.weight": (8, width // heads),
            f"{layer}self_attn.grep_linear.bias": (8,),
            f"{layer}self_attn.grep_a": (1, heads, 1, 1),
        }
    table = uniform("relative_attention_bias", (320, heads))
    return drawn(shapes) | {f"{layer}self_attn.relative_attention_bias.weight": table for layer in layers}


def mae_ast_state(cfg: dict[str, Any]) -> State:
    """What a model cfg describes, under fairseq's names; the position table is drawn too, so that its rows matter."""
    width = cfg["encoder_embed_dim"]
    shapes: Shapes = {
        "encoder_mask_emb": (width,),
        "post_extract_proj.weight": (width, 256),
        "post_extract_proj.bias": (width,),
        "layer_norm.weight": (128,),
        "layer_norm.bias": (128,),
        "enc_sine_pos_embed.pe": (1, cfg["max_token_length"], width),
        "dec_sine_pos_embed.pe": (1, cfg["max_token_length"], width),
        "encoder.layer_norm.weight": (width,),
        "encoder.layer_norm.bias": (width,),
        "final_proj_reconstruction.weight": (256, width),
    }
    for layer in (*(f"encoder.layers.{index}." for index in range(cfg["encoder_layers"])), "decoder.layers.0."):
        shapes |= _layer(layer, width, cfg["encoder_ffn_embed_dim"])
    return drawn(shapes) | {
        "batch_norm.running_mean": torch.tensor([-7.5]),
        "batch_norm.running_var": torch.tensor([19.0]),
        "batch_norm.num_batches_tracked": torch.tensor(1_000),
    }


# --- files


def beats_cfg(size: Size) -> dict[str, Any]:
    """The cfg that is publicly quoted of the iter3+ files, at another size."""
    return {
        "input_patch_size": 16,
        "embed_dim": size.width * 2 // 3,
        "conv_bias": False,
        "encoder_layers": size.depth,
        "encoder_embed_dim": size.width,
        "encoder_ffn_embed_dim": 4 * size.width,
        "encoder_attention_heads": size.heads,
        "activation_fn": "gelu",
        "layer_norm_first": False,
        "deep_norm": True,
        "conv_pos": 128,
        "conv_pos_groups": 16,
        "relative_position_embedding": True,
        "num_buckets": 320,
        "max_distance": 800,
        "gru_rel_pos": True,
        "encoder_layerdrop": 0.05,
        "finetuned_model": False,
    }


def mae_ast_cfg(size: Size) -> dict[str, dict[str, Any]]:
    """The patch model's cfg; positions for 10 s in the tiny one, 60 s in the other (official: 48,000)."""
    kernel = {f"ast_kernel_{what}_{axis}": 16 for what in ("size", "stride") for axis in ("chan", "time")}
    model = {
        "_name": "mae_ast",
        **kernel,
        "encoder_layers": size.depth,
        "encoder_embed_dim": size.width,
        "encoder_ffn_embed_dim": 4 * size.width,
        "encoder_attention_heads": size.heads,
        "decoder_layers": 1,
        "dropout": 0.1,
        "activation_fn": "gelu",
        "layer_norm_first": False,
        "max_token_length": 520 if size == TINY else 3_000,
        "enc_sine_pos": True,
        "enc_conv_pos": False,
    }
    task = {"_name": "mae_ast_pretraining", "sample_rate": 16_000, "feature_type": "fbank", "feature_dim": 128}
    return {"model": model, "task": task}


def _training_file(state: State, path: Path) -> None:
    """As MAE's save_model writes it, with a part of the decoder, under submitit's arguments."""
    decoder = {"mask_token": uniform("mask_token", (1, 1, 32)), "decoder_blocks.0.norm1.weight": torch.ones(32)}
    arguments = argparse.Namespace(model="mae_vit_base_patch16", output_dir=path.parent, lr=1e-3)
    beside = {"optimizer": {"state": {}, "param_groups": []}, "epoch": 32, "scaler": {}, "args": arguments}
    torch.save({"model": state | decoder, **beside}, path)


def _vit_file(positions: int) -> Callable[[Size, Path], None]:
    def write(size: Size, path: Path) -> None:
        _training_file(vit_state(size.width, size.depth, positions=positions), path)

    return write


def _beats_file(size: Size, path: Path) -> None:
    cfg = beats_cfg(size)
    torch.save({"cfg": cfg, "model": beats_state(cfg)}, path)


def _mae_ast_file(size: Size, path: Path) -> None:
    cfg = mae_ast_cfg(size)
    torch.save({"cfg": cfg, "model": mae_ast_state(cfg["model"])}, path)


FORMATS: dict[str, tuple[str, Callable[[Size, Path], None]]] = {
    "audiomae": ("pretrained.pth", _vit_file(64 * 8)),
    "maskspec": ("checkpoint-75.pth", _vit_file(8 * 62)),
    "m2d": ("m2d_vit_base-80x608p16x16-221006-mr7/checkpoint-300.pth", _vit_file(5 * 38)),
    "beats": ("BEATs_iter3_plus_AS2M.pt", _beats_file),
    "mae-ast": ("chunk_patch_75_12LayerEncoder.pt", _mae_ast_file),
}


def checkpoint(name: str, folder: Path, size: Size = TINY) -> Path:
    """Writes a model's official file of this size below `folder`, under the name that its authors give it."""
    file, write = FORMATS[name]
    path = folder / name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    write(size, path)
    return path


# --- sounds


class Sound(NamedTuple):
    """A recording: (S,) float32 in [-1, 1], mono, and its sample rate in Hz."""

    samples: Floats
    sample_rate: int


def _triangle(steps: Integers) -> Integers:
    """A triangle wave of 16 bits, its phase advancing by so many 2**-32ths of a period a sample."""
    phase = np.cumsum(steps) & 0xFFFF_FFFF
    return np.abs((phase >> 15) - 65_536) - 32_768


def _noise(name: str, count: int) -> Integers:
    return (words(name, count) >> np.uint64(48)).astype(np.int64) - 32_768


def _chirp() -> Integers:
    time = np.arange(160_000)
    return (_triangle(20_000_000 + 9_000 * time) >> 1) + (_noise("chirp", 160_000) >> 5) + 900


def _vibrato() -> Integers:
    swing = _triangle(np.full(80_000, 1_500_000))
    return _triangle(118_000_000 + 100 * swing) >> 1


def _bursts() -> Integers:
    time = np.arange(16_000)
    return np.where(time % 4_000 < 1_300, _noise("bursts", 16_000) >> 2, 0)


def _tremolo() -> Integers:
    swing = _triangle(np.full(52_803, 900_000)) + 32_768  # 0..65,535
    return (_triangle(np.full(52_803, 300_000_000)) * swing >> 17) + (_noise("tremolo", 52_803) >> 8)


def _stereo() -> Integers:
    time = np.arange(88_200)
    left = (_triangle(40_000_000 + 3_000 * time) >> 2) + (_noise("left", 88_200) >> 4)
    return left + (_noise("right", 88_200) >> 3)  # the sum of the channels


SOUNDS: dict[str, Callable[[], Sound]] = {
    "chirp-10s": lambda: Sound((_chirp() / 2**15).astype(np.float32), 16_000),
    "vibrato-5s": lambda: Sound((_vibrato() / 2**15).astype(np.float32), 16_000),
    "bursts-1s": lambda: Sound((_bursts() / 2**15).astype(np.float32), 16_000),
    "tremolo-3.3s": lambda: Sound((_tremolo() / 2**15).astype(np.float32), 16_000),
    "stereo-44.1kHz": lambda: Sound((_stereo() / 2**16).astype(np.float32), 44_100),
}


# --- what our own adapters give


def _some_rows(frames: Tensor) -> Floats:
    """The first, the last and six evenly spaced rows between, float32."""
    rows = np.linspace(0, len(frames) - 1, 8).round().astype(int)
    return frames[rows].numpy()


def stages(model: Any, sound: Sound) -> dict[str, Floats]:
    """The front end, the tokens and the embeddings of every pooling, of a sound that the bench resamples.

    MaskSpec's spectrogram is taken before its division by the spread of a bin, 0.043 in those that an upsampled sound
    leaves empty: it makes another processor's rounding into as much as a mistake (test_maskspec.py).
    """
    from uamix_bench.data.audio import resample

    samples = torch.from_numpy(resample(*sound, model.sample_rate)).unsqueeze(0)
    model.input = "official"
    with torch.inference_mode():
        spectrogram, counts = model.frontend(samples, torch.tensor([samples.shape[1]]))
        tokens, mask = model.tokens(spectrogram, counts)
    assert mask.all()
    if hasattr(model, "frame_statistics"):
        spectrogram = spectrogram * model.frame_statistics[1]
    found = {"frontend": _some_rows(spectrogram[0]), "tokens": _some_rows(tokens[0])}
    chosen = model.pooling
    for given in ("official", "native"):
        for how in model.poolings:
            model.input, model.pooling = given, how
            found[f"{how} {given}"] = model.embed([sound.samples], sound.sample_rate)[0]
    model.pooling = chosen
    return found


def main() -> None:
    import tempfile

    from uamix_bench import load_model

    found = {}
    for name in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            model = load_model(name, checkpoint(name, Path(folder)), device="cpu")
        for sound, make in SOUNDS.items():
            found |= {f"{name}/{sound}/{stage}": value for stage, value in stages(model, make()).items()}
    np.savez_compressed(GOLDEN, **found)
    print(f"{GOLDEN}: {GOLDEN.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
