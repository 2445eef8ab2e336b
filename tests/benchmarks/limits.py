"""What the machine itself can do, as sides to be timed beside what is held to it: bytes moved, operations done."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from .timing import Seconds, Side, Times

Floats = npt.NDArray[np.float32]

_GATHERED = 20_000  # rows
_CHUNK_BYTES = 1 << 20  # a buffer that stays in the processor's cache


def read(size: int = 256 << 20, device: str = "cpu") -> Side:
    """The sum over an array of `size` bytes that is in no cache; its bytes."""
    if device != "cpu":
        there = torch.ones(size // 4, device=device)
        return Side(lambda: there.sum(), size)
    values = np.ones(size // 4, np.float32)
    return Side(lambda: values.sum(), size)


def copy(size: int = 256 << 20) -> Side:
    """A copy of an array of `size` bytes; bytes read and written."""
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    return Side(lambda: np.copyto(target, source), 2 * size)


def gather(table: Floats) -> Side:
    """Random rows of a table (n, D), copied to a small buffer: nothing but the gather of an evaluation; bytes read."""
    rows = np.random.default_rng(0).integers(0, len(table), _GATHERED)
    size = table.shape[1] * table.itemsize
    buffer = np.empty((_CHUNK_BYTES // size, table.shape[1]), np.float32)

    def run() -> None:
        for start in range(0, len(rows), len(buffer)):
            part = rows[start : start + len(buffer)]
            np.take(table, part, axis=0, out=buffer[: len(part)], mode="clip")

    return Side(run, len(rows) * size)


def numpy_product(size: int = 1_024) -> Side:
    """A square float32 product by numpy's BLAS; operations."""
    left, right = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
    return Side(lambda: left @ right, 2 * size**3)


def product(dtype: torch.dtype = torch.float32, device: str = "cpu") -> Side:
    """A matrix product of an encoder's size by torch; operations."""
    rows = 1_024 if device == "cpu" else 65_536
    rng = torch.Generator().manual_seed(0)  # a GPU is faster where there are only ones
    left, right = (torch.randn(shape, generator=rng).to(device, dtype) for shape in ((rows, 768), (768, 3_072)))
    times = 4  # or a neighbour's moment would be all of it
    return Side(lambda: [left @ right for _ in range(times)], times * 2 * rows * 768 * 3_072)


def devices() -> list[str]:
    """What is measured on: the processor and, where there is one, a GPU."""
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def has_bf16(device: str) -> bool:
    """Whether products in bfloat16 are more than an emulation."""
    return device != "cpu" or torch.cpu._is_avx512_bf16_supported()


def least(times: Times, **amounts: float) -> Seconds:
    """The seconds, (rounds,), that the slowest of several resources takes for so many of its units."""
    return np.max([amount * times.seconds[side] for side, amount in amounts.items()], axis=0)
