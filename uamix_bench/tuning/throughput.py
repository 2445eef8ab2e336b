"""Device utilisation of a training: its operations relative to the rate of plain matrix products on the device."""

from __future__ import annotations

import time

import torch

from uamix_bench.models.vit import ViTShape

_PRODUCTS = 10


def stem_operations(shape: ViTShape, frames: int) -> float:
    """Multiplications and additions of the patch embedding for one clip of `frames` frames."""
    return 2.0 * _patches(shape, frames) * shape.width * shape.patch_frames * shape.patch_mel


def block_operations(shape: ViTShape, frames: int) -> float:
    """Multiplications and additions of one block, forward: 24 L D^2 (linear layers) + 4 L^2 D (attention), L tokens."""
    tokens = 1 + _patches(shape, frames)
    return 24.0 * tokens * shape.width**2 + 4.0 * tokens**2 * shape.width


def matrix_rate(device: torch.device, size: int = 8192) -> float:
    """Operations per second of bfloat16 products of two square matrices on `device`, the reference of utilisation."""
    left, right = torch.randn(2, size, size, device=device).bfloat16()
    left @ right  # the first one chooses the kernel
    wait_for(device)
    begun = time.perf_counter()
    for _ in range(_PRODUCTS):
        left @ right
    wait_for(device)
    return _PRODUCTS * 2.0 * size**3 / (time.perf_counter() - begun)


def wait_for(device: torch.device) -> None:
    """Waits until a GPU has finished its queued work, before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _patches(shape: ViTShape, frames: int) -> int:
    return frames // shape.patch_frames * shape.rows
