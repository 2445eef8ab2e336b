"""What a clip costs the encoder: its own tokens, and no more for a token than timm's own model takes.

CPU time in one thread, the sides measured in turn and compared by their medians.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from uamix_bench.models.vit import ViTShape

from . import limits
from .peers import timm_vit
from .timing import Side, measure
from .workloads import audiomae, encoder, final_tokens, noise, operations

SHAPES = [
    pytest.param(ViTShape(width=384, depth=2, heads=6), 25, id="reduced"),
    pytest.param(ViTShape(), 7, id="ViT-B", marks=pytest.mark.slow),
]


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BF16 = pytest.mark.skipif(not limits.has_bf16(DEVICE), reason="no products in bfloat16 here")


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def spectrogram(model: Any, seconds: float, clips: int) -> tuple[Tensor, Tensor]:
    """What the adapter gives its encoder for clips of that length under native input."""
    frames: tuple[Tensor, Tensor] = model.frontend(*noise(clips, seconds))
    return frames


@pytest.mark.parametrize(("shape", "rounds"), SHAPES)
@pytest.mark.over_3s
def test_a_short_clip_costs_its_own_tokens(shape: ViTShape, rounds: int) -> None:
    model = audiomae(shape)
    short, long = spectrogram(model, 1.0, 16), spectrogram(model, 10.0, 1)
    tokens = [model.tokens(*given)[0].shape[1] for given in (long, short)]
    assert tokens == [1 + 62 * 8, 1 + 6 * 8]
    sides = {"10 s": Side(lambda: model.tokens(*long)), "1 s": Side(lambda: model.tokens(*short), 16)}
    times = measure(sides, rounds)
    found, wanted = times.ratio("10 s", "1 s"), operations(shape, tokens[0]) / operations(shape, tokens[1])
    print(f"10 s {1e3 * times.median('10 s'):.1f} ms: {found:.2f}x a clip of 1 s, of {wanted:.2f}x")
    assert found >= 0.9 * wanted, times


@pytest.mark.parametrize(("shape", "rounds"), SHAPES)
@pytest.mark.parametrize(("frames", "clips"), [(1024, 1), (96, 16)])
@pytest.mark.over_3s
def test_a_token_costs_no_more_than_in_timm(shape: ViTShape, rounds: int, frames: int, clips: int) -> None:
    """Against timm's own forward on the full 1,024 frames: at that length, and for short clips in a batch."""
    ours = encoder(shape)
    theirs = timm_vit(ours)
    image = torch.randn(1, 1, 1024, 128, generator=torch.Generator().manual_seed(2))
    given = image[:, 0, :frames].repeat(clips, 1, 1)
    sides = {
        "timm": Side(lambda: theirs.forward_features(image), 1 + 64 * 8),
        "ours": Side(lambda: final_tokens(ours, given), clips * (1 + frames // 16 * 8)),
    }
    times = measure(sides, rounds)
    print(f"a token: timm {1e6 * times.median('timm'):.1f} us: {times.ratio('timm', 'ours'):.3f}x")
    if frames == 1024:
        assert torch.allclose(final_tokens(ours, given), theirs.forward_features(image), atol=1e-4)
    assert times.ratio("timm", "ours") >= 0.9, times  # at 1,024 frames the same products: a tenth is for a busy machine


def embedding(model: Any, clips: int, dtype: torch.dtype) -> Side:
    """What :meth:`AudioModel.embed` computes of ten-second waveforms that are on the device."""
    waveforms, lengths = (tensor.to(DEVICE) for tensor in noise(clips, 10.0))

    def run() -> None:
        spectrogram, counts = model.frontend(waveforms, lengths)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == torch.bfloat16):
            tokens, mask = model.tokens(spectrogram, counts)
        model.pool(tokens.float(), mask, "mean").cpu()

    return Side(run, clips)


@pytest.mark.parametrize(("shape", "rounds"), SHAPES)
@pytest.mark.parametrize(
    ("dtype", "least"),
    [pytest.param(torch.float32, 0.35, id="float32"), pytest.param(torch.bfloat16, 0.1, id="bf16", marks=BF16)],
)
@pytest.mark.over_3s
def test_clips_per_second_beside_the_arithmetic_limit(
    shape: ViTShape, rounds: int, dtype: torch.dtype, least: float
) -> None:
    """Front end, encoder and pooling of ten-second clips, all on the GPU where there is one.

    The limit is what the encoder's operations cost at the rate of one large product.
    """
    ours = embedding(audiomae(shape).to(DEVICE), 64 if DEVICE == "cuda" else 2, dtype)
    times = measure({"ours": ours, "product": limits.product(dtype, DEVICE)}, rounds, DEVICE)
    share = times.ratio("product", "ours") * operations(shape, 1 + 62 * 8)
    print(f"{DEVICE}, {dtype}: {1 / times.median('ours'):.1f} clips/s, {share:.0%} of the arithmetic limit")
    assert share >= least, times


@BF16
@pytest.mark.parametrize(
    ("shape", "rounds", "least"),
    [(*SHAPES[0].values, 1.1), pytest.param(*SHAPES[1].values, 1.5, marks=pytest.mark.slow)],
    ids=["reduced", "ViT-B"],
)
@pytest.mark.over_3s
def test_bf16_is_faster(shape: ViTShape, rounds: int, least: float) -> None:
    model = audiomae(shape).to(DEVICE)
    sides = {str(dtype): embedding(model, 2, dtype) for dtype in (torch.float32, torch.bfloat16)}
    times = measure(sides, rounds, DEVICE)
    found = times.ratio(*sides)
    print(f"a clip in bf16: {1e3 * times.median(str(torch.bfloat16)):.1f} ms, {found:.2f}x")
    assert found >= least, times
