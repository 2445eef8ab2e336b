"""What a clip costs the encoder: its own tokens, and no more for a token than timm's own model takes.

CPU time in one thread, the sides measured in turn and compared by their medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from operator import truediv
from statistics import median
from typing import Any, NamedTuple

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from uamix_bench.registry import models
from uamix_bench.vit import AudioViT, ViTShape, initialise

SAMPLE_RATE = 16_000
SHAPES = [
    pytest.param(ViTShape(width=384, depth=2, heads=6), 25, id="reduced"),
    pytest.param(ViTShape(), 7, id="ViT-B", marks=pytest.mark.slow),
]


class Side(NamedTuple):
    """Something to time: what it runs, and how many clips (or tokens) that is."""

    run: Callable[[], object]
    units: int


class Measured(NamedTuple):
    """Median CPU seconds a unit, and the median over rounds of the first side's time by the second's."""

    first_s: float
    second_s: float
    ratio: float


def measure(sides: tuple[Side, Side], rounds: int) -> Measured:
    """Times both sides in every round, the other one first each time, after a round that does not count."""
    spent: list[list[float]] = [[], []]
    with torch.inference_mode():
        for round_number in range(rounds + 1):
            for number in (0, 1) if round_number % 2 else (1, 0):
                begun = time.process_time()
                sides[number].run()
                spent[number].append((time.process_time() - begun) / sides[number].units)
    first, second = (times[1:] for times in spent)
    return Measured(median(first), median(second), median(map(truediv, first, second)))


def operations(shape: ViTShape, tokens: int) -> float:
    """Multiplications and additions of a pre-norm ViT: 24 T D^2 + 4 T^2 D a block, and the patches."""
    blocks = shape.depth * (24 * tokens * shape.width**2 + 4 * tokens**2 * shape.width)
    return blocks + 2 * (tokens - 1) * shape.patch_mel * shape.patch_frames * shape.width


def audiomae(shape: ViTShape) -> Any:
    """The adapter with random weights."""
    model = models()["audiomae"].load()(shape).eval()
    initialise(model, torch.Generator().manual_seed(0))
    return model


def spectrogram(model: Any, seconds: float, clips: int) -> tuple[Tensor, Tensor]:
    """What the adapter gives its encoder for clips of that length under native input."""
    samples = round(seconds * SAMPLE_RATE)
    noise = 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(1))
    frames: tuple[Tensor, Tensor] = model.frontend(noise, torch.full((clips,), samples))
    return frames


@pytest.mark.parametrize(("shape", "rounds"), SHAPES)
def test_a_short_clip_costs_its_own_tokens(shape: ViTShape, rounds: int) -> None:
    model = audiomae(shape)
    short, long = spectrogram(model, 1.0, 16), spectrogram(model, 10.0, 1)
    tokens = [model.tokens(*given)[0].shape[1] for given in (long, short)]
    assert tokens == [1 + 62 * 8, 1 + 6 * 8]
    found = measure((Side(lambda: model.tokens(*long), 1), Side(lambda: model.tokens(*short), 16)), rounds)
    wanted = operations(shape, tokens[0]) / operations(shape, tokens[1])
    print(f"10 s {1e3 * found.first_s:.1f} ms, 1 s {1e3 * found.second_s:.2f} ms: {found.ratio:.2f}x of {wanted:.2f}x")
    assert found.ratio >= 0.9 * wanted, found


@pytest.mark.parametrize(("shape", "rounds"), SHAPES)
@pytest.mark.parametrize(("frames", "clips"), [(1024, 1), (96, 16)])
def test_a_token_costs_no_more_than_in_timm(shape: ViTShape, rounds: int, frames: int, clips: int) -> None:
    """Against timm's own forward on the full 1,024 frames: at that length, and for short clips in a batch."""
    ours = AudioViT(shape).eval()
    initialise(ours, torch.Generator().manual_seed(0))
    theirs = VisionTransformer(
        img_size=(1024, 128),
        in_chans=1,
        num_classes=0,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        global_pool="",
    ).eval()
    theirs.load_state_dict({key.removeprefix("stem."): value for key, value in ours.state_dict().items()})

    def own(spectrogram: Tensor) -> Tensor:
        tokens: Tensor = ours.norm(ours(spectrogram)[0])
        return tokens

    image = torch.randn(1, 1, 1024, 128, generator=torch.Generator().manual_seed(2))
    given = image[:, 0, :frames].repeat(clips, 1, 1)
    timm_tokens, own_tokens = 1 + 64 * 8, clips * (1 + frames // 16 * 8)
    sides = Side(lambda: theirs.forward_features(image), timm_tokens), Side(lambda: own(given), own_tokens)
    found = measure(sides, rounds)
    print(f"a token: timm {1e6 * found.first_s:.1f} us, {1e6 * found.second_s:.1f} us: {found.ratio:.3f}x")
    if frames == 1024:
        with torch.inference_mode():
            assert torch.allclose(own(given), theirs.forward_features(image), atol=1e-4)
    assert found.ratio >= 0.9, found  # at 1,024 frames the same products: a tenth is for a busy machine


BF16 = pytest.mark.skipif(
    not torch.cuda.is_available() and not torch.cpu._is_avx512_bf16_supported(), reason="no products in bfloat16 here"
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def embedding(model: Any, waveforms: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """What :meth:`AudioModel.embed` computes of waveforms (B, S) that are on the device."""
    lengths = torch.full((len(waveforms),), waveforms.shape[1], device=DEVICE)

    def run() -> None:
        spectrogram, counts = model.frontend(waveforms, lengths)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == torch.bfloat16):
            tokens, mask = model.tokens(spectrogram, counts)
        model.pool(tokens.float(), mask, "mean").cpu()

    return run


def product(dtype: torch.dtype, rows: int) -> Side:
    """A matrix product of the encoder's size, counted in operations."""
    left, right = torch.ones(rows, 768, device=DEVICE, dtype=dtype), torch.ones(768, 3_072, device=DEVICE, dtype=dtype)
    return Side(lambda: (left @ right)[:1].cpu(), 2 * rows * 768 * 3_072)


def ten_seconds(clips: int) -> Tensor:
    return 0.1 * torch.randn(clips, 10 * SAMPLE_RATE, generator=torch.Generator().manual_seed(1)).to(DEVICE)


@pytest.mark.parametrize(("shape", "rounds"), SHAPES)
@pytest.mark.parametrize(
    ("dtype", "least"),
    [pytest.param(torch.float32, 0.35, id="float32"), pytest.param(torch.bfloat16, 0.1, id="bf16", marks=BF16)],
)
def test_clips_per_second_beside_the_arithmetic_limit(
    shape: ViTShape, rounds: int, dtype: torch.dtype, least: float
) -> None:
    """Front end, encoder and pooling of ten-second clips, all on the GPU where there is one.

    The limit is what the encoder's operations cost at the rate of one large product.
    """
    clips, rows = (64, 65_536) if DEVICE == "cuda" else (2, 1_024)
    side = Side(embedding(audiomae(shape).to(DEVICE), ten_seconds(clips), dtype), clips)
    found = measure((side, product(dtype, rows)), rounds)
    limit = 1 / (operations(shape, 1 + 62 * 8) * found.second_s)
    print(f"{DEVICE}, {dtype}: {1 / found.first_s:.1f} clips/s, by arithmetic {limit:.1f}")
    assert 1 / found.first_s >= least * limit, found


@BF16
@pytest.mark.parametrize(
    ("shape", "rounds", "least"),
    [(*SHAPES[0].values, 1.1), pytest.param(*SHAPES[1].values, 1.5, marks=pytest.mark.slow)],
    ids=["reduced", "ViT-B"],
)
def test_bf16_is_faster(shape: ViTShape, rounds: int, least: float) -> None:
    model, waveforms = audiomae(shape).to(DEVICE), ten_seconds(2)
    slow, fast = (Side(embedding(model, waveforms, dtype), 2) for dtype in (torch.float32, torch.bfloat16))
    found = measure((slow, fast), rounds)
    print(f"a clip: float32 {1e3 * found.first_s:.1f} ms, bf16 {1e3 * found.second_s:.1f} ms: {found.ratio:.2f}x")
    assert found.ratio >= least, found
