"""Few-shot classifiers, one function each, from embeddings and episode indices to correct counts of all episodes.

Each takes

- embeddings: (n, D) float32, finite,
- support: (E, N, K) int64, rows of `embeddings`, class slot by class slot,
- query: (E, N, Q) int64, rows of `embeddings`,

and returns a `Score`. Scores are computed on embeddings minus the mean over the n rows, as pooled transformer features
share a large common part that costs float32 its digits. A classifier that depends on the origin accounts for the mean.
Outlying rows are left out of that mean. If there are any, or the scale is extreme, scores are computed in float64.
Ties go to the lowest class slot. Scores are tied if they differ by no more than float32 may err (`_ROUNDING`), as a
matrix product need not round the same sum in two columns alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from uamix_bench.util.arrays import Doubles, Floats, Ints

Table = npt.NDArray[np.floating[Any]]
Fit = Callable[[Table], tuple[Table, Table | None]]

FAR_OUT = 10.0  # times the median distance: rows beyond it have no part in the mean
_BUFFER = 1 << 18  # numbers gathered at a time: they stay in the processor's cache
_TINY = float(np.finfo(np.float64).tiny)
_ROUNDING = 1e-6  # of a score's unit
_DOUBLE_ROUNDING = 1e-12  # of a score itself, in float64
_COORDINATE = 1e-14  # of a row's length, in float64: what lies between two means of the same rows
_SHORT = 1e-3, 0.05  # of the mean's square: rows below it are lost in it in float32; the share of them that matters
_SAFE = 1e-24, 1e24  # squared lengths whose products float32 holds
_SAMPLE = 128  # rows whose median says where most of the table is
_NEWTON_STEPS, _HALVINGS = 100, 30


class Score(NamedTuple):
    """Correctly classified queries.

    Attributes:
        correct: Number of correct queries of each episode, of N * Q, (E,) int64.
        hits: Number of correct queries of each class slot, of Q, (E, N) int64.
        chosen: Predicted class slot of each query, (E, N, Q), in the smallest unsigned type that holds N.
    """

    correct: Ints
    hits: Ints
    chosen: npt.NDArray[np.unsignedinteger[Any]]


def nearest_centroid(embeddings: Floats, support: Ints, query: Ints) -> Score:
    """Nearest mean of the supports by squared Euclidean distance (Snell et al. 2017, equations 1 and 2)."""
    table, _, square = _centred(embeddings)
    return _linear(table, support, query, _centroids, square)


def cosine(embeddings: Floats, support: Ints, query: Ints) -> Score:
    """Mean of the supports with the largest cosine to the query. The origin is that of the raw embeddings.

    easyfsl's `SimpleShot` is this classifier.
    """
    table, mean, square = _centred(embeddings)
    double = table.dtype == np.float64
    if double:  # whose mean would cost the short rows their digits
        table, mean, square = embeddings.astype(np.float64), np.zeros_like(mean), 0.0

    def fit(shots: Table) -> tuple[Table, Table]:
        centroids = shots.mean(axis=2, dtype=np.float64) + mean
        centroids /= np.maximum(np.linalg.norm(centroids, axis=2, keepdims=True), _TINY)
        if not double:
            centroids -= centroids.mean(axis=1, keepdims=True)  # the same for all classes: only rounding notices
        return centroids.astype(table.dtype), (centroids @ mean).astype(table.dtype)

    unit = square / max(math.sqrt(square + float(mean @ mean)), _TINY)  # of the centroids' directions, times a query
    return _linear(table, support, query, fit, unit)


def simpleshot(embeddings: Floats, support: Ints, query: Ints) -> Score:
    """SimpleShot's CL2N (Wang et al. 2019, section 3): centre, scale to unit length, nearest centroid.

    SimpleShot centres with the mean over its base classes. There are none here: the mean is over the n rows
    passed, which are the clips of all episodes without their labels. So it holds some information on the queries'
    distribution. Rows more than ten times as far out as the median row are left out of the mean.
    """
    table = _centred(embeddings).table
    table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), np.finfo(table.dtype).tiny)
    return _linear(table.astype(np.float32, copy=False), support, query, _centroids, unit=1.0)


def l2n(embeddings: Floats, support: Ints, query: Ints) -> Score:
    """Nearest centroid of embeddings scaled to unit length, without centring (as in the evaluation of Heggan et al.).

    SimpleShot's L2N (Wang et al. 2019, section 3).
    """
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    return nearest_centroid((embeddings / np.maximum(lengths, _TINY)).astype(np.float32), support, query)


def knn(embeddings: Floats, support: Ints, query: Ints, neighbors: int = 1) -> Score:
    """Majority among the nearest supports by squared Euclidean distance.

    Equal votes go to the class with the nearest support among the voters.

    Args:
        embeddings: Embeddings of the clips, (n, D) float32.
        support: Rows of the supports, (E, N, K) int64.
        query: Rows of the queries, (E, N, Q) int64.
        neighbors: Number of supports that vote, at most N * K.
    """
    table, _, square = _centred(embeddings)
    ways, shots = support.shape[1:]
    voters = min(neighbors, ways * shots)

    def fit(points: Table) -> tuple[Table, None]:
        return points.reshape(len(points), ways * shots, -1), None

    def vote(scores: Table, margin: Table) -> Ints:
        left = scores.copy()
        nearest = np.empty((*scores.shape[:-1], voters), np.int64)
        for place in range(voters):  # one by one: rounding must not put in order what is equally near
            row = _best(left, margin)
            np.put_along_axis(left, row[..., None], -np.inf, axis=-1)
            nearest[..., place] = row // shots
        votes: Ints = (nearest[..., None] == np.arange(ways)).astype(np.int64)  # (B, N * Q, voters, N)
        earliest = votes.argmax(axis=-2)
        return (votes.sum(axis=-2) * (voters + 1) - earliest).argmax(axis=-1)  # type: ignore[no-any-return]

    return _linear(table, support, query, fit, square, vote if voters > 1 else None)


def logistic_regression(embeddings: Floats, support: Ints, query: Ints) -> Score:
    """Multinomial logistic regression with an L2 penalty and a free intercept: scikit-learn's default.

    It minimises sum_i -log p(y_i | x_i) + |W|^2 / 2. For two classes the penalty is |W|^2, which is equivalent to
    scikit-learn's single weight vector. The optimum lies in the span of the supports, so it is sought there, in at
    most N * K dimensions.
    """
    table = _centred(embeddings).table
    ways, shots = support.shape[1:]
    penalty = 2.0 if ways == 2 else 1.0
    targets = np.repeat(np.eye(ways), shots, axis=0)  # (N * K, N)

    def fit(points: Table) -> tuple[Table, Table]:
        flat = points.reshape(len(points), ways * shots, -1).astype(np.float64)
        basis, coordinates = np.linalg.qr(flat.transpose(0, 2, 1))  # (B, D, r), (B, r, N * K)
        weights = _softmax_regression(coordinates.transpose(0, 2, 1), targets, penalty)
        full = (basis @ weights[:, :-1]).transpose(0, 2, 1)
        return np.ascontiguousarray(full, dtype=table.dtype), weights[:, -1].astype(table.dtype)

    return _linear(table, support, query, fit, unit=1.0, buffers=16)


CLASSIFIERS: dict[str, Callable[[Floats, Ints, Ints], Score]] = {
    "nearest-centroid": nearest_centroid,
    "cosine": cosine,
    "simpleshot": simpleshot,
    "l2n": l2n,
    "knn": knn,
    "logistic-regression": logistic_regression,
}


def classify(name: str, embeddings: Floats, support: Ints, query: Ints, neighbors: int = 1) -> Score:
    """Score by the classifier of a name in `CLASSIFIERS`; `neighbors` is for knn alone."""
    if name == "knn":
        return knn(embeddings, support, query, neighbors)
    return CLASSIFIERS[name](embeddings, support, query)


class _Centred(NamedTuple):
    """Embeddings minus their mean, (n, D) float32 or float64; the mean, (D,); the median squared length of a row."""

    table: Table
    mean: Doubles
    square: float


def _centred(embeddings: Floats) -> _Centred:
    """Subtracts the mean over all rows that are not outliers."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
        table = embeddings - mean
        squares = np.vecdot(table, table)
        lengths = np.vecdot(embeddings, embeddings)  # rows of zeros lose nothing
        short = (lengths > 0) & (lengths < _SHORT[0] * (mean @ mean))
    square = float(np.median(squares))
    sample = embeddings[:: -(-len(embeddings) // _SAMPLE)].astype(np.float64)
    middle = np.median(sample, axis=0)  # half of the rows may lie anywhere, and it stays among the others
    if short.mean() < _SHORT[1] and _is_safe(table, squares, square, np.median(_squares(sample - middle))):
        return _Centred(table, mean.astype(np.float64), square)
    rows = embeddings - middle  # float64
    squares = _squares(rows)
    usual = squares <= FAR_OUT**2 * _typical(squares)
    shift = rows[usual].mean(axis=0)
    rows -= shift
    return _Centred(rows, middle + shift, _typical(_squares(rows)))


def _is_safe(table: Floats, squares: Floats, square: float, about_middle: float) -> bool:
    """Test that float32 suffices: no outlier has moved the mean, and no product of two lengths leaves its range."""
    largest = float(squares.max())
    if largest == 0.0:  # all rows equal, or squares too small for float32
        return not table.any()
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


def _centroids(shots: Table) -> tuple[Table, None]:
    """Means of the supports of each class, without biases."""
    centroids = np.add.reduce(shots, axis=2)
    centroids *= shots.dtype.type(1 / shots.shape[2])
    return centroids, None


def _scores(queries: Table, weights: Table, biases: Table | None) -> Table:
    """Scores ``x . w + b``; without biases, scores that rank the weights by their distance from the query.

    The largest ``x . w - |w|^2 / 2`` has the least ``|x - w|``. In float64 there are outlying rows. The distances
    between them would be lost in the square of their length, so the distances themselves are computed.

    Args:
        queries: Embeddings of the queries, (B, Q, D).
        weights: Weight vectors, (B, M, D).
        biases: Biases of the weight vectors, (B, M); None for scores by distance.

    Returns:
        Scores, (B, Q, M).
    """
    if biases is None and weights.dtype == np.float64:
        from scipy.spatial.distance import cdist

        return np.stack([-0.5 * cdist(*pair, "sqeuclidean") for pair in zip(queries, weights, strict=True)])
    scores: Table = queries @ weights.transpose(0, 2, 1)
    scores += (-0.5 * np.vecdot(weights, weights) if biases is None else biases)[:, None]
    return scores


def _best(scores: Table, margin: Table) -> Ints:
    """Lowest index of those within `margin` of the largest score, along the last axis."""
    best: Ints = (scores >= scores.max(axis=-1, keepdims=True) - margin).argmax(axis=-1)
    return best


def _margin(queries: Table, scores: Table, unit: float, by_distance: bool) -> Table:
    """Largest difference that rounding makes between equal scores, a number or (B, Q, 1).

    Args:
        queries: (B, Q, D).
        scores: (B, Q, M).
        unit: The size of a usual score.
        by_distance: Whether the scores order by distance.
    """
    if scores.dtype == np.float32:
        return np.asarray(_ROUNDING * unit, np.float32)
    largest = np.abs(scores.max(axis=-1, keepdims=True))
    if not by_distance:  # of rows far out the scores are large, and so is their rounding
        return np.asarray(_ROUNDING * unit + _DOUBLE_ROUNDING * largest)
    distance = np.sqrt(2 * largest)
    coordinate = _COORDINATE * (np.linalg.norm(queries, axis=-1, keepdims=True) + distance)
    return np.asarray(coordinate * (coordinate + distance))


def _linear(
    table: Table,
    support: Ints,
    query: Ints,
    fit: Fit,
    unit: float,
    vote: Callable[[Table, Table], Ints] | None = None,
    buffers: int = 1,
) -> Score:
    """Scores queries by ``x . w + b`` or by distance, a few episodes at a time in reused buffers.

    Args:
        table: Embeddings, (n, D) float32 or float64; weights and scores have the same type.
        support: Rows of the supports, (E, N, K) int64.
        query: Rows of the queries, (E, N, Q) int64.
        fit: Function from supports (B, N, K, D) to weights (B, M, D) and biases (B, M), or None if the nearest weights
            win.
        unit: Size of a usual score, which scales the margin of ties.
        vote: Function from scores (B, N * Q, M) and their margins to class slots (B, N * Q); by default the slot of the
            largest score.
        buffers: Factor on the number of episodes in a batch; a fit of many small steps is faster with more.
    """
    episodes, ways, shots = support.shape
    queries, size = query.shape[2], table.shape[1]
    step = min(episodes, max(1, buffers * _BUFFER // (ways * (shots + queries) * size)))
    shot_buffer = np.empty((step, ways, shots, size), table.dtype)
    query_buffer = np.empty((step, ways * queries, size), table.dtype)
    query_rows = query.reshape(episodes, -1)
    slots = np.arange(ways)[:, None]
    hits = np.empty((episodes, ways), np.int64)
    chosen = np.empty((episodes, ways, queries), np.min_scalar_type(ways))
    for start in range(0, episodes, step):
        now = slice(start, min(start + step, episodes))
        batch = now.stop - start
        # mode="clip" lets numpy write straight into `out`; the rows are in range
        np.take(table, support[now], axis=0, out=shot_buffer[:batch], mode="clip")
        np.take(table, query_rows[now], axis=0, out=query_buffer[:batch], mode="clip")
        weights, biases = fit(shot_buffer[:batch])
        scores = _scores(query_buffer[:batch], weights, biases)
        margin = _margin(query_buffer[:batch], scores, unit, biases is None)
        best = vote(scores, margin) if vote else _best(scores, margin) // (weights.shape[1] // ways)
        chosen[now] = best.reshape(batch, ways, queries)
        hits[now] = (chosen[now] == slots).sum(axis=2)
    return Score(hits.sum(axis=1), hits, chosen)


def _softmax_regression(features: Doubles, targets: Doubles, penalty: float) -> Doubles:
    """Minimises ``sum -log softmax(X W + b)[y] + penalty |W|^2 / 2`` for B problems at once, by Newton steps.

    Args:
        features: Features of the m supports of each problem, (B, m, r) float64.
        targets: One-hot classes of the supports, (m, N) float64.
        penalty: Strength of the L2 term; the intercepts are free.

    Returns:
        Weights with the intercepts last, (B, r + 1, N) float64.
    """
    points = np.concatenate([features, np.ones((*features.shape[:2], 1))], axis=2)
    back = np.ascontiguousarray(points.transpose(0, 2, 1))
    ridge = np.full((points.shape[2], 1), penalty)
    ridge[-1] = 0.0
    weights = np.zeros((len(points), points.shape[2], targets.shape[1]))

    def loss(weights: Doubles) -> tuple[Doubles, Doubles]:
        logits = points @ weights
        logits -= logits.max(axis=2, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
        return 0.5 * _inner(ridge * weights, weights) - _inner(log_p, targets), np.exp(log_p)

    value, p = loss(weights)
    for newton in range(_NEWTON_STEPS):
        gradient = back @ (p - targets) + ridge * weights
        steepness = np.abs(gradient).max(axis=(1, 2))
        if newton == 0:
            enough = 1e-7 * steepness
        if np.all(steepness <= enough):
            break
        step = _conjugate_gradient(points, back, p, ridge, gradient)
        slope = _inner(gradient, step)
        scale = np.ones(len(points))
        for _ in range(_HALVINGS):
            trial, trial_p = loss(weights + scale[:, None, None] * step)
            worse = trial > value + 1e-4 * scale * slope + 1e-12 * np.abs(value)
            if not worse.any():
                break
            scale[worse] *= 0.5
        weights += scale[:, None, None] * step
        value, p = trial, trial_p
    return weights


def _conjugate_gradient(points: Doubles, back: Doubles, p: Doubles, ridge: Doubles, gradient: Doubles) -> Doubles:
    """Solves ``H step = -gradient``, H the Hessian of the softmax loss, to a thousandth of the gradient."""
    step = np.zeros_like(gradient)
    residual = -gradient
    direction = residual.copy()
    power = _inner(residual, residual)
    enough = 1e-6 * power
    for _ in range(gradient[0].size):
        if np.all(power <= enough):
            break
        change = points @ direction
        change = p * (change - (p * change).sum(axis=2, keepdims=True))
        image = back @ change + ridge * direction
        curvature = _inner(direction, image)
        length = np.divide(power, curvature, out=np.zeros_like(power), where=(power > enough) & (curvature > 0))
        step += length[:, None, None] * direction
        residual -= length[:, None, None] * image
        previous, power = power, _inner(residual, residual)
        ratio = np.divide(power, previous, out=np.zeros_like(power), where=previous > 0)
        direction = residual + ratio[:, None, None] * direction
    return step


def _inner(left: Doubles, right: Doubles) -> Doubles:
    """Inner product of the two matrices of each problem, (B,)."""
    product: Doubles = (left * right).sum(axis=(1, 2))
    return product
