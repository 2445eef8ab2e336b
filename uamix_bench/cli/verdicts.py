"""Verdicts of a comparison on stdout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from uamix_bench.cli.tables import Table, per_cent, show

if TYPE_CHECKING:
    from uamix_bench.comparison.compare import Comparison, Pair
    from uamix_bench.comparison.timings import Timing


def show_verdicts(comparison: Comparison | None, timings: Sequence[Timing]) -> None:
    """Prints one table of accuracy and one of speed, with the notes that a reader must know."""
    if comparison:
        _show_accuracy(comparison)
    if comparison and timings:
        print()
    if timings:
        _show_speed(timings)


def _show_accuracy(comparison: Comparison) -> None:
    columns = ("model", "task", "n>", "k>", "base %>", "head %>", "points>", "smallest>", "verdict")
    table = Table(*columns, wrapped=("model", "task", "verdict"))
    for pair in comparison.pairs:
        base, found = pair.base, pair.evidence
        setting_of = (base.model.name, base.task.label, str(base.protocol.n_way), str(base.protocol.k_shot))
        scores = [f"{100 * side.score.accuracy:.2f}" if side else "" for side in (base, pair.head)]
        points = per_cent(found.difference, found.half_width, "+") if found else ""
        smallest = f"{100 * found.smallest:.2f}" if found and found.smallest is not None else ""
        table.add(*setting_of, *scores, points, smallest, _verdict(pair))
    show(table)
    evidence = [pair.evidence for pair in comparison.pairs if pair.evidence]
    if evidence:
        print("points: head less base, 95% interval; smallest: the drop that would have been found with 80%")
    if any(one.population == "new clips" for one in evidence):
        print("new clips: the interval allows for the choice of the clips")
    if reasons := {one.why: None for one in evidence if one.population == "these clips"}:
        print(f"these clips: true of this very data set only ({'; '.join(reasons)})")
    for pair in comparison.pairs:
        if told := [*pair.notes, *filter(None, [pair.overlap])]:
            print(f"{pair.label}: {'; '.join(told)}")
    for result in comparison.added:
        print(f"only in HEAD: {result.model.name} on {result.task.label}, {result.setting()}")


def _verdict(pair: Pair) -> str:
    words = f"{pair.verdict} ({pair.evidence.population})" if pair.evidence else f"{pair.verdict}: {pair.reason}"
    return f"FAILS, {words}" if pair.failed else words


def _show_speed(timings: Sequence[Timing]) -> None:
    table = Table(
        "benchmark", "base ms>", "head ms>", "median>", "mean>", "rounds>", "verdict", wrapped=("benchmark", "verdict")
    )
    for timing in timings:
        sides = [side for side in (timing.base, timing.head) if side]
        medians = [f"{1e3 * side.median:.4g}" for side in sides] + [""] * (2 - len(sides))
        change = f"{timing.change:+.1%}" if timing.change is not None else ""
        interval = f"± {timing.half_width:.1%}" if timing.half_width is not None else ""
        verdict = ": ".join(filter(None, (timing.verdict, timing.reason)))
        verdict = f"FAILS {', '.join(timing.failed)}" if timing.failed else verdict
        rounds = ", ".join(str(side.rounds) for side in sides)
        table.add(timing.name, *medians, change, interval, rounds, verdict)
    show(table)
    print("mean: 95% interval within these two runs; another run on the same machine can differ by more")
