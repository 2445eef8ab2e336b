"""Ranking of models: the best, those that cannot be told apart from it, and all pairwise differences. Pure functions.

Results are compared episode by episode, if they share clip table, protocol, draw and precision, and are complete or
left out the same broken clips. Such results form a cell. All pairs of models in all cells of a table are one declared
family of tests, and Holm's correction covers all of it. So the best model may be picked after the fact. A model that
was trained on data of the task is compared, but never the best.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from uamix_bench.records.results import Result
from uamix_bench.scoring.episodes import EpisodeSet
from uamix_bench.scoring.statistics import Z95, Interval, ci95_clips, holm, sign_flip_p
from uamix_bench.util.arrays import Doubles, Ints

SIGNIFICANCE = 0.05  # of each declared family of tests
POWER = 0.8  # with which the smallest difference or drop that is stated would be found
WIDER = 2.0  # an interval that speaks of more than these clips, and is so many times the conventional one, is told


class Difference(NamedTuple):
    """Difference between two models on the same episodes; accuracies are fractions.

    Attributes:
        result: Result of one model.
        reference: Result of the other model.
        difference: Mean over the episodes of `result` less `reference`.
        half_width: Half-width of the difference's 95% t interval, which covers these clips only.
        p: Two-sided p value of the paired t test; of the sign-flip test if all episodes differ equally.
        p_holm: Two-sided p value, Holm-adjusted for all pairs of the table.
        smallest: Smallest true difference that one such test at 5% would have found with a probability of 0.8; None if
            all episodes differ equally.
        clips: Half-width for new clips of these classes, or the reason for a missing one.
    """

    result: Result
    reference: Result
    difference: float
    half_width: float
    p: float
    p_holm: float
    smallest: float | None
    clips: Interval


class Differences(Sequence[Difference]):
    """Differences of all P pairs of a table, put together when asked for: hundreds of models have a million pairs.

    Args:
        results: Results of the table.
        pairs: (P, 2) places of reference and result among them.
        values: (P, 5) float64: the fields of numbers of a :class:`Difference`, in their order; NaN for None.
        clips: Interval of each pair for new clips.
    """

    def __init__(self, results: Sequence[Result], pairs: Ints, values: Doubles, clips: Sequence[Interval]) -> None:
        self._results, self._pairs, self._values, self._clips = results, pairs, values, clips

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        reference, result = (self._results[place] for place in self._pairs[at].tolist())
        difference, half_width, p, p_holm, smallest = self._values[at].tolist()
        known = None if math.isnan(smallest) else smallest
        return Difference(result, reference, difference, half_width, p, p_holm, known, self._clips[at])


class Ranking(NamedTuple):
    """Outcome of `rank`.

    Attributes:
        best: Ids of the best result of each cell with two models or more that were not trained on data of its task; the
            first of equal ones.
        best_for_new_clips: Ids of those among `best` that are better than every other such result of their cell for new
            clips of these classes as well: two-sided normal tests at 5% by the intervals for new clips, Holm-adjusted.
        alike: Ids of the results that cannot be told apart from the best of their cell at 5%, Holm-adjusted.
        alike_for_new_clips: Ids of the results that cannot be told apart from the best of their cell for new clips of
            these classes; by the same tests as `best_for_new_clips`.
        differences: Differences of all pairs, by cell, in the order of the results: the later one less the earlier.
    """

    best: frozenset[str]
    best_for_new_clips: frozenset[str]
    alike: frozenset[str]
    alike_for_new_clips: frozenset[str]
    differences: Sequence[Difference]

    def to_first(self) -> list[Difference]:
        """Differences to the first result of each cell."""
        first: dict[str, Result] = {}
        for found in self.differences:
            first.setdefault(found.result.id, found.reference)
        return [found for found in self.differences if first[found.result.id] is found.reference]

    def facts(self) -> dict[str, Any]:
        """Ranking as plain data for ``comparison`` in the output of ``--json``, with results by their ids."""
        return {
            "test": "paired t on the same episodes, two-sided; covers these clips only",
            "correction": "holm",
            "family": len(self.differences),
            "significance": SIGNIFICANCE,
            "power": POWER,
            "best": sorted(self.best),
            "best_for_new_clips": sorted(self.best_for_new_clips),
            "not_distinguishable_from_best": sorted(self.alike),
            "differences": [
                {
                    "result": found.result.id,
                    "reference": found.reference.id,
                    "difference": found.difference,
                    "ci95": found.half_width,
                    "p": found.p,
                    "p_holm": found.p_holm,
                    "smallest_difference": found.smallest,
                    "ci95_clips": found.clips.half_width,
                    "ci95_clips_reason": found.clips.reason,
                }
                for found in self.differences
            ],
        }


def cells(results: Iterable[Result]) -> list[list[Result]]:
    """Groups comparable results into cells, each result once, in the given order. Those of one episode are left out."""
    found: dict[str, dict[str, Result]] = {}
    for result in results:
        if result.protocol.episodes > 1 and (key := result.cell()):
            found.setdefault(key, {}).setdefault(result.id, result)
    return [list(cell.values()) for cell in found.values()]


def rank(results: Iterable[Result], draws: Mapping[str, EpisodeSet] | None = None) -> Ranking:
    """Compares every pair of models on the same episodes.

    Args:
        results: Results of one table, of any models, tasks and protocols.
        draws: Episodes by digest; with them, differences get an interval for new clips.
    """
    groups = [cell for cell in cells(results) if len(cell) > 1]
    drawn = [(draws or {}).get(cell[0].episodes.digest) for cell in groups]
    compared = [_compare(cell, episodes) for cell, episodes in zip(groups, drawn, strict=True)]
    everyone = [result for cell in groups for result in cell]
    starts = np.cumsum([0, *map(len, groups)])
    pairs = np.concatenate(
        [np.zeros((0, 2), np.int64), *(_pairs(cell) + at for cell, at in zip(groups, starts[:-1], strict=True))]
    )
    values = np.concatenate([np.zeros((0, 5)), *(values for values, _ in compared)])
    values[:, 3] = holm(values[:, 2])
    clips = [interval for _, intervals in compared for interval in intervals]

    unbiased = [[result for result in cell if not trained_on_task(result)] for cell in groups]
    best = frozenset(max(cell, key=lambda one: one.score.accuracy).id for cell in unbiased if len(cell) > 1)
    eligible = np.array([not trained_on_task(result) for result in everyone], np.bool_)
    is_best = np.array([result.id in best for result in everyone], np.bool_)
    with_best = eligible[pairs].all(axis=1) & is_best[pairs].any(axis=1)

    def undecided(p: Doubles) -> frozenset[str]:
        """Ids of both results of the pairs with a best one whose adjusted p value is not below `SIGNIFICANCE`."""
        return frozenset(everyone[place].id for place in np.unique(pairs[with_best & (p >= SIGNIFICANCE)]).tolist())

    alike = undecided(values[:, 3])
    for_new = undecided(holm([_p_for_new_clips(*both) for both in zip(values[:, 0].tolist(), clips, strict=True)]))
    differences = Differences(everyone, pairs, values, clips)
    return Ranking(best, best - for_new, alike - best, for_new - best, differences)


def _pairs(cell: Sequence[Result]) -> Ints:
    """Places (P, 2) of all pairs of a cell, the earlier first, in their order."""
    return np.stack(np.triu_indices(len(cell), 1), axis=1).astype(np.int64)


def _compare(cell: Sequence[Result], drawn: EpisodeSet | None) -> tuple[Doubles, list[Interval]]:
    """Compares all P pairs of a cell by the paired t test: values (P, 5) of :class:`Differences`, and intervals.

    Sums over episodes are of whole numbers of queries, and exact. The adjusted p values are left at 0.
    """
    from scipy.special import stdtr, stdtrit

    correct = np.array([result.episodes.correct for result in cell], np.float64)  # (n, T)
    episodes, queries = correct.shape[1], cell[0].protocol.n_way * cell[0].protocol.n_query
    first, second = _pairs(cell).T
    products, sums = (correct @ correct.T).astype(np.int64), correct.sum(axis=1).astype(np.int64)
    total = sums[second] - sums[first]  # (P,)
    squares = products[second, second] + products[first, first] - 2 * products[second, first]
    spread = np.sqrt((episodes * squares - total**2) / (episodes * (episodes - 1)))
    difference, error = total / (episodes * queries), spread / queries / math.sqrt(episodes)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stdtr(episodes - 1, -np.abs(difference / error))
    for at in np.flatnonzero(error == 0).tolist():  # all episodes differ equally
        p[at] = sign_flip_p(correct[second[at]] - correct[first[at]])
    known, reach = stdtrit(episodes - 1, 0.975), stdtrit(episodes - 1, POWER)
    smallest = np.where(error == 0, np.nan, (known + reach) * error)
    values = np.stack([difference, known * error, p, np.zeros_like(p), smallest], axis=1)
    if drawn is None:
        lacks = Interval(None, "needs the clip table that the episodes were drawn from")
        return values, [lacks] * len(p)
    of = (drawn.classes, drawn.drawn, drawn.class_of, drawn.group_of)
    each = ((correct[two] - correct[one]) / queries for one, two in zip(first, second, strict=True))
    return values, [ci95_clips(differences, *of) for differences in each]


def trained_on_task(result: Result) -> bool:
    """True if the model is known to be trained on data of the task, so that it has no rank."""
    return result.overlap_known.level == "overlaps"


def wider(result: Result) -> dict[str, float]:
    """Ratios of the half-widths for new clips and new classes to the conventional one, if above `WIDER`.

    Returns:
        Ratios to the conventional half-width under ``clips`` and ``classes``; empty if none is above `WIDER`.
    """
    usual = result.score.ci95
    given = {"clips": result.score.ci95_clips, "classes": result.score.ci95_classes}
    return {name: half / usual for name, half in given.items() if half and usual and half > WIDER * usual}


def _p_for_new_clips(difference: float, clips: Interval) -> float:
    """Two-sided normal p value of a difference for new clips; 1 without an interval."""
    if not clips.half_width:
        return 1.0
    return math.erfc(abs(difference) / (clips.half_width / Z95) / math.sqrt(2))
