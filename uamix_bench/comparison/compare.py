"""Comparison of two sets of results, a base and a head: a verdict on every pair, and gates. Pure functions.

A pair is one model's two results on one task under one protocol, compared episode by episode. The population of a
verdict depends on the episodes:

- **new clips** of the same classes, if the episodes are given and are enough for `statistics.ci95_clips`. Two equally
  good models still differ on the clips that happen to be in a data set; this interval accounts for that.
- **these clips** otherwise: the paired t interval, which more episodes make as narrow as one likes. Its verdict holds
  for this very data set, and may be chance beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

from uamix_bench.comparison.gate import Gate
from uamix_bench.comparison.ranking import POWER, SIGNIFICANCE
from uamix_bench.records.results import Result, other_model
from uamix_bench.scoring.episodes import EpisodeSet
from uamix_bench.scoring.statistics import (
    Z95,
    ci95_clips,
    exceeds_p,
    holm,
    paired_t,
    power_of,
    sign_flip_p,
    smallest_drop,
)
from uamix_bench.util.errors import BadInputError, UsageError
from uamix_bench.util.text import listed

Verdict = Literal["better", "worse", "no difference found", "not comparable", "missing"]
Population = Literal["new clips", "these clips"]


@dataclass(frozen=True)
class Evidence:
    """Statistics of a pair from its episodes. Accuracies are fractions, differences are head less base.

    Attributes:
        difference: Mean difference over the episodes.
        half_width: Half-width of the 95% interval of the difference.
        population: Population of the interval and of every p value here.
        why: Reason why the population is not new clips; empty if it is.
        p: Two-sided p value of no difference.
        p_holm: Two-sided p value of no difference, Holm-adjusted for all compared pairs.
        smallest: Smallest true drop that would have been found with a probability of 0.8, by the gate if there is one,
            else by the verdict. A family of m tests is counted as m times as strict. None if the episodes have no
            spread.
        point_power: Probability of finding a true drop of one percentage point; None if the episodes have no spread.
        gate_p: One-sided p value of a drop within the gate's margin, Holm-adjusted; None without a gate.
    """

    difference: float
    half_width: float
    population: Population
    why: str
    p: float
    p_holm: float
    smallest: float | None
    point_power: float | None
    gate_p: float | None = None


@dataclass(frozen=True)
class Pair:
    """A base result, the head result compared with it, and the verdict.

    Attributes:
        base: Result of the base.
        head: Result of the head; None if it is missing.
        verdict: Verdict on the pair.
        reason: Reason why the two are not comparable; empty if they are.
        notes: Other differences between the two, such as the weights.
        evidence: Statistics of the pair; None if the two are not comparable.
        failed: True if the gate fails on this pair.
    """

    base: Result
    head: Result | None
    verdict: Verdict
    reason: str = ""
    notes: tuple[str, ...] = ()
    evidence: Evidence | None = None
    failed: bool = False

    @property
    def overlap(self) -> str:
        """Overlap of the training data with the task, in words; empty if there is none on either side."""
        sides = {"BASE": self.base, **({"HEAD": self.head} if self.head else {})}
        told = {side: result.overlap_known.words for side, result in sides.items()}
        words = [f"{side} {said}" for side, said in told.items() if said.partition(":")[0] != "none"]
        if not words:
            return ""
        return "overlap with the training data: " + ("; ".join(words) if len(set(told.values())) > 1 else told["BASE"])

    @property
    def label(self) -> str:
        """Label of the pair: model, task and setting in words."""
        return f"{self.base.model.name} on {self.base.task.label}, {self.base.setting()}"


@dataclass(frozen=True)
class Comparison:
    """All pairs in the order of the base.

    Attributes:
        pairs: Pairs, one for each result of the base.
        added: Results of the head without a counterpart in the base; they are not compared.
        gate: Gate of the comparison; None without one.
    """

    pairs: tuple[Pair, ...]
    added: tuple[Result, ...]
    gate: Gate | None

    def facts(self) -> list[dict[str, Any]]:
        """Pairs as plain data for ``--json``."""
        return [
            {
                "kind": "accuracy",
                "model": pair.base.model.name,
                "task": f"{pair.base.task.name}@{pair.base.task.version}",
                "protocol": pair.base.protocol.model_dump(mode="json"),
                "verdict": pair.verdict,
                "reason": pair.reason,
                "notes": list(pair.notes),
                "overlap": pair.overlap,
                "failed": pair.failed,
                "base": {"id": pair.base.id, "accuracy": pair.base.score.accuracy},
                "head": {"id": pair.head.id, "accuracy": pair.head.score.accuracy} if pair.head else None,
                **({"evidence": asdict(pair.evidence)} if pair.evidence else {"evidence": None}),
            }
            for pair in self.pairs
        ]


def compare(
    base: Iterable[Result],
    head: Iterable[Result],
    gate: Gate | None = None,
    draws: Mapping[str, EpisodeSet] | None = None,
) -> Comparison:
    """Compares two sets of few-shot results.

    Args:
        base: Results to compare with.
        head: Results to judge.
        gate: Gate on ``accuracy``. A pair fails if its one-sided 95% interval, Holm-adjusted, excludes the margin.
        draws: Episodes by digest (see `uamix_bench.evaluation.redraw.Redraw`). Verdicts on these are for new clips.

    Raises:
        BadInputError: One side holds two outcomes of the same evaluation.
        UsageError: The base is empty, or one side has several results that fit a pair.
    """
    if gate is not None and gate.field != "accuracy":
        raise UsageError(f"--fail-on {gate.text}", "is no field of few-shot results", "give accuracy:NUMBERpp")
    known, candidates = _by_cell(base, "BASE"), _by_cell(head, "HEAD")
    if not known:
        raise UsageError("BASE", "holds no few-shot result", "a comparison with nothing would always pass")
    pairs = [_match(result, candidates.get(cell, {})) for cell, results in known.items() for result in results.values()]
    taken = {pair.head.id for pair in pairs if pair.head}
    added = [result for cell in candidates.values() for result in cell.values() if result.id not in taken]
    return Comparison(tuple(_judged(pairs, gate, draws or {})), tuple(added), gate)


# By model and task, then by all that tells the results of one model on one task apart.
_Cells = dict[tuple[str, str], dict[tuple[str | None, ...], Result]]


def _by_cell(results: Iterable[Result], side: str) -> _Cells:
    """Groups results by model and task, then by setting. Each id counts once."""
    cells: _Cells = {}
    order = sorted(results, key=lambda one: (one.model.name, one.task.name, not one.sounds_recorded, one.id))
    for result in order:
        model = result.model
        protocol = result.protocol.model_dump_json()
        task = result.task
        sounds = (task.clips_sha256, task.content_sha256, task.names_sha256)
        asked = (*sounds, protocol, model.dtype, model.input, model.pooling)
        there = cells.setdefault((model.name, result.task.name), {}).setdefault(asked, result)
        if there.id == result.id or (there.model == result.model and there.sounds_recorded > result.sounds_recorded):
            continue
        both = f"{there.id[:12]} and {result.id[:12]}"
        if there.unit() is not None and there.unit() == result.unit():
            reason = f"the same evaluation has two outcomes, {both}"
            raise BadInputError(f"{side}: {model.name} on {result.task.name}", reason, "find out which is right")
        raise UsageError(
            f"{side}: {model.name} on {result.task.name}",
            f"two results could be meant, {both}, of other {_told_apart(there, result)}",
            "name files instead of the folder, or evaluate into an empty one with -o",
        )
    return cells


def _told_apart(one: Result, other: Result) -> str:
    """Differences between two results of one setting, in a few words."""
    return " and ".join(what for what, *_ in other_model(one.model, other.model)) or "origin"


def _match(base: Result, candidates: Mapping[tuple[str | None, ...], Result]) -> Pair:
    """Pairs a result with the one of the same setting, or with the nearest one and the reason against comparing."""
    alike = [other for other in candidates.values() if other.protocol.cell == base.protocol.cell]
    if not alike:
        return Pair(base, None, "missing", "not in HEAD")
    head = min(alike, key=lambda other: (len(list(_reasons(base, other))), other.model.pooling != base.model.pooling))
    reason, notes = "; ".join(_reasons(base, head)), tuple(_notes(base, head))
    return Pair(base, head, "not comparable" if reason else "no difference found", reason, notes)


def _reasons(base: Result, head: Result) -> Iterator[str]:
    """Yields the reasons why two results are not comparable, each with both values."""
    for field in type(base.protocol).model_fields:
        if field != "name":
            yield from _unequal(f"protocol: {field}", getattr(base.protocol, field), getattr(head.protocol, field))
    for side, result in (("BASE", base), ("HEAD", head)):
        if not result.cell():
            yield f"partial: {side} lacks clips"
    yield from _unequal("broken clips left out", *(_left_out(result) for result in (base, head)))
    yield from _unequal("dtype", base.model.dtype, head.model.dtype)
    yield from _unequal("input", base.model.input, head.model.input)
    yield from _unequal("task version", base.task.version, head.task.version)
    yield from _unequal("clip length", base.task.clip_seconds, head.task.clip_seconds)
    yield from _unequal("clip table", base.task.clips_sha256[:12], head.task.clips_sha256[:12])
    yield from _unequal("class names", *((one.task.names_sha256 or "")[:12] for one in (base, head)))
    if base.task.content_sha256 and head.task.content_sha256:
        yield from _unequal("sounds", base.task.content_sha256[:12], head.task.content_sha256[:12])
    yield from _unequal("episode algorithm", base.episodes.algorithm, head.episodes.algorithm)
    yield from _unequal("episode digest", base.episodes.digest[:12], head.episodes.digest[:12])
    if base.protocol.episodes == 1:
        yield "one episode has no spread"


def _left_out(result: Result) -> str:
    clips = [one.clip for one in result.status.skipped]
    return f"{len(clips)} ({listed(clips, 5)})" if clips else "none"


def _notes(base: Result, head: Result) -> Iterator[str]:
    """Yields other differences that may explain a difference of scores."""
    for what, one, other in other_model(base.model, head.model):
        yield from _unequal(what, one, other)
    unsaid = [side for side, result in (("BASE", base), ("HEAD", head)) if not result.sounds_recorded]
    if unsaid:
        yield f"sounds not recorded in {' and '.join(unsaid)}"
    elif base.task.content_sha256 == head.task.content_sha256:  # else they are no pair
        digests = [result.provenance.content_sha256 or "" for result in (base, head)]
        yield from _unequal(f"sounds under one version: {base.task.label}", *(digest[:12] for digest in digests))


def _unequal(what: str, base: object, head: object) -> Iterator[str]:
    if base != head:
        yield f"{what} {base} in BASE, {head} in HEAD"


def _judged(pairs: Sequence[Pair], gate: Gate | None, draws: Mapping[str, EpisodeSet]) -> Iterator[Pair]:
    """Adds the evidence of all comparable pairs, as one family of tests."""
    compared = [(pair, pair.head) for pair in pairs if pair.head and not pair.reason]
    measured = [_measure(pair.base, head, draws.get(pair.base.episodes.digest)) for pair, head in compared]
    margins = [gate.limit(pair.base.score.accuracy) if gate else 0.0 for pair, _ in compared]
    two_sided = [min(1.0, 2 * min(one.p_of_drop(0.0), one.p_of_rise())) for one in measured]
    adjusted = holm(two_sided).tolist()
    gated = holm([one.p_of_drop(margin) for one, margin in zip(measured, margins, strict=True)]).tolist()
    level = (SIGNIFICANCE if gate else SIGNIFICANCE / 2) / max(1, len(measured))
    found = iter(zip(measured, margins, two_sided, adjusted, gated, strict=True))
    for pair in pairs:
        if pair.reason or pair.head is None:
            yield pair
            continue
        one, margin, p, p_holm, gate_p = next(found)
        evidence = Evidence(
            difference=one.difference,
            half_width=one.half_width,
            population=one.population,
            why=one.why,
            p=p,
            p_holm=p_holm,
            smallest=smallest_drop(one.error, margin, one.freedom, level, POWER) if one.error else None,
            point_power=power_of(0.01, one.error, margin, one.freedom, level) if one.error else None,
            gate_p=gate_p if gate else None,
        )
        changed: Verdict = "better" if one.difference > 0 else "worse"
        verdict = changed if p_holm < SIGNIFICANCE else "no difference found"
        yield replace(pair, verdict=verdict, evidence=evidence, failed=bool(gate) and gate_p < SIGNIFICANCE)


class _Measured(NamedTuple):
    """A mean difference with its standard error and population."""

    difference: float
    half_width: float
    error: float
    freedom: float
    population: Population
    why: str
    p_flip: float  # two-sided, for differences without any spread

    def p_of_drop(self, margin: float) -> float:
        """One-sided p value of a drop of at most `margin`."""
        if self.error:
            return exceeds_p(-self.difference, self.error, margin, self.freedom)
        return self.p_flip / 2 if -self.difference > margin else 1.0

    def p_of_rise(self) -> float:
        """One-sided p value of no rise."""
        return self._replace(difference=-self.difference).p_of_drop(0.0)


def _measure(base: Result, head: Result, drawn: EpisodeSet | None) -> _Measured:
    """Mean difference, for the widest population that the episodes allow."""
    first, second = head.accuracies(), base.accuracies()
    test, differences = paired_t(first, second), first - second
    if test.t is None:  # the same on every episode
        return _Measured(
            test.difference,
            0.0,
            0.0,
            1,
            "these clips",
            "every episode changed alike, or not at all",
            sign_flip_p(differences),
        )
    half_width, why = None, "the clip table is not here"
    if drawn is not None:
        half_width, why = ci95_clips(differences, drawn.classes, drawn.drawn, drawn.class_of, drawn.group_of)
    if half_width is not None:
        return _Measured(test.difference, half_width, half_width / Z95, math.inf, "new clips", "", 1.0)
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return _Measured(test.difference, test.half_width, error, len(differences) - 1, "these clips", why, 1.0)
