"""Rate of plain matrix products on a device, the reference of a training's utilisation."""

from __future__ import annotations

import time

import torch

_PRODUCTS = 10


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
