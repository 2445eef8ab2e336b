"""The leaderboard: few-shot results as a static site that opens from disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from uamix_bench.errors import UsageError
from uamix_bench.reports import figures
from uamix_bench.reports.board import Board, Setting, board
from uamix_bench.reports.class_page import class_file, class_page
from uamix_bench.reports.page import Block, Cell, Facts, Figure, Page, Prose, Section, Table, count, percent, render
from uamix_bench.reports.published import Published, published
from uamix_bench.reports.result_card import drawer, drawer_id
from uamix_bench.reports.score_table import setting_section
from uamix_bench.results import Result


def leaderboard(records: Iterable[Any], *, title: str = "Few-shot audio leaderboard") -> Page:
    """Renders the site.

    Args:
        records: Of any kind; those of few-shot evaluations are shown.
        title: Of the index.

    Raises:
        UsageError: There is no few-shot result among the records.
    """
    results = [record for record in records if isinstance(record, Result)]
    if not results:
        raise UsageError("leaderboard", "no few-shot result among the records", "run 'uamix-bench fewshot' first")
    table, papers = board(results), published()
    labels = {entrant.identity: entrant.label for entrant in table.entrants}
    index = render(
        title,
        [
            Section("Accuracy", [setting_section(setting, papers) for setting in _main_first(table)], id="settings"),
            *_more(table),
            _reading(),
            Section("Published figures", list(_published(papers)), id="published"),
            Section("All results", [drawer(one, labels[one.model]) for one in table.results], id="results"),
        ],
        lead=_lead(table),
        footer="Made by uamix-bench. Published figures are their authors' own; all others can be recomputed from the "
        "result files.",
        scripts=["leaderboard.js"],
    )
    files = {
        class_file(setting, column): class_page(setting, column).html
        for setting in table.settings
        for column in setting.columns
    }
    return Page(index.title, index.html, index.markdown, files)


def _lead(table: Board) -> str:
    newest = max(result.provenance.started_at for result in table.results)[:10]
    text = (
        f"{count(len(table.entrants), 'model')} on {count(len(table.tasks), 'task')} at "
        f"{count(len(table.settings), 'setting')}: {count(len(table.results), 'result')}, the newest of {newest}."
    )
    if table.superseded:
        text += f" {count(table.superseded, 'older result')} of the same evaluation left out."
    return text


def _main_first(table: Board) -> list[Setting]:
    first = table.main()
    return [first, *(setting for setting in table.settings if setting is not first)]


def _more(table: Board) -> Iterator[Section]:
    blocks: list[Block] = []
    for remarks in dict.fromkeys(setting.remarks for setting in table.settings):
        alike = [setting for setting in table.settings if setting.remarks == remarks]
        for axis, fixed in (("k_shot", "n_way"), ("n_way", "k_shot")):
            if drawn := _curves(alike, axis, fixed, remarks):
                blocks.append(drawn)
    if blocks:
        yield Section("Against shots and ways", blocks, id="curves")
    if len(table.settings) > 1:
        yield Section("All settings in one table", [_wide(table)], id="all-settings", look="folded")


def _curves(settings: Sequence[Setting], axis: str, fixed: str, remarks: str) -> Figure | None:
    """Accuracy over ways or shots, at the value of the other with most points, the paper's where several have."""
    lines: dict[int, list[Setting]] = {}
    for setting in settings:
        lines.setdefault(getattr(setting.protocol, fixed), []).append(setting)
    usual = {"n_way": 5, "k_shot": 1}[fixed]
    value, along = max(lines.items(), key=lambda item: (len(item[1]), item[0] == usual, -item[0]))
    if len(along) < 2:
        return None
    along = sorted(along, key=lambda setting: getattr(setting.protocol, axis))
    panels: dict[str, list[figures.Series]] = {}
    labels = dict.fromkeys(column.label for setting in along for column in setting.columns)
    entrants = dict.fromkeys(row.entrant.label for row in along[0].standings)
    entrants |= dict.fromkeys(row.entrant.label for setting in along for row in setting.standings)
    for label in labels:
        for entrant in entrants:
            points = [
                (getattr(setting.protocol, axis), row.results[label].score)
                for setting in along
                for row in setting.standings
                if row.entrant.label == entrant and label in row.results
            ]
            if points:
                x, scores = zip(*points, strict=True)
                half = [100 * (score.ci95 or 0.0) for score in scores]
                panels.setdefault(label, []).append(
                    figures.Series(entrant, x, [100 * s.accuracy for s in scores], half)
                )
    words = {"k_shot": "shots", "n_way": "ways"}[axis]
    where = f"{value}-way" if fixed == "n_way" else f"{value}-shot"
    where += f", {remarks}" if remarks else ""
    return figures.curves(
        f"Accuracy against {words}, {where}",
        panels,
        x_label=words,
        y_label="accuracy in %",
        description=f"Accuracy with its 95% band over {words} at {where}, one panel a task, one line a model.",
        x_ticks=sorted({getattr(setting.protocol, axis) for setting in along}),
        log_x=axis == "k_shot",
    )


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
                percent(one.score.accuracy, one.score.ci95, href=f"#{drawer_id(one)}") if one else "" for one in cells
            ]
            rows.append((entrant.label, *shown))
    headings = [Cell(f"{column.label}>", note=setting.title) for setting, column in columns]
    return Table(["model", *headings], rows, "Accuracy in per cent ± half-width of the 95% interval")


def _reading() -> Section:
    return Section(
        "How to read it",
        [
            Prose(
                "Only complete results on the same clips, episodes and precision share a column. The ± of a table is "
                "the half-width of the conventional 95% interval, 1.96 x population std / sqrt(episodes): another draw "
                "of episodes from these clips. It says nothing of other clips or classes; where a result has intervals "
                "for those, its drawer shows them.\n\n"
                "A mean over tasks is shown only where every task is there. A model's rank is the places it may have "
                "by its mean, from pairwise tests on the same episodes: the first is one more than the models that are "
                "significantly better, the last all but those that are significantly worse.\n\n"
                "Clips per second is the embedding rate of the run that embedded most clips, on the device that its "
                "drawer names. Published figures are other people's, under protocols that may differ, and are never "
                "ranked."
            ),
        ],
        id="reading",
    )


def _published(papers: Published) -> Iterator[Block]:
    for source in papers.sources.values():
        if source.slips:
            yield Prose(f"What to know of the figures of {source.title}:")
            yield Facts({f"slip {at}": slip for at, slip in enumerate(source.slips, 1)})
    for table in papers.tables:
        yield Section(table.title.split(":")[0], [papers.show(table)], id=f"published-{table.id}", look="folded")
