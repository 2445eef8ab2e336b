"""Page: blocks rendered to a self-contained HTML file and to Markdown.

A report builds blocks and calls :func:`render`. Text from outside is cleaned and escaped there, in both forms, so that
a report cannot forget it.
"""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from uamix_bench.reports.blocks import (
    FIGURE_ID,
    Block,
    Cell,
    Figure,
    Prose,
    Row,
    Section,
    Sound,
    as_cell,
    clean,
    clean_lines,
)
from uamix_bench.reports.markdown import markdown

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Page:
    """Page: a rendered report.

    Attributes:
        title: Title of the page.
        html: Text of one HTML file that needs nothing else and opens from disk.
        content: Content of the page as a block.
        files: Texts of other files that `html` links to, by their path relative to it.
        said: Lines of the page that its reader must not miss, for stderr.
    """

    title: str
    html: str
    content: Section
    files: Mapping[str, str] = field(default_factory=dict)
    said: Sequence[str] = ()

    @cached_property
    def markdown(self) -> str:
        """Content of the page as Markdown."""
        return markdown([self.content], level=1)


class Texts(Mapping[str, str]):
    """Texts of files by path, each rendered when it is read, so that not all of them are in memory."""

    def __init__(self, rendered: Mapping[str, Callable[[], str]]) -> None:
        self._rendered = rendered

    def __getitem__(self, path: str) -> str:
        return self._rendered[path]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._rendered)

    def __len__(self) -> int:
        return len(self._rendered)


def render(
    title: str,
    blocks: Sequence[Block],
    *,
    lead: str = "",
    footer: str = "",
    up: Cell | None = None,
    scripts: Iterable[str] = (),
    files: Mapping[str, str] | None = None,
    said: Sequence[str] = (),
) -> Page:
    """Renders one content to HTML and Markdown.

    Args:
        title: Heading, and name of the browser's tab.
        blocks: Blocks of the content, in order.
        lead: Text of a sentence or two below the title.
        footer: Last line of the page.
        up: Link to the page above this one.
        scripts: Names of further scripts among the templates; the page must be whole without them.
        files: Texts of other files that the page links to, by path.
        said: Lines of the page that its reader must not miss.
    """
    style = _source("page.css")
    code = [_source(name) for name in ("page.js", *scripts)]
    policy = [
        "default-src 'none'",
        f"style-src {_hash(style)}",
        f"script-src {' '.join(map(_hash, code))}",
        *(["media-src data:"] if _sounds(blocks) else []),
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
    return Page(title, html, Section(title, [Prose(lead), *blocks, Prose(footer)]), files or {}, said)


@cache
def environment() -> Environment:
    """Jinja environment of all pages: output is cleaned and escaped, and an unknown name is an error."""
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


def slug(text: str) -> str:
    """Name made of the lower-case letters, digits and hyphens of a text, for an id or a file name."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:60] or "x"


def _sounds(blocks: Iterable[Block]) -> bool:
    return any(isinstance(one, Sound) or (isinstance(one, Section) and _sounds(one.blocks)) for one in blocks)


def _finalize(value: object) -> object:
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _lines(text: str) -> Markup:
    """Escapes text and keeps its line breaks, for ``<pre>``."""
    return Markup(escape("\n".join(clean_lines(text))))


def _safe(text: str) -> str:
    return str(escape(clean(text)))


def _row(cells: Row, columns: Sequence[Cell | str]) -> Markup:
    """HTML of the cells of a table's row. Pages hold tens of thousands, so this is no macro."""
    parts = []
    for at, (item, column) in enumerate(zip(cells, columns, strict=True)):
        cell = as_cell(item)
        name = "td" if at else "th"
        looks = [*(["number"] if as_cell(column).text.endswith(">") else []), *([cell.mark] if cell.mark else [])]
        attributes = ("" if at else ' scope="row"') + (f' class="{" ".join(looks)}"' if looks else "")
        attributes += "" if cell.sort is None else f' data-sort="{cell.sort:.6g}"'
        text = _safe(cell.text)
        wrap = {"best": "strong", "top": "strong", "tie": "em"}.get(cell.mark)
        text = f"<{wrap}>{text}</{wrap}>" if wrap else text
        text += f' <span class="minor">{_safe(cell.minor)}</span>' if cell.minor else ""
        text = f'<a href="{escape(cell.href)}">{text}</a>' if cell.href else text
        text += f"<small>{_safe(cell.note)}</small>" if cell.note else ""
        parts.append(f"<{name}{attributes}>{text}</{name}>")
    return Markup("".join(parts))


def _drawing(figure: Figure, number: int) -> Markup:
    """SVGs of a figure, with ids that are unique on this page; the style sheet shows the one that fits the screen."""
    wide = figure.svg.replace(FIGURE_ID, f"figure-{number}")
    narrow = figure.narrow.replace(FIGURE_ID, f"figure-{number}n")
    return Markup(f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>' if narrow else wide)


class _Ids:
    """Generator of ids that are unique on a page."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.count = 0

    def of(self, section: Section) -> str:
        """Id of a section: its own, or one from its title."""
        wanted = section.id or slug(section.title)
        if section.id and section.id in self.taken:
            raise ValueError(f"two sections have the id '{section.id}'")
        number = 1
        while (name := wanted if number == 1 else f"{wanted}-{number}") in self.taken:
            number += 1
        self.taken.add(name)
        return name

    def number(self) -> int:
        """Next number of a table or figure."""
        self.count += 1
        return self.count


@cache
def _source(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
