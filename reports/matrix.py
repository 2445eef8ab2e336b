"""Confusion matrix as a figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from uamix_bench.reports.blocks import Figure, Table, clean
from uamix_bench.reports.drawing import INK, PAPER, canvas_of
from uamix_bench.reports.figures import Numbers, figure
from uamix_bench.util.arrays import Doubles

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas
    from matplotlib.path import Path

_MOST_NAMED = 30  # classes up to which the numbers are written into the cells
_CELL = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5))  # corners about its centre


def matrix(
    title: str, labels: Sequence[str], counts: Numbers, *, description: str, of: Numbers | None = None
) -> Figure:
    """Confusion matrix: rows are true classes, columns predicted ones, the shade is a share.

    Args:
        title: Caption of the figure.
        labels: (C,) names of the classes.
        counts: (C, C) number of predictions.
        description: Description of the figure in words.
        of: (C, C) number of queries that the counts are a share of; default the sum of the row.
    """
    from matplotlib.patches import PathPatch

    count = np.asarray(counts, np.float64)
    share = count / np.maximum(count.sum(axis=1, keepdims=True) if of is None else np.asarray(of, np.float64), 1)
    size = len(labels)

    def draw(width: int) -> Canvas:
        side = min(width, 900, 220 + 34 * size)
        longest = 7 * max(map(len, labels), default=0)
        room = (side - min(longest, 0.35 * side)) / size  # of a cell
        letters = min(11.5, 0.9 * room)
        with canvas_of(side, side) as (canvas, (ax,)):
            for level, cells in _by_shade(share):
                ax.add_patch(PathPatch(cells, fc=INK, alpha=level, lw=0))
            if size <= _MOST_NAMED and room > 17:
                for row, column in np.argwhere(share > 0):
                    colour = PAPER if share[row, column] > 0.52 else INK
                    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": "small"}
                    ax.text(column, row, f"{100 * share[row, column]:.0f}", color=colour, **style)
            ax.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal", xlabel="predicted", ylabel="true")
            ax.set_xticks(range(size), map(clean, labels), rotation=90, fontsize=letters)
            ax.set_yticks(range(size), map(clean, labels), fontsize=letters)
            ax.tick_params(length=0)
        return canvas

    named = [
        [f"{value:g}" if of is None else f"{100 * part:.1f}" for value, part in zip(*row, strict=True)]
        for row in zip(count, share, strict=True)
    ]
    rows = [(label, *cells) for label, cells in zip(labels, named, strict=True)]
    return figure(title, draw, description, Table(("", *(f"{label}>" for label in labels)), rows))


def _by_shade(share: Doubles) -> Iterator[tuple[float, Path]]:
    """Shades of a matrix in steps of two per cent, each with the outline of all of its cells."""
    from matplotlib.path import Path

    level = np.ceil(50 * share) / 50
    for shade in np.unique(level[level > 0]).tolist():
        corners = np.argwhere(level == shade)[:, None, ::-1] + np.array(_CELL)  # (n, 5, 2): across, up
        codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
        yield shade, Path(corners.reshape(-1, 2), codes * len(corners))
