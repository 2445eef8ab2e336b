"""Accuracy by class, of every model of one column: a page of its own, as a task may have a thousand classes."""

from __future__ import annotations

from uamix_bench.records.results import Result
from uamix_bench.reports.blocks import Cell, Row, Table, count, percent
from uamix_bench.reports.board import Column, Setting, Standing, overlap_notes, why_apart
from uamix_bench.reports.page import Page, render, slug

_ABOUT = "A query is classified among the classes of its episode: a class is easy or hard relative to the others."


def class_file(setting: Setting, column: Column) -> str:
    """Name of the page of a column."""
    return f"classes-{setting.id}-{slug(column.label)}-{column.key[:6] or 'partial'}.html"


def class_page(setting: Setting, column: Column) -> Page:
    """Page of a column."""
    rows = [row for row in setting.standings if column.label in row.results]
    rows += [Standing(entrant, held) for entrant, held in setting.apart if column.label in held]
    counts = [row.results[column.label].per_class for row in rows]
    labels = sorted({label for one in counts for label in one})
    body: list[Row] = [(label, *(_class_cell(one.get(label)) for one in counts)) for label in labels]
    table = Table(
        ["class", *(_heading(row.entrant.label, row.results[column.label]) for row in rows)],
        body,
        f"Accuracy by class in per cent, {setting.title}",
        "\n\n".join([_ABOUT, *overlap_notes(row.results[column.label] for row in rows)]),
    )
    return render(
        f"{column.label}, {setting.title}: accuracy by class",
        [table],
        up=Cell("Leaderboard", href="index.html"),
        lead=f"{count(len(labels), 'class', 'classes')}, {count(len(rows), 'model')}.",
    )


def _heading(label: str, result: Result) -> Cell:
    """Heading of a model's column, marked if its training data may be of the task, or if it is partial."""
    note = "" if result.cell() else f"{why_apart(result)}, not ranked"
    return Cell(f"{label} {result.overlap_mark}".strip() + ">", note=note)


def _class_cell(counts: tuple[int, int] | None) -> Cell:
    if counts is None:
        return Cell("")
    hit, total = counts
    return percent(hit / total) if total else Cell("")
