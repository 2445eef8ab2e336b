"""LaTeX tables for ``\\usepackage{booktabs}``, and text escaped for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_COMMANDS = {character: f"\\{character}" for character in "&%$#_{}"}
_COMMANDS |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_COMMANDS |= {"<": r"\textless{}", ">": r"\textgreater{}", '"': r"\textquotedbl{}", "|": r"\textbar{}"}
_COMMANDS |= {"±": r"$\pm$", "≈": r"$\approx$", "†": r"\dag{}", "‡": r"\ddag{}"}


def escape(text: str) -> str:
    """Text with LaTeX's special characters and the signs of tables as commands."""
    return "".join(_COMMANDS.get(character, character) for character in text)


def span(cell: str, columns: int, align: str) -> str:
    """Cell over several columns, aligned ``l``, ``c`` or ``r``."""
    return f"\\multicolumn{{{columns}}}{{{align}}}{{{cell}}}"


def notes(paragraphs: Iterable[str]) -> str:
    """Plain paragraphs below a table, escaped."""
    return "".join(f"\\par\\footnotesize {escape(text)}\n" for text in paragraphs)


def booktabs(align: str, groups: Iterable[Iterable[Sequence[str]]]) -> str:
    """A ``tabular`` with a rule between groups of rows, the first of which is the heading.

    Args:
        align: Alignment of each column, ``l``, ``c`` or ``r``.
        groups: Rows of cells by group, which are LaTeX already.
    """
    bodies = ["".join(f"{' & '.join(row)} \\\\\n" for row in rows) for rows in groups]
    return f"\\begin{{tabular}}{{{align}}}\n\\toprule\n" + "\\midrule\n".join(bodies) + "\\bottomrule\n\\end{tabular}\n"
