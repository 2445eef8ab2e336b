"""LaTeX form of a page's table, with booktabs."""

from __future__ import annotations

from collections.abc import Iterable

from uamix_bench.records.export import latex
from uamix_bench.reports.blocks import Cell, Table, as_cell, clean

_SIGNS = {"±": "$\\pm$", "≈": "$\\approx$", "†": "\\dag{}", "‡": "\\ddag{}"}


def escape(text: str) -> str:
    """Text escaped for LaTeX."""
    safe = latex(clean(text))
    for sign, command in _SIGNS.items():
        safe = safe.replace(sign, command)
    return safe


def booktabs(table: Table) -> str:
    """Table as a ``tabular``, the best in bold, its equals underlined; each group below a rule."""
    columns = [as_cell(column) for column in table.columns]
    shape = "".join("r" if column.text.endswith(">") else "l" for column in columns)
    lines = [f"\\begin{{tabular}}{{{shape}}}", "\\toprule"]
    lines.append(_line(Cell(column.text.removesuffix(">")) for column in columns))
    for heading, rows in table.bodies():
        if rows:
            lines.append("\\midrule")
            if heading:
                lines.append(f"\\multicolumn{{{len(columns)}}}{{l}}{{\\emph{{{escape(heading)}}}}} \\\\")
            lines += [_line(map(as_cell, row)) for row in rows]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _line(cells: Iterable[Cell]) -> str:
    return " & ".join(map(_cell, cells)) + " \\\\"


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    command = {"best": "textbf", "tie": "underline"}.get(cell.mark)
    marked = f"\\{command}{{{text}}}" if command and text else text
    return f"{marked} {escape(cell.minor)}".strip()
