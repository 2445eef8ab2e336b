"""Report of a comparison: regressions, pairs that cannot be compared, and the smallest drop that would be found."""

from __future__ import annotations

from collections.abc import Sequence

from uamix_bench.comparison.compare import Comparison, Pair
from uamix_bench.comparison.timings import Timing
from uamix_bench.reports.blocks import Block, Cell, Mark, Prose, Table, percent
from uamix_bench.reports.page import Page, render
from uamix_bench.util.text import with_half

_MARKS: dict[str, Mark] = {"better": "better", "faster": "better", "worse": "worse", "slower": "worse"}


def regression(
    comparison: Comparison | None = None, timings: Sequence[Timing] = (), *, gates: Sequence[str] = ()
) -> Page:
    """Renders a comparison.

    Args:
        comparison: Comparison of results; None if there were none.
        timings: Comparisons of benchmark timings.
        gates: Gates of --fail-on, as given.
    """
    pairs = comparison.pairs if comparison else ()
    blocks: list[Block] = []
    if pairs:
        blocks.append(_accuracy(pairs))
        blocks += map(Prose, notes(pairs))
    if comparison and comparison.added:
        names = ", ".join(f"{result.model.name} on {result.task.name}" for result in comparison.added)
        blocks.append(Prose(f"Only in HEAD, not compared: {names}."))
    if timings:
        blocks.append(_speed(timings))
    return render(headline(pairs, timings, gates), blocks, lead=_lead(gates))


def headline(pairs: Sequence[Pair], timings: Sequence[Timing], gates: Sequence[str]) -> str:
    """Outcome in one line."""
    failed = sum(pair.failed for pair in pairs) + sum(bool(timing.failed) for timing in timings)
    unknown = sum(pair.evidence is None for pair in pairs) + sum(timing.change is None for timing in timings)
    count = len(pairs) + len(timings)
    if failed:
        return f"Regression: {failed} of {count} comparisons fail {', '.join(gates)}"
    if unknown:
        return f"{unknown} of {count} comparisons cannot be made"
    verdicts = [*(pair.verdict for pair in pairs), *(timing.verdict for timing in timings)]
    worse, better = (
        sum(verdicts.count(word) for word in words) for words in (("worse", "slower"), ("better", "faster"))
    )
    if worse or better:
        return f"{worse} of {count} comparisons got worse, {better} better"
    return f"No difference found in {count} comparison{'s' * (count != 1)}"


def notes(pairs: Sequence[Pair]) -> list[str]:
    """Notes on the verdicts, a paragraph each."""
    evidence = [pair.evidence for pair in pairs if pair.evidence]
    lines = []
    if any(one.population == "new clips" for one in evidence):
        lines.append(
            "Covers new clips: the interval includes the choice of the clips, as if the data set were collected again."
        )
    if reasons := {one.why: None for one in evidence if one.population == "these clips"}:
        lines.append(f"Covers these clips only; the difference may be chance for others ({'; '.join(reasons)}).")
    if evidence:
        lines.append(
            f"Smallest drop: the smallest true drop that this run would find 8 times in 10, with {len(evidence)} "
            f"test{'s' * (len(evidence) != 1)} at 5% together (Holm)."
        )
    return lines


def _lead(gates: Sequence[str]) -> str:
    if not gates:
        return "No failure criterion was given (--fail-on)."
    return f"Fails where a one-sided 95% interval excludes the margin: {', '.join(gates)}."


def _accuracy(pairs: Sequence[Pair]) -> Table:
    """Table of pairs: failing ones first, then those that cannot be compared, as a comment may be cut at its end."""
    ordered = sorted(pairs, key=lambda pair: (not pair.failed, pair.evidence is not None))
    columns = ("model", "task", "setting", "base %>", "head %>", "points>", "verdict", "smallest drop>", "covers")
    return Table(columns, [_row(pair) for pair in ordered], title="Accuracy")


def _row(pair: Pair) -> list[Cell | str]:
    found, verdict = pair.evidence, pair.verdict
    text = f"{verdict}, fails" if pair.failed else verdict
    remark = "; ".join(filter(None, [pair.reason or "; ".join(pair.notes), pair.overlap]))
    return [
        pair.base.model.name,
        pair.base.task.label,
        pair.base.setting(),
        percent(pair.base.score.accuracy),
        percent(pair.head.score.accuracy if pair.head else None),
        Cell(*with_half(found.difference, found.half_width, sign="+"), found.difference) if found else "",
        Cell(text, mark=_MARKS.get(verdict, ""), note=remark),
        Cell(f"{100 * found.smallest:.2f}", sort=found.smallest) if found and found.smallest is not None else "",
        found.population if found else "",
    ]


def _speed(timings: Sequence[Timing]) -> Table:
    ordered = sorted(timings, key=lambda timing: (not timing.failed, timing.change is not None))
    rows: list[list[Cell | str]] = [
        [
            timing.name,
            Cell(duration(timing.base.median), sort=timing.base.median),
            Cell(duration(timing.head.median), sort=timing.head.median) if timing.head else "",
            Cell(f"{timing.change:+.1%}", _plus_minus(timing), timing.change) if timing.change is not None else "",
            f"{timing.base.rounds} / {timing.head.rounds}" if timing.head else str(timing.base.rounds),
            Cell(
                ", fails ".join(filter(None, (timing.verdict, ", ".join(timing.failed)))),
                mark=_MARKS.get(timing.verdict, ""),
                note=timing.reason,
            ),
        ]
        for timing in ordered
    ]
    note = "The interval is of the mean over one run's rounds; another run on the same machine can differ more."
    columns = ("benchmark", "base median>", "head median>", "change>", "rounds>", "verdict")
    return Table(columns, rows, title="Speed", note=note)


def duration(seconds: float) -> str:
    """Time with three digits and its unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def _plus_minus(timing: Timing) -> str:
    return "" if timing.half_width is None else f"± {timing.half_width:.1%}"
