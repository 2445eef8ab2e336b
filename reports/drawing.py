"""Drawing of figures: matplotlib under the house style, and its SVG made part of a page.

Colours become CSS variables of templates/page.css, so that a figure follows light, dark and print. Text stays text. The
output depends on the drawn data alone: no dates, no random ids.
"""

from __future__ import annotations

import io
import re
import textwrap
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from uamix_bench.reports.blocks import FIGURE_ID, clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# The light values of the variables in templates/page.css: what is drawn with, and what a viewer without CSS sees. Any
# two series are told apart by readers with protanopia, deuteranopia or tritanopia as well, in light and in dark.
INK, MUTED, LINE, PAPER = "#1d1f23", "#5b6068", "#dcdcd6", "#fdfdfb"
SERIES = ("#1a57cf", "#9e2d06", "#6b985a", "#dc4b93", "#ae8600", "#5c007d", "#0090e0", "#434b4a")
VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", PAPER: "paper"}
VARIABLES |= {colour: f"series-{number}" for number, colour in enumerate(SERIES, 1)}
MARKERS = "osD^vPX*"
DASHES = ("-", "--", "-.", ":")
# Widths of the two drawings of a figure in units of the SVG: for a desk, where it fills the page and a unit is about a
# CSS pixel, and for a phone, 390 pixels wide less the margins of the page.
WIDTH, NARROW = 1080, 358

POINTS = "points-"  # with a number: gid of a line whose markers have names
_SVG = "http://www.w3.org/2000/svg"
_MEASURES = frozenset("d points transform x y width height stroke-width font-size stroke-dasharray".split())
_XLINK = "{http://www.w3.org/1999/xlink}href"


@contextmanager
def canvas_of(
    width: float, height: float, panels: int = 1, columns: int = 0, **share: Any
) -> Iterator[tuple[Canvas, list[Axes]]]:
    """Figure of `width` x `height` units and its axes, under the house style; no global state is left behind."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    style: dict[Any, object] = {
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


class Look(NamedTuple):
    """Look of a series: colour, marker and dashes, so that it is told from others without colour, too."""

    color: str
    marker: str
    dashes: str


def look_of(number: int) -> Look:
    """Look by number. Those of equal remainders by eight share a colour and differ in marker and dashes."""
    again = number // len(SERIES)
    return Look(SERIES[number % len(SERIES)], MARKERS[(number + again) % len(MARKERS)], DASHES[again % len(DASHES)])


def drawn(
    draw: Callable[[int], Canvas], title: str, description: str, points: Sequence[Sequence[str]] = ()
) -> tuple[str, str]:
    """SVGs of a figure for a desk and for a phone; `draw` lays it out for a width. For `points` see :func:`to_svg`."""
    wide, narrow = (to_svg(draw(width), title, description, points) for width in (WIDTH, NARROW))
    return wide, narrow


def wrapped(text: str, width: float) -> str:
    """Text as lines that fit into a width in units of the SVG."""
    return textwrap.fill(clean(text), max(12, int(width / 7)))


def row_names(names: Iterable[str], width: int) -> tuple[list[str], int]:
    """Names of rows, wrapped on a phone so that they leave room for the plot; and the most lines of one."""
    lines = [wrapped(name, 0.32 * width) if width < WIDTH else clean(name) for name in names]
    return lines, 1 + max((line.count("\n") for line in lines), default=0)


def panel_titles(names: Iterable[str], columns: int, width: float = WIDTH) -> tuple[list[str], int]:
    """Titles of panels, `columns` a row, wrapped to the width of a panel; and the height of their further lines."""
    letters = max(12, int(width / columns / 8))  # 8 units of the SVG each
    titles = [textwrap.fill(clean(name), letters) for name in names]
    return titles, 15 * max((title.count("\n") for title in titles), default=0)


def logarithmic(ax: Axes) -> None:
    """Makes equal ratios of x equal distances, labelled at 1, 2 and 5 times the powers of ten."""
    from matplotlib.ticker import LogLocator

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter("{x:,.4g}")
    ax.minorticks_off()


def draw_legend(canvas: Canvas, handles: Sequence[Any], labels: Sequence[str], width: int) -> None:
    """Writes a legend below all panels."""
    names = [wrapped(label, width - 60) for label in labels]
    canvas.legend(handles, names, loc="outside lower center", ncols=_legend_columns(labels, width))


def legend_height(labels: Sequence[str], width: int) -> int:
    """Height that a legend takes; none of one label."""
    if len(labels) < 2:
        return 0
    lines = max(1 + wrapped(label, width - 60).count("\n") for label in labels)
    return 22 * lines * -(-len(labels) // _legend_columns(labels, width))


def _legend_columns(labels: Sequence[str], width: int) -> int:
    """Number of labels that fit side by side, at most four."""
    widest = 60 + 7 * max(map(len, labels), default=0)  # units of the SVG: the handle, and the letters
    return max(1, min(4, len(labels), width // widest))


def name_points(ax: Axes, labels: Sequence[str], x: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:
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


def to_svg(canvas: Canvas, title: str, description: str, points: Sequence[Sequence[str]] = ()) -> str:
    """SVG of a figure, as one ``<svg>`` element for the inside of a page.

    Style attributes, which the page's policy forbids, become presentation attributes; colours become CSS variables; ids
    carry a mark that the page replaces; numbers are rounded to a hundredth of a pixel.

    Args:
        canvas: Figure to write.
        title: Title of the figure.
        description: Description of the figure in words.
        points: Names of the markers of each line whose gid is `POINTS` and a number, in the order of their points.
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
        if points and element.get("id", "").startswith(POINTS):
            _name_markers(element, points[int(element.attrib["id"].removeprefix(POINTS))])
    for element in tree.iter():
        _present(element, used)
    names = [ElementTree.Element(f"{{{_SVG}}}{tag}", id=f"{FIGURE_ID}-{tag}") for tag in ("title", "desc")]
    names[0].text, names[1].text = clean(title), clean(description)
    tree[:0] = names
    tree.attrib = {
        "viewBox": tree.attrib["viewBox"],
        **_size(float(tree.attrib["width"].removesuffix("pt")), float(tree.attrib["height"].removesuffix("pt"))),
        "role": "img",
        "aria-labelledby": f"{FIGURE_ID}-title {FIGURE_ID}-desc",
    }
    ElementTree.register_namespace("", _SVG)
    text = ElementTree.tostring(tree, encoding="unicode")
    return re.sub(r"\s*\n\s*", "\n", text)


def _size(width: float, height: float) -> dict[str, str]:
    """Size of a drawing: all of the room if it was laid out for it, else its own."""
    return {"width": "100%"} if round(width) in (WIDTH, NARROW) else {"width": f"{width:g}", "height": f"{height:g}"}


def _name_markers(line: ElementTree.Element, names: Sequence[str]) -> None:
    """Gives each marker of a line its name, which browsers show where the pointer rests."""
    markers = list(line.iter(f"{{{_SVG}}}use"))
    if len(markers) != len(names):  # a point beyond the frame has no marker
        raise ValueError(f"{len(names)} names for {len(markers)} markers")
    for marker, name in zip(markers, names, strict=True):
        ElementTree.SubElement(marker, f"{{{_SVG}}}title").text = clean(name)


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
        if name in _MEASURES:
            attributes[name] = re.sub(
                r"-?\d+\.\d+", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), value
            )
            attributes[name] = " ".join(attributes[name].split())
        elif name in ("fill", "stroke") and value in VARIABLES:
            attributes[name] = f"var(--{VARIABLES[value]}, {value})"
        elif name == "clip-path":
            attributes[name] = value.replace("url(#", f"url(#{FIGURE_ID}-")
