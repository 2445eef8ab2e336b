"""Space in which classifiers score embeddings: centred, scaled to unit length, in float32 or float64."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from uamix_bench.util.arrays import Doubles, Floats

Table = npt.NDArray[np.floating[Any]]

FAR_OUT = 10.0  # times the median distance: rows beyond it have no part in the mean
TINY = float(np.finfo(np.float64).tiny)
_SHORT = 1e-3, 0.05  # of the mean's square: rows below it are lost in it in float32; the share of them that matters
_SAFE = 1e-24, 1e24  # squared lengths whose products float32 holds
_BLOCK = 256  # rows
_SAMPLE = 128  # rows whose median says where most of the table is


class Space(NamedTuple):
    """Map of embeddings into the space in which a classifier scores them.

    Attributes:
        unit_first: Whether rows are scaled to unit length before anything else.
        offsets: Vectors (D,) that are subtracted one after the other; their type is that of the arithmetic.
        unit_last: Whether rows are scaled to unit length at the end.
    """

    unit_first: bool
    offsets: tuple[Table, ...]
    unit_last: bool

    def __call__(self, embeddings: Floats) -> Table:
        """Embeddings (n, D) float32 in this space, (n, D) float32 or float64."""
        rows: Table = unit_length(embeddings) if self.unit_first else embeddings
        for offset in self.offsets:
            rows = rows - offset
        return scaled(rows) if self.unit_last else rows


class Centred(NamedTuple):
    """Embeddings minus their mean, with what that mean is made of.

    Attributes:
        rows: Embeddings, from which `left` has still to be subtracted, (n, D) float32 or float64.
        left: Vector (D,); None if nothing is left to subtract.
        mean: The mean, (D,).
        square: Median squared length of a row.
        offsets: Vectors (D,) whose subtraction in turn gives the table, digit for digit.
    """

    rows: Table
    left: Table | None
    mean: Doubles
    square: float
    offsets: tuple[Table, ...]

    @property
    def table(self) -> Table:
        """Embeddings minus their mean, (n, D)."""
        return self.rows if self.left is None else self.rows - self.left


def centred(embeddings: Floats) -> Centred:
    """Finds the mean over all rows that are not outliers; in float32 it is left to subtract, as a table costs time."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
        block = np.empty((_BLOCK, embeddings.shape[1]), np.float32)
        lengths, squares = np.empty((2, len(embeddings)), np.float32)
        for start in range(0, len(embeddings), _BLOCK):  # three passes over rows while the processor's cache holds them
            rows = slice(start, start + _BLOCK)
            centre = np.subtract(embeddings[rows], mean, out=block[: len(embeddings) - start])
            np.vecdot(centre, centre, out=squares[rows])
            np.vecdot(embeddings[rows], embeddings[rows], out=lengths[rows])  # rows of zeros lose nothing
        short = (lengths > 0) & (lengths < _SHORT[0] * (mean @ mean))
    square = float(np.median(squares))
    sample = embeddings[:: -(-len(embeddings) // _SAMPLE)].astype(np.float64)
    middle = np.median(sample, axis=0)  # half of the rows may lie anywhere, and it stays among the others
    if not squares.any():  # all rows equal, or squares too small for float32
        safe = bool((embeddings == mean).all())
    else:
        safe = short.mean() < _SHORT[1] and _is_safe(squares, square, np.median(_squares(sample - middle)))
    if safe:
        return Centred(embeddings, mean, mean.astype(np.float64), square, (mean,))
    far = embeddings - middle  # float64
    about_middle = _squares(far)
    usual = about_middle <= FAR_OUT**2 * _typical(about_middle)
    shift = far[usual].mean(axis=0)
    far -= shift
    return Centred(far, None, middle + shift, _typical(_squares(far)), (middle, shift))


def _is_safe(squares: Floats, square: float, about_middle: float) -> bool:
    """Test that float32 suffices: no outlier has moved the mean, and no product of two lengths leaves its range."""
    largest = float(squares.max())
    if not (_SAFE[0] < square < _SAFE[1] and largest <= FAR_OUT**2 * square):
        return False
    return square <= FAR_OUT * about_middle


def _squares(rows: Doubles) -> Doubles:
    """Squared lengths (n,) of rows (n, D)."""
    lengths: Doubles = np.vecdot(rows, rows)
    return lengths


def _typical(squares: Doubles) -> float:
    """Median squared length of the rows that are not zero, as copies of one clip may be most of a table."""
    positive = squares[squares > 0]
    return float(np.median(positive)) if len(positive) else 0.0


def unit_length(embeddings: Floats) -> Floats:
    """Rows scaled to unit length in float64; rows of zeros stay."""
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    unit: Floats = (embeddings / np.maximum(lengths, TINY)).astype(np.float32)
    return unit


def scaled(rows: Table) -> Floats:
    """Centred rows scaled to unit length, as float32 and in place; rows of zeros stay."""
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(rows.dtype).tiny)
    return rows.astype(np.float32, copy=False)
