"""Ranking of models: the best, those that cannot be told apart from it, and all pairwise differences. Pure functions.

Results are compared episode by episode, if they share clip table, protocol, draw and precision, and are complete or
left out the same broken clips. Such results form a cell. All pairs of models in all cells of a table are one declared
family of tests, and Holm's correction covers all of it. So the best model may be picked after the fact. A model that
was trained on data of the task is compared, but never the best.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from uamix_bench.records.results import Result
from uamix_bench.scoring.episodes import EpisodeSet
from uamix_bench.scoring.statistics import Z95, Interval, ci95_clips, holm, paired_t, sign_flip_p, smallest_difference
from uamix_bench.util.arrays import Doubles

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
    differences: tuple[Difference, ...]

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
    pairs = [pair for cell in groups for pair in combinations(cell, 2)]
    accuracies = {result.id: result.accuracies() for cell in groups for result in cell}
    raw = []
    for reference, result in pairs:
        first, second = accuracies[result.id], accuracies[reference.id]
        test = paired_t(first, second)
        p = sign_flip_p(first - second) if test.p is None else test.p
        clips = _for_new_clips(first - second, (draws or {}).get(result.episodes.digest))
        smallest = None if test.p is None else smallest_difference(first, second, POWER)
        raw.append(Difference(result, reference, test.difference, test.half_width, p, p, smallest, clips))
    adjusted = holm([found.p for found in raw]).tolist()
    differences = tuple(found._replace(p_holm=p) for found, p in zip(raw, adjusted, strict=True))
    unbiased = [[result for result in cell if not trained_on_task(result)] for cell in groups]
    eligible = {result.id for cell in unbiased for result in cell}
    best = frozenset(max(cell, key=lambda one: one.score.accuracy).id for cell in unbiased if len(cell) > 1)
    ranked = [frozenset({found.result.id, found.reference.id}) for found in differences]

    def undecided(p: Sequence[float]) -> frozenset[str]:
        """Ids of both results of the pairs with a best one whose adjusted p value is not below `SIGNIFICANCE`."""
        open_pairs = (pair for pair, value in zip(ranked, p, strict=True) if value >= SIGNIFICANCE)
        return frozenset().union(*(pair for pair in open_pairs if pair & best and pair <= eligible))

    alike = undecided(adjusted)
    for_new = undecided(holm([_p_for_new_clips(found) for found in differences]).tolist())
    return Ranking(best, best - for_new, alike - best, for_new - best, differences)


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


def _p_for_new_clips(found: Difference) -> float:
    """Two-sided normal p value of a difference for new clips; 1 without an interval."""
    if not found.clips.half_width:
        return 1.0
    return math.erfc(abs(found.difference) / (found.clips.half_width / Z95) / math.sqrt(2))


def _for_new_clips(differences: Doubles, drawn: EpisodeSet | None) -> Interval:
    if drawn is None:
        return Interval(None, "needs the clip table that the episodes were drawn from")
    return ci95_clips(differences, drawn.classes, drawn.drawn, drawn.class_of, drawn.group_of)
