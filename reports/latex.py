"""LaTeX form of a page's table."""

from __future__ import annotations

from uamix_bench.reports.blocks import Cell, Table, as_cell, clean
from uamix_bench.util import latex


def booktabs(table: Table) -> str:
    """Table as a ``tabular``, the best in bold, its equals underlined; each group below a rule, and the note below."""
    columns = [as_cell(column).text for column in table.columns]
    groups = [[[_escape(column.removesuffix(">")) for column in columns]]]
    for heading, rows in table.bodies():
        if rows:
            over = [[latex.span(f"\\emph{{{_escape(heading)}}}", len(columns), "l")]] if heading else []
            groups.append([*over, *([_cell(as_cell(cell)) for cell in row] for row in rows)])
    body = latex.booktabs("".join("r" if column.endswith(">") else "l" for column in columns), groups)
    return body + latex.notes(clean(paragraph) for paragraph in table.note.split("\n\n") if paragraph.strip())


def _escape(text: str) -> str:
    return latex.escape(clean(text))


def _cell(cell: Cell) -> str:
    text = _escape(cell.text)
    command = {"best": "textbf", "top": "textbf", "tie": "underline"}.get(cell.mark)
    marked = f"\\{command}{{{text}}}" if command and text else text
    return f"{marked} {_escape(cell.minor)}".strip()
