"""Scores from products of pairs, for more episodes than a table of all pairs costs.

The episodes of a small table draw the same pairs of clips again and again. Their products are then computed once, and
an episode only looks them up. Sums are rounded otherwise than in a product of the episode's own rows, so episodes in
which that may decide are named, and left to the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from uamix_bench.util.arrays import Floats, Ints, Mask

Pool = Callable[["Pairs", Ints, Ints], Floats]

_MOST_ROWS = 8_192  # whose products take 256 MiB
_LOOK_UP, _FETCH = 200, 30  # multiplications in the time of a product looked up, and of a number of a row fetched
_BATCH = 1 << 16  # scores, or products of supports, at a time: they stay in the processor's cache
_HOPELESS = 0.5  # of the first episodes doubtful: most clips have copies in other classes
_NOISE = 1e-6  # of the largest squared length: what two ways of rounding may put between a score and itself


class Decided(NamedTuple):
    """Predicted class slot of each query, (E, N, Q); and which episodes leave a query undecided, (E,) bool."""

    chosen: npt.NDArray[np.unsignedinteger[Any]]
    doubtful: Mask


class Pairs:
    """Products of all pairs of the rows of a table, (n, n) float32."""

    def __init__(self, table: Floats) -> None:
        products = table @ table.T
        self.squares: Floats = products.diagonal().copy()
        self._rows, self._flat = len(products), products.ravel()

    def __call__(self, left: Ints, right: Ints) -> Floats:
        """Products of rows (..., A) with rows (..., B): (..., A, B)."""
        return self._flat.take(left[..., :, None] * self._rows + right[..., None, :], mode="clip")


def pay(table: npt.NDArray[np.floating[Any]], support: Ints, query: Ints) -> bool:
    """Test that products of all pairs, and looking them up, cost less than the products of each episode's own rows."""
    (rows, size), (episodes, ways, shots), queries = table.shape, support.shape, query.shape[2]
    if table.dtype != np.float32 or rows > _MOST_ROWS:
        return False
    scores = ways * queries * ways
    own = size * (scores + _FETCH * ways * (shots + queries))
    looked_up = shots * (scores + ways * shots)  # products with queries, and of the supports of a class
    return bool(rows * rows * size / 2 + episodes * _LOOK_UP * looked_up < episodes * own)


def mean_of_shots(pairs: Pairs, support: Ints, query: Ints) -> Floats:
    """Scores (B, N, Q) of queries (B, Q) that rank means of supports (B, N, K) by distance: ``x . m - |m|^2 / 2``."""
    scores = pairs(support[..., 0], query)
    for shot in range(1, support.shape[2]):
        scores += pairs(support[..., shot], query)
    scores *= np.float32(1 / support.shape[2])
    scores -= np.float32(0.5) * pairs(support, support).mean(axis=(2, 3))[..., None]
    return scores


def nearest_of_shots(pairs: Pairs, support: Ints, query: Ints) -> Floats:
    """Scores (B, N, Q) of queries (B, Q) that rank classes by the distance of their nearest support, (B, N, K)."""
    scores = np.full((*support.shape[:2], query.shape[1]), -np.inf, np.float32)
    for shot in range(support.shape[2]):
        rows = support[..., shot]
        np.maximum(scores, pairs(rows, query) - np.float32(0.5) * pairs.squares[rows][..., None], out=scores)
    return scores


def decide(table: Floats, support: Ints, query: Ints, pool: Pool, margin: float) -> Decided:
    """Gives queries the class of the largest score.

    Args:
        table: Embeddings, (n, D).
        support: Rows of the supports, (E, N, K).
        query: Rows of the queries, (E, N, Q).
        pool: Function from products, supports (B, N, K) and queries (B, N * Q) to scores (B, N, N * Q).
        margin: Largest difference of scores that are a tie.
    """
    pairs = Pairs(table)
    episodes, ways, shots = support.shape
    queries = query.reshape(episodes, -1)
    apart = np.float32(margin + _NOISE * float(pairs.squares.max()))
    kind = np.min_scalar_type(ways)
    slots = np.arange(ways, dtype=kind)[:, None]
    chosen, doubtful = np.empty(queries.shape, kind), np.empty(episodes, np.bool_)
    step = max(1, _BATCH // (ways * max(queries.shape[1], shots * shots)))
    for start in range(0, episodes, step):
        now = slice(start, start + step)
        scores = pool(pairs, support[now], queries[now])
        best = scores >= (scores.max(axis=1) - apart)[:, None]
        doubtful[now] = best.sum(axis=(1, 2)) > queries.shape[1]
        chosen[now] = (best * slots).sum(axis=1, dtype=kind)  # meaningless where there is doubt
        if start == 0 and doubtful[now].mean() > _HOPELESS:
            doubtful[:] = True
            break
    return Decided(chosen.reshape(query.shape), doubtful)
