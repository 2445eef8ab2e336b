"""Figures over plain arrays, drawn by matplotlib as SVG in the page's own colours, each with its numbers as a table.

Colours become CSS variables of templates/page.css, so that a figure follows light, dark and print; series differ by
marker and dash too. Text stays text. The output depends on nothing but the arguments: no dates, no random ids.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from uamix_bench.reports.page import FIGURE_ID, Cell, Figure, Table, clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# The light values of the variables in templates/page.css: what is drawn with, and what a viewer without CSS sees.
INK, MUTED, LINE, PAPER = "#1d1f23", "#5b6068", "#dcdcd6", "#fdfdfb"
SERIES = ("#2a63c4", "#bf4a10", "#0f7b5f", "#a3327a", "#857000", "#5b4bc4", "#0e7490", "#6b6f76")
_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", PAPER: "paper"}
_VARIABLES |= {colour: f"series-{number}" for number, colour in enumerate(SERIES, 1)}
_MARKERS = "osD^vPX*"
_DASHES = ("-", "--", "-.", ":")

_WIDTH = 880  # units of the SVG, a CSS pixel each where the page is wide enough
_MOST_MARKED = 40  # points of a line, up to which each gets a marker
_MOST_NAMED = 30  # rows of a matrix, up to which the numbers are written into it
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}href"

Numbers = npt.ArrayLike


@dataclass(frozen=True)
class Series:
    """A line of a figure.

    Attributes:
        label: What the legend calls it.
        x: (n,) where.
        y: (n,) how much.
        half: (n,) half-width of the band around it, NaN where there is none; None for no band.
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
    """A forest plot: values with their intervals, one row a label, one panel a name.

    Args:
        title: The caption.
        labels: (n,) rows, from the top.
        panels: Per panel (n,) values and (n,) half-widths, NaN where there is none.
        x_label: What the values are.
        description: What the figure shows, in words.
        reference: Where a vertical line is drawn, such as 0 for differences.
        marks: (n,) which series' colour a row takes; default all the first.
        share_x: Whether all panels have one scale.
    """
    rows, look = len(labels), marks or [0] * len(labels)
    with _canvas(_WIDTH, 74 + 24 * rows, len(panels), sharex=share_x, sharey=True) as (canvas, axes):
        for ax, (name, (values, halves)) in zip(axes, panels.items(), strict=True):
            value, half = np.asarray(values, np.float64), np.nan_to_num(np.asarray(halves, np.float64))
            for kind in sorted(set(look)):
                of = np.flatnonzero(np.isfinite(value) & (np.asarray(look) == kind))
                style = {"fmt": _MARKERS[kind % len(_MARKERS)], "color": SERIES[kind % len(SERIES)]}
                ax.errorbar(value[of], of, xerr=half[of], ms=6, lw=0, elinewidth=1.8, **style)
            if reference is not None:
                ax.axvline(reference, color=MUTED, lw=1, zorder=0)
            ax.set(title=clean(name), ylim=(rows - 0.4, -0.6), yticks=range(rows), yticklabels=map(clean, labels))
            ax.grid(axis="x")
            ax.spines["left"].set_visible(False)
            ax.tick_params(axis="y", length=0)
            ax.margins(x=0.08)
        canvas.supxlabel(clean(x_label), fontsize="medium", color=MUTED)
        canvas.get_layout_engine().set(wspace=0.06)
    table = Table(
        ("", *(f"{name or x_label}>" for name in panels)),
        [(label, *(_with_half(v, h, row) for v, h in panels.values())) for row, label in enumerate(labels)],
        note=f"{x_label}, ± half-width of the 95% interval",
    )
    return Figure(title, _svg(canvas, title, description), description, table)


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
    """Lines with bands, one panel a name: accuracy over K or N, a training. A label has one look throughout.

    Args:
        title: The caption.
        panels: Per panel its lines.
        x_label: What is along the bottom.
        y_label: What is along the side.
        description: What the figure shows, in words.
        x_ticks: Where the axis is labelled; default matplotlib's choice.
        log_x: Whether equal ratios of x are equal distances.
    """
    labels = list(dict.fromkeys(series.label for lines in panels.values() for series in lines))
    columns = 2 if len(panels) in (2, 4) else min(len(panels), 3)
    legend = 22 * -(-len(labels) // _legend_columns(labels))
    with _canvas(_WIDTH, 280 * -(-len(panels) // columns) + legend, len(panels), columns) as (canvas, axes):
        handles = {}
        for ax, (name, lines) in zip(axes, panels.items(), strict=True):
            for series in lines:
                look = labels.index(series.label)
                x, y = np.asarray(series.x, np.float64), np.asarray(series.y, np.float64)
                style = {"color": SERIES[look % len(SERIES)], "linestyle": _DASHES[look // len(SERIES) % len(_DASHES)]}
                marker = _MARKERS[look % len(_MARKERS)] if len(x) <= _MOST_MARKED else ""
                (handles[series.label],) = ax.plot(x, y, marker=marker, ms=5, lw=1.6, **style)
                if series.half is not None:
                    half = np.asarray(series.half, np.float64)
                    ax.fill_between(x, y - half, y + half, color=style["color"], alpha=0.15, lw=0)
            if log_x:
                _logarithmic(ax)
            if x_ticks is not None:
                ax.set_xticks(list(x_ticks), [f"{tick:g}" for tick in x_ticks])
            ax.set(title=clean(name), xlabel=clean(x_label), ylabel=clean(y_label) if ax in axes[::columns] else "")
            ax.grid()
        if len(labels) > 1:
            _legend(canvas, [handles[label] for label in labels], labels)
    many = len(panels) > 1
    rows = [
        (*((name,) if many else ()), series.label, _number(x), _with_half(series.y, series.half, at))
        for name, lines in panels.items()
        for series in lines
        for at, x in enumerate(np.asarray(series.x, np.float64))
    ]
    table = Table((*(("panel",) if many else ()), "series", f"{x_label}>", f"{y_label}>"), _thinned(rows))
    return Figure(title, _svg(canvas, title, description), description, table)


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
    """Points with their names.

    Args:
        title: The caption.
        labels: (n,) names.
        x: (n,) along the bottom.
        y: (n,) along the side.
        x_label: What x is.
        y_label: What y is.
        description: What the figure shows, in words.
        half: (n,) half-widths of y's intervals, NaN where there is none.
        log_x: Whether equal ratios of x are equal distances.
    """
    across, up = np.asarray(x, np.float64), np.asarray(y, np.float64)
    with _canvas(_WIDTH, 400) as (canvas, (ax,)):
        if log_x:
            _logarithmic(ax)
            room = 10 ** (0.1 + 0.16 * np.log10(across.max() / across.min()))
            ax.set_xlim(across.min() / room, across.max() * room)
        if half is not None:
            error = np.nan_to_num(np.asarray(half, np.float64))
            ax.errorbar(across, up, yerr=error, fmt="none", ecolor=MUTED, lw=1)
        for at, (one, other) in enumerate(zip(across, up, strict=True)):
            ax.plot(one, other, _MARKERS[at % len(_MARKERS)], color=SERIES[at % len(SERIES)], ms=8)
        ax.set(xlabel=clean(x_label), ylabel=clean(y_label))
        ax.margins(x=None if log_x else 0.16, y=0.12)
        ax.grid()
        canvas.draw_without_rendering()
        _name_points(ax, labels, across, up)
    rows = [
        (label, _number(one), _with_half(up, half, at))
        for at, (label, one) in enumerate(zip(labels, across, strict=True))
    ]
    table = Table(("", f"{x_label}>", f"{y_label}>"), rows)
    return Figure(title, _svg(canvas, title, description), description, table)


def points(
    title: str,
    panels: Mapping[str, npt.NDArray[Any]],
    class_of: Sequence[int],
    names: Sequence[str],
    *,
    description: str,
) -> Figure:
    """Clouds of points coloured by class, panels side by side without axes: a t-SNE of two models.

    Args:
        title: The caption.
        panels: Per panel (n, 2) positions.
        class_of: (n,) the class of each point.
        names: (C,) names of the classes.
        description: What the figure shows, in words.
    """
    of = np.asarray(class_of)
    with _canvas(_WIDTH, 420 + 22 * -(-len(names) // _legend_columns(names)), len(panels)) as (canvas, axes):
        for ax, (name, xy) in zip(axes, panels.items(), strict=True):
            handles = [
                ax.plot(*xy[of == c].T, _MARKERS[c % 8], color=SERIES[c % 8], ms=5, alpha=0.85, ls="")[0]
                for c in range(len(names))
            ]
            ax.set(title=clean(name), xticks=[], yticks=[])
            ax.spines[["left", "bottom"]].set_visible(False)
        _legend(canvas, handles, names)
    return Figure(title, _svg(canvas, title, description), description)


def histogram(
    title: str, samples: Mapping[str, Numbers], *, x_label: str, description: str, bins: Numbers | int = 20
) -> Figure:
    """Histograms of samples, in one frame.

    Args:
        title: The caption.
        samples: Per label (n,) values.
        x_label: What the values are.
        description: What the figure shows, in words.
        bins: Edges, or how many equal ones span all samples.
    """
    pooled = np.concatenate([np.asarray(values, np.float64).ravel() for values in samples.values()])
    edges = np.histogram_bin_edges(pooled, bins)
    counts = {label: np.histogram(np.asarray(values, np.float64), edges)[0] for label, values in samples.items()}
    with _canvas(_WIDTH, 300) as (canvas, (ax,)):
        handles = []
        for look, heights in enumerate(counts.values()):
            colour = SERIES[look % len(SERIES)]
            ax.stairs(heights, edges, fill=True, color=colour, alpha=0.2 if len(counts) > 1 else 0.45)
            handles.append(ax.stairs(heights, edges, color=colour, lw=1.6, ls=_DASHES[look % len(_DASHES)]))
        ax.set(xlabel=clean(x_label), ylabel="episodes" if "episode" in title.lower() else "count")
        ax.grid(axis="y")
        if len(counts) > 1:
            _legend(canvas, handles, list(counts))
    rows = [
        (f"{low:.4g} to {high:.4g}", *(str(heights[at]) for heights in counts.values()))
        for at, (low, high) in enumerate(pairwise(edges))
    ]
    table = Table((x_label, *(f"{label}>" for label in counts)), rows)
    return Figure(title, _svg(canvas, title, description), description, table)


def bars(
    title: str, labels: Sequence[str], values: Numbers, *, x_label: str, description: str, half: Numbers | None = None
) -> Figure:
    """Horizontal bars, one row a label.

    Args:
        title: The caption.
        labels: (n,) rows, from the top.
        values: (n,) lengths.
        x_label: What the values are.
        description: What the figure shows, in words.
        half: (n,) half-widths of their intervals.
    """
    length = np.asarray(values, np.float64)
    with _canvas(_WIDTH, 64 + 26 * len(labels)) as (canvas, (ax,)):
        error = None if half is None else np.nan_to_num(np.asarray(half, np.float64))
        ax.barh(range(len(labels)), length, 0.62, color=SERIES[0], xerr=error, ecolor=INK)
        ax.set(xlabel=clean(x_label), yticks=range(len(labels)), yticklabels=map(clean, labels))
        ax.set_ylim(len(labels) - 0.4, -0.6)
        ax.axvline(0, color=MUTED, lw=1)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x")
    table = Table(("", f"{x_label}>"), [(label, _with_half(length, half, at)) for at, label in enumerate(labels)])
    return Figure(title, _svg(canvas, title, description), description, table)


def matrix(
    title: str, labels: Sequence[str], counts: Numbers, *, description: str, of: Numbers | None = None
) -> Figure:
    """A confusion matrix: rows are true classes, columns predicted ones, the shade is a share.

    Args:
        title: The caption.
        labels: (C,) names of the classes.
        counts: (C, C) how often.
        description: What the figure shows, in words.
        of: (C, C) of how many; default the sum of the row.
    """
    from matplotlib.patches import Rectangle

    count = np.asarray(counts, np.float64)
    share = count / np.maximum(count.sum(axis=1, keepdims=True) if of is None else np.asarray(of, np.float64), 1)
    size = len(labels)
    side = min(_WIDTH, 220 + 34 * size)
    with _canvas(side, side) as (canvas, (ax,)):
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
        title, _svg(canvas, title, description), description, Table(("", *(f"{label}>" for label in labels)), rows)
    )


@contextmanager
def _canvas(
    width: float, height: float, panels: int = 1, columns: int = 0, **share: Any
) -> Iterator[tuple[Canvas, list[Axes]]]:
    """A figure of `width` x `height` units and its axes, under the house style; no global state is left behind."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "uamix-bench",
        "font.family": "sans-serif",
        "font.size": 12.5,
        "axes.titlesize": 12.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 12,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": MUTED,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.formatter.useoffset": False,
        "grid.color": LINE,
        "grid.linewidth": 0.8,
        "text.color": INK,
        "text.parse_math": False,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "xtick.labelsize": 11.5,
        "ytick.labelsize": 11.5,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "legend.frameon": False,
        "legend.fontsize": 12,
    }
    with matplotlib.rc_context(style):
        canvas = Canvas(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        columns = columns or panels
        axes = list(canvas.subplots(-(-panels // columns), columns, squeeze=False, **share).flat)
        for unused in axes[panels:]:
            unused.set_visible(False)
        yield canvas, axes[:panels]


def _logarithmic(ax: Axes) -> None:
    from matplotlib.ticker import LogLocator

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter("{x:,.4g}")
    ax.minorticks_off()


def _legend(canvas: Canvas, handles: Sequence[Any], labels: Sequence[str]) -> None:
    columns = _legend_columns(labels)
    canvas.legend(handles, list(map(clean, labels)), loc="outside lower center", ncols=columns)


def _legend_columns(labels: Sequence[str]) -> int:
    """How many labels fit side by side, at most four."""
    widest = 60 + 7 * max(map(len, labels), default=0)  # units of the SVG: the handle, and the letters
    return max(1, min(4, len(labels), _WIDTH // widest))


def _name_points(ax: Axes, labels: Sequence[str], x: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:
    """Writes names to the right of points, moved up or down until none lies on another."""
    line, reach = 15.0, 150.0  # units of the SVG
    placed: list[tuple[float, float]] = []
    for at in np.argsort(-y, kind="stable"):
        across, up = ax.transData.transform((x[at], y[at]))
        wanted = up
        while any(abs(across - one) < reach and abs(wanted - other) < line for one, other in placed):
            wanted -= 1.0
        placed.append((across, wanted))
        ax.annotate(
            clean(labels[at]),
            (x[at], y[at]),
            (10, wanted - up),
            textcoords="offset points",
            va="center",
            fontsize="small",
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
    if not np.isfinite(value):
        return Cell("")
    return Cell(f"{value:.4g}", f"± {half:.2g}" if np.isfinite(half) else "", sort=value)


def _thinned(rows: Sequence[tuple[Any, ...]], most: int = 400) -> Sequence[tuple[Any, ...]]:
    """Every so many rows, where a long training would make the page heavy."""
    return rows[:: -(-len(rows) // most)] if len(rows) > most else rows


def _svg(canvas: Canvas, title: str, description: str) -> str:
    """The figure as one ``<svg>`` element for the inside of a page.

    Style attributes, which the page's policy forbids, become presentation attributes; colours become CSS variables; ids
    carry a mark that the page replaces; numbers are rounded to a hundredth of a pixel.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "uamix-bench", "text.parse_math": False}):
        canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    tree = ElementTree.fromstring(buffer.getvalue())
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", buffer.getvalue()))
    for parent in list(tree.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in tree.iter():
        _present(element, used)
    names = [ElementTree.Element(f"{{{_SVG}}}{tag}", id=f"{FIGURE_ID}-{tag}") for tag in ("title", "desc")]
    names[0].text, names[1].text = clean(title), clean(description)
    tree[:0] = names
    tree.attrib = {
        "viewBox": tree.attrib["viewBox"],
        "width": tree.attrib["width"].removesuffix("pt"),
        "height": tree.attrib["height"].removesuffix("pt"),
        "role": "img",
        "aria-labelledby": f"{FIGURE_ID}-title {FIGURE_ID}-desc",
    }
    ElementTree.register_namespace("", _SVG)
    text = ElementTree.tostring(tree, encoding="unicode")
    return re.sub(r"\s*\n\s*", "\n", text)


def _present(element: ElementTree.Element, used: set[str]) -> None:
    """Rewrites the attributes of one element for the inside of a page."""
    attributes = element.attrib
    for declaration in attributes.pop("style", "").split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font":
            size = re.search(r"([\d.]+)px", value)
            attributes["font-size"] = size[1] if size else "12"
            if re.search(r"\b[5-9]00\b", value):
                attributes["font-weight"] = "600"
        elif name and name != "font-family":
            attributes[name] = value
    own = attributes.pop("id", "")
    if own in used:
        attributes["id"] = f"{FIGURE_ID}-{own}"
    target = attributes.pop(_XLINK, None)
    if target:
        attributes["href"] = f"#{FIGURE_ID}-{target.removeprefix('#')}"
    for name, value in attributes.items():
        if name in (
            "d",
            "points",
            "transform",
            "x",
            "y",
            "width",
            "height",
            "stroke-width",
            "font-size",
            "stroke-dasharray",
        ):
            attributes[name] = re.sub(
                r"-?\d+\.\d+", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), value
            )
            attributes[name] = " ".join(attributes[name].split())
        elif name in ("fill", "stroke") and value in _VARIABLES:
            attributes[name] = f"var(--{_VARIABLES[value]}, {value})"
        elif name == "clip-path":
            attributes[name] = value.replace("url(#", f"url(#{FIGURE_ID}-")
