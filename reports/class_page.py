"""Accuracy by class: a figure, and the page of one column, with its classes (maybe a thousand) and its results."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from uamix_bench.records.results import Result
from uamix_bench.reports import figures
from uamix_bench.reports.blocks import Cell, Figure, Row, Section, Table, count, percent
from uamix_bench.reports.board import Column, Setting, overlap_notes, why_apart
from uamix_bench.reports.page import Page, render, slug
from uamix_bench.reports.result_card import drawer, drawer_id

MOST_CLASSES = 60  # that a matrix or a forest can show
_EXTREME = 20  # hardest and easiest, where there are more
_ABOUT = "A query is classified among the classes of its episode: a class is easy or hard relative to the others."


def class_file(setting: Setting, column: Column) -> str:
    """Name of the page of a column."""
    return f"classes-{setting.id}-{slug(column.label)}-{column.key[:6] or 'partial'}.html"


def result_href(setting: Setting, column: Column, result: Result) -> str:
    """Link to the drawer of a result, on the page of its column."""
    return f"{class_file(setting, column)}#{drawer_id(result)}"


def class_page(setting: Setting, column: Column) -> Page:
    """Page of a column: accuracy by class, and a drawer of each result."""
    rows = [row for row in setting.rows if column.label in row.results]
    counts = [row.results[column.label].per_class for row in rows]
    labels = sorted({label for one in counts for label in one})
    body: list[Row] = [(label, *(_class_cell(one.get(label)) for one in counts)) for label in labels]
    table = Table(
        ["class", *(_heading(row.entrant.label, row.results[column.label]) for row in rows)],
        body,
        f"Accuracy by class in per cent, {setting.title}",
        "\n\n".join([_ABOUT, *overlap_notes(row.results[column.label] for row in rows)]),
    )
    drawers = [drawer(row.results[column.label], row.entrant.label) for row in rows]
    return render(
        f"{column.label}, {setting.title}",
        [table, Section("Results", drawers, id="results")],
        up=Cell("Leaderboard", href=f"index.html#{setting.id}"),
        lead=f"{count(len(labels), 'class', 'classes')}, {count(len(rows), 'model')}.",
    )


def _heading(label: str, result: Result) -> Cell:
    """Heading of a model's column, marked if its training data may be of the task, or if it is partial."""
    note = "provenance" if result.cell() else f"{why_apart(result)}, not ranked"
    return Cell(f"{label} {result.overlap_mark}".strip() + ">", note=note, href=f"#{drawer_id(result)}")


def _class_cell(counts: tuple[int, int] | None) -> Cell:
    if counts is None:
        return Cell("")
    hit, total = counts
    return percent(hit / total) if total else Cell("")


def by_class(
    rates: Mapping[str, Mapping[str, float]], looks: Mapping[str, int], words: str, metric: str = "accuracy"
) -> Figure:
    """Figure of a metric by class, a panel a model, the hardest on average first; of many classes both ends.

    Args:
        rates: Fraction of each class, by model.
        looks: Numbers of the models' looks.
        words: Sentence on a row.
        metric: Name of the metric.
    """
    labels = sorted({label for of_model in rates.values() for label in of_model})
    labels.sort(key=lambda label: np.mean([of_model[label] for of_model in rates.values() if label in of_model]))
    of = f"{len(labels)} classes"
    if len(labels) > MOST_CLASSES:
        labels = [*labels[:_EXTREME], *labels[-_EXTREME:]]
        of = f"the {_EXTREME} hardest and the {_EXTREME} easiest of {of}"
    none = [np.nan] * len(labels)
    return figures.forest(
        f"{metric.capitalize()} by class, {of}",
        labels,
        {model: ([100 * of_model.get(label, np.nan) for label in labels], none) for model, of_model in rates.items()},
        x_label=f"{metric} in %",
        share_x=True,
        looks=looks,
        description=f"{words}: {labels[0]} is the hardest, {labels[-1]} the easiest.",
    )
