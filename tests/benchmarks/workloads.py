"""What is measured: tables of embeddings and the episodes of them, sounds, encoders with random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from uamix_bench.data.clip_table import sort_clips
from uamix_bench.models.vit import AudioViT, ViTShape, initialise
from uamix_bench.plugins.registry import models
from uamix_bench.scoring.episodes import EpisodeSet, draw_sorted
from uamix_bench.scoring.protocol import Protocol

SAMPLE_RATE = 16_000
WIDTH = 768  # of a ViT-B's embedding


def table(sizes: list[int]) -> tuple[list[str], list[str]]:
    """Clip ids, sorted, and labels, of a class one string, as the readers give them."""
    clips, labels = [], []
    for c, size in enumerate(sizes):
        label = f"class{c:04d}"
        clips += [f"{label}/{i:04d}.wav" for i in range(size)]
        labels += [label] * size
    return clips, labels


def embeddings(clips: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((clips, WIDTH), np.float32)


def alike(labels: list[str], norm: float = 15.0) -> npt.NDArray[np.float32]:
    """Embeddings whose classes differ, with a spectrum that falls as a model's does, of a mean squared length."""
    rng = np.random.default_rng(1)
    _, code = np.unique(labels, return_inverse=True)
    rows = rng.standard_normal((code.max() + 1, WIDTH))[code] + rng.standard_normal((len(labels), WIDTH))
    rows *= np.arange(1, WIDTH + 1) ** -0.5
    return (norm * rows / np.sqrt((rows**2).sum(axis=1).mean())).astype(np.float32)


def drawn(clips: list[str], labels: list[str], protocol: Protocol) -> EpisodeSet:
    """Sorts the table and draws of it, as a run does: its clips come in order, and each is its own group."""
    return draw_sorted(protocol, sort_clips(clips, labels, clips, ordered=True), task="bench", version="1")


def noise(clips: int, seconds: float) -> tuple[Tensor, Tensor]:
    """White noise (B, S) float32 and its lengths (B,)."""
    samples = round(seconds * SAMPLE_RATE)
    waveforms = 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(0))
    return waveforms, torch.full((clips,), samples)


def audiomae(shape: ViTShape) -> Any:
    """The adapter with random weights."""
    model = models()["audiomae"].load()(shape).eval().requires_grad_(False)
    initialise(model, torch.Generator().manual_seed(0))
    return model


def encoder(shape: ViTShape) -> AudioViT:
    """An encoder alone, with random weights."""
    made = AudioViT(shape).eval().requires_grad_(False)
    initialise(made, torch.Generator().manual_seed(0))
    return made


def final_tokens(of: AudioViT, spectrograms: Tensor) -> Tensor:
    """What timm's `forward_features` computes, of spectrograms (B, T, F): (B, L, D)."""
    tokens: Tensor = of.norm(of(spectrograms)[0])
    return tokens


def operations(shape: ViTShape, tokens: int) -> float:
    """Multiplications and additions of a pre-norm ViT: 24 T D^2 + 4 T^2 D a block, and the patches."""
    blocks = shape.depth * (24 * tokens * shape.width**2 + 4 * tokens**2 * shape.width)
    return blocks + 2 * (tokens - 1) * shape.patch_mel * shape.patch_frames * shape.width


def episode_bytes(n_way: int, k_shot: int, n_query: int, width: int = WIDTH) -> int:
    """Bytes of the embeddings that an episode reads."""
    return 4 * width * n_way * (k_shot + n_query)


def episode_operations(n_way: int, n_query: int, width: int = WIDTH) -> int:
    """Multiplications and additions of its queries with its centroids."""
    return 2 * width * n_way * n_query * n_way
