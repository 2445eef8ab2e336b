"""Page: one content, as plain data, rendered to a self-contained HTML file and to Markdown.

A report builds blocks (prose, facts, tables, figures, code, sections of them) and calls :func:`render`. Whatever comes
from outside is cleaned and escaped here, in both forms, so that a report cannot forget it.
"""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")

Mark = Literal["", "best", "tie", "better", "worse", "faint"]

_HREF = re.compile(r"https://[^\s\"'<>]+|#[A-Za-z0-9_-]+|[A-Za-z0-9][A-Za-z0-9@._+-]*")
FIGURE_ID = "\ue000"  # in a figure's SVG: stands for its number on the page, so that no two share an id


@dataclass(frozen=True)
class Page:
    """A rendered report.

    Attributes:
        title: What it is called.
        html: One file that needs nothing else and opens from disk.
        markdown: The same content.
        files: Further files that `html` links to, by their path relative to it.
    """

    title: str
    html: str
    markdown: str
    files: Mapping[str, str] = field(default_factory=dict)


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
    minor = "" if half_width is None else f"± {100 * half_width:.1f}"
    return Cell(f"{100 * fraction:.1f}", minor, **{"sort": fraction, **options})


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, such as ``1 clip`` or ``2,000 clips``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def as_cell(cell: Cell | str) -> Cell:
    """A cell, where plain text may stand for one."""
    return Cell(cell) if isinstance(cell, str) else cell


def render(
    title: str,
    blocks: Sequence[Block],
    *,
    lead: str = "",
    footer: str = "",
    up: Cell | None = None,
    scripts: Iterable[str] = (),
    files: Mapping[str, str] | None = None,
) -> Page:
    """Renders one content to HTML and Markdown.

    Args:
        title: The heading and the name of the browser's tab.
        blocks: The content in order.
        lead: A sentence or two below the title.
        footer: The last line.
        up: A link to the page above this one.
        scripts: Names of further scripts among the templates; the page must be whole without them.
        files: Further files that the page links to.
    """
    style = _source("page.css")
    code = [_source(name) for name in ("page.js", *scripts)]
    policy = [
        "default-src 'none'",
        f"style-src {_hash(style)}",
        f"script-src {' '.join(map(_hash, code))}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    html = (
        environment()
        .get_template("base.html")
        .render(
            title=title,
            lead=lead,
            footer=footer,
            up=up,
            blocks=blocks,
            style=style,
            scripts=code,
            policy="; ".join(policy),
            ids=_Ids(),
        )
    )
    text = markdown([Section(title, [Prose(lead), *blocks, Prose(footer)])], level=1)
    return Page(title, html, text, files or {})


def markdown(blocks: Iterable[Block], level: int = 2) -> str:
    """Renders blocks as Markdown; `level` is that of the first headings."""
    return "\n\n".join(_markdown(blocks, level)) + "\n"


@cache
def environment() -> Environment:
    """The one Jinja environment: all output is cleaned and escaped, and an unknown name is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "cell": as_cell,
        "kind": lambda block: type(block).__name__,
        "lines": _lines,
        "drawing": _drawing,
        "row": _row,
    }
    return made


def clean(text: str) -> str:
    """One line without characters that hide or reorder others: controls, marks of direction, zero-width spaces."""
    line = " ".join(text.split())
    return line if line.isascii() and line.isprintable() else "".join(map(_visible, line))


def markdown_text(text: str) -> str:
    """Text that no Markdown reader takes for markup, a row of a table, a link or a mention."""
    safe = clean(text).translate(_MARKDOWN).replace("://", "&#58;//").replace("www.", "www&#46;")
    safe = re.sub(r"(?<=\w)&#64;(?=\d+(?![\w.]))", "@", safe)  # a version, such as esc50@1, is no mention or address
    return re.sub(r"^(\d*)([-+=.)])(?=[\s=-]|$)", lambda start: f"{start[1]}&#{ord(start[2])};", safe)


def slug(text: str) -> str:
    """Lower-case letters, digits and hyphens of a text, for an id or a file name."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:60] or "x"


_MARKDOWN = {ord(character): f"&#{ord(character)};" for character in "|\\<>&@{}#`"}
_MARKDOWN |= {ord(character): f"\\{character}" for character in "*_~[]"}
_HIDING = {*"\u061c\u200b\u200e\u200f\u2060\ufeff", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}


def _visible(character: str) -> str:
    hidden = character in _HIDING or unicodedata.category(character) in ("Cc", "Co", "Cs")
    return "\ufffd" if hidden else character


def _finalize(value: object) -> object:
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _lines(text: str) -> Markup:
    """Escapes text and keeps its line breaks, for ``<pre>``."""
    spaced = ("".join(map(_visible, line.expandtabs(4))) for line in text.splitlines())
    return Markup(escape("\n".join(spaced)))


def _safe(text: str) -> str:
    return str(escape(clean(text)))


def _row(cells: Row, columns: Sequence[Cell | str]) -> Markup:
    """The cells of a table's row. Pages hold tens of thousands, so this is no macro."""
    parts = []
    for at, (item, column) in enumerate(zip(cells, columns, strict=True)):
        cell = as_cell(item)
        name = "td" if at else "th"
        looks = [*(["number"] if as_cell(column).text.endswith(">") else []), *([cell.mark] if cell.mark else [])]
        attributes = ("" if at else ' scope="row"') + (f' class="{" ".join(looks)}"' if looks else "")
        attributes += "" if cell.sort is None else f' data-sort="{cell.sort:.6g}"'
        text = _safe(cell.text)
        wrap = {"best": "strong", "tie": "em"}.get(cell.mark)
        text = f"<{wrap}>{text}</{wrap}>" if wrap else text
        text += f' <span class="minor">{_safe(cell.minor)}</span>' if cell.minor else ""
        text = f'<a href="{escape(cell.href)}">{text}</a>' if cell.href else text
        text += f"<small>{_safe(cell.note)}</small>" if cell.note else ""
        parts.append(f"<{name}{attributes}>{text}</{name}>")
    return Markup("".join(parts))


def _drawing(figure: Figure, number: int) -> Markup:
    """The SVG of a figure, with ids that are its own on this page."""
    return Markup(figure.svg.replace(FIGURE_ID, f"figure-{number}"))


class _Ids:
    """Ids that are each given once on a page."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.count = 0

    def of(self, section: Section) -> str:
        """The id of a section: its own, or one from its title."""
        wanted = section.id or slug(section.title)
        if section.id and section.id in self.taken:
            raise ValueError(f"two sections have the id '{section.id}'")
        number = 1
        while (name := wanted if number == 1 else f"{wanted}-{number}") in self.taken:
            number += 1
        self.taken.add(name)
        return name

    def number(self) -> int:
        """The next number of a table or figure."""
        self.count += 1
        return self.count


@cache
def _source(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _markdown(blocks: Iterable[Block], level: int) -> Iterator[str]:
    """The parts of a Markdown document, to be joined by blank lines."""
    for block in blocks:
        match block:
            case Prose(text):
                yield from _paragraphs(text)
            case Code(text, title):
                yield from _titled(title)
                fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
                lines = ("".join(map(_visible, line.expandtabs(4))) for line in text.splitlines())
                yield "\n".join([fence, *lines, fence])
            case Facts(facts):
                shown = [(name, value) for name, value in facts.items() if value not in (None, "")]
                yield "\n".join(f"- {markdown_text(name)}: {markdown_text(str(value))}" for name, value in shown)
            case Table():
                yield from _titled(block.title)
                for heading, rows in block.bodies():
                    yield from _titled(heading)
                    if rows or not heading:
                        yield _markdown_table(block.columns, rows)
                yield from _paragraphs(block.note)
            case Figure(title, _, description, data):
                yield from _titled(title)
                yield from _paragraphs(description)
                if data is not None:
                    yield from _markdown([data], level)
            case Section(title, inner):
                yield f"{'#' * min(level, 6)} {markdown_text(title)}"
                yield from _markdown(inner, level + 1)


def _paragraphs(text: str) -> Iterator[str]:
    yield from (markdown_text(paragraph) for paragraph in text.split("\n\n") if paragraph.strip())


def _titled(title: str) -> Iterator[str]:
    if title:
        yield f"**{markdown_text(title)}**"


def _markdown_table(columns: Sequence[Cell | str], rows: Sequence[Row]) -> str:
    headings = [as_cell(column) for column in columns]
    right = [heading.text.endswith(">") for heading in headings]
    lines = [
        " | ".join(_markdown_cell(replace(heading, text=heading.text.removesuffix(">"))) for heading in headings),
        " | ".join("---:" if number else "---" for number in right),
        *(" | ".join(map(_markdown_cell, map(as_cell, row))) for row in rows),
    ]
    return "\n".join(f"| {line} |" for line in lines)


def _markdown_cell(cell: Cell) -> str:
    text = markdown_text(f"{cell.text} {cell.minor}".strip())
    if text:
        text = {"best": f"**{text}**", "tie": f"*{text}*"}.get(cell.mark, text)
    if cell.href.startswith("https://"):
        text = f"[{text}](<{cell.href}>)"
    return f"{text} ({markdown_text(cell.note)})" if cell.note else text
