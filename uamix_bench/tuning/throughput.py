"""Rate of plain matrix products on a device, the reference of a training's utilisation, and the faster precision."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import torch

from uamix_bench.models.loading import find_device

_PRODUCTS = 10
_CPU_FACTS = Path("/proc/cpuinfo")
_MULTIPLY_BFLOAT16 = {"avx512_bf16", "amx_bf16"}  # flags of a processor


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


def faster_precision(device: str) -> Literal["float32", "bfloat16"]:
    """Precision in which a device multiplies faster: bfloat16 if the hardware has such products, else float32.

    It is a property of the device and not a measurement, so that a resumed training finds the same one. Elsewhere than
    on Linux a processor counts as one without such products.

    Args:
        device: Torch device, as `load_model` takes it.
    """
    found = find_device(device)
    if found.type == "cuda":
        has_products = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        facts = _CPU_FACTS.read_text().split() if found.type == "cpu" and _CPU_FACTS.exists() else []
        has_products = not _MULTIPLY_BFLOAT16.isdisjoint(facts)
    return "bfloat16" if has_products else "float32"


def wait_for(device: torch.device) -> None:
    """Waits until a GPU has finished its queued work, before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
