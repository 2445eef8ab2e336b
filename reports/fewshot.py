"""Report of few-shot results: accuracies with their intervals, curves, episodes, classes, clusters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uamix_bench.comparison.ranking import POWER, SIGNIFICANCE
from uamix_bench.evaluation.redraw import Redraw
from uamix_bench.evaluation.replay import Replay, replay
from uamix_bench.plugins import overlap
from uamix_bench.records.finetune_record import FinetuneResult
from uamix_bench.records.results import Result
from uamix_bench.reports import clusters, excerpts, figures
from uamix_bench.reports.blocks import Block, Cell, Figure, Mark, Prose, Row, Section, Table, count, score_cell
from uamix_bench.reports.board import (
    BEST,
    Board,
    Column,
    Setting,
    Standing,
    board,
    left_out_notes,
    overlap_notes,
    why_apart,
)
from uamix_bench.reports.class_page import MOST_CLASSES, by_class
from uamix_bench.reports.confusions import Confusions
from uamix_bench.reports.curves import accuracy_curves
from uamix_bench.reports.finetune import finetuned_cell
from uamix_bench.reports.page import Page, render
from uamix_bench.reports.result_card import drawer_id, drawers
from uamix_bench.util.errors import BenchError, UsageError
from uamix_bench.util.text import classes_drawn, p_value, plus_minus, with_half

_MOST_MODELS = 4  # side by side
_POPULATIONS = {"episodes": "these clips", "clips": "new clips", "classes": "new classes too"}


def report(
    records: Iterable[Any],
    *,
    data_dir: Path | None = None,
    own: Sequence[str] = (),
    tsne: Sequence[str] | None = None,
    supervised: Sequence[FinetuneResult] = (),
    sounds: bool = False,
) -> Page:
    """Renders few-shot results.

    Args:
        records: Records of any kind; those of few-shot evaluations are shown.
        data_dir: Folder of the data sets, for confusion matrices; default ``UAMIX_BENCH_HOME/data``.
        own: Folders and CSVs of a user's own data that results are of.
        supervised: Fine-tunings and linear probes, shown beside the few-shot results of the same tasks.
        tsne: Classes of a t-SNE; see :func:`uamix_bench.reports.clusters.choose`. None for no t-SNE.
        sounds: Whether the page holds excerpts of the clips that were confused most; see
            :mod:`uamix_bench.reports.excerpts`.

    Raises:
        UsageError: The records hold no few-shot result, or no t-SNE can be made of them.
    """
    results = [record for record in records if isinstance(record, Result)]
    if not results:
        raise UsageError("report", "no few-shot result among the records", "run 'uamix-bench fewshot' first")
    redraw = Redraw(data_dir, own)
    table = board(results, redraw.draws)
    main, confusions = table.main(), Confusions(MOST_CLASSES)
    replays = {column.label: _replays(main, column, redraw) for column in main.columns}
    blocks = [
        Section("Accuracy", list(accuracy(table))),
        *differences(table.settings),
        *over_ways_and_shots(table),
        *_beside(table.results, supervised),
        Section(f"Episodes, {main.title}", [_episodes(main, column) for column in main.columns if _held(main, column)]),
        *(
            Section(
                f"Classes of {column.label}, {main.title}",
                list(_classes(main, column, replays[column.label], confusions)),
            )
            for column in main.columns
        ),
        *_other_confusions([setting for setting in table.settings if setting is not main], redraw, confusions),
    ]
    if sounds:
        blocks += [*_heard(replays)]
    if tsne:
        blocks += [Section("Clusters", list(_clusters(replays, tsne)))]
    blocks.append(Section("Results", drawers(table)))
    footer = "Made by uamix-bench from its result files."
    return render("Few-shot results", blocks, lead=_lead(table), footer=footer, said=table.earlier)


def _lead(table: Board) -> str:
    models, tasks = count(len(table.entrants), "model"), count(len(table.tasks), "task")
    text = f"{models}, {tasks}, {count(len(table.settings), 'setting')}: accuracy of N-way K-shot episodes in per cent."
    if table.superseded:
        text += f" {count(table.superseded, 'older result')} of the same evaluation skipped."
    return " ".join([text, *(f"{line}." for line in table.earlier)])


# --- scores


def accuracy(table: Board) -> Iterator[Block]:
    """Accuracy tables, one for each task and protocol, with ways and shots as columns; then wider intervals."""
    for series in dict.fromkeys(setting.series for setting in table.settings):
        settings = [setting for setting in table.settings if setting.series == series]
        usual = next((one for one in settings if one.protocol.k_shot), settings[0])
        queries = count(usual.protocol.n_query, "query", "queries")
        words = f"{usual.protocol.episodes:,} episodes, {queries} a class, {usual.scoring}"
        for label in dict.fromkeys(column.label for setting in settings for column in setting.columns):
            held = [setting for setting in settings if any(column.label == label for column in setting.columns)]
            rows: list[Row] = [
                (name, *(_score(setting, name, label) for setting in held)) for name in _names(held, label)
            ]
            titles = [f"{_cell_title(setting, label)}>" for setting in held]
            yield Table(("model", *titles), rows, f"{label}: {words}")
    notes = [
        "± half-width of the conventional 95% interval, 1.96 x population std / sqrt(episodes): it covers only "
        "which episodes were drawn from these clips."
    ]
    if any(setting.ranking.best for setting in table.settings):
        notes[0] += (
            f" {BEST} Underlined: cannot be told apart from it (paired t on the same episodes at {SIGNIFICANCE:.0%}, "
            "Holm over the pairs of the setting)."
        )
    notes += sorted(set(left_out_notes(one for setting in table.settings for one in setting.columns)))
    yield Prose("\n\n".join([*notes, *overlap.notes(_overlaps(table.settings))]))
    if wide := _wider(table):
        yield wide


def _overlaps(settings: Iterable[Setting]) -> Iterator[tuple[str, str, overlap.Overlap]]:
    """Model, task and overlap of training data of every result whose score is marked."""
    for setting in settings:
        for row in setting.rows:
            for label, result in row.results.items():
                if result.overlap_mark:
                    yield row.entrant.label, label, result.overlap_known


def _cell_title(setting: Setting, label: str) -> str:
    """Heading of a column: ways and shots, and the number of classes drawn from if some are left out."""
    column = next(column for column in setting.columns if column.label == label)
    drawn = classes_drawn(column.classes, column.classes_left_out)
    return setting.protocol.cell + (f", {drawn} classes" if column.classes_left_out else "")


def _names(settings: Sequence[Setting], label: str) -> list[str]:
    """Names of the models that have results of a task, those that stand apart last."""
    rows = [row.entrant.label for setting in settings for row in setting.standings if label in row.results]
    apart = [entrant.label for setting in settings for entrant, results in setting.apart if label in results]
    return list(dict.fromkeys([*rows, *apart]))


def _score(setting: Setting, name: str, label: str) -> Cell:
    for row in setting.rows:
        if row.entrant.label == name and (result := row.results.get(label)):
            href = f"#{drawer_id(result)}"
            if result.cell():
                return setting.cell(result, href=href)
            return score_cell(result, mark="faint", note=f"{why_apart(result)}, not ranked", href=href)
    return Cell("")


def _wider(table: Board) -> Table | None:
    """Table of the half-widths that cover new clips or classes; None if no result has one."""
    rows = []
    for setting, label, row, result in _cells(table.settings):
        given = [getattr(result.score.intervals, name).half_width for name in _POPULATIONS]
        if any(half is not None for half in given[1:]):
            shown = map(plus_minus, given)
            rows.append((row.entrant.label, label, setting.title, *shown))
    if not rows:
        return None
    return Table(
        ("model", "task", "setting", *(f"{words}>" for words in _POPULATIONS.values())),
        rows,
        "95% half-widths in points, by the population they cover",
        "A claim about other sounds than these clips needs the wider intervals.",
    )


def _cells(settings: Iterable[Setting]) -> Iterator[tuple[Setting, str, Standing, Result]]:
    """Complete results, each with its setting, column label and standing."""
    for setting in settings:
        for column in setting.columns:
            for row in setting.standings:
                if column.label in row.results:
                    yield setting, column.label, row, row.results[column.label]


def differences(settings: Iterable[Setting]) -> Iterator[Section]:
    """Differences of all pairs of models on the same episodes; nothing without a pair."""
    rows: list[Row] = []
    for setting in settings:
        of = {result.id: (row.entrant.label, label) for _, label, row, result in _cells([setting])}
        for found in setting.ranking.differences:
            (name, label), (other, _) = of[found.result.id], of[found.reference.id]
            by = found.difference
            if name > other:  # a pair stands in one order throughout
                name, other, by = other, name, -by
            mark: Mark = "" if found.p_holm >= SIGNIFICANCE else "better" if by > 0 else "worse"
            less = Cell(*with_half(by, found.half_width, sign="+"), by, mark)
            p = Cell(p_value(found.p_holm), sort=found.p_holm)
            smallest = "" if found.smallest is None else f"{100 * found.smallest:.2f}"
            rows.append((f"{name} less {other}", label, setting.title, less, p, smallest))
    if rows:
        note = (
            "Points ± half-width of the 95% t interval of the paired differences, over which episodes were drawn. p: "
            "two-sided, Holm over the pairs of a setting. Detectable: smallest true difference that one such "
            f"test would find {10 * POWER:g} times in 10."
        )
        columns = ("models", "task", "setting", "points>", "p>", "detectable>")
        yield Section("Differences on the same episodes", [Table(columns, rows, note=note)], look="folded")


def _beside(results: Sequence[Result], supervised: Sequence[FinetuneResult]) -> Iterator[Section]:
    """Few-shot results beside the fine-tunings and probes of the same tasks, by model and number of labels."""
    rows: list[tuple[tuple[str, str, float], Row]] = []
    tasks = {one.task.label for one in results} & {one.task.label for one in supervised}
    for result in results:
        if result.task.label in tasks:
            n, k, protocol = result.protocol.n_way, result.protocol.k_shot, result.protocol
            told = protocol.differences("min_clips", "classifier", "template", "neighbors")
            how = ", ".join(["few-shot", protocol.scored_by, *told])
            score = score_cell(result, note="" if result.status.complete else f"{why_apart(result)}, not ranked")
            key = (result.task.label, result.model.name, float(k))
            rows.append((key, (result.model.shown, result.task.label, how, f"{n}", f"{k}", score)))
    for one in supervised:
        if one.task.label in tasks:
            key, how = (one.task.label, one.model.name, one.clips_a_class), one.setting.method.replace("-", " ")
            labels = f"{one.clips_a_class:.3g}" + (f" ({one.labels})" if one.setting.fraction else "")
            score = finetuned_cell(one)
            rows.append((key, (one.model.shown, one.task.label, how, f"{one.task.classes}", labels, score)))
    if rows:
        note = (
            "Labels: clips a class that are fitted or trained on. Classes: how many are told apart at once. More "
            "of them are harder, so that only scores of equal numbers of classes are comparable. Few-shot intervals "
            "cover the draw of episodes, the others new recordings, speakers or videos."
        )
        columns = ("model", "task", "evaluation", "classes>", "labels>", "score %>")
        ordered = [row for _, row in sorted(rows, key=lambda row: row[0])]
        marks = overlap_notes(one for one in (*results, *supervised) if one.task.label in tasks)
        yield Section("Beside fine-tunings and probes", [Table(columns, ordered, note="\n\n".join([note, *marks]))])


# --- figures


def over_ways_and_shots(table: Board) -> Iterator[Section]:
    """Figures of accuracy over shots and ways, if there are several; all but the first of each are folded."""
    drawn, others = accuracy_curves(table.settings)
    blocks: list[Block] = [*drawn]
    if more := list(others):
        blocks.append(Section("At other shots and ways", more, look="folded"))
    if blocks:
        yield Section("Over shots and ways", blocks)


def _held(setting: Setting, column: Column) -> dict[str, Result]:
    """Results of a column by model, best first."""
    found = {row.entrant.label: row.results[column.label] for row in setting.standings if column.label in row.results}
    return dict(sorted(found.items(), key=lambda item: -item[1].score.accuracy))


def _episodes(setting: Setting, column: Column) -> Figure:
    """Histogram of the accuracies of single episodes."""
    held = dict(list(_held(setting, column).items())[:_MOST_MODELS])
    asked = setting.protocol.n_way * setting.protocol.n_query
    step = -(-asked // 25)  # of queries: an accuracy lies inside a bin, never on an edge
    spread = "; ".join(f"{name}: {100 * result.accuracies().std():.1f} points" for name, result in held.items())
    return figures.histogram(
        f"Accuracy of single episodes of {column.label}",
        {name: 100 * result.accuracies() for name, result in held.items()},
        x_label="accuracy in %",
        bins=100 * (np.arange(0, asked + step + 1, step) - 0.5) / asked,
        description=f"Number of episodes by accuracy. Standard deviation over episodes: {spread}.",
        looks=setting.looks,
    )


# --- classes


def _replays(setting: Setting, column: Column, redraw: Redraw) -> dict[str, Replay | BenchError]:
    """Replayed episodes of each model, or the error that prevents it."""
    found: dict[str, Replay | BenchError] = {}
    for name, result in _held(setting, column).items():
        try:
            found[name] = replay(result, redraw)
        except BenchError as error:
            found[name] = error
    return found


def _classes(
    setting: Setting, column: Column, replays: Mapping[str, Replay | BenchError], confusions: Confusions
) -> Iterator[Block]:
    held = dict(list(_held(setting, column).items())[:_MOST_MODELS])
    if not held:
        yield Prose("No complete result.")
        return
    rates = {name: {of: hit / asked for of, (hit, asked) in one.per_class.items()} for name, one in held.items()}
    words = "Share of a class's queries that are classified correctly, one row a class, the hardest first"
    yield by_class(rates, setting.looks, words)
    yield from confusions.blocks(replays)


def _other_confusions(settings: Iterable[Setting], redraw: Redraw, confusions: Confusions) -> Iterator[Section]:
    """Confusion matrices of the settings besides the main one, each folded."""
    found = []
    for setting in settings:
        for column in setting.columns:
            blocks = list(confusions.blocks(_replays(setting, column, redraw)))
            if blocks:
                found.append(Section(f"{column.label}, {setting.title}", blocks, look="folded"))
    if found:
        yield Section("Confusions at the other settings", found)


def _heard(replays: Mapping[str, Mapping[str, Replay | BenchError]]) -> Iterator[Section]:
    for label, models in replays.items():
        whole = {name: found for name, found in list(models.items())[:_MOST_MODELS] if isinstance(found, Replay)}
        none = [Prose("No excerpts: the episodes cannot be drawn again (see the confusion matrices).")]
        yield Section(f"Most confused clips of {label}", list(excerpts.blocks(whole)) if whole else none)


def _clusters(replays: Mapping[str, Mapping[str, Replay | BenchError]], wanted: Sequence[str]) -> Iterator[Block]:
    """Figures by t-SNE of the first two models on each task that has the classes; an error if there is none at all."""
    unfit: list[UsageError] = []  # tasks without these classes
    lacking: list[BenchError] = []  # why there are no embeddings
    shown = False
    for label, models in replays.items():
        whole = {name: found for name, found in models.items() if isinstance(found, Replay)}
        if not whole:
            lacking += [found for found in models.values() if not isinstance(found, Replay)]
            yield Prose(f"{label}: no embeddings to show.")
            continue
        try:
            blocks = list(clusters.blocks(dict(list(whole.items())[:2]), wanted))
        except UsageError as error:  # another task may have them
            unfit.append(error)
            yield Prose(f"{label}: {error.subject.removeprefix('--tsne ')} {error.reason}.")
        else:
            shown = True
            yield from blocks
    if not shown and unfit:
        raise unfit[0]
    if not shown:
        raise UsageError("--tsne", f"no embeddings exist ({lacking[0] if lacking else 'no result'})", "")
