"""Figures over plain arrays, drawn by drawing.py for a desk and for a phone, each with its numbers as a table.

Series differ by colour, marker and dash, and a label has one look in all panels of a figure. `looks` gives labels, such
as the names of models, the same look in all figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from uamix_bench.reports.blocks import Cell, Figure, Table, clean
from uamix_bench.reports.drawing import (
    MUTED,
    POINTS,
    WIDTH,
    canvas_of,
    draw_legend,
    drawn,
    legend_height,
    logarithmic,
    look_of,
    name_points,
    panel_titles,
    row_names,
    wrapped,
)
from uamix_bench.util.text import with_half

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_MOST_ROWS = 400  # of a table below curves, thinned evenly: a long training would make the page heavy
_MOST_MARKED = 40  # points of a line, up to which each gets a marker

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
    looks: Mapping[str, int] | None = None,
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
        looks: Numbers of the looks of rows or of panels, by name; default all the first.
        share_x: Whether all panels have one scale.
    """
    rows, known = len(labels), looks or {}

    def draw(width: int) -> Canvas:
        columns = len(panels) if width == WIDTH else 1
        names, lines = row_names(labels, width)
        titles, more = panel_titles(panels, columns, width if width == WIDTH else 0.6 * width)
        height = (50 + more + (10 + 14 * lines) * rows) * -(-len(panels) // columns) + 24
        with canvas_of(width, height, len(panels), columns, sharex=share_x, sharey=True) as (canvas, axes):
            for ax, name, panel, (values, halves) in zip(axes, titles, panels, panels.values(), strict=True):
                value, half = np.asarray(values, np.float64), np.nan_to_num(np.asarray(halves, np.float64))
                of = np.flatnonzero(np.isfinite(value))
                found = [look_of(known.get(panel, known.get(label, 0))) for label in labels]
                colors, markers = (np.array(part) for part in list(zip(*found, strict=True))[:2])
                ax.errorbar(value[of], of, xerr=half[of], fmt="none", ecolor=colors[of].tolist(), elinewidth=1.8)
                for marker in sorted(set(markers[of].tolist())):
                    at = of[markers[of] == marker]
                    ax.scatter(value[at], at, s=36, c=colors[at], marker=marker, linewidths=1)
                if reference is not None:
                    ax.axvline(reference, color=MUTED, lw=1, zorder=0)
                ax.set(title=name, ylim=(rows - 0.4, -0.6), yticks=range(rows), yticklabels=names)
                ax.grid(axis="x")
                ax.spines["left"].set_visible(False)
                ax.tick_params(axis="y", length=0)
                ax.margins(x=0.08)
            canvas.supxlabel(wrapped(x_label, width), fontsize="medium", color=MUTED)
            canvas.set_layout_engine("constrained", wspace=0.06)
        return canvas

    table = Table(
        ("", *(f"{name or x_label}>" for name in panels)),
        [(label, *(_with_half(v, h, row) for v, h in panels.values())) for row, label in enumerate(labels)],
        note=f"{x_label}, ± half-width of the 95% interval",
    )
    return figure(title, draw, description, table)


def curves(
    title: str,
    panels: Mapping[str, Sequence[Series]],
    *,
    x_label: str,
    y_label: str,
    description: str,
    x_ticks: Sequence[float] | None = None,
    log_x: bool = False,
    looks: Mapping[str, int] | None = None,
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
        looks: Numbers of the looks of lines, by label; default in their order.
    """
    labels = list(dict.fromkeys(series.label for lines in panels.values() for series in lines))
    known = looks or {label: at for at, label in enumerate(labels)}

    def draw(width: int) -> Canvas:
        columns = 1 if width < WIDTH else 2 if len(panels) in (2, 4) else min(len(panels), 3)
        titles, more = panel_titles(panels, columns, width)
        height = ((280 if width == WIDTH else 230) + more) * -(-len(panels) // columns) + legend_height(labels, width)
        with canvas_of(width, height, len(panels), columns) as (canvas, axes):
            handles = {}
            for ax, name, lines in zip(axes, titles, panels.values(), strict=True):
                for series in lines:
                    color, marker, dashes = look_of(known[series.label])
                    x, y = np.asarray(series.x, np.float64), np.asarray(series.y, np.float64)
                    marker = marker if len(x) <= _MOST_MARKED else ""
                    (handles[series.label],) = ax.plot(x, y, marker=marker, ms=5, lw=1.6, color=color, linestyle=dashes)
                    if series.half is not None:
                        half = np.asarray(series.half, np.float64)
                        ax.fill_between(x, y - half, y + half, color=color, alpha=0.15, lw=0)
                if log_x:
                    logarithmic(ax)
                if x_ticks is not None:
                    ax.set_xticks(list(x_ticks), [f"{tick:g}" for tick in x_ticks])
                y_words = wrapped(y_label, 230) if ax in axes[::columns] else ""
                ax.set(title=name, xlabel=wrapped(x_label, width / columns), ylabel=y_words)
                ax.grid()
            if len(labels) > 1:
                draw_legend(canvas, [handles[label] for label in labels], labels, width)
        return canvas

    many = len(panels) > 1
    rows = [
        (*((name,) if many else ()), series.label, _number(x), _with_half(series.y, series.half, at))
        for name, lines in panels.items()
        for series in lines
        for at, x in enumerate(np.asarray(series.x, np.float64))
    ]
    table = Table(
        (*(("panel",) if many else ()), "series", f"{x_label}>", f"{y_label}>"),
        rows[:: max(1, -(-len(rows) // _MOST_ROWS))],
    )
    return figure(title, draw, description, table)


def scatter(
    title: str,
    labels: Sequence[str],
    x: Numbers,
    y: Numbers,
    *,
    x_label: str,
    y_label: str,
    description: str,
    half: Numbers,
    looks: Mapping[str, int] | None = None,
) -> Figure:
    """Scatter plot of points with their names, on a phone with a legend; equal ratios of x are equal distances.

    Args:
        title: Caption of the figure.
        labels: (n,) names of the points.
        x: (n,) positions along the bottom.
        y: (n,) positions along the side.
        x_label: Label of the axis along the bottom.
        y_label: Label of the axis along the side.
        description: Description of the figure in words.
        half: (n,) half-widths of y's intervals, NaN if there is none.
        looks: Numbers of the looks of points, by label; default in their order.
    """
    known = looks or {label: at for at, label in enumerate(labels)}
    across, up = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def draw(width: int) -> Canvas:
        narrow = width < WIDTH
        with canvas_of(width, 300 + legend_height(labels, width) if narrow else 400) as (canvas, (ax,)):
            logarithmic(ax)
            room = 10 ** (0.1 + (0 if narrow else 0.16) * np.log10(across.max() / across.min()))
            ax.set_xlim(across.min() / room, across.max() * room)
            error = np.nan_to_num(np.asarray(half, np.float64))
            ax.errorbar(across, up, yerr=error, fmt="none", ecolor=MUTED, lw=1)
            handles = []
            for label, one, other in zip(labels, across, up, strict=True):
                look = look_of(known[label])
                handles += ax.plot(one, other, look.marker, color=look.color, ms=8, ls="")
            ax.set(xlabel=clean(x_label), ylabel=clean(y_label))
            ax.margins(y=0.12)
            ax.grid()
            if narrow:
                draw_legend(canvas, handles, labels, width)
            else:
                canvas.draw_without_rendering()
                name_points(ax, labels, across, up)
        return canvas

    rows = [
        (label, _number(one), _with_half(up, half, at))
        for at, (label, one) in enumerate(zip(labels, across, strict=True))
    ]
    table = Table(("", f"{x_label}>", f"{y_label}>"), rows)
    return figure(title, draw, description, table)


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

    def draw(width: int) -> Canvas:
        columns = len(panels) if width == WIDTH else 1
        titles, more = panel_titles(panels, columns, width)
        height = (420 if width == WIDTH else 330) + more
        height = height * -(-len(panels) // columns) + legend_height(names, width)
        with canvas_of(width, height, len(panels), columns) as (canvas, axes):
            for ax, name, xy in zip(axes, titles, panels.values(), strict=True):
                looks = [look_of(c) for c in range(len(names))]
                handles = [
                    ax.plot(*xy[of == c].T, look.marker, color=look.color, ms=5, alpha=0.85, ls="")[0]
                    for c, look in enumerate(looks)
                ]
                for c, line in enumerate(handles):
                    line.set_gid(f"{POINTS}{c}")
                ax.set(title=name, xticks=[], yticks=[])
                ax.spines[["left", "bottom"]].set_visible(False)
            draw_legend(canvas, handles, names, width)
        return canvas

    titled = range(len(names)) if titles_of else ()
    by_class = [[titles_of[at] for at in np.flatnonzero(of == c).tolist()] for c in titled]
    return figure(title, draw, description, points=by_class)


def histogram(
    title: str,
    samples: Mapping[str, Numbers],
    *,
    x_label: str,
    description: str,
    bins: Numbers,
    looks: Mapping[str, int] | None = None,
) -> Figure:
    """Histograms of samples of episodes, in one frame.

    Args:
        title: Caption of the figure.
        samples: Values (n,) of each label.
        x_label: Label of the axis of the values.
        description: Description of the figure in words.
        bins: Edges of the bins.
        looks: Numbers of the looks of samples, by label; default in their order.
    """
    known = looks or {label: at for at, label in enumerate(samples)}
    edges = np.asarray(bins, np.float64)
    counts = {label: np.histogram(np.asarray(values, np.float64), edges)[0] for label, values in samples.items()}

    def draw(width: int) -> Canvas:
        labels = list(counts)
        with canvas_of(width, 280 + legend_height(labels, width)) as (canvas, (ax,)):
            handles = []
            for at, (label, heights) in enumerate(counts.items()):
                style: dict[str, Any] = {"color": look_of(known[label]).color}
                ax.stairs(heights, edges, fill=True, alpha=0.2 if len(counts) > 1 else 0.45, **style)
                handles.append(ax.stairs(heights, edges, lw=1.6, ls=look_of(8 * at).dashes, **style))
            ax.set(xlabel=clean(x_label), ylabel="episodes")
            ax.grid(axis="y")
            if len(labels) > 1:
                draw_legend(canvas, handles, labels, width)
        return canvas

    rows = [
        (f"{low:.4g} to {high:.4g}", *(str(heights[at]) for heights in counts.values()))
        for at, (low, high) in enumerate(pairwise(edges))
    ]
    table = Table((x_label, *(f"{label}>" for label in counts)), rows)
    return figure(title, draw, description, table)


def figure(
    title: str,
    draw: Callable[[int], Canvas],
    description: str,
    table: Table | None = None,
    points: Sequence[Sequence[str]] = (),
) -> Figure:
    """Figure drawn for both widths by a function that lays it out for one."""
    wide, narrow = drawn(draw, title, description, points)
    return Figure(title, wide, description, table, narrow)


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
