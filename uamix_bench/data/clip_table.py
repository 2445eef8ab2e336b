"""Clip table in the order used for drawing episodes: classes by name, the clips of each by id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from operator import ne

import numpy as np

from uamix_bench.util.arrays import Ints


@dataclass(frozen=True, eq=False)
class SortedClips:
    """Clip table of n rows with the order used for drawing episodes.

    Attributes:
        ids: Clip ids, n of them, in the caller's order.
        class_names: Names of all classes, sorted.
        class_of: Index of each clip's class in `class_names`, (n,) int64.
        rows: Row numbers sorted by class, then by clip id, (n,) int64.
        groups: Group of each clip, n of them, in the caller's order; None if every clip is its own group.
    """

    ids: Sequence[str]
    class_names: list[str]
    class_of: Ints
    rows: Ints
    groups: Sequence[str] | None

    @cached_property
    def group_of(self) -> Ints:
        """Number of each clip's group, (n,) int64, in sorted order from 0. Only group-disjoint episodes use it."""
        return _codes(self.ids if self.groups is None else self.groups)[1]

    @cached_property
    def grouped(self) -> bool:
        """True if any group holds two clips."""
        return self.groups is not None and len(set(self.groups)) < len(self.groups)


def sort_clips(
    clips: Sequence[str], labels: Sequence[str], groups: Sequence[str] | None = None, *, ordered: bool = False
) -> SortedClips:
    """Sorts a clip table once, for any number of episode draws.

    Args:
        clips: Distinct clip ids, (n,). Their order changes the row numbers and nothing else.
        labels: Class name of each clip, (n,).
        groups: Group of each clip, (n,), which must not stand on both sides of an episode; None if every clip is its
            own group.
        ordered: True if the clips are known to be in ascending order, as those of a `TaskData` are.
    """
    class_names, class_of = _codes(labels)
    if ordered:
        return SortedClips(clips, class_names, class_of, np.argsort(class_of, kind="stable"), groups)
    by_id = np.fromiter(sorted(range(len(clips)), key=clips.__getitem__), np.int64, len(clips))
    return SortedClips(clips, class_names, class_of, by_id[np.argsort(class_of[by_id], kind="stable")], groups)


def _codes(values: Sequence[str]) -> tuple[list[str], Ints]:
    """Returns the distinct values, sorted, and the index of each value among them, (n,) int64.

    Equal values are mostly neighbours, so only the first of each run is looked up.
    """
    if not len(values):
        return [], np.zeros(0, np.int64)
    changes = np.fromiter(map(ne, values, islice(values, 1, None)), np.bool_, len(values) - 1)
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    heads = [values[start] for start in starts.tolist()]
    names = sorted(set(heads))
    number = {name: code for code, name in enumerate(names)}
    codes = np.fromiter(map(number.__getitem__, heads), np.int64, len(heads))
    return names, np.repeat(codes, np.diff(starts, append=len(values)))
