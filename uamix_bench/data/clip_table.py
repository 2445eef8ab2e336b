"""Clip table (`ClipTable`), and the same in the order used for drawing episodes (`SortedClips`)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, ItemsView, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from operator import le, ne
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from uamix_bench.util.arrays import Ints, Mask

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("clip", "path", "label", "group", "split")  # of every clip table; see `reader.Task.clips`
START, END, ROW = "start", "end", "row"
PLACES = (START, END, ROW)  # columns of a clip table whose clips are not whole files

Column = npt.NDArray[Any]


class Columns(Protocol):
    """Named columns of equal length, such as a dictionary of lists or a DataFrame of pandas."""

    def items(self) -> Iterable[tuple[Any, Iterable[Any]]]:
        """Pairs of a column's name and its values."""


class ClipTable:
    """Immutable clip table of n rows, one a clip.

    A column is a read-only array (n,): of Python objects, mostly texts, and of float64 for the columns in `PLACES`,
    with NaN where a clip has none. :meth:`uamix_bench.Task.clips` says what the columns are.

    Args:
        columns: Columns by name; a DataFrame of pandas is taken, too.

    Raises:
        ValueError: The columns differ in length.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = {str(name): _column(str(name), values) for name, values in columns.items()}
        if len({len(column) for column in self._columns.values()}) > 1:
            raise ValueError("the columns of a clip table differ in length")

    @classmethod
    def of_rows(cls, rows: Iterable[Sequence[str]]) -> ClipTable:
        """Clip table of rows in the order of `COLUMNS`."""
        columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
        return cls(dict(zip(COLUMNS, columns, strict=True)))

    @classmethod
    def joined(cls, parts: Sequence[ClipTable]) -> ClipTable:
        """Clip table of the rows of several, at least one; a column of `PLACES` may be in some of them only."""
        names = dict.fromkeys(chain(*(part.columns for part in parts)))
        return cls({name: chain(*(part._cells(name) for part in parts)) for name in names})

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self._columns)

    def items(self) -> ItemsView[str, Column]:
        """Pairs of a column's name and its values."""
        return self._columns.items()

    def __len__(self) -> int:
        """Number of clips."""
        return len(next(iter(self._columns.values()), ()))

    def __contains__(self, name: object) -> bool:
        """True if there is a column of this name."""
        return name in self._columns

    def __getitem__(self, name: str) -> Column:
        """Column by its name, (n,)."""
        return self._columns[name]

    def _cells(self, name: str) -> Iterable[Any]:
        return self[name] if name in self else [math.nan] * len(self)

    def take(self, rows: Ints | Mask | slice | Sequence[int]) -> ClipTable:
        """Clip table of chosen rows: their numbers, a mask or a slice."""
        return ClipTable({name: column[rows] for name, column in self.items()})

    def assign(self, **columns: Iterable[Any]) -> ClipTable:
        """The same table with these columns set; a text is the value of every row."""
        each = {name: [new] * len(self) if isinstance(new, str) else new for name, new in columns.items()}
        return ClipTable({**self._columns, **each})

    def among(self, name: str, values: Collection[object]) -> Mask:
        """Mask (n,) of the rows whose value in a column is one of `values`."""
        return np.fromiter(map(frozenset(values).__contains__, self[name].tolist()), np.bool_, len(self))

    def sizes(self, name: str) -> dict[Any, int]:
        """Number of rows of each value of a column, by value, sorted."""
        return dict(sorted(Counter(self[name].tolist()).items()))

    @property
    def ordered(self) -> bool:
        """True if the rows are in ascending order of their clips."""
        clips = self["clip"].tolist()
        return all(map(le, clips, islice(clips, 1, None)))

    def by_clip(self) -> ClipTable:
        """The same table in ascending order of its clips."""
        return self if self.ordered else self.take(sorted(range(len(self)), key=self["clip"].tolist().__getitem__))

    def to_pandas(self) -> pd.DataFrame:
        """The same table as a DataFrame of pandas."""
        import pandas as pd

        # Text of pyarrow, which pandas would take by itself, cannot hold a name that is not UTF-8.
        return pd.DataFrame({name: pd.Series(column, dtype=column.dtype) for name, column in self.items()})


def _column(name: str, values: Iterable[Any]) -> Column:
    if name in PLACES:
        column: Column = np.array(list(values), np.float64)
    elif isinstance(values, np.ndarray) and values.dtype == object:
        column = values.copy() if values.flags.writeable else values
    else:
        column = np.fromiter(values, object)
    column.flags.writeable = False
    return column


def earlier_equals(values: Iterable[Hashable]) -> Ints:
    """Number of equal values before each of n values, (n,) int64."""
    times: Counter[Hashable] = Counter()
    found = []
    for value in values:
        found.append(times[value])
        times[value] += 1
    return np.array(found, np.int64)


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
        return codes(self.ids if self.groups is None else self.groups)[1]

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
    class_names, class_of = codes(labels)
    if ordered:
        return SortedClips(clips, class_names, class_of, np.argsort(class_of, kind="stable"), groups)
    by_id = np.fromiter(sorted(range(len(clips)), key=clips.__getitem__), np.int64, len(clips))
    return SortedClips(clips, class_names, class_of, by_id[np.argsort(class_of[by_id], kind="stable")], groups)


def codes(values: Sequence[str]) -> tuple[list[str], Ints]:
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
