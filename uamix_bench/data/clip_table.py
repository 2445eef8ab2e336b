"""A clip table in the order that draws go by: classes by name, the clips of each by id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from operator import ne

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SortedClips:
    """A clip table of n rows with the order that draws go by.

    Attributes:
        ids: The n clip ids, in the caller's order.
        class_names: All classes, sorted.
        class_of: (n,) int64, each clip's index in `class_names`.
        rows: (n,) int64, the rows by class, then by clip id.
        groups: The n groups, in the caller's order; None where every clip is its own.
    """

    ids: Sequence[str]
    class_names: list[str]
    class_of: Integers
    rows: Integers
    groups: Sequence[str] | None

    @cached_property
    def group_of(self) -> Integers:
        """(n,) int64: each clip's group (sorted, numbered from 0), of which plain draws know nothing."""
        return _codes(self.ids if self.groups is None else self.groups)[1]

    @cached_property
    def grouped(self) -> bool:
        """Whether any group holds two clips."""
        return self.groups is not None and len(set(self.groups)) < len(self.groups)


def sort_clips(
    clips: Sequence[str], labels: Sequence[str], groups: Sequence[str] | None = None, *, ordered: bool = False
) -> SortedClips:
    """Sorts a clip table once, for any number of draws.

    Args:
        clips: (n,) distinct clip ids; their order changes the row numbers and nothing else.
        labels: (n,) class names.
        groups: (n,) what must not stand on both sides of an episode; None where that is the clip itself.
        ordered: Whether the clips are known to come in ascending order, as those of a `TaskData` do.
    """
    class_names, class_of = _codes(labels)
    if ordered:
        return SortedClips(clips, class_names, class_of, np.argsort(class_of, kind="stable"), groups)
    by_id = np.fromiter(sorted(range(len(clips)), key=clips.__getitem__), np.int64, len(clips))
    return SortedClips(clips, class_names, class_of, by_id[np.argsort(class_of[by_id], kind="stable")], groups)


def _codes(values: Sequence[str]) -> tuple[list[str], Integers]:
    """Returns the distinct values, sorted, and (n,) int64 the index of each value among them.

    Equal values mostly stand together, so that only the first of each run is looked up.
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
