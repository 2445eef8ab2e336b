"""Recommendation of a model and of a number of labelled examples for a task, from results on its two halves.

All choices are made on the first half; the second gives the figures of what was chosen, so that no figure holds the
luck by which it won. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

from uamix_bench.comparison.ranking import rank, trained_on_task
from uamix_bench.data.folders import Remark
from uamix_bench.data.task import TaskData
from uamix_bench.evaluation.halves import CHOOSING, REPORTING, halves
from uamix_bench.evaluation.plan import TaskPlan, draw_episodes, plan_task
from uamix_bench.plugins.card import ModelIdentity
from uamix_bench.records.results import Result, Speed, embedding_speed
from uamix_bench.scoring.episodes import EpisodeSet
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.scoring.statistics import PairedT, paired_t
from uamix_bench.util.errors import UsageError
from uamix_bench.util.progress import SILENT, Progress
from uamix_bench.util.text import listed

EPISODES = 10_000  # from which on intervals for new clips exist
WAYS = 5  # the paper's
CHEAPER = 2.0  # times as fast or as small as the best, from which on a model is taken in its place; less may be noise
_FEWEST = 4  # clips of a class: a support and a query in each half
_MOST_QUERIES = 5  # a class
_FULLEST = 0.9  # largest share of a class's half in one episode: up to here intervals for new clips hold


class Plans(NamedTuple):
    """Plans of the two halves of a task; see `plan`."""

    choosing: TaskPlan
    reporting: TaskPlan


def plan(
    task: TaskData,
    *,
    ways: int | None = None,
    shots: Sequence[int] = (),
    min_clips: int | None = None,
    episodes: int = EPISODES,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Plans:
    """Plans the evaluation of both halves of a task, by protocols that differ in their shots alone.

    A class takes part if it has `min_clips`. The shots are all powers of two that leave every class of both halves
    enough clips for queries, and for an interval for new clips. Supports and queries are of different groups if the
    task has groups of several clips; copies of a clip are one group.

    Args:
        task: Task from :func:`uamix_bench.load_task`.
        ways: Number of classes of an episode; default five, or all classes if they are fewer.
        shots: Numbers of supports of a class, in place of all powers of two.
        min_clips: Fewest clips of a class that takes part; default one support and one query in each half.
        episodes: Number of episodes.
        seed: Seed of the split into halves, and of the episodes.
        progress: Progress display of the files that are read to find copies.

    Raises:
        UsageError: Fewer than two classes have enough clips, or fewer than `ways`; or a class has too few for `shots`.
    """
    task = _with_enough(task, min_clips or _FEWEST)
    parts = halves(task, seed, progress)
    fewest = min(min(part.table.sizes("label").values()) for part in parts)
    queries = min(_MOST_QUERIES, max(1, fewest // 4))
    base = Protocol(
        n_way=ways or min(WAYS, len(set(task.table["label"]))),
        n_query=queries,
        episodes=episodes,
        seed=seed,
        group_disjoint=task.group_copies(progress).sorted_clips.grouped,
    )
    if shots and max(shots) > fewest - queries:
        reason = f"the smallest class has {fewest} clips in a half, and {queries} of them are queries"
        raise UsageError(f"--k {max(shots)}", reason, "use a smaller --k, or leave small classes out by --min-clips")
    named = list(zip(parts, (CHOOSING, REPORTING), strict=True))
    wanted = sorted(shots) or [2**power for power in range(max(1, int(_FULLEST * fewest) - queries).bit_length())]
    while True:
        try:
            return Plans(*(_half_plan(part, name, base, wanted, progress) for part, name in named))
        except UsageError:
            if shots or len(wanted) == 1 or not base.group_disjoint:
                raise
            wanted = wanted[:-1]  # the groups of a class are fewer than its clips


def drawn(plans: Plans, results: Sequence[Result]) -> dict[str, EpisodeSet]:
    """Episodes of results by digest; those of results that left out broken clips are drawn again without these."""
    found = {episodes.digest: episodes for half in plans for episodes in half.draws}
    for result in results:
        if result.episodes.digest not in found:
            half = plans.reporting if result.protocol.name == REPORTING else plans.choosing
            again = draw_episodes(half.task.without(one.clip for one in result.status.skipped), result.protocol)
            found[again.digest] = again
    return found


def _with_enough(task: TaskData, min_clips: int) -> TaskData:
    """The task with the classes that have so many clips; a remark names the others."""
    sizes = task.table.sizes("label")
    small = [f"{label} ({size})" for label, size in sizes.items() if size < min_clips]
    if len(sizes) - len(small) < 2:
        reason = f"{len(sizes) - len(small)} of {len(sizes)} classes have {min_clips} clips or more, and 2 are needed"
        raise UsageError(task.name, reason, f"add clips to {listed(small, 4)}")
    if not small:
        return task
    left = f"left out: {len(small)} of {len(sizes)} classes have fewer than {min_clips} clips: {listed(small)}"
    found = task.only(label for label, size in sizes.items() if size >= min_clips)
    return replace(found, remarks=(*found.remarks, Remark("small-classes", left)))


def _half_plan(half: TaskData, name: str, base: Protocol, shots: Sequence[int], progress: Progress) -> TaskPlan:
    protocols = [base.model_copy(update={"name": name, "k_shot": count}) for count in shots]
    return plan_task(half, protocols, progress=progress)


@dataclass(frozen=True)
class Candidate:
    """Model with its results on both halves, by the number of shots in ascending order."""

    model: ModelIdentity
    choosing: Mapping[int, Result]
    reporting: Mapping[int, Result]

    @property
    def trained_on_task(self) -> bool:
        """True if the model is known to be trained on data of the task, so that its scores say nothing of others."""
        return trained_on_task(next(iter(self.choosing.values())))

    @property
    def speed(self) -> Speed | None:
        """Embedding speed in the pass that embedded most clips; None if none was timed."""
        return embedding_speed((*self.choosing.values(), *self.reporting.values()))

    @property
    def memory_mb(self) -> float | None:
        """Peak memory in 10^6 bytes of the process that evaluated it, with all it had evaluated before."""
        costs = (result.cost for result in (*self.choosing.values(), *self.reporting.values()))
        return max((cost.peak_memory_mb for cost in costs if cost.peak_memory_mb is not None), default=None)

    def steps(self) -> list[tuple[int, int, float]]:
        """Steps of the learning curve on the choosing half: shots, the next shots, and the gain in accuracy."""
        return _steps({shots: result.score.accuracy for shots, result in self.choosing.items()})


@dataclass(frozen=True)
class Recommendation:
    """Recommendation for a task.

    Attributes:
        candidates: Models compared, the best on the choosing half first; last those trained on data of the task, which
            are chosen only if there is no other.
        chosen: The best, or the cheapest of those that cannot be told apart from it if it is `CHEAPER` times as cheap.
        alike: Models that cannot be told apart from the best, with the best itself, in the order of `candidates`.
        compared_at: Number of shots that models are compared at: from there on every step of the curve of the best
            accuracies gains less than `gain`; the largest one if none does.
        covers: Population for which `alike` cannot be told apart: new clips of these classes, or these clips only.
        why_not_new: Reason why nothing is known of new clips; empty if something is.
        by_speed: True if the cheapest is the fastest; False if it has the fewest parameters, as not all of `alike` were
            timed on one device.
        examples: Number of shots from which on every step of the chosen model's curve gains less than `gain`; the
            largest one if none does.
        levels_off: True if there is such a number below the largest.
        gain: The gain, as a fraction.
    """

    candidates: Sequence[Candidate]
    chosen: Candidate
    alike: Sequence[Candidate]
    compared_at: int
    covers: str
    why_not_new: str
    by_speed: bool
    examples: int
    levels_off: bool
    gain: float

    @property
    def reported(self) -> Result:
        """Result of the chosen model on the half that did not choose it."""
        return self.chosen.reporting[self.examples]

    @property
    def contradiction(self) -> tuple[Candidate, PairedT] | None:
        """Model outside `alike` that is ahead of the chosen one on the reporting half, and its difference; or None.

        The best such model at `compared_at`, if the paired 95% interval excludes zero.
        """
        rivals = [
            one
            for one in self.candidates
            if one not in self.alike and one.trained_on_task == self.chosen.trained_on_task
        ]
        if not rivals:
            return None
        best = max(rivals, key=lambda one: one.reporting[self.compared_at].score.accuracy)
        accuracies = [one.reporting[self.compared_at].accuracies() for one in (best, self.chosen)]
        test = paired_t(*accuracies)
        return (best, test) if test.difference > test.half_width else None

    def facts(self) -> dict[str, Any]:
        """Recommendation as plain data, accuracies as fractions and results by their ids."""
        intervals = self.reported.score.intervals
        return {
            "model": self.chosen.model.name,
            "accuracy": self.reported.score.accuracy,
            "ci95_clips": intervals.clips.half_width,
            "ci95_clips_reason": intervals.clips.reason,
            "ci95_classes": intervals.classes.half_width,
            "ci95_classes_reason": intervals.classes.reason,
            "examples": self.examples,
            "levels_off": self.levels_off,
            "gain": self.gain,
            "compared_at": self.compared_at,
            "not_distinguishable": [one.model.name for one in self.alike if one is not self.chosen],
            "contradicted_by": self.contradiction[0].model.name if self.contradiction else None,
            "covers": self.covers,
            "covers_reason": self.why_not_new,
            "cheapest_by": "clips_per_s" if self.by_speed else "parameters",
            "split": {"seed": self.reported.protocol.seed, "chosen_on": CHOOSING, "reported_on": REPORTING},
            "models": [
                {
                    "model": one.model.name,
                    "weights_sha256": one.model.weights_sha256,
                    "parameters": one.model.parameters,
                    "clips_per_s": one.speed and one.speed.clips_per_s,
                    "peak_memory_mb": one.memory_mb,
                    "curve": [
                        {
                            "k_shot": shots,
                            "choosing": one.choosing[shots].score.accuracy,
                            "reporting": result.score.accuracy,
                            "ci95": result.score.ci95,
                            "ci95_clips": result.score.ci95_clips,
                            "choosing_id": one.choosing[shots].id,
                            "reporting_id": result.id,
                        }
                        for shots, result in one.reporting.items()
                    ],
                }
                for one in self.candidates
            ],
        }


def decide(
    results: Sequence[Result], draws: Mapping[str, EpisodeSet] | None = None, *, gain: float = 0.01
) -> Recommendation:
    """Recommends a model and a number of examples. All is chosen on one half and nothing on the other.

    The best accuracy of any model, over shots, is the curve that says at how many shots models are compared. The best
    is chosen, or the cheapest of the models that cannot be told apart from it there, for new clips if there is an
    interval for new clips, else on these clips.

    Args:
        results: Results of models on both halves of a task, under the protocols of `plan`. A model that lacks one
            is left out.
        draws: Episodes by digest; without them nothing is known of new clips.
        gain: Gain in accuracy below which more examples are not worth it, as a fraction.

    Raises:
        UsageError: No model has all results.
    """
    candidates = _candidates(results)
    shots = list(candidates[0].choosing)
    fair = [one for one in candidates if not one.trained_on_task] or candidates
    envelope = {count: max(one.choosing[count].score.accuracy for one in fair) for count in shots}
    compared_at, _ = _level(_steps(envelope), shots[-1], gain)
    candidates = sorted(candidates, key=lambda one: (one not in fair, -one.choosing[compared_at].score.accuracy))
    ranking = rank([one.choosing[compared_at] for one in candidates], draws)
    apart = [found for found in ranking.differences if found.half_width]  # others are alike on every episode
    lacking = [one.clips.reason for one in apart or ranking.differences if one.clips.half_width is None]
    told = ranking.alike if lacking else ranking.alike_for_new_clips
    alike = [one for one in candidates if one is candidates[0] or one.choosing[compared_at].id in told]
    speeds = [one.speed for one in alike]
    by_speed = None not in speeds and len({speed.device for speed in speeds if speed}) == 1

    def expense(one: Candidate) -> float:
        return 1 / one.speed.clips_per_s if by_speed and one.speed else one.model.parameters

    cheapest = min(alike, key=expense)
    chosen = cheapest if CHEAPER * expense(cheapest) <= expense(alike[0]) else alike[0]
    examples, levels_off = _level(chosen.steps(), shots[-1], gain)
    return Recommendation(
        candidates=candidates,
        chosen=chosen,
        alike=alike,
        compared_at=compared_at,
        covers="these clips" if lacking else "new clips",
        why_not_new=lacking[0] if lacking else "",
        by_speed=by_speed,
        examples=examples,
        levels_off=levels_off,
        gain=gain,
    )


def _candidates(results: Sequence[Result]) -> list[Candidate]:
    """Models that have a result on both halves for every number of shots that any model has one for."""
    found: dict[ModelIdentity, dict[str, dict[int, Result]]] = {}
    for result in sorted(results, key=lambda one: one.protocol.k_shot):
        of_model = found.setdefault(result.model, {CHOOSING: {}, REPORTING: {}})
        of_model[result.protocol.name][result.protocol.k_shot] = result
    shots = {result.protocol.k_shot for result in results}
    whole = [
        Candidate(model, of[CHOOSING], of[REPORTING])
        for model, of in found.items()
        if all(of_half.keys() == shots for of_half in of.values())
    ]
    if not whole:
        raise UsageError("recommend", "no model has results on both halves", "evaluate one on both")
    return whole


def _steps(curve: Mapping[int, float]) -> list[tuple[int, int, float]]:
    return [(here, there, curve[there] - curve[here]) for here, there in pairwise(curve)]


def _level(steps: Sequence[tuple[int, int, float]], most: int, gain: float) -> tuple[int, bool]:
    """Smallest number of shots from which on every step gains less than `gain`, and True if it is not the largest."""
    level = most
    for here, _, gained in reversed(steps):
        if gained >= gain:
            break
        level = here
    return level, level != most
