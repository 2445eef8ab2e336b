"""Probabilities of a fitted classifier: a temperature for its scores, found and judged on clips not fitted."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from uamix_bench.scoring.classifiers import fit
from uamix_bench.scoring.typical import Typical
from uamix_bench.util.arrays import Doubles, Floats, Ints, Mask
from uamix_bench.util.errors import UsageError

FEWEST = 20  # clips of each class
FOLDS = 5
KEPT = 0.95  # share of the held-out clips of known classes that "none of these" leaves alone
_LEAST = float(np.finfo(np.float64).tiny)  # probability whose logarithm is taken
_BINS = 15  # of the calibration error, as in Guo et al. 2017
_COLDEST, _HOTTEST = 1e-6, 1e6  # of a score's spread

Share = Annotated[float, Field(ge=0, le=1)]


class Calibration(BaseModel):
    """Calibration of a classifier, cross-validated: every figure is of clips that were fitted neither to nor by.

    Attributes:
        temperature: Number that scores are divided by before the softmax (Guo et al., "On calibration of modern neural
            networks", ICML 2017, section 4.2).
        threshold: Strangeness (`uamix_bench.scoring.typical`) above which a sound is none of the classes.
        clips: Number of clips held out, each once.
        folds: Number of folds; no group stands on both sides of one.
        accuracy: Share of the held-out clips that get their own class.
        calibration_error: Expected calibration error: mean gap between confidence and accuracy over 15 bins of
            confidence, weighted by their clips.
        log_loss: Mean negative log-likelihood in nats.
        known_lost: Share of the held-out clips that lie beyond a threshold found on the other folds.
        unknown_found: Share of the clips of a class left out of the fit that do; None below three classes.
    """

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid", allow_inf_nan=False)

    temperature: float = Field(gt=0)
    threshold: float = Field(gt=0)
    clips: int = Field(ge=1)
    folds: int = Field(ge=2)
    accuracy: Share
    calibration_error: Share
    log_loss: float = Field(ge=0)
    known_lost: Share
    unknown_found: Share | None


def calibrate(
    name: str, embeddings: Floats, slots: Ints, groups: Sequence[str], neighbors: int = 1
) -> Calibration | str:
    """Calibrates a classifier by cross-validation over its labelled clips.

    The classifier is fitted on four fifths of the groups and scores the last fifth, five times. The temperature that
    probabilities get is fitted to all held-out scores; the one that is judged on a fold, to those of the other folds.
    The threshold of "none of these" leaves 95% of the held-out clips to their classes.

    Args:
        name: Name of the classifier.
        embeddings: Embeddings of the labelled clips, (n, D) float32.
        slots: Class slot of each clip, (n,) int64; all of 0 .. N - 1 occur.
        groups: Group of each clip, (n,), which must not stand on both sides of a fold.
        neighbors: Number of supports that vote, for knn alone.

    Returns:
        The calibration, or the reason why there is none.
    """
    counts = np.bincount(slots)
    if counts.min() < FEWEST:
        return f"probabilities take {FEWEST} clips of each class, and one class has {counts.min()}"
    folds = split_groups(slots, groups)
    if any(len(np.unique(folds[slots == slot])) < 2 for slot in range(len(counts))):
        return "a class has one group only, so that no clip of it can be held out"
    scores = np.empty((len(slots), len(counts)))
    chosen, strange = np.empty(len(slots), np.int64), np.empty(len(slots))
    for fold in np.unique(folds):
        held = folds == fold
        chosen[held], scores[held], strange[held] = _held_out(name, embeddings, slots, ~held, held, neighbors)
    judged, lost = np.empty_like(scores), np.empty(len(slots), np.bool_)
    for fold in np.unique(folds):
        held = folds == fold
        judged[held] = probabilities(scores[held], find_temperature(scores[~held], slots[~held]))
        lost[held] = strange[held] > _threshold(strange[~held])
    threshold = _threshold(strange)
    return Calibration(
        temperature=find_temperature(scores, slots),
        threshold=threshold,
        clips=len(slots),
        folds=len(np.unique(folds)),
        accuracy=float((chosen == slots).mean()),
        calibration_error=calibration_error(judged, slots),
        log_loss=log_loss(judged, slots),
        known_lost=float(lost.mean()),
        unknown_found=_unknown_found(name, embeddings, slots, neighbors, threshold),
    )


def probabilities(scores: Doubles, temperature: float) -> Doubles:
    """Softmax of scores (n, N) divided by a temperature, (n, N) float64."""
    with np.errstate(over="ignore"):
        weights = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    shares: Doubles = weights / weights.sum(axis=1, keepdims=True)
    return shares


def find_temperature(scores: Doubles, slots: Ints) -> float:
    """Temperature with the least log loss of scores (n, N) against class slots (n,).

    Of n right answers none is certain: a clip is of its own class with probability (n + 1) / (n + 2), as in Platt,
    "Probabilistic outputs for support vector machines", 1999. Without that, classes that never meet would make every
    probability 1.
    """
    from scipy.optimize import minimize_scalar

    spread = float(np.ptp(scores, axis=1).mean()) or 1.0
    doubt = 1 / (len(slots) + 2)

    def loss(exponent: float) -> float:
        logs = np.log(np.maximum(probabilities(scores, spread * float(np.exp(exponent))), _LEAST))
        own = logs[np.arange(len(slots)), slots]
        others = (logs.sum(axis=1) - own) / (logs.shape[1] - 1)
        return -float((own * (1 - doubt) + others * doubt).mean())

    bounds = (float(np.log(_COLDEST)), float(np.log(_HOTTEST)))
    return spread * float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def _threshold(strange: Doubles) -> float:
    """Strangeness that leaves the share `KEPT` of clips to their classes."""
    return max(float(np.quantile(strange, KEPT, method="higher")), _LEAST)


def log_loss(probability: Doubles, slots: Ints) -> float:
    """Mean negative log-likelihood, in nats, of class slots (n,) under probabilities (n, N)."""
    own = probability[np.arange(len(slots)), slots]
    return float(-np.log(np.maximum(own, _LEAST)).mean())


def calibration_error(probability: Doubles, slots: Ints) -> float:
    """Expected calibration error of probabilities (n, N): 15 bins of equal width (Guo et al. 2017, equation 3)."""
    sure, right = probability.max(axis=1), probability.argmax(axis=1) == slots
    bins = np.minimum((sure * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bins, sure - right, _BINS)
    return float(np.abs(gaps).sum() / len(slots))


def split_groups(slots: Ints, groups: Sequence[str]) -> Ints:
    """Fold of each clip, (n,) int64 below `FOLDS`: whole groups, in an order that depends on their names alone.

    Each group goes to the fold with the fewest clips of the class that it is met in first.
    """
    fold_of: dict[str, int] = {}
    names = np.asarray(groups, object)
    for slot in range(int(slots.max()) + 1):
        members = Counter(names[slots == slot].tolist())
        filled = np.zeros(FOLDS, np.int64)
        for group in sorted(members, key=lambda one: (one not in fold_of, _shuffled(one))):
            fold = fold_of.setdefault(group, int(filled.argmin()))
            filled[fold] += members[group]
    return np.array([fold_of[group] for group in groups], np.int64)


def _held_out(
    name: str, embeddings: Floats, slots: Ints, fitted: Mask, asked: Mask, neighbors: int
) -> tuple[Ints, Doubles, Doubles]:
    """Fits to some clips; slots, scores and strangeness of others. The classes fitted keep their order."""
    _, of_class = np.unique(slots[fitted], return_inverse=True)
    supports = [np.flatnonzero(of_class == slot) for slot in range(int(of_class.max()) + 1)]
    made = fit(name, embeddings[fitted], supports, neighbors)
    typical = Typical.of(made.space(embeddings[fitted]), of_class)
    return *made.predict(embeddings[asked]), typical.strangeness(made.space(embeddings[asked]))


def _unknown_found(name: str, embeddings: Floats, slots: Ints, neighbors: int, threshold: float) -> float | None:
    """Share of the clips beyond the threshold where their class is left out of the fit, a fifth of the classes each."""
    ways = int(slots.max()) + 1
    if ways < 3:
        return None
    found, parts = 0, min(FOLDS, ways)
    for part in range(parts):
        unknown = slots % parts == part
        found += int((_held_out(name, embeddings, slots, ~unknown, unknown, neighbors)[2] > threshold).sum())
    return found / len(slots)


def first_by_name(rows: Sequence[int], names: Sequence[str], count: int, seed: int) -> list[int]:
    """Rows of the first clips of an order that depends on their names and a seed alone; a smaller count is a prefix.

    Raises:
        UsageError: There are fewer rows.
    """
    if len(rows) < count:
        raise UsageError(f"--k {count}", f"is more than the {len(rows)} clips of a class", f"give --k {len(rows)}")
    return sorted(sorted(rows, key=lambda row: _shuffled(f"{seed} {names[row]}"))[:count])


def _shuffled(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
