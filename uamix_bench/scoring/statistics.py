"""Intervals and tests over episodes, each for a stated population.

- These clips only (the sampler's error, which more episodes make as small as one likes):
  `conventional_interval`, `paired_t`, `sign_flip_p`.
- These classes, new clips: `ci95_clips`. New classes too: `ci95_classes`.

A half-width that cannot be given is None with its reason, never NaN. That of equal values, as in a score of 100%, would
be 0 for new clips and classes, and is not given. Accuracies are fractions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from uamix_bench.util.arrays import Doubles, Ints

Z95 = 1.96  # as the few-shot literature rounds it
_EPISODES_CLASSES, _EPISODES_CLIPS = 4_000, 10_000
_EXACT_FLIPS = 16
_MONTE_CARLO_FLIPS = 9_999
_FEWEST_GROUPS = 8
_FULLEST = 0.9  # largest share of a class that one episode may take: coverage holds up to here
_CROSSED = 0.05  # largest share of clips whose group spans classes


class Interval(NamedTuple):
    """A 95% interval around the mean.

    Attributes:
        half_width: Half-width in the unit of the values; None if it cannot be given.
        reason: Reason for a missing half-width; else empty.
    """

    half_width: float | None
    reason: str = ""


class PairedT(NamedTuple):
    """Paired t test of two models on the same episodes, first minus second. Its population is these clips only.

    Attributes:
        difference: Mean of the differences.
        half_width: Half-width of the 95% t interval of the difference.
        t: Value of the t statistic; None if all differences are equal.
        p: Two-sided p value of `t`; None if `t` is None.
    """

    difference: float
    half_width: float
    t: float | None
    p: float | None


def conventional_interval(values: npt.ArrayLike) -> Interval:
    """Interval of the few-shot literature: 1.96 * population standard deviation / sqrt(n).

    Args:
        values: Accuracies of the episodes, (T,).
    """
    sample = np.asarray(values, np.float64)
    if len(sample) < 2:
        return Interval(None, f"{len(sample)} episode has no spread")
    return Interval(float(Z95 * sample.std() / math.sqrt(len(sample))))


def ci95_classes(values: npt.ArrayLike, classes: Ints, class_of: Ints, group_of: Ints | None = None) -> Interval:
    """Interval for new classes: a delete-one-class jackknife, plus the sampling error on this data.

    With e_c the mean of the n_c episodes that hold class c, s2 the variance of the values, N ways, C classes
    and T episodes, the half-width is t(.975; C - 1) sqrt(v):
    v = (C - 1) / C (N / (C - N))^2 max(0, sum_c (e_c - mean)^2 - s2 sum_c (1 / n_c - 1 / T)) + s2 / T.

    Args:
        values: Accuracies of the episodes, (T,), or differences of two models' accuracies on the same episodes.
        classes: Class of each class slot, (T, N) int64.
        class_of: Class of each clip of the table, (n,) int64; -1 if it is left out.
        group_of: Group of each clip of the table, (n,) int64; None if every clip is its own group.
    """
    sample = np.asarray(values, np.float64)
    (episodes, ways), count = classes.shape, int(class_of.max()) + 1
    refusal = _no_spread(sample, _EPISODES_CLASSES) or _crossed(class_of, group_of)
    if not refusal and count <= ways + 2:
        refusal = f"{count} classes are too few to leave out one of them in {ways}-way episodes"
    held = np.bincount(classes.ravel(), minlength=count)
    if not refusal and not held.all():
        refusal = f"{np.count_nonzero(held == 0)} of {count} classes are in no episode; draw more episodes"
    if refusal:
        return Interval(None, refusal)
    from scipy.special import stdtrit

    spread = sample.var(ddof=1)
    means = np.bincount(classes.ravel(), np.repeat(sample, ways), count) / held
    between = ((means - sample.mean()) ** 2).sum() - spread * (1 / held - 1 / episodes).sum()
    variance = (count - 1) / count * (ways / (count - ways)) ** 2 * max(0.0, between) + spread / episodes
    return Interval(float(stdtrit(count - 1, 0.975) * math.sqrt(variance)))


def ci95_clips(
    values: npt.ArrayLike,
    classes: Ints,
    drawn: Ints,
    class_of: Ints,
    group_of: Ints | None = None,
) -> Interval:
    """Interval for new clips of these classes: a delete-one-clip jackknife in each class, plus the sampling error.

    With G_c clips in class c, e_cg the mean of the T_cg episodes that hold clip g of class c, e_c and s2_c
    the mean and variance of the n_c that hold the class, q_c = (K + Q) / G_c, the half-width is 1.96 sqrt(v):
    v = sum_c (G_c - 1) / G_c ((N / C) q_c / (1 - q_c))^2 b_c + s2 / T,
    b_c = sum_g (e_cg - e_c)^2 - s2_c sum_g (1 / T_cg - 1 / n_c).
    With groups, whole groups are deleted, and q is the measured share of the class's episodes that hold one.
    A clip that no episode holds is represented by the others of its class.

    Args:
        values: Accuracies of the episodes, (T,), or differences of two models' accuracies on the same episodes.
        classes: Class of each class slot, (T, N) int64.
        drawn: Rows of the clip table in each class slot, (T, N, K + Q) int64.
        class_of: Class of each clip of the table, (n,) int64; -1 if it is left out.
        group_of: Group of each clip of the table, (n,) int64; None if every clip is its own group.
    """
    sample = np.asarray(values, np.float64)
    episodes, ways, size = drawn.shape
    noun = "clips" if group_of is None else "groups"
    unit_of, class_of_unit = _units(class_of, np.arange(len(class_of)) if group_of is None else group_of)
    sizes = np.bincount(class_of_unit)  # (C,) G_c
    held = np.bincount(classes.ravel(), minlength=len(sizes))  # (C,) n_c
    refusal = _no_spread(sample, _EPISODES_CLIPS) or _crossed(class_of, group_of)
    if not refusal and held.min() < 2:
        refusal = f"{np.count_nonzero(held < 2)} of {len(sizes)} classes are in fewer than 2 episodes; draw more"
    if not refusal and sizes.min() < _FEWEST_GROUPS:
        refusal = f"a class has {sizes.min()} {noun}, and {_FEWEST_GROUPS} are needed"
    if refusal:
        return Interval(None, refusal)

    unit = np.sort(unit_of[drawn], axis=2)  # (T, N, K + Q); a group is held once, by one clip or more
    once = np.diff(unit, axis=2, prepend=-1) != 0
    value = np.broadcast_to(sample[:, None, None], unit.shape)[once]
    times = np.bincount(unit[once], minlength=len(class_of_unit))
    seen = times > 0
    times, of = times[seen], class_of_unit[seen]  # (U,) T_cg, and c
    share = (size / sizes)[of] if group_of is None else times / held[of]
    if share.max() > _FULLEST:
        return Interval(None, f"an episode takes {share.max():.0%} of a class's {noun}; use a smaller --q or --k")
    mean = np.bincount(classes.ravel(), np.repeat(sample, ways)) / held
    spread = np.bincount(classes.ravel(), (np.repeat(sample, ways) - mean[classes.ravel()]) ** 2) / (held - 1)
    unit_mean = np.bincount(unit[once], value, len(seen))[seen] / times
    excess = (unit_mean - mean[of]) ** 2 - spread[of] * (1 / times - 1 / held[of])
    by_class = np.bincount(of, (ways / len(sizes) * share / (1 - share)) ** 2 * excess)
    between = float(((sizes - 1) / np.bincount(of) * by_class).sum())
    return Interval(float(Z95 * math.sqrt(max(0.0, between) + sample.var(ddof=1) / episodes)))


def _units(class_of: Ints, group_of: Ints) -> tuple[Ints, Ints]:
    """Returns the unit of each clip, (n,), and the class of each unit, (U,). A unit is a group within a class."""
    kept, groups = class_of >= 0, int(group_of.max()) + 1
    pairs, code = np.unique(class_of[kept] * groups + group_of[kept], return_inverse=True)
    unit_of = np.full(len(class_of), -1)
    unit_of[kept] = code
    return unit_of, pairs // groups


def _no_spread(sample: Doubles, needed: int) -> str:
    if len(sample) < needed:
        return f"needs {needed:,} episodes, has {len(sample):,}"
    return "all episodes are alike, so there is no spread" if sample.min() == sample.max() else ""


def _crossed(class_of: Ints, group_of: Ints | None) -> str:
    """Reason to refuse groups that many classes share: without one class or clip, the other classes change too."""
    if group_of is None:
        return ""
    kept = class_of >= 0
    low = np.full(int(group_of.max()) + 1, np.iinfo(np.int64).max)
    high = np.full_like(low, -1)
    np.minimum.at(low, group_of[kept], class_of[kept])
    np.maximum.at(high, group_of[kept], class_of[kept])
    share = float(np.mean((low != high)[group_of[kept]]))
    return f"groups are crossed with classes ({share:.0%} of the clips)" if share > _CROSSED else ""


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Wilson's 95% bounds for `correct` of `total` independent trials (Wilson 1927), proper at 0 and 1."""
    rate, z2 = correct / total, Z95**2 / total
    centre = (rate + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * (rate * (1 - rate) + z2 / 4)) / (1 + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_t(first: npt.ArrayLike, second: npt.ArrayLike) -> PairedT:
    """Compares two models on the same episodes by Student's t. `sign_flip_p` of the differences assumes less.

    Args:
        first: Accuracies of one model, (T,).
        second: Accuracies of the other model, (T,), in the same order.

    Raises:
        ValueError: There are fewer than two episodes, or different numbers of them.
    """
    difference = _differences(first, second)
    count, mean, spread = len(difference), float(difference.mean()), float(difference.std(ddof=1))
    if spread <= 1e-12 * abs(mean) or spread == 0.0:  # all the same, but for rounding
        return PairedT(mean, 0.0, None, None)
    from scipy.special import stdtr, stdtrit

    error = spread / math.sqrt(count)
    t = mean / error
    return PairedT(mean, float(stdtrit(count - 1, 0.975)) * error, t, float(2 * stdtr(count - 1, -abs(t))))


def sign_flip_p(differences: npt.ArrayLike, seed: int = 0) -> float:
    """Two-sided p value of the sign-flip permutation test of the mean.

    It uses all sign patterns of the non-zero differences if these are at most 16. Otherwise it uses 9,999 patterns from
    the raw output of Philox with `seed` as key, and counts the observed one too (Phipson and Smyth 2010).

    Args:
        differences: Paired differences, (T,).
        seed: Key of the random patterns.
    """
    values = np.asarray(differences, np.float64)
    values = values[values != 0.0]
    least = abs(values.sum()) * (1 - 1e-9)  # equal sums differ by rounding
    if len(values) <= _EXACT_FLIPS:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= least))
    words = np.random.Philox(key=seed)
    extreme = 1
    for _ in range(_MONTE_CARLO_FLIPS):
        bits = np.unpackbits(words.random_raw(-(-len(values) // 64)).astype("<u8").view(np.uint8), count=len(values))
        extreme += abs(2.0 * (bits @ values) - values.sum()) >= least
    return extreme / (_MONTE_CARLO_FLIPS + 1)


def holm(p: npt.ArrayLike) -> Doubles:
    """Holm's adjusted p values (Holm 1979): max over j <= i of min(1, (m - j + 1) p_(j)), in the order given.

    Args:
        p: Raw p values of one declared family, (m,).

    Returns:
        Adjusted p values, (m,) float64.
    """
    raw = np.asarray(p, np.float64)
    order = np.argsort(raw, kind="stable")
    adjusted = np.empty_like(raw)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(len(raw), 0, -1) * raw[order]))
    return adjusted


def smallest_difference(first: npt.ArrayLike, second: npt.ArrayLike, power: float = 0.8) -> float:
    """Smallest true difference that a paired t test at 5% would find with probability `power`.

    It is (t(.975) + t(power)) s_d / sqrt(T), with T - 1 degrees of freedom.

    Args:
        first: Accuracies of one model, (T,).
        second: Accuracies of the other model, (T,), in the same order.
        power: Probability of finding the difference.

    Raises:
        ValueError: There are fewer than two episodes, or different numbers of them.
    """
    difference = _differences(first, second)
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    return smallest_drop(error, freedom=len(difference) - 1, level=0.025, power=power)


def exceeds_p(drop: float, error: float, margin: float = 0.0, freedom: float = math.inf) -> float:
    """One-sided p value of the hypothesis that a quantity fell by no more than `margin`.

    If p is below 0.05, the one-sided 95% interval of the drop excludes the margin.

    Args:
        drop: Estimated drop of the quantity.
        error: Standard error of the drop, above 0.
        margin: Allowed drop.
        freedom: Degrees of freedom of `error`; infinite for the normal distribution.
    """
    from scipy.special import ndtr, stdtr

    statistic = (margin - drop) / error
    return float(ndtr(statistic) if math.isinf(freedom) else stdtr(freedom, statistic))


def smallest_drop(
    error: float, margin: float = 0.0, freedom: float = math.inf, level: float = 0.05, power: float = 0.8
) -> float:
    """Smallest true drop for which `exceeds_p` is below `level` with probability `power`: margin + (z + z') error.

    Args:
        error: Standard error of the drop, above 0.
        margin: Allowed drop.
        freedom: Degrees of freedom of `error`; infinite for the normal distribution.
        level: Level of the one-sided test.
        power: Probability of finding the drop.
    """
    from scipy.special import ndtri, stdtrit

    if math.isinf(freedom):
        return margin + float(ndtri(1 - level) + ndtri(power)) * error
    return margin + float(stdtrit(freedom, 1 - level) + stdtrit(freedom, power)) * error


def power_of(drop: float, error: float, margin: float = 0.0, freedom: float = math.inf, level: float = 0.05) -> float:
    """Probability of finding a true drop of this size; the inverse of `smallest_drop`."""
    from scipy.special import ndtr, ndtri, stdtr, stdtrit

    excess = (drop - margin) / error
    if math.isinf(freedom):
        return float(ndtr(excess - float(ndtri(1 - level))))
    return float(stdtr(freedom, excess - float(stdtrit(freedom, 1 - level))))


def _differences(first: npt.ArrayLike, second: npt.ArrayLike) -> Doubles:
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise ValueError(f"two rows of at least 2 episodes each are compared, got {a.shape} and {b.shape}")
    return a - b
