"""Blocks: what a page says, as plain data, before it takes a form (prose, facts, tables, figures, code, sections)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from uamix_bench.util.text import with_half

Mark = Literal["", "best", "tie", "better", "worse", "faint"]

_HREF = re.compile(r"https://[^\s\"'<>]+|#[A-Za-z0-9_-]+|[A-Za-z0-9][A-Za-z0-9@._+-]*")
FIGURE_ID = "\ue000"  # in a figure's SVG: stands for its number on the page, so that no two share an id
_HIDING = {*"\u061c\u200b\u200e\u200f\u2060\ufeff", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}


@dataclass(frozen=True)
class Prose:
    """Paragraphs of plain text, with blank lines between them."""

    text: str


@dataclass(frozen=True)
class Code:
    """Text to be copied as it is, such as a command."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class Facts:
    """Names and their values; those with an empty value are left out."""

    facts: Mapping[str, object]


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it says.
        minor: What follows in smaller type, such as a half-width.
        sort: What the column is sorted by; None sorts by the text.
        mark: ``best`` is set bold and ``tie`` underlined; ``better`` and ``worse`` are coloured (the text must say it
            too); ``faint`` recedes.
        href: An id of this page (``#id``), a file beside it, or an https address.
        note: A remark, shown below.
    """

    text: str
    minor: str = ""
    sort: float | None = None
    mark: Mark = ""
    href: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.href and not _HREF.fullmatch(self.href):
            raise ValueError(f"{self.href!r} is neither an id, a file name nor an https address")


Row: TypeAlias = Sequence["Cell | str"]


@dataclass(frozen=True)
class Table:
    """A table that a reader may sort, and filter where it is long.

    Attributes:
        columns: Headings; one that ends in ``>`` is of numbers, aligned to the right. A cell's note is shown
            below it, and carries its link.
        rows: Rows of as many cells; the first cell names the row.
        title: The caption.
        note: What the reader must know to read it.
        groups: Further rows under headings of their own, told apart from the first and sorted within.
    """

    columns: Sequence[Cell | str]
    rows: Sequence[Row]
    title: str = ""
    note: str = ""
    groups: Mapping[str, Sequence[Row]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for _, rows in self.bodies():
            for row in rows:
                if len(row) != len(self.columns):
                    raise ValueError(f"{len(row)} cells under {len(self.columns)} headings in '{self.title}'")

    def bodies(self) -> Iterator[tuple[str, Sequence[Row]]]:
        """The groups of rows with their headings, the first without one."""
        yield "", self.rows
        yield from self.groups.items()


@dataclass(frozen=True)
class Figure:
    """A drawing with its text alternative.

    Attributes:
        title: What it shows.
        svg: An ``<svg>`` element from `uamix_bench.reports.figures`.
        description: What a reader would see in it, in words.
        data: The numbers drawn; unfolds below the drawing, and stands in its place in Markdown.
    """

    title: str
    svg: str
    description: str
    data: Table | None = None


@dataclass(frozen=True)
class Section:
    """Blocks under a heading.

    Attributes:
        title: The heading.
        blocks: What it holds.
        id: What links name; made from the title where none is given.
        look: ``open``; ``folded``, closed until asked for; ``drawer``, opened over the page by a link to its id.
        data: ``data-`` attributes for a report's own script.
    """

    title: str
    blocks: Sequence[Block]
    id: str = ""
    look: Literal["open", "folded", "drawer"] = "open"
    data: Mapping[str, str] = field(default_factory=dict)


Block: TypeAlias = "Prose | Code | Facts | Table | Figure | Section"


def percent(fraction: float | None, half_width: float | None = None, **options: Any) -> Cell:
    """A cell with a fraction in per cent, one decimal, and the half-width of its interval."""
    if fraction is None:
        return Cell("")
    return Cell(*with_half(fraction, half_width, 1), **{"sort": fraction, **options})


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, such as ``1 clip`` or ``2,000 clips``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def as_cell(cell: Cell | str) -> Cell:
    """A cell, where plain text may stand for one."""
    return Cell(cell) if isinstance(cell, str) else cell


def clean(text: str) -> str:
    """One line without characters that hide or reorder others: controls, marks of direction, zero-width spaces."""
    line = " ".join(text.split())
    return line if line.isascii() and line.isprintable() else "".join(map(_visible, line))


def clean_lines(text: str) -> list[str]:
    """The lines of a text to be shown as they are: tabs as spaces, and without such characters too."""
    return ["".join(map(_visible, line.expandtabs(4))) for line in text.splitlines()]


def _visible(character: str) -> str:
    hidden = character in _HIDING or unicodedata.category(character) in ("Cc", "Co", "Cs")
    return "\ufffd" if hidden else character
