"""AudioViT against timm's VisionTransformer, in both token orders and at every length."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from uamix_bench.models.vit import AudioViT, Stem, ViTShape, encoder_keys, find_shape, initialise, sincos_table

SHAPES = {
    "time first": ViTShape(width=64, depth=2, heads=2, mel_bins=64, columns=10),
    "mel first": ViTShape(width=64, depth=2, heads=2, mel_bins=80, columns=10, mel_first=True),
    "narrow patches": ViTShape(width=64, depth=2, heads=2, mel_bins=80, columns=12, patch_frames=4, mel_first=True),
}


def filled(shape: ViTShape, norm: bool = True) -> AudioViT:
    """An AudioViT no weight of which is zero or one."""
    vit = AudioViT(shape, norm=norm).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in vit.state_dict().values():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return vit


def oracle(vit: AudioViT, columns: int) -> VisionTransformer:
    """timm's model of an image that many columns wide, with the same weights and the columns' positions."""
    shape = vit.shape
    frames, mel = columns * shape.patch_frames, shape.mel_bins
    model = VisionTransformer(
        img_size=(mel, frames) if shape.mel_first else (frames, mel),
        patch_size=(shape.patch_mel, shape.patch_frames) if shape.mel_first else (shape.patch_frames, shape.patch_mel),
        in_chans=1,
        num_classes=0,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        global_pool="",
    )
    state = {key.removeprefix("stem."): value for key, value in vit.state_dict().items()}
    table = state["pos_embed"][0, 1:].numpy()
    grid = (shape.rows, shape.columns) if shape.mel_first else (shape.columns, shape.rows)
    image = table.reshape(*grid, shape.width)
    kept = image[:, :columns] if shape.mel_first else image[:columns]
    rows = torch.from_numpy(kept.reshape(1, -1, shape.width))
    model.load_state_dict({**state, "pos_embed": torch.cat([state["pos_embed"][:, :1], rows], dim=1)})
    return model.eval()


def sounds(shape: ViTShape, frames: int, count: int = 2) -> Tensor:
    return torch.randn(count, frames, shape.mel_bins, generator=torch.Generator().manual_seed(frames))


@torch.inference_mode()
def timm_tokens(vit: AudioViT, spectrogram: Tensor) -> Tensor:
    image = spectrogram.transpose(1, 2) if vit.shape.mel_first else spectrogram
    features: Tensor = oracle(vit, spectrogram.shape[1] // vit.shape.patch_frames).forward_features(image[:, None])
    return features


@pytest.mark.parametrize("columns", [1, 7, 10])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@torch.inference_mode()
def test_tokens_are_timms_at_every_length(shape: ViTShape, columns: int) -> None:
    vit, spectrogram = filled(shape), sounds(shape, columns * shape.patch_frames)
    tokens, mask = vit(spectrogram)
    assert mask.all()
    assert tokens.shape == (2, 1 + columns * shape.rows, shape.width)
    assert torch.allclose(vit.norm(tokens), timm_tokens(vit, spectrogram), atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@torch.inference_mode()
def test_what_exceeds_whole_patches_or_the_table_is_cut(shape: ViTShape) -> None:
    vit, patch = filled(shape), shape.patch_frames
    for frames, columns in ((3 * patch + patch - 1, 3), ((shape.columns + 2) * patch + 1, shape.columns)):
        spectrogram = sounds(shape, frames)
        assert torch.equal(vit(spectrogram)[0], vit(spectrogram[:, : columns * patch])[0])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@torch.inference_mode()
def test_a_padded_clip_gets_what_it_gets_alone(shape: ViTShape) -> None:
    vit, patch = filled(shape), shape.patch_frames
    counts = [9, 1, 4, 9]
    lengths = torch.tensor(counts) * patch
    spectrogram = sounds(shape, 9 * patch, len(counts))
    tokens, mask = vit(spectrogram, lengths)
    for index, columns in enumerate(counts):
        alone, _ = vit(spectrogram[index : index + 1, : columns * patch])
        assert int(mask[index].sum()) == alone.shape[1]
        assert torch.allclose(tokens[index, mask[index]], alone[0], atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 170), min_size=1, max_size=4), st.sampled_from(sorted(SHAPES)))
def test_the_mask_marks_every_column_that_a_clip_reaches(lengths: list[int], name: str) -> None:
    shape = SHAPES[name]
    found = AudioViT(shape).mask(torch.tensor(lengths), shape.columns)
    assert found[:, 0].all()
    for row, length in zip(found[:, 1:].numpy(), lengths, strict=True):
        own = min(shape.columns, max(1, math.ceil(length / shape.patch_frames)))
        grid = row.reshape(shape.rows, shape.columns).T if shape.mel_first else row.reshape(shape.columns, shape.rows)
        assert grid[:own].all()
        assert not grid[own:].any()


@torch.inference_mode()
def test_blocks_run_in_parts_as_in_one_go() -> None:
    vit = filled(SHAPES["time first"], norm=False)
    stem = vit.stem(sounds(vit.shape, 64))
    assert torch.equal(vit.run(vit.run(stem, last=1), first=1), vit.run(stem))
    assert isinstance(vit.norm, nn.Identity)
    assert vit.layers() == [vit.stem, *vit.blocks]
    assert isinstance(vit.stem, Stem)


def test_gradients_reach_every_weight() -> None:
    vit = filled(SHAPES["time first"])
    vit.norm(vit(sounds(vit.shape, 64))[0]).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in vit.parameters())
    assert "stem.pos_embed" not in dict(vit.named_parameters())


def test_sincos_positions_are_maes() -> None:
    """Element by element after MAE's util/pos_embed.py: half the features from the row, half from the column."""
    width, columns, rows = 32, 5, 3
    table = sincos_table(width, columns, rows)
    assert table.shape == (1, 1 + columns * rows, width)
    assert not table[0, 0].any()
    quarter = width // 4
    for column in range(columns):
        for row in range(rows):
            for index in range(quarter):
                omega = 1 / 10_000 ** (index / quarter)
                wanted = [f(place * omega) for place in (row, column) for f in (math.sin, math.cos)]
                found = table[0, 1 + column * rows + row].numpy()[index::quarter]
                assert np.allclose(found, wanted, atol=1e-6)


def test_initialisation_depends_on_the_generator_alone() -> None:
    one, other = (AudioViT(SHAPES["time first"]) for _ in range(2))
    initialise(one, torch.Generator().manual_seed(1))
    initialise(other, torch.Generator().manual_seed(1))
    for (name, value), twin in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, twin), name
    weight = one.stem.patch_embed.proj.weight.flatten(1)
    bound = math.sqrt(6 / sum(weight.shape))
    assert 0.98 * bound < float(weight.detach().abs().max()) <= bound
    assert float(one.stem.cls_token.detach().std()) == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize("depth", [1, 11, 12, 13])
def test_a_published_width_without_its_last_blocks_is_not_whole(depth: int) -> None:
    """What is then asked of the file are all twelve, so that the missing keys are named."""
    for width, found in ((ViTShape.width, max(depth, 12)), (64, depth)):
        with torch.device("meta"):
            vit = AudioViT(ViTShape(width=width, depth=depth, heads=width // 64))
        tensors = encoder_keys({key.removeprefix("stem."): value for key, value in vit.state_dict().items()})
        shape = find_shape(tensors, path=Path("m.pth"), what="M2D")
        assert shape == (width, found)
