"""Measured times as tables of a page: ours, the others', the least the machine can do it in, and our share of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from uamix_bench.reports.blocks import Cell, Table

from .timing import Seconds, Times

NOT_INSTALLED = "not installed"
SHARE = "share of limit>"


@dataclass(frozen=True)
class Case:
    """One row: something measured.

    Attributes:
        name: What it was.
        times: Of ``ours`` and of others.
        limit: (rounds,) the seconds a unit that the machine's own limit allows.
        absent: Others that were not timed, and why.
    """

    name: str
    times: Times
    limit: Seconds
    absent: Mapping[str, str] = field(default_factory=dict)

    def row(self, others: Sequence[str], shown: Callable[[float], str]) -> list[Cell | str]:
        """The cells of a :func:`comparison`."""
        cells: list[Cell | str] = [self.name, shown(self.times.median("ours"))]
        for other in others:
            if other in self.absent:
                cells.append(self.absent[other])
            else:
                ratio = f"({self.times.ratio(other, 'ours'):.3g}×)"
                cells.append(Cell(shown(self.times.median(other)), ratio))
        share = float(np.median(self.limit / self.times.seconds["ours"]))
        return [*cells, shown(float(np.median(self.limit))), per_cent(share)]


def comparison(
    title: str, cases: Sequence[Case], others: Sequence[str], unit: str, shown: Callable[[float], str], note: str = ""
) -> Table:
    """A row for each case; beside what another takes stands how many times as long that is as ours.

    Args:
        title: The caption; it also heads the first column.
        cases: The rows.
        others: Sides of the cases' times, a column each.
        unit: What the numbers are, such as ``ms a clip``.
        shown: Seconds a unit to text.
        note: What else the reader must know.
    """
    columns = [title, f"here, {unit}>", *(f"{other}>" for other in others), "limit>", SHARE]
    return Table(columns, [case.row(others, shown) for case in cases], note=note)


def rate(seconds: float) -> str:
    """So many a second."""
    return significant(1 / seconds)


def milliseconds(seconds: float) -> str:
    return significant(1e3 * seconds)


def microseconds(seconds: float) -> str:
    return significant(1e6 * seconds)


def significant(value: float) -> str:
    """Three significant digits, thousands separated, no exponent."""
    if value == 0 or not np.isfinite(value):
        return f"{value}"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{digits}f}"


def per_cent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"
