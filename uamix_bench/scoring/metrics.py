"""Accuracy and mean average precision on test clips, with intervals clustered by group.

Clips of one recording, speaker or video are right or wrong together. So the intervals treat groups, not clips, as the
draws from the population. They cover new groups under this training data, not another training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from uamix_bench.scoring.statistics import Z95, Interval
from uamix_bench.util.arrays import Doubles, Ints, Mask

RESAMPLES = 1_000
_AT_ONCE = 4_000_000  # weights of resampled clips held at once


class Scored(NamedTuple):
    """The test clips of one run.

    Attributes:
        groups: Group of each clip, (n,) int64, of one numbering over all runs.
        values: Correctness of each clip, 0 or 1, (n,) float64; or scores of every class, (n, C).
        targets: Classes of each clip, (n, C) bool, if `values` are scores.
    """

    groups: Ints
    values: Doubles
    targets: Mask | None = None


def clustered_interval(runs: Sequence[Scored]) -> Interval:
    """Interval of the mean accuracy over runs, by a cluster-robust standard error.

    With weight w_i = 1 / (R n_r) for clip i of run r of R, y_i right or wrong, m = sum_i w_i y_i and
    d_g = sum over the clips of group g, in all runs, of w_i (y_i - m), the half-width is t(.975; G - 1) s with
    s^2 = G / (G - 1) sum_g d_g^2. If every clip is its own group and there is one run, this is the t interval of the
    mean. Runs over the same clips (seeds) are not independent draws: their groups are summed first.
    """
    groups = np.concatenate([run.groups for run in runs])
    weights = np.concatenate([np.full(len(run.groups), 1 / (len(runs) * len(run.groups))) for run in runs])
    values = np.concatenate([run.values for run in runs])
    _, place = np.unique(groups, return_inverse=True)
    count = int(place.max()) + 1
    if count < 2:
        return Interval(None, "all test clips are of one group")
    if values.min() == values.max():
        return Interval(None, f"every test clip is {'right' if values[0] else 'wrong'}, so there is no spread")
    from scipy.special import stdtrit

    influence = np.bincount(place, weights * (values - weights @ values))
    variance = count / (count - 1) * float((influence**2).sum())
    return Interval(float(stdtrit(count - 1, 0.975)) * math.sqrt(variance))


def average_precision(scores: Doubles, targets: Mask, weights: npt.ArrayLike | None = None) -> Doubles:
    """Average precision of one class, sum_n (R_n - R_{n-1}) P_n over thresholds, as scikit-learn defines it.

    Args:
        scores: Scores of the clips, (n,); equal scores share a threshold.
        targets: Mask of the clips of the class, (n,).
        weights: Number of times that each clip counts in each of B samples, (B, n); None for once, B = 1.

    Returns:
        Average precision of each sample, (B,); NaN if no clip of the class counts.
    """
    order = np.argsort(-scores, kind="stable")
    sorted_scores = scores[order]
    last = np.searchsorted(-sorted_scores, -sorted_scores, side="right") - 1  # of the clips at one threshold
    counted = (np.ones((1, len(scores))) if weights is None else np.asarray(weights, np.float64))[:, order]
    hits = counted * targets[order]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.cumsum(hits, axis=1)[:, last] / np.cumsum(counted, axis=1)[:, last]
        value: Doubles = np.where(hits > 0, hits * precision, 0.0).sum(axis=1) / hits.sum(axis=1)
    return value


def average_precisions(scores: Doubles, targets: Mask) -> Doubles:
    """Average precision of each class, (C,), from scores and targets (n, C); NaN without a positive clip."""
    return np.array([average_precision(scores[:, c], targets[:, c])[0] for c in range(scores.shape[1])])


def bootstrap_interval(runs: Sequence[Scored], seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Interval of the mean mAP over runs: 1.96 x its standard deviation over resamples of the groups.

    A resample draws as many groups as there are, with replacement, once for all runs. A class without a positive clip
    is left out of that resample's mean, a run without any is left out too, and so is a resample of such runs alone.
    """
    numbers = np.unique(np.concatenate([run.groups for run in runs]))
    if len(numbers) < 2:
        return Interval(None, "all test clips are of one group")
    generator = np.random.Generator(np.random.Philox(key=seed))
    chosen = generator.integers(0, len(numbers), (resamples, len(numbers)))
    values, heard = np.zeros(resamples), np.zeros(resamples)
    for run in runs:
        assert run.targets is not None
        place = np.searchsorted(numbers, run.groups)
        step = max(1, _AT_ONCE // len(place))
        for begin in range(0, resamples, step):
            draws = chosen[begin : begin + step]
            times = np.stack([np.bincount(row, minlength=len(numbers)) for row in draws])[:, place]
            classes = np.flatnonzero(run.targets.any(axis=0))
            per_class = np.stack([average_precision(run.values[:, c], run.targets[:, c], times) for c in classes])
            there = ~np.isnan(per_class).all(axis=0)  # of few groups, a resample may have none that a run tests
            drawn = np.flatnonzero(there) + begin
            values[drawn] += np.nanmean(per_class[:, there], axis=0) / len(runs)
            heard[drawn] += 1
    means = values[heard > 0] * (len(runs) / heard[heard > 0])
    if means.min() == means.max():
        return Interval(None, "all resamples of the groups are alike, so there is no spread")
    return Interval(float(Z95 * means.std(ddof=1)))
