"""Published figures as data, read from reports/published.toml, and shown in tables marked as not measured here."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from uamix_bench.plugins.card import Frozen
from uamix_bench.reports.blocks import Cell, Table
from uamix_bench.util.text import with_half

PerCent = Annotated[float, Field(ge=0, le=100)]

RECALLED = "‡"  # follows a value that was written down from memory


class Source(Frozen):
    """Source of published figures. `cards` names the models whose cards hold its BibTeX entries."""

    title: str
    url: str = ""
    cards: tuple[str, ...]
    slips: tuple[str, ...] = ()


class PublishedRow(Frozen):
    """Row of a published table.

    Attributes:
        label: Name in the source.
        model: Name of the registered model that it is about; empty if there is none.
        source: Id of the source, if it is not the table's.
        trained: Number of trained parameters, as published.
        mixing: Mixing of the tuning, if the table compares mixings.
        accuracy: Accuracy in per cent by task, and the half-width of its 95% interval if one is published.
        recalled: Tasks whose values were written down from memory and not read again in the source.
        note: Note that a reader needs.
    """

    label: str
    model: str = ""
    source: str = ""
    trained: str = ""
    mixing: str = ""
    accuracy: Mapping[str, tuple[PerCent] | tuple[PerCent, PerCent]]
    recalled: tuple[str, ...] = ()
    note: str = ""

    def cell(self, task: str) -> Cell:
        """Cell of a task: empty if nothing is published, marked if the value is only recalled."""
        if task not in self.accuracy:
            return Cell("")
        value, *half = self.accuracy[task]
        decimals = max(len(str(number).partition(".")[2]) for number in (value, *half))
        shown, minor = with_half(value, half[0] if half else None, decimals, scale=1)
        return Cell(shown, f"{minor} {RECALLED}".strip() if task in self.recalled else minor, sort=value / 100)


class PublishedTable(Frozen):
    """Published table of a paper or web page."""

    id: str
    title: str
    kind: Literal["few-shot", "fine-tuned", "linear probe"]
    n_way: int | None = None
    k_shot: int | None = None
    source: str = ""
    note: str = ""
    rows: tuple[PublishedRow, ...]


class Published(Frozen):
    """Content of reports/published.toml."""

    sources: Mapping[str, Source]
    tables: tuple[PublishedTable, ...]

    @model_validator(mode="after")
    def _names_its_sources(self) -> Published:
        for table in self.tables:
            for row in table.rows:
                if (row.source or table.source) not in self.sources:
                    raise ValueError(f"{table.id}, {row.label}: no such source")
                if not set(row.recalled) <= set(row.accuracy):
                    raise ValueError(f"{table.id}, {row.label}: recalled values that it does not have")
        return self

    def of(self, tasks: Iterable[str]) -> Published:
        """Tables with figures for one of the tasks, and the sources of these."""
        wanted = set(tasks)
        tables = tuple(one for one in self.tables if any(wanted & set(row.accuracy) for row in one.rows))
        names = {row.source or table.source for table in tables for row in table.rows}
        return Published(
            sources={name: source for name, source in self.sources.items() if name in names}, tables=tables
        )

    def table(self, id: str) -> PublishedTable:
        """Table of an id, such as ``uamix-table-2``."""
        return next(table for table in self.tables if table.id == id)

    def source_of(self, table: PublishedTable, row: PublishedRow) -> Source:
        """Source of a row."""
        return self.sources[row.source or table.source]

    def show(self, table: PublishedTable) -> Table:
        """Table for a page, with remarks, and the source of every row or of all."""
        tasks = list(dict.fromkeys(task for row in table.rows for task in row.accuracy))
        sources = [self.source_of(table, row) for row in table.rows]
        trained, many = any(row.trained for row in table.rows), len(set(map(id, sources))) > 1
        columns = ["published as", *(["trained>"] if trained else []), *(f"{task}>" for task in tasks)]
        rows = [
            (
                Cell(row.label, note=row.note),
                *((row.trained,) if trained else ()),
                *map(row.cell, tasks),
                *((Cell(source.title, mark="faint", href=source.url),) if many else ()),
            )
            for row, source in zip(table.rows, sources, strict=True)
        ]
        notes = [table.note, "" if many else f"Source: {sources[0].title}"]
        if any(row.recalled for row in table.rows):
            notes.append(f"{RECALLED} recalled from the literature, not verified in the source")
        return Table([*columns, *(["source"] if many else [])], rows, table.title, "\n\n".join(filter(None, notes)))


@cache
def published() -> Published:
    """Reads reports/published.toml."""
    return Published.model_validate(tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")))
