"""Few-shot classifiers, one function each, from embeddings and episode indices to correct counts of all episodes.

Each takes

- embeddings: (n, D) float32, finite,
- support: (E, N, K) int64, rows of `embeddings`, class slot by class slot,
- query: (E, N, Q) int64, rows of `embeddings`,

and returns a `Score`. Scores are computed on embeddings minus the mean over the n rows, as pooled transformer features
share a large common part that costs float32 its digits. A classifier that depends on the origin accounts for the mean.
Outlying rows are left out of that mean. If there are any, or the scale is extreme, scores are computed in float64.
Ties go to the lowest class slot, tied votes of `knn` first to the class with the nearest voter. Scores are tied if they
differ by no more than float32 may err (`_ROUNDING`), as a matrix product need not round the same sum in two columns
alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from uamix_bench.scoring import products
from uamix_bench.scoring.softmax_regression import softmax_regression
from uamix_bench.scoring.space import TINY, Space, Table, centred, scaled, unit_length
from uamix_bench.util.arrays import Doubles, Floats, Ints
from uamix_bench.util.errors import UsageError

Fit = Callable[[Table, Ints], tuple[Table, Table | None]]

_BUFFER = 1 << 18  # numbers gathered at a time: they stay in the processor's cache
_ROUNDING = 1e-6  # of a score's unit
_OFTEN = 4  # times that a row is drawn: then the mean is subtracted from the table, and not from what is drawn
_DOUBLE_ROUNDING = 1e-12  # of a score itself, in float64
_EVERYDAY = 1e-8, 1e8  # squared lengths whose logits a fit in float32 holds
_COORDINATE = 1e-14  # of a row's length, in float64: what lies between two means of the same rows


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


@dataclass(frozen=True)
class Method:
    """A classifier on a table of embeddings, to be fitted to any supports among them.

    Attributes:
        space: Map of further embeddings into the space of the table.
        table: Embeddings in that space, (n, D) float32 or float64; weights and scores have the same type.
        fit: Function from supports (B, M, D), class slot by class slot, and the number of them in each slot (N,), to
            weights (B, R, D) and biases (B, R), or None if the nearest weights win. R is N, or M if supports vote.
        unit: Size of a usual score, which scales the margin of ties.
        voters: Number of weights that vote.
        buffers: Factor on the number of episodes in a batch; a fit of many small steps is faster with more.
        left: Vector (D,) that is still to be subtracted from the rows of the table; None if there is none.
        pool: The same scores from products of pairs, of one voter; None if there is no such function. See
            `products.decide`.
    """

    space: Space
    table: Table
    fit: Fit
    unit: float
    voters: int = 1
    buffers: int = 1
    left: Table | None = None
    pool: products.Pool | None = None


class Fitted(NamedTuple):
    """A classifier fitted to supports, free of the table that it was fitted on.

    Attributes:
        space: Map of embeddings into the space of the weights.
        weights: Weight vectors, (R, D).
        biases: Biases of the weight vectors, (R,); None if the nearest weights win.
        slots: Class slot of each weight vector, (R,) int64.
        unit: Size of a usual score, which scales the margin of ties.
        voters: Number of weights that vote.
    """

    space: Space
    weights: Table
    biases: Table | None
    slots: Ints
    unit: float
    voters: int

    def predict(self, embeddings: Floats) -> tuple[Ints, Doubles]:
        """Classifies embeddings (n, D) float32.

        Returns:
            Class slot of each embedding, (n,), ties to the lowest; and its score for each slot, (n, N) float64: of its
            weight vector, of the nearest one if there are several, or the number of votes.
        """
        queries = self.space(embeddings)[None]
        biases = None if self.biases is None else self.biases[None]
        chosen, scores = _choose(queries, self.weights[None], biases, self.unit, self.slots, self.voters)
        ways = int(self.slots.max()) + 1
        if self.voters > 1:
            return chosen[0], _votes(scores, _margin(queries, scores, self.unit, True), self.slots, self.voters)[0]
        of_slot = [scores[0][:, self.slots == slot].max(axis=1) for slot in range(ways)]
        return chosen[0], np.stack(of_slot, axis=1).astype(np.float64)


def nearest_centroid(embeddings: Floats, support: Ints, query: Ints) -> Score:
    """Nearest mean of the supports by squared Euclidean distance (Snell et al. 2017, equations 1 and 2)."""
    return _score(_nearest_centroid(embeddings), support, query)


def cosine(embeddings: Floats, support: Ints, query: Ints) -> Score:
    """Mean of the supports with the largest cosine to the query. The origin is that of the raw embeddings.

    easyfsl's `SimpleShot` is this classifier.
    """
    return _score(_cosine(embeddings), support, query)


def simpleshot(embeddings: Floats, support: Ints, query: Ints) -> Score:
    """SimpleShot's CL2N (Wang et al. 2019, section 3): centre, scale to unit length, nearest centroid.

    SimpleShot centres with the mean over its base classes. There are none here: the mean is over the n rows
    passed, which are the clips of all episodes without their labels. So it holds some information on the queries'
    distribution. Rows more than ten times as far out as the median row are left out of the mean.
    """
    return _score(_simpleshot(embeddings), support, query)


def l2n(embeddings: Floats, support: Ints, query: Ints) -> Score:
    """Nearest centroid of embeddings scaled to unit length, without centring (as in the evaluation of Heggan et al.).

    SimpleShot's L2N (Wang et al. 2019, section 3).
    """
    return _score(_l2n(embeddings), support, query)


def knn(embeddings: Floats, support: Ints, query: Ints, neighbors: int = 1) -> Score:
    """Majority among the nearest supports by squared Euclidean distance.

    Equal votes go to the class with the nearest support among the voters.

    Args:
        embeddings: Embeddings of the clips, (n, D) float32.
        support: Rows of the supports, (E, N, K) int64.
        query: Rows of the queries, (E, N, Q) int64.
        neighbors: Number of supports that vote, at most N * K.
    """
    return _score(replace(_knn(embeddings), voters=neighbors), support, query)


def logistic_regression(embeddings: Floats, support: Ints, query: Ints) -> Score:
    """Multinomial logistic regression with an L2 penalty and a free intercept: scikit-learn's default.

    It minimises sum_i -log p(y_i | x_i) + |W|^2 / 2. For two classes the penalty is |W|^2, which is equivalent to
    scikit-learn's single weight vector.
    """
    return _score(_logistic_regression(embeddings), support, query)


CLASS_NAMES = "class-names"  # the classifier without supports, `class_names`
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


def class_names(embeddings: Floats, texts: Floats, classes: Ints, query: Ints) -> Score:
    """Class whose text embedding has the largest cosine to the query (Radford et al. 2021, section 3.1).

    Args:
        embeddings: Embeddings of the clips, (n, D) float32.
        texts: Embeddings of the texts of the C classes, (C, D) float32.
        classes: Class of each class slot, (E, N) int64, as rows of `texts`.
        query: Rows of the queries, (E, N, Q) int64.
    """
    rows, names = (
        table.astype(np.float64) / np.maximum(np.linalg.norm(table.astype(np.float64), axis=1, keepdims=True), TINY)
        for table in (embeddings, texts)
    )
    chosen = np.empty(query.shape, np.min_scalar_type(classes.shape[1]))
    for episode, (slots, asked) in enumerate(zip(classes, query, strict=True)):
        cosines = rows[asked] @ names[slots].T  # (N, Q, N)
        chosen[episode] = (cosines >= cosines.max(axis=-1, keepdims=True) - _DOUBLE_ROUNDING).argmax(axis=-1)
    hits = (chosen == np.arange(classes.shape[1])[:, None]).sum(axis=2)
    return Score(hits.sum(axis=1), hits, chosen)


def fit(name: str, embeddings: Floats, supports: Sequence[Ints], neighbors: int = 1) -> Fitted:
    """Fits a classifier to supports, for queries that come later.

    Args:
        name: Name of one of the project's own classifiers.
        embeddings: Embeddings of all clips that set its origin, (n, D) float32, as :func:`classify` takes them.
        supports: Rows of the supports of each class slot, int64; their numbers may differ.
        neighbors: Number of supports that vote, for knn alone; at most all of them.

    Raises:
        UsageError: The classifier can only score whole episodes, as one that a user added.
    """
    if name not in _METHODS:
        known = f"fitted are {', '.join(_METHODS)}"
        raise UsageError(f"--classifier {name}", "scores whole episodes and cannot be fitted alone", known)
    method = _METHODS[name](embeddings)
    counts = np.array([len(rows) for rows in supports], np.int64)
    points = method.table[np.concatenate(supports)][None]
    weights, biases = method.fit(points if method.left is None else points - method.left, counts)
    slots = _slots(counts, weights.shape[1])
    voters = min(neighbors, len(slots)) if name == "knn" else 1
    return Fitted(method.space, weights[0], None if biases is None else biases[0], slots, method.unit, voters)


def _nearest_centroid(embeddings: Floats) -> Method:
    rows, left, _, square, offsets = centred(embeddings)
    return Method(Space(False, offsets, False), rows, _centroids, square, left=left, pool=products.MEAN_OF_SHOTS)


def _cosine(embeddings: Floats) -> Method:
    middle = centred(embeddings)
    table, mean, square, offsets = middle.table, middle.mean, middle.square, middle.offsets
    double = table.dtype == np.float64
    if double:  # whose mean would cost the short rows their digits
        mean, square = np.zeros_like(mean), 0.0
        table, offsets = embeddings.astype(np.float64), (mean,)

    def fit(points: Table, counts: Ints) -> tuple[Table, Table]:
        centroids = _sums(points, counts, np.float64) / counts[:, None] + mean
        centroids /= np.maximum(np.linalg.norm(centroids, axis=2, keepdims=True), TINY)
        if not double:
            centroids -= centroids.mean(axis=1, keepdims=True)  # the same for all classes: only rounding notices
        return centroids.astype(table.dtype), (centroids @ mean).astype(table.dtype)

    unit = square / max(math.sqrt(square + float(mean @ mean)), TINY)  # of the centroids' directions, times a query
    return Method(Space(False, offsets, False), table, fit, unit)


def _simpleshot(embeddings: Floats) -> Method:
    middle = centred(embeddings)
    return Method(
        Space(False, middle.offsets, True), scaled(middle.table), _centroids, unit=1.0, pool=products.MEAN_OF_SHOTS
    )


def _l2n(embeddings: Floats) -> Method:
    method = _nearest_centroid(unit_length(embeddings))
    return replace(method, space=method.space._replace(unit_first=True))


def _knn(embeddings: Floats) -> Method:
    return replace(_nearest_centroid(embeddings), fit=lambda points, _: (points, None), pool=products.NEAREST_OF_SHOTS)


def _logistic_regression(embeddings: Floats) -> Method:
    middle = centred(embeddings)
    table = middle.table

    def fit(points: Table, counts: Ints) -> tuple[Table, Table]:
        targets = (_slots(counts, points.shape[1]) == np.arange(len(counts))[:, None]).astype(np.float64)
        origin = points.mean(axis=1, keepdims=True, dtype=np.float64)
        points = points - origin
        back = points.transpose(0, 2, 1)
        few = points.shape[1] <= points.shape[2]
        *_, fitted = softmax_regression((points @ back,) if few else (points, back), targets)
        weights = fitted.shares @ points
        return weights.astype(table.dtype), (fitted.intercepts - np.vecdot(weights, origin)).astype(table.dtype)

    pool = products.REGRESSION if _EVERYDAY[0] < middle.square < _EVERYDAY[1] else None
    return Method(Space(False, middle.offsets, False), table, fit, unit=1.0, buffers=16, pool=pool)


_METHODS: dict[str, Callable[[Floats], Method]] = {
    "nearest-centroid": _nearest_centroid,
    "cosine": _cosine,
    "simpleshot": _simpleshot,
    "l2n": _l2n,
    "knn": _knn,
    "logistic-regression": _logistic_regression,
}


def _sums(points: Table, counts: Ints, dtype: type[np.floating[Any]] | None = None) -> Table:
    """Sums of the points (B, M, D) of each class slot, (B, N, D); `counts` (N,) says how many points each has."""
    if (counts == counts[0]).all():
        shots = points.reshape(len(points), len(counts), counts[0], -1)
        return np.add.reduce(shots, axis=2, dtype=dtype)  # type: ignore[no-any-return]
    return np.add.reduceat(points, np.cumsum(counts) - counts, axis=1, dtype=dtype)


def _centroids(points: Table, counts: Ints) -> tuple[Table, None]:
    """Means of the supports of each class, without biases."""
    centroids = _sums(points, counts)
    centroids *= (1 / counts[:, None]).astype(points.dtype)
    return centroids, None


def _slots(counts: Ints, weights: int) -> Ints:
    """Class slot of each weight vector: one for each slot, or one for each support."""
    slots = np.arange(len(counts))
    return slots if weights == len(counts) else np.repeat(slots, counts)


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


def _choose(
    queries: Table, weights: Table, biases: Table | None, unit: float, slots: Ints, voters: int
) -> tuple[Ints, Table]:
    """Class slots (B, Q) of queries (B, Q, D), and their scores (B, Q, R) for the weights (B, R, D)."""
    scores = _scores(queries, weights, biases)
    margin = _margin(queries, scores, unit, biases is None)
    if voters == 1:
        return slots[_best(scores, margin)], scores
    return _votes(scores, margin, slots, voters).argmax(axis=-1), scores


def _votes(scores: Table, margin: Table, slots: Ints, voters: int) -> Doubles:
    """Votes of the nearest supports for each class slot, (B, Q, N); less a fraction by the place of the first voter."""
    left = scores.copy()
    nearest = np.empty((*scores.shape[:-1], voters), np.int64)
    for place in range(voters):  # one by one: rounding must not put in order what is equally near
        row = _best(left, margin)
        np.put_along_axis(left, row[..., None], -np.inf, axis=-1)
        nearest[..., place] = slots[row]
    votes = (nearest[..., None] == np.arange(slots.max() + 1)).astype(np.int64)  # (B, Q, voters, N)
    earliest = votes.argmax(axis=-2)
    return votes.sum(axis=-2) - earliest / (voters + 1)  # type: ignore[no-any-return]


def _score(method: Method, support: Ints, query: Ints) -> Score:
    """Fits a method to the supports of each episode and scores its queries, a few episodes at a time.

    Where products of all pairs of rows cost less, scores are pooled from these. Episodes in which rounding may then
    decide are scored from their own rows, so that both ways give the same.
    """
    pool = method.pool if method.voters == 1 else None
    if pool and not products.pay(method.table, support, query, pool):
        pool = None
    if method.left is not None and (pool or support.size + query.size > _OFTEN * len(method.table)):
        method = replace(method, table=method.table - method.left, left=None)
    if pool:
        chosen, doubtful = products.decide(method.table, support, query, pool, _ROUNDING * method.unit)
        chosen[doubtful] = _from_rows(method, support[doubtful], query[doubtful])
    else:
        chosen = _from_rows(method, support, query)
    hits = (chosen == np.arange(chosen.shape[1], dtype=chosen.dtype)[:, None]).sum(axis=2)
    return Score(hits.sum(axis=1), hits, chosen)


def _from_rows(method: Method, support: Ints, query: Ints) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Predicted class slots (E, N, Q), by the products of each episode's own rows."""
    table = method.table
    episodes, ways, shots = support.shape
    queries, size = query.shape[2], table.shape[1]
    chosen = np.empty((episodes, ways, queries), np.min_scalar_type(ways))
    voters = min(method.voters, ways * shots)
    step = max(1, min(episodes, method.buffers * _BUFFER // (ways * (shots + queries) * size)))
    shot_buffer = np.empty((step, ways * shots, size), table.dtype)
    query_buffer = np.empty((step, ways * queries, size), table.dtype)
    shot_rows, query_rows = support.reshape(episodes, ways * shots), query.reshape(episodes, ways * queries)
    counts = np.full(ways, shots)
    for start in range(0, episodes, step):
        now = slice(start, min(start + step, episodes))
        batch = now.stop - start
        # mode="clip" lets numpy write straight into `out`; the rows are in range
        np.take(table, shot_rows[now], axis=0, out=shot_buffer[:batch], mode="clip")
        np.take(table, query_rows[now], axis=0, out=query_buffer[:batch], mode="clip")
        if method.left is not None:
            shot_buffer[:batch] -= method.left
            query_buffer[:batch] -= method.left
        weights, biases = method.fit(shot_buffer[:batch], counts)
        of_weight = _slots(counts, weights.shape[1])
        best, _ = _choose(query_buffer[:batch], weights, biases, method.unit, of_weight, voters)
        chosen[now] = best.reshape(batch, ways, queries)
    return chosen
