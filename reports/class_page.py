"""Accuracy by class, of every model of one column: a page of its own, as a task may have a thousand classes."""

from __future__ import annotations

from uamix_bench.reports.blocks import Cell, Row, Table, count, percent
from uamix_bench.reports.board import Column, Setting, Standing
from uamix_bench.reports.page import Page, render, slug


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
        ["class", *(f"{row.entrant.label}>" for row in rows)],
        body,
        f"Accuracy by class in per cent, {setting.title}",
        "A query is classified among the classes of its episode: a class is easy or hard relative to the others.",
    )
    return render(
        f"{column.label}, {setting.title}: accuracy by class",
        [table],
        up=Cell("Leaderboard", href="index.html"),
        lead=f"{count(len(labels), 'class', 'classes')}, {count(len(rows), 'model')}.",
    )


def _class_cell(counts: tuple[int, int] | None) -> Cell:
    if counts is None:
        return Cell("")
    hit, total = counts
    return percent(hit / total) if total else Cell("")
