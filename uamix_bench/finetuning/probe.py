"""Linear probes: logistic regression on standardised embeddings, its strength chosen without the test clips."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from uamix_bench.finetuning.recipe import ProbeRecipe
from uamix_bench.finetuning.splits import group_folds
from uamix_bench.scoring.metrics import average_precisions
from uamix_bench.util.arrays import Doubles, Floats, Ints, Mask


class Probe(NamedTuple):
    """Outcome of a probe on the test clips.

    Attributes:
        scores: (n, C) float32 scores; minus infinity for a class that no training clip has.
        strength: Chosen regularisation, scikit-learn's C.
        note: Note for the reader; empty if there is nothing unusual.
    """

    scores: Floats
    strength: float
    note: str = ""


def probe(
    recipe: ProbeRecipe,
    vectors: Floats,
    targets: Mask,
    groups: npt.NDArray[np.str_],
    train: Ints,
    validation: Ints,
    test: Ints,
    *,
    several: bool,
) -> Probe:
    """Fits on the training clips, with the strength that does best on validation clips, and scores the test clips.

    Args:
        recipe: Hyper-parameters.
        vectors: (N, D) embeddings of all clips.
        targets: (N, C) classes of all clips.
        groups: (N,) group of each clip.
        train: Rows of the training clips.
        validation: Rows of the validation clips; if there are none, inner folds of `train` take their place.
        test: Rows of the test clips.
        several: Whether a clip may have several classes; each is then a regression of its own, chosen by mAP.
    """
    strength, note = _choose(recipe, vectors, targets, groups, train, validation, several)
    return Probe(_fit(recipe, vectors, targets, train, test, strength, several), strength, note)


def _choose(
    recipe: ProbeRecipe,
    vectors: Floats,
    targets: Mask,
    groups: npt.NDArray[np.str_],
    train: Ints,
    validation: Ints,
    several: bool,
) -> tuple[float, str]:
    strengths = sorted(recipe.strengths)
    if len(strengths) == 1:
        return strengths[0], ""
    folds = [(train, validation)] if len(validation) else _inner(recipe, targets, groups, train)
    if not folds:
        return strengths[-1], f"too few clips to choose the strength on: {strengths[-1]:g} is the largest"
    values = np.zeros(len(strengths))
    for fit, held in folds:
        for index, strength in enumerate(strengths):
            scores = _fit(recipe, vectors, targets, fit, held, strength, several)
            if several:
                values[index] += np.nanmean(average_precisions(scores.astype(np.float64), targets[held]))
            else:
                values[index] += (scores.argmax(axis=1) == targets[held].argmax(axis=1)).mean()
    return strengths[int(np.flatnonzero(values == values.max())[-1])], ""


def _inner(recipe: ProbeRecipe, targets: Mask, groups: npt.NDArray[np.str_], train: Ints) -> list[tuple[Ints, Ints]]:
    """Folds of the training clips, with no group split across them; none if most classes have a single group.

    Folds in which most classes are only trained on or only held out would favour the strength that forgets them.
    """
    label = targets[train].argmax(axis=1)
    pairs = np.unique(np.stack([label, np.unique(groups[train], return_inverse=True)[1]]), axis=1)
    count = min(recipe.inner_folds, int(np.median(np.unique(pairs[0], return_counts=True)[1])))
    if count < 2:
        return []
    made = group_folds(label, groups[train], count, recipe.seed)
    return [(train[fit], train[held]) for fit, held in made]


def _fit(
    recipe: ProbeRecipe, vectors: Floats, targets: Mask, train: Ints, test: Ints, strength: float, several: bool
) -> Floats:
    """Scores (n, C) of the test clips; embeddings are standardised with the training clips' statistics."""
    from sklearn.linear_model import LogisticRegression

    mean, spread = vectors[train].mean(axis=0), vectors[train].std(axis=0)
    spread = np.where(spread > 0, spread, 1)
    known, asked = (vectors[train] - mean) / spread, (vectors[test] - mean) / spread
    scores = np.full((len(test), targets.shape[1]), -np.inf, np.float32)

    def regression(wanted: Ints) -> Doubles:
        model = LogisticRegression(C=strength, max_iter=recipe.iterations).fit(known, wanted)
        found: Doubles = model.decision_function(asked)
        return found

    if several:
        for index in np.flatnonzero(targets[train].any(axis=0) & ~targets[train].all(axis=0)):
            scores[:, index] = regression(targets[train][:, index].astype(np.int64))
        return scores
    label = targets[train].argmax(axis=1)
    present = np.unique(label)
    if len(present) == 1:
        scores[:, present] = 0
        return scores
    found = regression(label)
    scores[:, present] = np.stack([-found, found], axis=1) / 2 if found.ndim == 1 else found
    return scores
