"""Types of the values of options: numbers within limits, lists with commas, percentage points."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

_VAST = 2**31 - 1  # from here on a limit goes without saying, until a number passes it
_SHORT = re.compile(r"[1-9](\.[0-9]+)?[eE]\+?[0-9]")
_RANGE = re.compile(r"([0-9]{1,6})(?:-|\.\.)([0-9]{1,6})")
_LONGEST_RANGE = 100  # numbers


class Number(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 only
    """Number within limits, written in help and errors as a person would; NaN is never within them.

    Args:
        least: Smallest value; if it is an int, only whole numbers are valid.
        most: Largest value.
        beyond: Whether `least` itself is too small.
        metavar: Name of the value in the help; default N, with limits other than those of a count.
        words: Words that are values too, with their meaning.
    """

    name = "number"

    def __init__(
        self,
        least: float = 1,
        most: float = _VAST,
        *,
        beyond: bool = False,
        metavar: str = "",
        words: Mapping[str, Any] | None = None,
    ) -> None:
        self.least, self.most, self.beyond, self.words = least, most, beyond, words or {}
        self.number = click.INT if isinstance(least, int) else click.FLOAT
        limits = f"{least:g}.." + (f"{most:g}" if most < _VAST else "")
        self.metavar = metavar or "|".join(["N" if self.words or limits in ("0..", "1..") else limits, *self.words])

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Name of the value in the help."""
        return self.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Reads a word or a number; a whole one may be written as 1e4."""
        if isinstance(value, str) and value in self.words:
            return self.words[value]
        try:
            return self._within(value, param, ctx)
        except click.BadParameter:
            if not self.words:
                raise
            self.fail(f"{value!r} is neither a number from {self.least} on nor '{'|'.join(self.words)}'", param, ctx)

    def _within(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if self.number is click.INT and isinstance(value, str) and _SHORT.fullmatch(value):
            value = int(float(value)) if float(value).is_integer() else value
        number: float = self.number.convert(value, param, ctx)
        if not (number > self.least if self.beyond else number >= self.least):
            self.fail(f"{number} is not {'above' if self.beyond else 'at least'} {self.least:g}", param, ctx)
        if number > self.most:
            self.fail(f"{number} is not at most {self.most}", param, ctx)
        return number


COUNT = Number()
SEED = Number(0, 2**53 - 1)
WAYS = Number(2, words={"all": _VAST})  # ALL_CLASSES of scoring.protocol, which the help does not wait for


class Points(Number):
    """Difference between accuracies in percentage points, as in 1pp or 0.5; read as a fraction."""

    def __init__(self) -> None:
        super().__init__(0.0, 100.0, beyond=True, metavar="POINTS")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Reads the number."""
        try:
            return self._within(str(value).removesuffix("pp").strip(), param, ctx) / 100
        except click.BadParameter:
            self.fail(f"{value!r} is no number of percentage points above 0, such as 1pp", param, ctx)


class CommaList(click.ParamType):  # type: ignore[type-arg]  # as above
    """List of one or more values with commas between them; a path that exists is never split.

    Args:
        item: Type of each value.
        metavar: Name of the values in the help.
        names: Function that gives the names which a shell completes; paths are completed besides.
    """

    name = "list"
    envvar_list_splitter = ","

    def __init__(
        self,
        item: click.ParamType[Any] = click.STRING,
        metavar: str = "LIST",
        names: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self.item, self.metavar, self._names = item, metavar, names

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Name of the values in the help."""
        return self.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Splits and converts; lists (from a TOML file) are taken as they are."""
        if isinstance(value, (list, tuple)):
            parts = list(value)
        elif not isinstance(value, str) or any(path and Path(path).exists() for path in _places(value)):
            parts = [value]
        else:
            parts = [part.strip() for part in value.split(",")]
        if len(parts) > 1 and parts[-1] == "" and parts[0] != "":
            self.fail(f"'{value}' ends in a comma; a list has commas and no spaces: {value}NEXT", param, ctx)
        if not all(part != "" for part in parts) or not parts:
            self.fail("an empty name or number", param, ctx)
        return tuple(self.item.convert(one, param, ctx) for part in parts for one in self._spread(part, param, ctx))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names that complete the last value of a list, or else a path."""
        before, comma, last = incomplete.rpartition(",")
        found = [CompletionItem(f"{before}{comma}{name}") for name in self._names() if name.startswith(last)]
        return found or [CompletionItem(incomplete, type="file")]

    def _spread(self, part: Any, param: click.Parameter | None, ctx: click.Context | None) -> Iterable[Any]:
        """The numbers of a range, 1-5 or 1..5; anything else is one value."""
        found = _RANGE.fullmatch(part) if isinstance(self.item, Number) and isinstance(part, str) else None
        if found is None:
            return (part,)
        first, last = map(int, found.groups())
        if not first <= last < first + _LONGEST_RANGE:
            self.fail(f"'{part}' is no range of 1 to {_LONGEST_RANGE} numbers; a list is 1,5,10", param, ctx)
        return range(first, last + 1)


COUNTS = CommaList(COUNT, "N[,N...]")


def _places(value: str) -> list[str]:
    """Paths that a value may be: itself, or what follows its name, as in NAME=PATH and NAME:PATH."""
    split = (value.partition(mark) for mark in "=:")
    return [value, *(path for name, mark, path in split if mark and "," not in name)]
