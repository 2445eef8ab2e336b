"""Scores from products of pairs, for more episodes than a table of all pairs costs.

The episodes of a small table draw the same pairs of clips again and again. Their products are then computed once, and
an episode only looks them up. Sums are rounded otherwise than in a product of the episode's own rows, so episodes in
which that may decide are named, and left to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from uamix_bench.scoring.softmax_regression import softmax_regression
from uamix_bench.util.arrays import Floats, Ints, Mask

_MOST_ROWS = 8_192  # whose products take 256 MiB
_LOOK_UP, _FETCH = 200, 30  # multiplications in the time of a product looked up, and of a number of a row fetched
_BATCH = 1 << 16  # numbers held at a time: they stay in the processor's cache
_HOPELESS = 0.5  # of the first episodes doubtful: most clips have copies in other classes
_NOISE = 1e-6  # of the largest squared length: what two ways of rounding may put between a score and itself
_ASTRAY = np.float32(0.5)  # of |x| and the most that weights may be off: two logits of x err by less than 0.3 of these
_LOGITS = 10.0  # size of logits, which float32 rounds too


class Scores(NamedTuple):
    """Scores of queries for classes, (B, N, Q); and most that two of a query may err by, a number or (B, Q)."""

    values: Floats
    error: npt.NDArray[np.floating[Any]] | np.float32


class Work(NamedTuple):
    """Numbers that an episode takes: products of its own rows, products of pairs looked up, and numbers held."""

    computed: int
    looked_up: int
    held: int


class Pool(NamedTuple):
    """A classifier by products of pairs.

    Attributes:
        scores: Function from products, supports (B, N, K) and queries (B, Q) to ever closer approximations of scores.
        work: Function from N, K and Q to the work of an episode.
    """

    scores: Callable[[Pairs, Ints, Ints], Iterator[Scores]]
    work: Callable[[int, int, int], Work]


class Decided(NamedTuple):
    """Predicted class slot of each query, (E, N, Q); and which episodes leave a query undecided, (E,) bool."""

    chosen: npt.NDArray[np.unsignedinteger[Any]]
    doubtful: Mask


class Pairs:
    """Products of all pairs of the rows of a table, (n, n) float32."""

    def __init__(self, table: Floats) -> None:
        products = table @ table.T
        self.squares: Floats = products.diagonal().copy()
        self.largest = float(self.squares.max())
        self._rows, self._flat = len(products), products.ravel()

    def __call__(self, left: Ints, right: Ints) -> Floats:
        """Products of rows (..., A) with rows (..., B): (..., A, B)."""
        return self._flat.take(left[..., :, None] * self._rows + right[..., None, :], mode="clip")


def pay(table: npt.NDArray[np.floating[Any]], support: Ints, query: Ints, pool: Pool) -> bool:
    """Test that products of all pairs, and looking them up, cost less than the products of each episode's own rows."""
    (rows, size), (episodes, ways, shots), queries = table.shape, support.shape, query.shape[2]
    if table.dtype != np.float32 or rows > _MOST_ROWS:
        return False
    work = pool.work(ways, shots, ways * queries)
    own = size * (work.computed + _FETCH * ways * (shots + queries))
    return bool(rows * rows * size / 2 + episodes * _LOOK_UP * work.looked_up < episodes * own)


def _mean_of_shots(pairs: Pairs, support: Ints, query: Ints) -> Iterator[Scores]:
    """Scores that rank means of supports by distance: ``x . m - |m|^2 / 2``."""
    scores = pairs(support[..., 0], query)
    for shot in range(1, support.shape[2]):
        scores += pairs(support[..., shot], query)
    scores *= np.float32(1 / support.shape[2])
    scores -= np.float32(0.5) * pairs(support, support).mean(axis=(2, 3))[..., None]
    yield Scores(scores, np.float32(_NOISE * pairs.largest))


def _nearest_of_shots(pairs: Pairs, support: Ints, query: Ints) -> Iterator[Scores]:
    """Scores that rank classes by the distance of their nearest support."""
    scores = np.full((*support.shape[:2], query.shape[1]), -np.inf, np.float32)
    for shot in range(support.shape[2]):
        rows = support[..., shot]
        np.maximum(scores, pairs(rows, query) - np.float32(0.5) * pairs.squares[rows][..., None], out=scores)
    yield Scores(scores, np.float32(_NOISE * pairs.largest))


def _regression(pairs: Pairs, support: Ints, query: Ints) -> Iterator[Scores]:
    """Logits of logistic regression, each time with the weights closer to their optimum."""
    episodes, ways, shots = support.shape
    rows = support.reshape(episodes, -1)
    within, across, lengths = pairs(rows, rows), pairs(rows, query), np.sqrt(pairs.squares[query])
    middle = within.mean(axis=2)
    within -= middle[:, None]
    within -= within.mean(axis=2)[..., None]  # now of the supports less their mean
    noise = np.float32(_NOISE * (pairs.largest + _LOGITS))
    for shares, intercepts, distance in softmax_regression((within,), np.eye(ways).repeat(shots, axis=1)):
        shares = shares - shares.mean(axis=2, keepdims=True)  # of the supports themselves
        logits = shares @ across
        logits += (intercepts - (shares @ middle[..., None])[..., 0])[..., None]
        yield Scores(logits, noise + _ASTRAY * lengths * distance[:, None])


def _look_up(ways: int, shots: int, queries: int) -> Work:
    """Work of products with queries, and of the supports of a class."""
    return Work(ways * queries, shots * ways * (queries + shots), ways * max(queries, shots**2))


def _fit(ways: int, shots: int, queries: int) -> Work:
    """Work of products of all supports with each other, in float64 if of own rows, and with queries."""
    supports = ways * shots
    looked_up = supports * (supports + queries)
    return Work(ways * queries + 2 * supports**2, looked_up, max(ways * (supports + queries), looked_up // 8))


MEAN_OF_SHOTS = Pool(_mean_of_shots, _look_up)
NEAREST_OF_SHOTS = Pool(_nearest_of_shots, _look_up)
REGRESSION = Pool(_regression, _fit)


def decide(table: Floats, support: Ints, query: Ints, pool: Pool, margin: float) -> Decided:
    """Gives queries the class of the largest score.

    Args:
        table: Embeddings, (n, D).
        support: Rows of the supports, (E, N, K).
        query: Rows of the queries, (E, N, Q).
        pool: The classifier.
        margin: Largest difference of scores that are a tie.
    """
    pairs = Pairs(table)
    episodes, ways, shots = support.shape
    queries = query.reshape(episodes, -1)
    kind = np.min_scalar_type(ways)
    slots = np.arange(ways, dtype=kind)[:, None]
    chosen, doubtful = np.empty(queries.shape, kind), np.empty(episodes, np.bool_)
    step = max(1, _BATCH // pool.work(ways, shots, queries.shape[1]).held)
    for start in range(0, episodes, step):
        now = slice(start, start + step)
        for scores, error in pool.scores(pairs, support[now], queries[now]):
            best = scores >= (scores.max(axis=1) - (error + np.float32(margin)))[:, None]
            doubtful[now] = (best.sum(axis=1) != 1).any(axis=1)
            if not doubtful[now].any():
                break
        chosen[now] = (best * slots).sum(axis=1, dtype=kind)  # meaningless where there is doubt
        if start == 0 and doubtful[now].mean() > _HOPELESS:
            doubtful[:] = True
            break
    return Decided(chosen.reshape(query.shape), doubtful)
