"""Leaderboard of results as plain data: settings, columns, rows, ranks. Nothing is drawn here.

Only results of one clip table, protocol, draw and precision share a column. Results that left out broken clips share
one if they left out the same clips. They have a table of their own if the task also has complete results. Limited
results and those on incomplete copies stand apart and count in no rank or mean. For a user's own data the newest
version is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from uamix_bench.comparison.ranking import SIGNIFICANCE, Ranking, rank, trained_on_task
from uamix_bench.plugins.card import ModelIdentity
from uamix_bench.plugins.overlap import LEVELS, Overlap, meanings
from uamix_bench.records.newest import newest
from uamix_bench.records.record import Skipped, SoundsRecord
from uamix_bench.records.results import Result
from uamix_bench.reports.blocks import Cell, Mark, count, score_cell
from uamix_bench.reports.entrants import Entrant, entrants
from uamix_bench.reports.page import slug
from uamix_bench.scoring.episodes import EpisodeSet
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.scoring.statistics import Z95, holm
from uamix_bench.util import files
from uamix_bench.util.arrays import Doubles, Mask
from uamix_bench.util.text import listed

Draws: TypeAlias = Callable[[Iterable[Result]], Mapping[str, EpisodeSet]]


@dataclass(frozen=True)
class Column:
    """Column of the leaderboard: a task, with the clips and episodes that all of its results share.

    Attributes:
        name: Name of the task.
        version: Version of the task.
        label: Name and version of the task, number of broken clips left out, and all that tells it from the columns of
            all settings with the same remarks: one label is one clip table.
        classes: Number of classes.
        clips: Number of clips.
        classes_left_out: Number of classes that have too few clips for the episodes.
        key: Value of `Result.cell` of its results; empty if none can be compared.
        left_out: Broken clips that its results left out.
    """

    name: str
    version: str
    label: str
    classes: int
    clips: int
    classes_left_out: int
    key: str
    left_out: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class Standing:
    """Standing of one model in a setting.

    Attributes:
        entrant: Row of the model.
        results: Results of the model, by column label.
        mean: Mean accuracy over all columns; None if a result is missing.
        half_width: Half-width of the mean's 95% interval on these clips; None if a result is missing.
        ranks: Best and worst rank it may have; None if it is not ranked.
    """

    entrant: Entrant
    results: dict[str, Result]
    mean: float | None = None
    half_width: float | None = None
    ranks: tuple[int, int] | None = None

    @property
    def overlap(self) -> Overlap:
        """Gravest overlap of the model's training data with the tasks of its results."""
        return max((one.overlap_known for one in self.results.values()), key=lambda one: LEVELS.index(one.level))


@dataclass(frozen=True)
class Setting:
    """Setting of the leaderboard, one table: a protocol and a precision.

    Attributes:
        id: Name for links, such as ``5w1s``.
        protocol: Protocol by which episodes were drawn and scored.
        remarks: Differences from other settings of these ways and shots, in words; empty for the usual setting.
        series: Same words without the minimum number of clips a class, by which the cells of one sweep may differ.
        columns: Columns of the tasks.
        standings: Standings of the models, best first, those without a rank last.
        ranking: Paired tests of this table.
        apart: Limited results and those on incomplete copies, by model and column label.
    """

    id: str
    protocol: Protocol
    remarks: str
    series: str
    columns: Sequence[Column]
    standings: Sequence[Standing]
    ranking: Ranking
    apart: Sequence[tuple[Entrant, dict[str, Result]]]

    @property
    def title(self) -> str:
        """Title of the setting: ways and shots, and its remarks."""
        return ", ".join(filter(None, (self.protocol.cell, self.remarks)))

    @property
    def rows(self) -> Sequence[Standing]:
        """Standings, and last the results that stand apart, one row each."""
        return [*self.standings, *(Standing(*apart) for apart in self.apart)]

    @property
    def scoring(self) -> str:
        """Classifier and seed in words, and all else that tells the series, but for queries and episodes."""
        said = ("n_query", "episodes", "seed", "classifier", "template", "neighbors", "min_clips")
        dtypes = {result.model.dtype for row in self.rows for result in row.results.values()} - {"float32"}
        return ", ".join(
            [self.protocol.scored_by, f"seed {self.protocol.seed}", *self.protocol.differences(*said), *sorted(dtypes)]
        )

    @property
    def looks(self) -> dict[str, int]:
        """Numbers of the models' looks in figures, by label."""
        return {row.entrant.label: row.entrant.look for row in self.standings}

    def cell(self, result: Result, **options: Any) -> Cell:
        """Cell of a result's score, marked if it is the best or cannot be told apart from it."""
        mark: Mark = ""
        note = options.pop("note", "")
        if result.id in self.ranking.best_for_new_clips:
            mark, note = "best", "best"
        elif result.id in self.ranking.best:
            mark, note = "top", "best on these clips"
        elif result.id in self.ranking.alike:
            mark = "tie"
        return score_cell(result, mark=mark, note=note, **options)


@dataclass(frozen=True)
class Board:
    """Leaderboard with all settings.

    Attributes:
        settings: Settings, one table each.
        entrants: Models, one row each.
        results: Results that are shown.
        superseded: Number of results that a later one of the same model, clips and episodes replaces.
        earlier: Lines that name the data sets of which results of an earlier version are left out.
        tasks: Names of the data sets.
    """

    settings: Sequence[Setting]
    entrants: Sequence[Entrant]
    results: Sequence[Result]
    superseded: int
    earlier: Sequence[str]
    tasks: Sequence[str]

    def main(self) -> Setting:
        """Setting that a reader sees first: the paper's 5-way 1-shot, else the one with most results."""
        usual = [setting for setting in self.settings if setting.id == "5w1s"]
        return max(usual or self.settings, key=lambda setting: sum(len(row.results) for row in setting.standings))


def board(results: Iterable[Result], draws: Draws | None = None) -> Board:
    """Sorts results into settings, columns and rows, and ranks them.

    Args:
        results: Results of any models, tasks and protocols; see `newest`.
        draws: Function that gives the episodes of results, by digest, as far as their clip tables are here. Without
            them nothing is best for new clips.
    """
    kept, superseded, earlier = newest(results)
    drawn = draws(one for one in kept if one.score.ci95_clips is not None) if draws else {}
    models = entrants(kept)
    groups: dict[tuple[Protocol, str], list[Result]] = {}
    for result in kept:
        groups.setdefault((result.protocol, result.model.dtype), []).append(result)
    tables = [
        (protocol, dtype, ", ".join(filter(None, [_remarks(protocol, dtype), words])), table)
        for (protocol, dtype), group in sorted(groups.items(), key=lambda item: _order(*item[0]))
        for words, table in _tables(group)
    ]
    labels: dict[str, str] = {}
    for remarks in {remarks for _, _, remarks, _ in tables}:
        labels |= _labels([result for _, _, same, table in tables if same == remarks for result in table])
    settings: list[Setting] = []
    for protocol, dtype, remarks, table in tables:
        series = _remarks(protocol, dtype, "min_clips")
        made = _setting(protocol, remarks, series, table, models, labels, drawn)
        if any(made.id == other.id for other in settings):  # they differ in what no id can hold
            key = files.digest(sorted(result.id for result in table))[:6]
            words, joined = (f"{text} {key}".strip() for text in (made.remarks, made.series))
            made = replace(made, id=f"{made.id}-{key}", remarks=words, series=joined)
        settings.append(made)
    tasks = sorted({result.task.name for result in kept})
    return Board(settings, sorted(models.values(), key=lambda one: one.label), kept, superseded, earlier, tasks)


DRAWN = 16  # models that a figure shows: more are not told apart
BEST = (
    "Bold: the highest of a column. It is called best only if it is so for new clips of these classes too (normal "
    "tests of the differences, 5%, Holm); else it is best on these clips, and for new ones another may be better."
)


def which_drawn(models: int) -> str:
    """Words of a figure's title on a table with more models than it shows; empty if it shows all."""
    return f", first {DRAWN} of {models:,} models" if models > DRAWN else ""


def why_apart(result: Result) -> str:
    """Reason why a partial result has no rank among complete ones, in a few words."""
    if result.status.limited:
        return "a part of each class"
    if result.status.partial:
        return "an incomplete copy"
    return "without broken clips" if result.status.skipped else "incomplete"


def left_out_notes(columns: Iterable[Column]) -> list[str]:
    """Notes on columns whose results left out broken clips: the clips, and the results they are compared with."""
    return [
        f"{column.label}: without {listed([f'{one.clip} ({one.reason})' for one in column.left_out])}, which every "
        "result here left out as broken; they are compared with each other only."
        for column in columns
        if column.left_out
    ]


def overlap_notes(results: Iterable[SoundsRecord]) -> list[str]:
    """Meanings of the marks of overlap that these results' scores bear."""
    return meanings(result.overlap_known.level for result in results if result.overlap_mark)


def _order(protocol: Protocol, dtype: str) -> tuple[bool, str, int, int, int]:
    remarks = _remarks(protocol, dtype, "min_clips")
    return bool(remarks), remarks, protocol.n_way, protocol.k_shot, protocol.min_clips or 0


def _remarks(protocol: Protocol, dtype: str, *without: str) -> str:
    """Differences of a protocol and precision from the paper's besides ways and shots, in words."""
    return ", ".join([*protocol.differences(*without), *([dtype] if dtype != "float32" else [])])


def _tables(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    """Tables of the results of one protocol and precision, each with the words that tell it from the first.

    The first table has the complete results. For a task without any, it has the largest group of results that left out
    the same broken clips. It also has the results that stand apart. Each other group has a table of its own.
    """
    first: list[Result] = []
    cells: dict[tuple[str, str], dict[str, list[Result]]] = {}  # by task, the groups that left out the same
    for result in results:
        if (cell := result.cell()) and result.status.skipped:
            cells.setdefault(_task_of(result), {}).setdefault(cell, []).append(result)
        else:
            first.append(result)
    whole = {_task_of(result) for result in first if result.cell()}
    others = []
    for task, groups in cells.items():
        ordered = sorted(groups.values(), key=lambda group: (-len(group), len(group[0].status.skipped), group[0].id))
        if task not in whole:
            first += ordered.pop(0)
        others += [(f"{group[0].task.label}{_less(group[0])}", group) for group in ordered]
    return [*([("", first)] if first else []), *others]


def _less(result: Result) -> str:
    skipped = len(result.status.skipped)
    return f" less {count(skipped, 'clip')}" if skipped else ""


def _labels(results: Sequence[Result]) -> dict[str, str]:
    """Labels of the results' columns, by result id; results with one label are on one clip table."""
    tables: dict[tuple[str, float, str], list[str]] = {}
    for result in results:
        task = result.task
        facts = (f"{task.label}{_less(result)}", task.clip_seconds, task.clips_sha256 if result.cell() else "")
        tables.setdefault(facts, []).append(result.id)
    known = [facts for facts in tables if facts[2]] or list(tables)
    found: dict[str, str] = {}
    for (label, seconds, sha256), ids in tables.items():
        same = [facts for facts in known if facts[0] == label]
        told = label + (f" {seconds:g} s" if len({one[1] for one in same}) > 1 else "")
        told += f" {sha256[:6]}" if sha256 and len({one[2] for one in same if one[1] == seconds}) > 1 else ""
        found |= dict.fromkeys(ids, told)
    return found


def _setting(
    protocol: Protocol,
    remarks: str,
    series: str,
    results: Sequence[Result],
    models: dict[ModelIdentity, Entrant],
    labels: dict[str, str],
    drawn: Mapping[str, EpisodeSet],
) -> Setting:
    compared = [result for result in results if result.cell()]
    columns = _columns(results, labels)
    rows: dict[ModelIdentity, dict[str, Result]] = {}
    for result in compared:
        rows.setdefault(result.model, {})[_label_in(columns, result)] = result
    apart: list[tuple[Entrant, dict[str, Result]]] = []
    for result in results:
        if not result.cell():
            entrant, label = models[result.model], _label_in(columns, result)
            row = next((row for one, row in apart if one is entrant and label not in row), None)
            if row is None:
                apart.append((entrant, {label: result}))
            else:
                row[label] = result
    identity = f"{protocol.n_way}w{protocol.k_shot}s" + (f"-{slug(remarks)}" if remarks else "")
    standings = _standings([(models[model], row) for model, row in rows.items()], columns)
    return Setting(identity, protocol, remarks, series, columns, standings, rank(compared, drawn), apart)


def _columns(results: Sequence[Result], labels: dict[str, str]) -> list[Column]:
    """Columns of comparable results, and those of tasks that have no others."""
    found: dict[tuple[str, str, str], Result] = {}
    for result in results:
        if key := result.cell():
            found.setdefault((*_task_of(result), key), result)
    compared = {key[:2] for key in found}
    for result in results:
        if _task_of(result) not in compared:
            found[*_task_of(result), ""] = result
    times = Counter(labels[result.id] for result in found.values())
    columns = []
    for (name, version, key), result in sorted(found.items(), key=lambda item: item[0]):
        label = labels[result.id]
        label += f" {key[:6]}" if times[label] > 1 else ""  # of other episodes, or of other sounds
        task, skipped, fewer = result.task, result.status.skipped, result.episodes.classes_left_out
        columns.append(Column(name, version, label, task.classes, task.clips, fewer, key, skipped if key else ()))
    return columns


def _task_of(result: Result) -> tuple[str, str]:
    return result.task.name, result.task.version


def _label_in(columns: Sequence[Column], result: Result) -> str:
    """Label of a result's column: its own, or for one that cannot be compared the first of its task."""
    of_task = [column for column in columns if (column.name, column.version) == _task_of(result)]
    key = result.cell()
    return next((column.label for column in of_task if column.key == key), of_task[0].label)


def _standings(rows: Sequence[tuple[Entrant, dict[str, Result]]], columns: Sequence[Column]) -> list[Standing]:
    """Standings with means and possible ranks: Holm over the differences of all pairs' means.

    Models that were trained on data of a task stand among the others by their means, without a rank.
    """
    whole = [(entrant, row) for entrant, row in rows if len(row) == len(columns)]
    ranked = []
    for biased in (False, True):
        group = [(entrant, row) for entrant, row in whole if any(map(trained_on_task, row.values())) == biased]
        if not group:
            continue
        means, errors, differs = _compare([[row[column.label] for column in columns] for _, row in group])
        for at, (entrant, row) in enumerate(group):
            above = int(np.sum(differs[at] & (means > means[at])))
            below = int(np.sum(differs[at] & (means < means[at])))
            half = float(Z95 * errors[at]) if np.isfinite(errors[at]) else None
            ranks = None if biased else (1 + above, len(group) - below)
            ranked.append(Standing(entrant, row, float(means[at]), half, ranks))
    ranked.sort(key=lambda row: (-(row.mean or 0.0), row.entrant.label))
    partial = [Standing(entrant, row) for entrant, row in rows if len(row) < len(columns)]
    return ranked + sorted(partial, key=lambda row: (-len(row.results), row.entrant.label))


def _compare(table: Sequence[Sequence[Result]]) -> tuple[Doubles, Doubles, Mask]:
    """Compares models by their mean over tasks, on the same episodes of each.

    The tasks are taken as given, and their episodes as independent. The variance of a mean of m tasks is that of the
    paired differences' means, summed over tasks, over m squared. Normal approximation, two-sided, Holm over all pairs.

    Args:
        table: Results of each of n models in the same m columns.

    Returns:
        (n,) means, (n,) standard errors of the means, and (n, n) True if two models differ at 5%.
    """
    from scipy.special import ndtr

    models, tasks = len(table), len(table[0])
    means, covariance = np.zeros(models), np.zeros((models, models))
    for column in range(tasks):
        accuracies = np.stack([row[column].accuracies() for row in table])  # (n, T)
        means += accuracies.mean(axis=1) / tasks
        episodes = accuracies.shape[1]
        spread = np.cov(accuracies, ddof=1) if episodes > 1 else np.full((models, models), np.nan)
        covariance += np.atleast_2d(spread) / episodes / tasks**2
    variance = np.diag(covariance)
    differs = np.zeros((models, models), np.bool_)
    one, other = np.triu_indices(models, 1)
    if models > 1:
        error = np.sqrt(np.maximum(variance[one] + variance[other] - 2 * covariance[one, other], 0.0))
        distance = np.abs(means[one] - means[other])
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(distance > 1e-12, distance / error, 0.0)  # equal on every episode: no difference
        p = 2 * ndtr(-np.nan_to_num(z, nan=0.0, posinf=np.inf))
        found = holm(p) < SIGNIFICANCE
        differs[one, other] = differs[other, one] = found
    return means, np.sqrt(variance), differs
