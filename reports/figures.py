"""Figures over plain arrays, drawn by drawing.py, each with its numbers as a table.

Series differ by colour, marker and dash, and a label has one look in all panels of a figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from uamix_bench.reports.blocks import Cell, Figure, Table, clean
from uamix_bench.reports.drawing import (
    DASHES,
    INK,
    MARKERS,
    MUTED,
    PAPER,
    POINTS,
    SERIES,
    WIDTH,
    canvas_of,
    draw_legend,
    legend_columns,
    logarithmic,
    name_points,
    panel_titles,
    to_svg,
)
from uamix_bench.util.text import with_half

_MOST_MARKED = 40  # points of a line, up to which each gets a marker
_MOST_NAMED = 30  # rows of a matrix, up to which the numbers are written into it

Numbers = npt.ArrayLike


@dataclass(frozen=True)
class Series:
    """Series of a figure: one line.

    Attributes:
        label: Name in the legend.
        x: (n,) positions along the bottom.
        y: (n,) values.
        half: (n,) half-widths of the band around it, NaN if there is none; None for no band.
    """

    label: str
    x: Numbers
    y: Numbers
    half: Numbers | None = None


def forest(
    title: str,
    labels: Sequence[str],
    panels: Mapping[str, tuple[Numbers, Numbers]],
    *,
    x_label: str,
    description: str,
    reference: float | None = None,
    marks: Sequence[int] | None = None,
    share_x: bool = False,
) -> Figure:
    """Forest plot: values with their intervals, one row a label, one panel a name.

    Args:
        title: Caption of the figure.
        labels: (n,) names of the rows, from the top.
        panels: Values (n,) and half-widths (n,) of each panel, NaN if there is none.
        x_label: Label of the axis of the values.
        description: Description of the figure in words.
        reference: Position of a vertical line, such as 0 for differences.
        marks: (n,) number of the series whose colour a row takes; default all the first.
        share_x: Whether all panels have one scale.
    """
    rows, look = len(labels), marks or [0] * len(labels)
    titles, more = panel_titles(panels, len(panels))
    with canvas_of(WIDTH, 74 + more + 24 * rows, len(panels), sharex=share_x, sharey=True) as (canvas, axes):
        for ax, name, (values, halves) in zip(axes, titles, panels.values(), strict=True):
            value, half = np.asarray(values, np.float64), np.nan_to_num(np.asarray(halves, np.float64))
            for kind in sorted(set(look)):
                of = np.flatnonzero(np.isfinite(value) & (np.asarray(look) == kind))
                marker, color = MARKERS[kind % len(MARKERS)], SERIES[kind % len(SERIES)]
                ax.errorbar(value[of], of, xerr=half[of], ms=6, lw=0, elinewidth=1.8, fmt=marker, color=color)
            if reference is not None:
                ax.axvline(reference, color=MUTED, lw=1, zorder=0)
            ax.set(title=name, ylim=(rows - 0.4, -0.6), yticks=range(rows), yticklabels=map(clean, labels))
            ax.grid(axis="x")
            ax.spines["left"].set_visible(False)
            ax.tick_params(axis="y", length=0)
            ax.margins(x=0.08)
        canvas.supxlabel(clean(x_label), fontsize="medium", color=MUTED)
        canvas.set_layout_engine("constrained", wspace=0.06)
    table = Table(
        ("", *(f"{name or x_label}>" for name in panels)),
        [(label, *(_with_half(v, h, row) for v, h in panels.values())) for row, label in enumerate(labels)],
        note=f"{x_label}, ± half-width of the 95% interval",
    )
    return Figure(title, to_svg(canvas, title, description), description, table)


def curves(
    title: str,
    panels: Mapping[str, Sequence[Series]],
    *,
    x_label: str,
    y_label: str,
    description: str,
    x_ticks: Sequence[float] | None = None,
    log_x: bool = False,
) -> Figure:
    """Line plot with bands, one panel a name: accuracy over K or N, a training. A label has one look throughout.

    Args:
        title: Caption of the figure.
        panels: Lines of each panel.
        x_label: Label of the axis along the bottom.
        y_label: Label of the axis along the side.
        description: Description of the figure in words.
        x_ticks: Positions of the axis labels; default matplotlib's choice.
        log_x: Whether equal ratios of x are equal distances.
    """
    labels = list(dict.fromkeys(series.label for lines in panels.values() for series in lines))
    columns = 2 if len(panels) in (2, 4) else min(len(panels), 3)
    legend = 22 * -(-len(labels) // legend_columns(labels))
    titles, more = panel_titles(panels, columns)
    height = (280 + more) * -(-len(panels) // columns) + legend
    with canvas_of(WIDTH, height, len(panels), columns) as (canvas, axes):
        handles = {}
        for ax, name, lines in zip(axes, titles, panels.values(), strict=True):
            for series in lines:
                look = labels.index(series.label)
                x, y = np.asarray(series.x, np.float64), np.asarray(series.y, np.float64)
                color, dashes = SERIES[look % len(SERIES)], DASHES[look // len(SERIES) % len(DASHES)]
                marker = MARKERS[look % len(MARKERS)] if len(x) <= _MOST_MARKED else ""
                (handles[series.label],) = ax.plot(x, y, marker=marker, ms=5, lw=1.6, color=color, linestyle=dashes)
                if series.half is not None:
                    half = np.asarray(series.half, np.float64)
                    ax.fill_between(x, y - half, y + half, color=color, alpha=0.15, lw=0)
            if log_x:
                logarithmic(ax)
            if x_ticks is not None:
                ax.set_xticks(list(x_ticks), [f"{tick:g}" for tick in x_ticks])
            ax.set(title=name, xlabel=clean(x_label), ylabel=clean(y_label) if ax in axes[::columns] else "")
            ax.grid()
        if len(labels) > 1:
            draw_legend(canvas, [handles[label] for label in labels], labels)
    many = len(panels) > 1
    rows = [
        (*((name,) if many else ()), series.label, _number(x), _with_half(series.y, series.half, at))
        for name, lines in panels.items()
        for series in lines
        for at, x in enumerate(np.asarray(series.x, np.float64))
    ]
    table = Table((*(("panel",) if many else ()), "series", f"{x_label}>", f"{y_label}>"), _thinned(rows))
    return Figure(title, to_svg(canvas, title, description), description, table)


def scatter(
    title: str,
    labels: Sequence[str],
    x: Numbers,
    y: Numbers,
    *,
    x_label: str,
    y_label: str,
    description: str,
    half: Numbers | None = None,
    log_x: bool = False,
) -> Figure:
    """Scatter plot of points with their names.

    Args:
        title: Caption of the figure.
        labels: (n,) names of the points.
        x: (n,) positions along the bottom.
        y: (n,) positions along the side.
        x_label: Label of the axis along the bottom.
        y_label: Label of the axis along the side.
        description: Description of the figure in words.
        half: (n,) half-widths of y's intervals, NaN if there is none.
        log_x: Whether equal ratios of x are equal distances.
    """
    across, up = np.asarray(x, np.float64), np.asarray(y, np.float64)
    with canvas_of(WIDTH, 400) as (canvas, (ax,)):
        if log_x:
            logarithmic(ax)
            room = 10 ** (0.1 + 0.16 * np.log10(across.max() / across.min()))
            ax.set_xlim(across.min() / room, across.max() * room)
        if half is not None:
            error = np.nan_to_num(np.asarray(half, np.float64))
            ax.errorbar(across, up, yerr=error, fmt="none", ecolor=MUTED, lw=1)
        for at, (one, other) in enumerate(zip(across, up, strict=True)):
            ax.plot(one, other, MARKERS[at % len(MARKERS)], color=SERIES[at % len(SERIES)], ms=8)
        ax.set(xlabel=clean(x_label), ylabel=clean(y_label))
        ax.margins(x=None if log_x else 0.16, y=0.12)
        ax.grid()
        canvas.draw_without_rendering()
        name_points(ax, labels, across, up)
    rows = [
        (label, _number(one), _with_half(up, half, at))
        for at, (label, one) in enumerate(zip(labels, across, strict=True))
    ]
    table = Table(("", f"{x_label}>", f"{y_label}>"), rows)
    return Figure(title, to_svg(canvas, title, description), description, table)


def points(
    title: str,
    panels: Mapping[str, npt.NDArray[Any]],
    class_of: Sequence[int],
    names: Sequence[str],
    *,
    description: str,
    titles_of: Sequence[str] = (),
) -> Figure:
    """Point clouds coloured by class, panels side by side without axes: a t-SNE of two models.

    Args:
        title: Caption of the figure.
        panels: Positions (n, 2) of the points, by panel.
        class_of: (n,) class of each point.
        names: (C,) names of the classes.
        description: Description of the figure in words.
        titles_of: (n,) name of each point, shown where the pointer rests; empty for none.
    """
    of = np.asarray(class_of)
    titles, more = panel_titles(panels, len(panels))
    height = 420 + more + 22 * -(-len(names) // legend_columns(names))
    with canvas_of(WIDTH, height, len(panels)) as (canvas, axes):
        for ax, name, xy in zip(axes, titles, panels.values(), strict=True):
            handles = [
                ax.plot(*xy[of == c].T, MARKERS[c % 8], color=SERIES[c % 8], ms=5, alpha=0.85, ls="")[0]
                for c in range(len(names))
            ]
            for c, drawn in enumerate(handles):
                drawn.set_gid(f"{POINTS}{c}")
            ax.set(title=name, xticks=[], yticks=[])
            ax.spines[["left", "bottom"]].set_visible(False)
        draw_legend(canvas, handles, names)
    titled = range(len(names)) if titles_of else ()
    by_class = [[titles_of[at] for at in np.flatnonzero(of == c).tolist()] for c in titled]
    return Figure(title, to_svg(canvas, title, description, by_class), description)


def histogram(
    title: str, samples: Mapping[str, Numbers], *, x_label: str, description: str, bins: Numbers | int = 20
) -> Figure:
    """Histograms of samples, in one frame.

    Args:
        title: Caption of the figure.
        samples: Values (n,) of each label.
        x_label: Label of the axis of the values.
        description: Description of the figure in words.
        bins: Edges of the bins, or the number of equal ones that span all samples.
    """
    pooled = np.concatenate([np.asarray(values, np.float64).ravel() for values in samples.values()])
    edges = np.histogram_bin_edges(pooled, bins)
    counts = {label: np.histogram(np.asarray(values, np.float64), edges)[0] for label, values in samples.items()}
    with canvas_of(WIDTH, 300) as (canvas, (ax,)):
        handles = []
        for look, heights in enumerate(counts.values()):
            colour = SERIES[look % len(SERIES)]
            ax.stairs(heights, edges, fill=True, color=colour, alpha=0.2 if len(counts) > 1 else 0.45)
            handles.append(ax.stairs(heights, edges, color=colour, lw=1.6, ls=DASHES[look % len(DASHES)]))
        ax.set(xlabel=clean(x_label), ylabel="episodes" if "episode" in title.lower() else "count")
        ax.grid(axis="y")
        if len(counts) > 1:
            draw_legend(canvas, handles, list(counts))
    rows = [
        (f"{low:.4g} to {high:.4g}", *(str(heights[at]) for heights in counts.values()))
        for at, (low, high) in enumerate(pairwise(edges))
    ]
    table = Table((x_label, *(f"{label}>" for label in counts)), rows)
    return Figure(title, to_svg(canvas, title, description), description, table)


def bars(
    title: str, labels: Sequence[str], values: Numbers, *, x_label: str, description: str, half: Numbers | None = None
) -> Figure:
    """Horizontal bars, one row a label.

    Args:
        title: Caption of the figure.
        labels: (n,) names of the rows, from the top.
        values: (n,) lengths of the bars.
        x_label: Label of the axis of the values.
        description: Description of the figure in words.
        half: (n,) half-widths of the values' intervals.
    """
    length = np.asarray(values, np.float64)
    with canvas_of(WIDTH, 64 + 26 * len(labels)) as (canvas, (ax,)):
        error = None if half is None else np.nan_to_num(np.asarray(half, np.float64))
        ax.barh(range(len(labels)), length, 0.62, color=SERIES[0], xerr=error, ecolor=INK)
        ax.set(xlabel=clean(x_label), yticks=range(len(labels)), yticklabels=map(clean, labels))
        ax.set_ylim(len(labels) - 0.4, -0.6)
        ax.axvline(0, color=MUTED, lw=1)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x")
    table = Table(("", f"{x_label}>"), [(label, _with_half(length, half, at)) for at, label in enumerate(labels)])
    return Figure(title, to_svg(canvas, title, description), description, table)


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
    from matplotlib.patches import Rectangle

    count = np.asarray(counts, np.float64)
    share = count / np.maximum(count.sum(axis=1, keepdims=True) if of is None else np.asarray(of, np.float64), 1)
    size = len(labels)
    side = min(WIDTH, 220 + 34 * size)
    with canvas_of(side, side) as (canvas, (ax,)):
        for row, column in np.argwhere(share > 0):
            place = (column - 0.5, row - 0.5)
            ax.add_patch(Rectangle(place, 1, 1, fc=SERIES[0], alpha=float(share[row, column]), lw=0))
            if size <= _MOST_NAMED:
                colour = PAPER if share[row, column] > 0.55 else INK
                text = f"{100 * share[row, column]:.0f}"
                ax.text(column, row, text, ha="center", va="center", color=colour, fontsize="small")
        ax.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal", xlabel="predicted", ylabel="true")
        ax.set_xticks(range(size), map(clean, labels), rotation=90)
        ax.set_yticks(range(size), map(clean, labels))
        ax.tick_params(length=0)
    named = [
        [f"{value:g}" if of is None else f"{100 * part:.1f}" for value, part in zip(*row, strict=True)]
        for row in zip(count, share, strict=True)
    ]
    rows = [(label, *cells) for label, cells in zip(labels, named, strict=True)]
    return Figure(
        title, to_svg(canvas, title, description), description, Table(("", *(f"{label}>" for label in labels)), rows)
    )


def _number(value: float) -> Cell:
    return (
        Cell(f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}", sort=float(value))
        if np.isfinite(value)
        else Cell("")
    )


def _with_half(values: Numbers, halves: Numbers | None, at: int) -> Cell:
    value = float(np.asarray(values, np.float64)[at])
    half = float("nan") if halves is None else float(np.asarray(halves, np.float64)[at])
    return Cell(*with_half(value, half, scale=1), sort=value) if np.isfinite([value, half]).all() else _number(value)


def _thinned(rows: Sequence[tuple[Any, ...]], most: int = 400) -> Sequence[tuple[Any, ...]]:
    """Rows thinned evenly to at most `most`, as a long training would make the page heavy."""
    return rows[:: -(-len(rows) // most)] if len(rows) > most else rows
