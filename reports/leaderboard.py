"""Leaderboard: few-shot results as a static site that opens from disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from uamix_bench.records.results import Result
from uamix_bench.reports.blocks import Block, Cell, Facts, Prose, Section, Table, count, score_cell
from uamix_bench.reports.board import Board, Column, Draws, Setting, board, overlap_notes
from uamix_bench.reports.class_page import class_file, class_page, result_href
from uamix_bench.reports.curves import accuracy_curves
from uamix_bench.reports.page import Page, Texts, render
from uamix_bench.reports.published import Published, published
from uamix_bench.reports.score_table import setting_section
from uamix_bench.util.errors import UsageError


def leaderboard(
    records: Iterable[Any], *, title: str = "Few-shot audio leaderboard", draws: Draws | None = None
) -> Page:
    """Renders the site.

    Args:
        records: Records of any kind; those of few-shot evaluations are shown.
        title: Title of the index.
        draws: Function that gives the episodes of results; see :func:`uamix_bench.reports.board.board`. Without it no
            model is best for new clips.

    Raises:
        UsageError: The records hold no few-shot result.
    """
    results = [record for record in records if isinstance(record, Result)]
    if not results:
        raise UsageError("leaderboard", "no few-shot result among the records", "run 'uamix-bench fewshot' first")
    table = board(results, draws)
    papers = published().of(table.tasks)
    columns = [(setting, column) for setting in table.settings for column in setting.columns]
    return render(
        title,
        [
            Section("Accuracy", list(_settings(table, papers)), id="settings"),
            *_more(table),
            _reading(papers),
            *([Section("Published figures", list(_published(papers)), id="published")] if papers.tables else []),
        ],
        lead=_lead(table),
        footer="Made by uamix-bench. "
        + ("Published figures are their authors' own; all others" if papers.tables else "All figures")
        + " can be recomputed from the result files.",
        scripts=["leaderboard.js"],
        files=Texts({class_file(*both): partial(_class_html, *both) for both in columns}),
        said=table.earlier,
    )


def _class_html(setting: Setting, column: Column) -> str:
    return class_page(setting, column).html


def _lead(table: Board) -> str:
    newest = max(result.provenance.started_at for result in table.results)[:10]
    text = (
        f"{count(len(table.entrants), 'model')} on {count(len(table.tasks), 'task')} at "
        f"{count(len(table.settings), 'setting')}: {count(len(table.results), 'result')}, the newest of {newest}."
    )
    if table.superseded:
        text += f" {count(table.superseded, 'older result')} of the same evaluation skipped."
    return " ".join([text, *(f"{line}." for line in table.earlier)])


def _settings(table: Board, papers: Published) -> Iterator[Section]:
    """Sections of the settings, the main one first; templates/leaderboard.js shows one, and asks for the others."""
    main = table.main()
    yield setting_section(main, papers)
    for setting in table.settings:
        if setting is not main:
            yield replace(setting_section(setting, papers), deferred=True)


def _more(table: Board) -> Iterator[Section]:
    if drawn := accuracy_curves(table.settings)[0]:
        yield Section("Over shots and ways", drawn, id="curves")
    if len(table.settings) > 1:
        yield Section("All settings in one table", [_wide(table)], id="all-settings", look="folded", deferred=True)


def _wide(table: Board) -> Table:
    columns = [(setting, column) for setting in table.settings for column in setting.columns]
    found = {
        (row.entrant.label, setting.id, label): result
        for setting in table.settings
        for row in setting.standings
        for label, result in row.results.items()
    }
    rows = []
    for entrant in table.entrants:
        cells = [found.get((entrant.label, setting.id, column.label)) for setting, column in columns]
        if any(cells):
            shown = [
                score_cell(one, href=result_href(*both, one)) if one else ""
                for both, one in zip(columns, cells, strict=True)
            ]
            rows.append((entrant.label, *shown))
    headings = [Cell(f"{column.label}>", note=setting.title) for setting, column in columns]
    notes = "\n\n".join(overlap_notes(found.values()))
    return Table(["model", *headings], rows, "Accuracy in per cent ± half-width of the 95% interval", notes)


def _reading(papers: Published) -> Section:
    return Section(
        "How to read it",
        [
            Prose(
                "Only complete results on the same clips, episodes and precision share a column. Where broken clips "
                "were left out, results without the same clips share one, and its name says so. The ± of a table is "
                "the half-width of the conventional 95% interval, 1.96 x population std / sqrt(episodes): another draw "
                "of episodes from these clips. It says nothing of other clips or classes; where a result has intervals "
                "for those, its drawer shows them.\n\n"
                "A mean over tasks is shown only where every task is there. A model's rank is the places it may have "
                "by its mean, from pairwise tests on the same episodes: the first is one more than the models that are "
                "significantly better, the last all but those that are significantly worse.\n\n"
                "A score with † is of a model that was trained on data of the task. It is shown and has no rank, and "
                "the ranks of the others do not count it. With (†) the training data may hold sounds of the task, as "
                "both are drawn from one source; with ? it is not known. The column overlap says why, and the box "
                "above the table leaves out all of these.\n\n"
                "Clips per second is the embedding rate of the run that embedded most clips, on the device that its "
                "drawer names; where most embeddings came from the cache, of the earlier runs that made them."
                + " Published figures are other people's, under protocols that may differ, and are never ranked."
                * bool(papers.tables)
            )
        ],
        id="reading",
    )


def _published(papers: Published) -> Iterator[Block]:
    for source in papers.sources.values():
        if source.slips:
            yield Prose(f"Remarks on the figures of {source.title}:")
            yield Facts({f"slip {at}": slip for at, slip in enumerate(source.slips, 1)})
    for table in papers.tables:
        yield Section(table.title.split(":")[0], [papers.show(table)], id=f"published-{table.id}", look="folded")
