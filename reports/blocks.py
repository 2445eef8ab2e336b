"""Blocks: content of a page as plain data, before it takes a form (prose, facts, tables, figures, code, sections)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from uamix_bench.util.text import with_half

Mark = Literal["", "best", "top", "tie", "better", "worse", "faint"]

_HREF = re.compile(r"https://[^\s\"'<>]+|#[A-Za-z0-9_-]+|[A-Za-z0-9][A-Za-z0-9@._+-]*(?:#[A-Za-z0-9_-]+)?")
_SOUND = re.compile(r"data:audio/[a-z]+;base64,[A-Za-z0-9+/]+=*")
FIGURE_ID = "\ue000"  # in a figure's SVG: stands for its number on the page, so that no two share an id
_HIDING = {*"\u061c\u200b\u200e\u200f\u2060\ufeff", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}


@dataclass(frozen=True)
class Prose:
    """Paragraphs of plain text, with blank lines between them."""

    text: str


@dataclass(frozen=True)
class Code:
    """Text to copy unchanged, such as a command."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class Facts:
    """Facts as names and values; those with an empty value are left out."""

    facts: Mapping[str, object]


@dataclass(frozen=True)
class Cell:
    """Cell of a table.

    Attributes:
        text: Text of the cell.
        minor: Text that follows in smaller type, such as a half-width.
        sort: Number that the column is sorted by; None sorts by the text.
        mark: Look of the cell: ``best`` is bold on a tint, ``top`` bold, ``tie`` underlined; ``better`` and ``worse``
            are coloured (the text must say it too); ``faint`` recedes.
        href: Link target: an id (``#id``) of this page or (``file#id``) of one beside it, a file, or an https address.
        note: Remark shown below the cell.
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
    """Table that a reader may sort, and filter if it is long.

    Attributes:
        columns: Column headings; one that ends in ``>`` is of numbers, aligned to the right. A cell's note is shown
            below it, and carries its link.
        rows: Rows of as many cells; the first cell names the row.
        title: Caption of the table.
        note: Note that a reader needs to read the table.
        groups: Groups of further rows under headings of their own, separate from the first rows and sorted within.
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
        """Groups of rows with their headings, the first without one."""
        yield "", self.rows
        yield from self.groups.items()


@dataclass(frozen=True)
class Figure:
    """Drawing with its text alternative.

    Attributes:
        title: Caption of the figure.
        svg: ``<svg>`` element from `uamix_bench.reports.figures`, for a desk.
        description: Description of the drawing in words.
        data: Table of the numbers drawn; unfolds below the drawing, and replaces it in Markdown.
        narrow: Same drawing laid out for a phone; empty if it is the same.
    """

    title: str
    svg: str
    description: str
    data: Table | None = None
    narrow: str = ""


@dataclass(frozen=True)
class Sound:
    """Sound inside the page, with a player.

    Attributes:
        title: Caption of the sound.
        source: Data URI of the sound; anything else would be a request.
    """

    title: str
    source: str

    def __post_init__(self) -> None:
        if not _SOUND.fullmatch(self.source):
            raise ValueError("a sound is a data URI")


@dataclass(frozen=True)
class Section:
    """Blocks under a heading.

    Attributes:
        title: Heading of the section.
        blocks: Blocks of the section.
        id: Name for links; made from the title if none is given.
        look: Look of the section: ``open``; ``folded``, closed at first; ``drawer``, opened over the page by a link to
            its id.
        data: Values of ``data-`` attributes for a report's own script.
        deferred: True keeps the content out of the document until it is asked for; without a script it is shown.
    """

    title: str
    blocks: Sequence[Block]
    id: str = ""
    look: Literal["open", "folded", "drawer"] = "open"
    data: Mapping[str, str] = field(default_factory=dict)
    deferred: bool = False


Block: TypeAlias = "Prose | Code | Facts | Table | Figure | Sound | Section"


def percent(fraction: float | None, half_width: float | None = None, **options: Any) -> Cell:
    """Cell with a fraction in per cent, one decimal, and the half-width of its interval."""
    if fraction is None:
        return Cell("")
    return Cell(*with_half(fraction, half_width, 1), **{"sort": fraction, **options})


def score_cell(result: Any, **options: Any) -> Cell:
    """Cell with a result's accuracy, its conventional half-width, and the mark of overlap with its training data."""
    half, mark = result.score.ci95, result.overlap_mark
    if half == 0:  # of a score of 100%, mostly: no width is no certainty
        options["note"] = "; ".join(filter(None, [options.get("note", ""), "all episodes alike: no interval"]))
    cell = percent(result.score.accuracy, half or None, **options)
    return replace(cell, minor=f"{cell.minor} {mark}".strip()) if mark else cell


def count(number: int, noun: str, plural: str = "") -> str:
    """Number with its noun, such as ``1 clip`` or ``2,000 clips``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def as_cell(cell: Cell | str) -> Cell:
    """Cell made of plain text; a cell stays as it is."""
    return Cell(cell) if isinstance(cell, str) else cell


def clean(text: str) -> str:
    """Text as one line without characters that hide or reorder others: controls, bidi marks, zero-width spaces."""
    line = " ".join(text.split())
    return line if line.isascii() and line.isprintable() else "".join(map(_visible, line))


def clean_lines(text: str) -> list[str]:
    """Lines of a text for verbatim display: tabs as spaces, without characters that hide or reorder others."""
    return ["".join(map(_visible, line.expandtabs(4))) for line in text.splitlines()]


def _visible(character: str) -> str:
    hidden = character in _HIDING or unicodedata.category(character) in ("Cc", "Co", "Cs")
    return "\ufffd" if hidden else character
