"""Verification of records by the clip table that their episodes were drawn from, and by other records.

A file's own parts (mean, conventional interval, id, sums) are verified whenever it is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from uamix_bench.records.record import Record
from uamix_bench.records.results import Result
from uamix_bench.scoring.episodes import EpisodeSet
from uamix_bench.scoring.statistics import ci95_classes, ci95_clips


def conflicts(records: Iterable[tuple[Path, Record]]) -> Iterator[tuple[Path, str]]:
    """Finds records of one evaluation with different outcomes: every file after the first, and the reason."""
    first: dict[str, tuple[Path, str]] = {}
    for path, record in records:
        unit = record.unit()
        if unit is not None:
            other, identifier = first.setdefault(unit, (path, record.id))
            if identifier != record.id:
                yield path, f"has another outcome of the same evaluation than {other}"


def disagreements(result: Result, drawn: EpisodeSet, content_sha256: str | None) -> Iterator[str]:
    """Yields the disagreements between a result and its episodes, drawn again from the same clip table.

    Args:
        result: Result to verify.
        drawn: Episodes of the result, drawn again.
        content_sha256: SHA-256 of the drawn sounds on this disk; None if they are not read.
    """
    stated = result.episodes
    if drawn.digest != stated.digest:
        yield f"episodes.digest is {stated.digest[:12]}, but the clip table gives {drawn.digest[:12]}"
        return
    if content_sha256 is not None:
        recorded = result.task.content_sha256 or result.provenance.content_sha256
        if recorded is not None and recorded != content_sha256:
            yield f"the sounds have the digest {recorded[:12]}, but those here {content_sha256[:12]}"
    classes = len(drawn.class_names) + drawn.classes_left_out
    yield from _unequal("episodes.classes_left_out", stated.classes_left_out, drawn.classes_left_out)
    yield from _unequal("task.classes", result.task.classes, classes)
    yield from _unequal("task.clips", result.task.clips, len(drawn.ids))
    yield from _unequal("episodes.shared_group_share", stated.shared_group_share, drawn.shared_group_share)
    times = np.bincount(drawn.classes.ravel(), minlength=len(drawn.class_names)) * result.protocol.n_query
    asked = {name: int(count) for name, count in zip(drawn.class_names, times, strict=True) if count}
    if asked != {name: total for name, (_, total) in result.per_class.items()}:
        yield "per_class: the numbers of queries are not those of the episodes"
    table = (drawn.class_of, drawn.group_of)
    accuracies, intervals = result.accuracies(), result.score.intervals
    for name, given, interval in (
        ("clips", intervals.clips, ci95_clips(accuracies, drawn.classes, drawn.drawn, *table)),
        ("classes", intervals.classes, ci95_classes(accuracies, drawn.classes, *table)),
    ):
        if given.half_width or len(set(stated.correct)) > 1:  # without a spread, earlier releases gave 0
            yield from _unequal(f"score.intervals.{name}", given.half_width, interval.half_width)


def _unequal(what: str, stated: float | None, expected: float | None) -> Iterator[str]:
    known = stated is not None and expected is not None and math.isclose(stated, expected, rel_tol=1e-6, abs_tol=1e-9)
    if not known and stated != expected:  # sums in another order, on another machine, are no disagreement
        yield f"{what} is {stated}, but the clip table gives {expected}"
