"""Few-shot classifiers: embeddings and episode indices in, hits out; one function each, over all episodes.

Each takes

- embeddings: (n, D) float32, finite,
- support: (E, N, K) int64, rows of `embeddings`, class slot by class slot,
- query: (E, N, Q) int64, rows of `embeddings`,

and returns a `Score`. Scores are taken on embeddings minus the mean over the n rows (pooled transformer features share
a large common part that costs float32 its digits); where a classifier depends on the origin, the mean is accounted for.
Equal scores go to the lowest class slot; equal are those that differ by no more than float32 may err (`_ROUNDING`), for
a matrix product need not round the same sum in two columns alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_BUFFER = 1 << 18  # numbers gathered at a time: they stay in the processor's cache
_TINY = float(np.finfo(np.float32).tiny)
_ROUNDING = 1e-6  # of a score's unit
_NEWTON_STEPS, _HALVINGS = 100, 30


class Score(NamedTuple):
    """Correctly classified queries.

    Attributes:
        correct: (E,) int64, per episode, of N * Q.
        hits: (E, N) int64, per class slot, of Q.
        chosen: (E, N, Q) the class slot that each query was given, in the smallest unsigned type that holds N.
    """

    correct: Integers
    hits: Integers
    chosen: npt.NDArray[np.unsignedinteger[Any]]


def nearest_centroid(embeddings: Floats, support: Integers, query: Integers) -> Score:
    """Nearest mean of the supports by squared Euclidean distance (Snell et al. 2017, equations 1 and 2)."""
    table, _ = _centred(embeddings)
    return _linear(table, support, query, _centroids, _square(table))


def cosine(embeddings: Floats, support: Integers, query: Integers) -> Score:
    """Mean of the supports with the largest cosine to the query; the origin is that of the raw embeddings."""
    table, mean = _centred(embeddings)

    def fit(shots: Floats) -> tuple[Floats, Floats]:
        centroids = shots.mean(axis=2, dtype=np.float64) + mean
        centroids /= np.maximum(np.linalg.norm(centroids, axis=2, keepdims=True), _TINY)
        centroids -= centroids.mean(axis=1, keepdims=True)  # the same for all classes: only rounding notices
        return centroids.astype(np.float32), (centroids @ mean).astype(np.float32)

    square = _square(table)
    unit = square / max(math.sqrt(square + float(mean @ mean)), _TINY)  # of the centroids' directions, times a query
    return _linear(table, support, query, fit, unit)


def simpleshot(embeddings: Floats, support: Integers, query: Integers) -> Score:
    """SimpleShot's CL2N (Wang et al. 2019, section 3): centre, scale to unit length, nearest centroid.

    SimpleShot centres with the mean over its base classes. There are none here: the mean is over the n rows
    passed, which are the clips of all episodes without their labels, so it knows a little of the queries'
    distribution.
    """
    table, _ = _centred(embeddings)
    table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), _TINY)
    return _linear(table, support, query, _centroids, unit=1.0)


def knn(embeddings: Floats, support: Integers, query: Integers, neighbours: int = 1) -> Score:
    """Majority among the nearest supports by squared Euclidean distance.

    Equal votes go to the class with the nearest support among the voters.

    Args:
        embeddings: (n, D) float32.
        support: (E, N, K) int64.
        query: (E, N, Q) int64.
        neighbours: How many supports vote, at most N * K.
    """
    table, _ = _centred(embeddings)
    ways, shots = support.shape[1:]
    voters = min(neighbours, ways * shots)

    def fit(points: Floats) -> tuple[Floats, Floats]:
        flat = points.reshape(len(points), ways * shots, -1)
        return flat, -0.5 * np.vecdot(flat, flat)

    def vote(scores: Floats) -> Integers:
        nearest = np.argsort(-scores, axis=-1, kind="stable")[..., :voters] // shots
        votes: Integers = (nearest[..., None] == np.arange(ways)).astype(np.int64)  # (B, N * Q, voters, N)
        earliest = votes.argmax(axis=-2)
        return _best(votes.sum(axis=-2) * (voters + 1) - earliest, 0.0)

    return _linear(table, support, query, fit, _square(table), vote if voters > 1 else None)


def logistic_regression(embeddings: Floats, support: Integers, query: Integers) -> Score:
    """Multinomial logistic regression with an L2 penalty and a free intercept: scikit-learn's default.

    It minimises sum_i -log p(y_i | x_i) + |W|^2 / 2 (for two classes |W|^2, which is what scikit-learn's
    single weight vector amounts to). The optimum lies in the span of the supports, so it is sought there, in
    at most N * K dimensions.
    """
    table, _ = _centred(embeddings)
    ways, shots = support.shape[1:]
    penalty = 2.0 if ways == 2 else 1.0
    targets = np.repeat(np.eye(ways), shots, axis=0)  # (N * K, N)

    def fit(points: Floats) -> tuple[Floats, Floats]:
        flat = points.reshape(len(points), ways * shots, -1).astype(np.float64)
        basis, coordinates = np.linalg.qr(flat.transpose(0, 2, 1))  # (B, D, r), (B, r, N * K)
        weights = _softmax_regression(coordinates.transpose(0, 2, 1), targets, penalty)
        full = (basis @ weights[:, :-1]).transpose(0, 2, 1)
        return np.ascontiguousarray(full, dtype=np.float32), weights[:, -1].astype(np.float32)

    return _linear(table, support, query, fit, unit=1.0, buffers=16)


CLASSIFIERS: dict[str, Callable[[Floats, Integers, Integers], Score]] = {
    "nearest-centroid": nearest_centroid,
    "cosine": cosine,
    "simpleshot": simpleshot,
    "knn": knn,
    "logistic-regression": logistic_regression,
}


def _centred(embeddings: Floats) -> tuple[Floats, Doubles]:
    """Returns the table minus its mean, and the (D,) float64 vector that was taken away."""
    mean = embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
    return embeddings - mean, mean.astype(np.float64)


def _square(table: Floats) -> float:
    """The median squared length of the rows."""
    return float(np.median(np.vecdot(table, table)))


def _centroids(shots: Floats) -> tuple[Floats, Floats]:
    """Weights and biases of the nearest mean: the largest ``x . c - |c|^2 / 2`` has the least ``|x - c|``."""
    centroids = np.add.reduce(shots, axis=2)
    centroids *= np.float32(1 / shots.shape[2])
    return centroids, -0.5 * np.vecdot(centroids, centroids)


def _best(scores: npt.NDArray[Any], margin: float) -> Integers:
    """The lowest index of those within `margin` of the largest score, along the last axis."""
    best: Integers = (scores >= scores.max(axis=-1, keepdims=True) - margin).argmax(axis=-1)
    return best


def _linear(
    table: Floats,
    support: Integers,
    query: Integers,
    fit: Callable[[Floats], tuple[Floats, Floats]],
    unit: float,
    vote: Callable[[Floats], Integers] | None = None,
    buffers: int = 1,
) -> Score:
    """Scores queries by ``x . w + b``, a few episodes at a time in buffers that are used again.

    Args:
        table: (n, D) float32.
        support: (E, N, K) int64.
        query: (E, N, Q) int64.
        fit: Supports (B, N, K, D) to weights (B, M, D) and biases (B, M), float32.
        unit: The size of a usual score, for what counts as equal.
        vote: Scores (B, N * Q, M) to class slots (B, N * Q); by default that of the largest.
        buffers: How many times the usual number of episodes to gather; a fit of many small steps likes more.
    """
    episodes, ways, shots = support.shape
    queries, size = query.shape[2], table.shape[1]
    step = min(episodes, max(1, buffers * _BUFFER // (ways * (shots + queries) * size)))
    shot_buffer = np.empty((step, ways, shots, size), np.float32)
    query_buffer = np.empty((step, ways * queries, size), np.float32)
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
        weights, bias = fit(shot_buffer[:batch])
        scores = query_buffer[:batch] @ weights.transpose(0, 2, 1)
        scores += bias[:, None]
        best = vote(scores) if vote else _best(scores, _ROUNDING * unit) // (weights.shape[1] // ways)
        chosen[now] = best.reshape(batch, ways, queries)
        hits[now] = (chosen[now] == slots).sum(axis=2)
    return Score(hits.sum(axis=1), hits, chosen)


def _softmax_regression(features: Doubles, targets: Doubles, penalty: float) -> Doubles:
    """Minimises ``sum -log softmax(X W + b)[y] + penalty |W|^2 / 2`` for B problems at once, by Newton steps.

    Args:
        features: (B, m, r) float64.
        targets: (m, N) float64, one-hot.
        penalty: Strength of the L2 term; the intercepts are free.

    Returns:
        (B, r + 1, N) float64, the intercepts last.
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
    """Inner product of each problem's matrices: (B,)."""
    product: Doubles = (left * right).sum(axis=(1, 2))
    return product
