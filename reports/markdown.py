"""Markdown form of blocks; text from outside stays text in it, with no markup, link or mention."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from uamix_bench.reports.blocks import (
    Block,
    Cell,
    Code,
    Facts,
    Figure,
    Prose,
    Row,
    Section,
    Sound,
    Table,
    as_cell,
    clean,
    clean_lines,
)

_ESCAPES = {ord(character): f"&#{ord(character)};" for character in "|\\<>&@{}#`"}
_ESCAPES |= {ord(character): f"\\{character}" for character in "*_~[]"}


def markdown(blocks: Iterable[Block], level: int = 2) -> str:
    """Renders blocks as Markdown; `level` is that of the first headings."""
    return "\n\n".join(_markdown(blocks, level)) + "\n"


def _markdown(blocks: Iterable[Block], level: int) -> Iterator[str]:
    """Parts of a Markdown document, to be joined by blank lines."""
    for block in blocks:
        match block:
            case Prose(text):
                yield from _paragraphs(text)
            case Code(text, title):
                yield from _titled(title)
                fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
                yield "\n".join([fence, *clean_lines(text), fence])
            case Facts(facts):
                shown = [(name, value) for name, value in facts.items() if value not in (None, "")]
                yield "\n".join(f"- {_text(name)}: {_text(str(value))}" for name, value in shown)
            case Table():
                yield from _titled(block.title)
                for heading, rows in block.bodies():
                    yield from _titled(heading)
                    if rows or not heading:
                        yield _markdown_table(block.columns, rows)
                yield from _paragraphs(block.note)
            case Figure(title, _, description, data, _):
                yield from _titled(title)
                yield from _paragraphs(description)
                if data is not None:
                    yield from _markdown([data], level)
            case Sound(title):
                yield f"- {_text(title)} (to be heard in the HTML page)"
            case Section(title, inner):
                yield f"{'#' * min(level, 6)} {_text(title)}"
                yield from _markdown(inner, level + 1)


def _paragraphs(text: str) -> Iterator[str]:
    yield from (_text(paragraph) for paragraph in text.split("\n\n") if paragraph.strip())


def _titled(title: str) -> Iterator[str]:
    if title:
        yield f"**{_text(title)}**"


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
    text = _text(f"{cell.text} {cell.minor}".strip())
    if text:
        text = {"best": f"**{text}**", "top": f"**{text}**", "tie": f"*{text}*"}.get(cell.mark, text)
    if cell.href.startswith("https://"):
        text = f"[{text}](<{cell.href}>)"
    return f"{text} ({_text(cell.note)})" if cell.note else text


def _text(text: str) -> str:
    """Text escaped so that no Markdown reader takes it for markup, a row of a table, a link or a mention."""
    safe = clean(text).translate(_ESCAPES).replace("://", "&#58;//").replace("www.", "www&#46;")
    safe = re.sub(r"(?<=\w)&#64;(?=\d+(?![\w.]))", "@", safe)  # a version, such as esc50@1, is no mention or address
    return re.sub(r"^(\d*)([-+=.)])(?=[\s=-]|$)", lambda start: f"{start[1]}&#{ord(start[2])};", safe)
