"""Section of one setting of the leaderboard: its table, its figures, and the table to copy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from uamix_bench.plugins import registry
from uamix_bench.plugins.card import trained_on
from uamix_bench.plugins.overlap import MARKS
from uamix_bench.records.results import Result
from uamix_bench.reports import figures
from uamix_bench.reports.blocks import Block, Cell, Code, Figure, Row, Section, Table, count, percent
from uamix_bench.reports.board import (
    BEST,
    DRAWN,
    Column,
    Setting,
    Standing,
    left_out_notes,
    overlap_notes,
    which_drawn,
    why_apart,
)
from uamix_bench.reports.class_page import class_file, result_href
from uamix_bench.reports.entrants import Entrant
from uamix_bench.reports.latex import booktabs
from uamix_bench.reports.markdown import markdown
from uamix_bench.reports.published import Published, PublishedRow, PublishedTable
from uamix_bench.util.text import classes_drawn, millions, per_second


def setting_section(setting: Setting, papers: Published) -> Section:
    """Section of a setting; templates/leaderboard.js selects sections by its ``data-`` attributes."""
    shown = _score_table(setting, papers)
    data = {"way": str(setting.protocol.n_way), "shot": str(setting.protocol.k_shot), "remarks": setting.remarks}
    blocks: list[Block] = [shown]
    if setting.standings:
        blocks += [_forest(setting), *_against_cost(setting)]
    blocks.append(Section("Copy this table", list(_copies(setting, shown)), look="folded"))
    return Section(setting.title, blocks, id=setting.id, data=data)


def _score_table(setting: Setting, papers: Published) -> Table:
    several = len(setting.columns) > 1
    columns: list[Cell | str] = [
        "model",
        "rank>",
        *(["mean>"] if several else []),
        *(
            Cell(
                f"{column.label}>",
                note=f"{classes_drawn(column.classes, column.classes_left_out)} classes",
                href=class_file(setting, column),
            )
            for column in setting.columns
        ),
        "parameters>",
        "clips/s>",
        "pre-trained on",
        "overlap",
    ]
    tests = len(setting.ranking.differences)
    notes = [
        "Each accuracy opens its provenance. ± is the half-width of the conventional 95% interval, these clips only.",
        f"{BEST} Underlined: cannot be told apart from it (paired t, same episodes, 5%, Holm over the "
        f"{count(tests, 'pair')} of this table). Rank: the range of places that a model may have, by its mean."
        if tests
        else "",
    ]
    notes += left_out_notes(setting.columns)
    notes += overlap_notes(result for row in setting.rows for result in row.results.values())
    groups: dict[str, list[Row]] = {}
    if setting.apart:
        apart = [_row(setting, Standing(entrant, row), several) for entrant, row in setting.apart]
        groups["Incomplete copy or limited, never ranked"] = apart
    for known, published in _published_here(setting, papers):
        heading = f"Published, not measured here: {known.title.partition(':')[0]}"
        groups[heading] = [_published_row(setting, row, several) for row in published]
    rows = [_row(setting, standing, several) for standing in setting.standings]
    caption = f"Accuracy in per cent: {_protocol_words(setting)}"
    return Table(columns, rows, caption, "\n\n".join(filter(None, notes)), groups)


def _protocol_words(setting: Setting) -> str:
    protocol = setting.protocol
    asked = f"{count(protocol.k_shot, 'support')} and {count(protocol.n_query, 'query', 'queries')} a class"
    return f"{protocol.episodes:,} episodes of {protocol.n_way} classes, {asked}, {setting.scoring}"


def _row(setting: Setting, standing: Standing, several: bool) -> Row:
    entrant = standing.entrant
    if standing.ranks is None and standing.mean is not None:
        rank = Cell(MARKS["overlaps"], sort=-1e6, note="trained on data of the task, not ranked")
        mean = percent(standing.mean, standing.half_width)
    elif standing.ranks is None:
        rank, mean = Cell(""), Cell("", note=f"{len(standing.results)} of {len(setting.columns)} tasks, not ranked")
        if len(standing.results) == len(setting.columns):
            mean = Cell("", note="not ranked")
    else:
        low, high = standing.ranks
        rank = Cell(f"{low}" if low == high else f"{low} to {high}", sort=-(low + high) / 2)
        mean = percent(standing.mean, standing.half_width)
    return (
        Cell(entrant.label),
        rank,
        *((mean,) if several else ()),
        *(_score(setting, column, standing.results.get(column.label)) for column in setting.columns),
        Cell(millions(entrant.identity.parameters), sort=entrant.identity.parameters),
        _speed(standing.entrant),
        Cell(trained_on(entrant.identity.pretrained_on), mark="faint"),
        Cell(standing.overlap.level, note=standing.overlap.why),
    )


def _speed(entrant: Entrant) -> Cell:
    if (speed := entrant.speed) is None:
        return Cell("")
    return Cell(per_second(speed.clips_per_s), sort=speed.clips_per_s, note="earlier run" * speed.earlier)


def _score(setting: Setting, column: Column, result: Result | None) -> Cell:
    if result is None:
        return Cell("")
    note = "" if result.cell() else why_apart(result)
    return setting.cell(result, href=result_href(setting, column, result), note=note)


def _published_here(setting: Setting, papers: Published) -> Iterator[tuple[PublishedTable, list[PublishedRow]]]:
    """Published rows for these ways and shots on one of these tasks; of equal ones the first."""
    tasks = {column.name for column in setting.columns}
    seen = set()
    for table in papers.tables:
        if setting.remarks or (table.n_way, table.k_shot) != (setting.protocol.n_way, setting.protocol.k_shot):
            continue
        rows = []
        for row in table.rows:
            said = (row.model, tuple(sorted((task, values[0]) for task, values in row.accuracy.items())))
            if tasks & set(row.accuracy) and said not in seen:
                seen.add(said)
                rows.append(row)
        if rows:
            yield table, rows


def _published_row(setting: Setting, row: PublishedRow, several: bool) -> Row:
    return (
        Cell(row.label),
        "",
        *(("",) if several else ()),
        *(row.cell(column.name) for column in setting.columns),
        Cell(f"{row.trained} trained" if row.trained else ""),
        "",
        "",
        "",
    )


def _forest(setting: Setting) -> Figure:
    rows = setting.standings[:DRAWN]
    panels = {}
    for column in setting.columns:
        scores = [row.results[column.label].score if column.label in row.results else None for row in rows]
        panels[column.label] = (
            [100 * score.accuracy if score else np.nan for score in scores],
            [100 * score.ci95 if score and score.ci95 is not None else np.nan for score in scores],
        )
    return figures.forest(
        f"Accuracy and its 95% interval, {setting.title}{which_drawn(len(setting.standings))}",
        [_marked(row) for row in rows],
        panels,
        x_label="accuracy in %",
        description=f"Accuracies with their 95% intervals at {setting.title}, one row a model, one panel a task. "
        + _best_words(setting),
        looks={_marked(row): row.entrant.look for row in rows},
    )


def _best_words(setting: Setting) -> str:
    words = []
    for column in setting.columns:
        held = [
            (row.results[column.label].score.accuracy, _marked(row))
            for row in setting.standings
            if column.label in row.results
        ]
        if held:
            accuracy, label = max(held)
            words.append(f"On {column.label} the highest is {label} with {100 * accuracy:.1f}%.")
    return " ".join(words)


def _against_cost(setting: Setting) -> Iterator[Figure]:
    """Figure of accuracy against speed, of the models that are ranked and were timed."""
    timed = [row for row in setting.standings if row.mean is not None and row.entrant.speed is not None]
    if len(timed) < 2:
        return
    several, timed = which_drawn(len(timed)), timed[:DRAWN]
    speeds = [row.entrant.speed for row in timed if row.entrant.speed]
    devices = sorted({speed.device for speed in speeds})
    named = {device: f" ({at})" for at, device in enumerate(devices, 1)} if len(devices) > 1 else {}
    where = "; ".join(f"{mark.strip()} {device}" for device, mark in named.items()) or devices[0]
    what = "mean accuracy in %" if len(setting.columns) > 1 else "accuracy in %"
    labels = [_marked(row) + named.get(speed.device, "") for row, speed in zip(timed, speeds, strict=True)]
    yield figures.scatter(
        f"Accuracy against cost, {setting.title}{several}",
        labels,
        [speed.clips_per_s for speed in speeds],
        [100 * (row.mean or 0.0) for row in timed],
        half=[100 * row.half_width if row.half_width is not None else np.nan for row in timed],
        x_label="clips embedded per second",
        y_label=what,
        description=f"{what.capitalize()} over embedding speed; further right is faster. Timed on {where}.",
        looks={label: row.entrant.look for label, row in zip(labels, timed, strict=True)},
    )


def _copies(setting: Setting, table: Table) -> Iterator[Code]:
    yield Code(markdown([table]), "Markdown")
    yield Code(booktabs(table), "LaTeX (booktabs)")
    if citations := _citations(setting):
        yield Code("\n\n".join(citations), "BibTeX")


def _citations(setting: Setting) -> list[str]:
    """BibTeX entries of the models and tasks of a table, each once."""
    cards = [_model_card(row.entrant.identity.name) for row in setting.standings]
    cards += [
        registry.tasks()[column.name].card if column.name in registry.tasks() else None for column in setting.columns
    ]
    if any(column.name in registry.tasks() for column in setting.columns):  # the protocol's
        cards.append(registry.models()["uamix"].card if "uamix" in registry.models() else None)
    return list(dict.fromkeys(card.citation.strip() for card in cards if card is not None and card.citation))


def _model_card(name: str) -> Any:
    """Card of a registered model or of bundled weights; None for a user's own name."""
    if name in registry.models():
        return registry.models()[name].card
    plugin = registry.bundled_weights().get(name)
    return plugin[0].card if plugin else None


def _marked(row: Standing) -> str:
    """Label of a model with the mark of its gravest overlap."""
    marks = {result.overlap_mark for result in row.results.values()}
    return f"{row.entrant.label} {MARKS[row.overlap.level] if MARKS[row.overlap.level] in marks else ''}".strip()
