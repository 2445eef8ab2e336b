"""Columns of a list of clips: those that are used, in one spelling and as text, and a remark on the others."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

from uamix_bench.data.clip_table import COLUMNS, END, START
from uamix_bench.data.folders import Remark, Several
from uamix_bench.util.errors import BadInputError
from uamix_bench.util.text import listed, visible

CLASS_NAME = "class_name"  # column of a labelled list: what zero-shot evaluation calls the class
_OTHER_NAMES = {"path": "file_name", "label": "labels"}  # by which a list may call a column
_TIMES = ((START, END), ("onset", "offset"))
_LONGEST_NAME = 60  # characters of a column's name that are shown
_JOINT = ";"  # between the classes of a clip, where a list keeps them apart in another way


class Listed(NamedTuple):
    """Rows of a list.

    Attributes:
        columns: Values by the name of their column.
        numbers: Number of each row in the list.
        unit: Word for a row in messages: ``line``, ``row`` or ``file``.
    """

    columns: dict[str, list[Any]]
    numbers: Sequence[int]
    unit: str

    def kept(self, chosen: Sequence[bool]) -> Listed:
        """The rows for which `chosen` is True."""
        columns = {name: list(compress(values, chosen)) for name, values in self.columns.items()}
        return self._replace(columns=columns, numbers=list(compress(self.numbers, chosen)))

    def records(self) -> list[dict[str, Any]]:
        """Values of each row, by the name of their column."""
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*self.columns.values(), strict=True)]


class Used(NamedTuple):
    """Columns of a list that are used.

    Attributes:
        listed: Used columns as text, empty where the list has no value.
        times: True if the table has ``start`` and ``end``.
        several: The label column and its separator, if clips have several classes.
        remarks: A remark that names unused columns, if there are any.
    """

    listed: Listed
    times: bool
    several: Several | None
    remarks: tuple[Remark, ...]


def chosen(path: object, given: Listed, needed: Sequence[str], *, sounds: str = "") -> Used:
    """Chooses the columns of a list that are used.

    Args:
        path: Name of the list, for messages.
        given: All columns, as text or other values.
        needed: Names of the columns that must exist and have no empty value.
        sounds: Name of the column that holds the sounds themselves. Such a list has no paths, and no times: each row
            has a sound of its own.

    Raises:
        BadInputError: A column is missing, or a needed value is.
    """
    have = [name for name in given.columns if name]
    named = {name: _OTHER_NAMES.get(name, name) if name not in have else name for name in COLUMNS}
    if CLASS_NAME in have and "label" in needed:
        named[CLASS_NAME] = CLASS_NAME
    if sounds:
        named["path"] = ""
    pairs = [pair for pair in _TIMES if set(pair) <= set(have) and not sounds]
    if len(pairs) > 1:
        raise BadInputError(path, "has the columns start, end and onset, offset", "keep one pair of times")
    if pairs:
        named |= dict(zip((START, END), pairs[0], strict=True))
    for name in needed:
        if named[name] not in have:
            shown = ", ".join(map(str, have)) or "nothing"
            remedy = f"the first line names the columns: {','.join(needed)}"
            raise BadInputError(path, f"has no column '{name}' (it has: {visible(shown[:200])})", remedy)
    values = {name: list(given.columns[source]) for name, source in named.items() if source in have}
    several = _several(path, named["label"], values) if "label" in values else None
    columns = {name: [as_text(value) for value in values.get(name, [""] * len(given.numbers))] for name in named}
    for name in needed:
        empty = next((number for number, value in zip(given.numbers, columns[name], strict=True) if not value), None)
        if empty is not None:
            raise BadInputError(path, f"{given.unit} {empty} has no {name}", f"fill it or delete the {given.unit}")
    return Used(
        given._replace(columns=columns),
        bool(pairs),
        several,
        _unused(have, {*named.values(), sounds, f"{sounds}.path"}, bool(pairs)),
    )


def _several(path: object, column: str, values: Mapping[str, list[Any]]) -> Several | None:
    """Label column of clips with several classes: lists, or a column ``labels`` with commas or semicolons.

    Lists in `values` become text.
    """
    labels = values["label"]
    lists = [_list(value) for value in labels]
    given = [one is not None for one, value in zip(lists, labels, strict=True) if as_text(value)]
    if given and all(given):
        names = [[as_text(name) for name in one or ()] for one in lists]
        joint = next((name for one in names for name in one if _JOINT in name), None)
        if joint is not None:
            raise BadInputError(path, f"class {joint!a} holds '{_JOINT}', which separates classes", "rename it")
        labels[:] = map(_JOINT.join, names)
        return Several(column, _JOINT)
    if column != _OTHER_NAMES["label"]:
        return None
    return next((Several(column, mark) for mark in (_JOINT, ",") if any(mark in as_text(one) for one in labels)), None)


def _list(value: Any) -> list[Any] | None:
    """A list, or the list that a text spells out."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    return value if isinstance(value, list) else None


def as_text(value: Any) -> str:
    """Text of a value in a list; empty for none, and for what is not a number."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    return value.strip() if isinstance(value, str) else str(value)


def _unused(have: Sequence[str], used: set[str], times: bool) -> tuple[Remark, ...]:
    unused = [visible(str(name)[:_LONGEST_NAME]) for name in have if name not in used]
    if not unused:
        return ()
    verb = "columns {} of the list are" if len(unused) > 1 else "column {} of the list is"
    end = "" if times else "; clips are read from their start"
    used_names = ", ".join((*COLUMNS, *((START, END) if times else ())))
    return (Remark("columns", f"{verb.format(listed(unused))} not used (used: {used_names}){end}"),)
