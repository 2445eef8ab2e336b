"""Tables on stdout that fit 80 columns of a terminal. In a pipe nothing is cut, and only prose is wrapped."""

from __future__ import annotations

import copy
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from uamix_bench.util.text import with_half

if TYPE_CHECKING:
    from uamix_bench.models.contract import Check

_UNBOUNDED = 1_000  # columns: what a pipe can take
_PROSE = 30  # columns of it in a pipe
_NARROWEST = 72  # below it the terminal itself has to wrap


class Table(RichTable):
    """A table of plain text.

    Args:
        columns: Column headings; one that ends in ``>`` is aligned to the right.
        wrapped: Headings of the columns whose text may be wrapped in a terminal.
        prose: Headings of the columns of sentences, which are wrapped in a pipe too.
        dropped: Headings of the columns that a narrow terminal does without, in the order in which they go.
    """

    def __init__(
        self, *columns: str, wrapped: tuple[str, ...] = (), prose: tuple[str, ...] = (), dropped: tuple[str, ...] = ()
    ) -> None:
        super().__init__(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        self.dropped = dropped
        for heading in columns:
            right = heading.endswith(">")
            words = heading in wrapped or heading in prose
            self.add_column(
                heading.removesuffix(">"),
                justify="right" if right else "left",
                no_wrap=right,  # numbers are never cut
                overflow="fold" if words else "ellipsis",
                max_width=_PROSE if heading in prose and not sys.stdout.isatty() else None,
            )

    def add(self, *cells: str) -> None:
        """Adds a row of plain text; markup has no effect."""
        self.add_row(*map(Text, cells))


def fits(table: Table) -> bool:
    """True if a table fits the terminal with one space between columns and without the columns that it may drop."""
    narrow, console = copy.copy(table), _console()
    for heading in narrow.dropped:
        _drop(narrow, heading)
    narrow.padding = 0
    return _width(narrow, console) <= console.width


def show(table: RichTable, title: str = "") -> None:
    """Prints a table to stdout, without spaces at the ends of lines."""
    console = _console()
    padding = table.padding
    for heading in table.dropped if isinstance(table, Table) else ():
        if _width(table, console) > console.width:
            _drop(table, heading)
    if _width(table, console) > console.width:
        table.padding = 0 if table.box else (0, 1, 0, 0)  # one space between columns before anything is cut
    with console.capture() as captured:
        console.print(table)
    table.padding = padding
    lines = (line.rstrip() for line in captured.get().splitlines())
    if title:
        print(title)
    print(textwrap.dedent("\n".join(lines)).strip("\n"))


def _console() -> Console:
    console = Console() if sys.stdout.isatty() else Console(width=_UNBOUNDED, no_color=True)
    console.width = max(console.width, _NARROWEST)
    return console


def _drop(table: RichTable, heading: str) -> None:
    kept = (column for column in table.columns if column.header != heading)
    table.columns = [replace(column, _index=place) for place, column in enumerate(kept)]


def _width(table: RichTable, console: Console) -> int:
    """Width of a table whose text is not cut, in columns of a terminal."""
    return console.measure(table, options=console.options.update(max_width=_UNBOUNDED)).maximum


def show_card(facts: Mapping[str, Any]) -> None:
    """Prints facts, one a line; empty ones are left out."""
    table = RichTable.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value not in (None, "", [], {}):
            table.add_row(Text(name.replace("_", " ")), Text(_words(value)))
    show(table)


def show_checks(title: str, checks: Sequence[Check]) -> None:
    """Prints the outcome of checks, one a line."""
    width = max(len(check.name) for check in checks)
    print(title)
    for check in checks:
        text = "; ".join(filter(None, (check.reason, check.remedy)))
        print(f"  {'ok    ' if check.passed else 'failed'}  {check.name:{width}}  {text}".rstrip())


def count(number: int | None) -> str:
    """Number with thousands separated; empty if unknown."""
    return "" if number is None else f"{number:,}"


def per_cent(value: float, half_width: float | None, sign: str = "") -> str:
    """Share in per cent, with the half-width of its interval if there is one."""
    return " ".join(with_half(value, half_width, sign=sign)).strip()


def duration(seconds: float) -> str:
    """Approximate time in the largest fitting unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:,.1f} h"


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_words(part)}" for name, part in value.items() if part not in (None, "", []))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "\n".join(_words(part) for part in value)
    return str(value).strip()
