"""Results as a leaderboard, as plain data: settings, columns, rows, ranks. Nothing is drawn here.

Only complete results of one clip table, protocol, draw and precision share a column; what is partial or limited stands
apart and is in no rank or mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from uamix_bench.comparison.ranking import SIGNIFICANCE, Ranking, rank
from uamix_bench.plugins.card import ModelIdentity
from uamix_bench.records.record import task_label
from uamix_bench.records.results import Result
from uamix_bench.reports.blocks import count
from uamix_bench.reports.page import slug
from uamix_bench.scoring.episodes import PAPER, Protocol
from uamix_bench.scoring.statistics import Z95, holm
from uamix_bench.util import files


class Speed(NamedTuple):
    """How fast a model embedded: clips per second, and the device that did."""

    clips_per_s: float
    device: str


@dataclass(frozen=True)
class Entrant:
    """A model as it was evaluated: one row.

    Attributes:
        identity: What may change its embeddings.
        label: Its name, and what tells it from others of that name.
        speed: On the run that embedded most clips; None where all came from the cache.
    """

    identity: ModelIdentity
    label: str
    speed: Speed | None


@dataclass(frozen=True)
class Column:
    """A task with the clips and episodes that all of the column share.

    Attributes:
        name: Of the task.
        version: Of the task.
        label: Name and version, and a part of the digest where one table has several such columns.
        classes: How many.
        clips: How many.
        left_out: How many of the classes have too few clips for the episodes.
        key: Digest (hex) of the clip table's identity and the episodes; empty where no complete result was drawn.
    """

    name: str
    version: str
    label: str
    classes: int
    clips: int
    left_out: int
    key: str


@dataclass(frozen=True)
class Standing:
    """What a setting says of one model.

    Attributes:
        entrant: The model.
        results: By column label, its complete result.
        mean: Accuracy over all columns; None where one is missing.
        half_width: Of the mean's 95% interval on these clips; None likewise.
        ranks: The best and worst place it may have; None where it is not ranked.
    """

    entrant: Entrant
    results: dict[str, Result]
    mean: float | None = None
    half_width: float | None = None
    ranks: tuple[int, int] | None = None


@dataclass(frozen=True)
class Setting:
    """One table: a protocol and a precision.

    Attributes:
        id: For links, such as ``5w1s``.
        protocol: How episodes were drawn and scored.
        remarks: What else tells it from other settings of these ways and shots; empty for the usual one.
        series: The same without the clips that a class must have, by which the cells of one sweep may differ.
        columns: The tasks.
        standings: The models, best first, those without a rank last.
        ranking: The paired tests of this table.
        apart: Partial and limited results, by model and column label.
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
        """Ways and shots, and what else is to be told."""
        return f"{self.protocol.n_way}-way {self.protocol.k_shot}-shot" + (f", {self.remarks}" if self.remarks else "")


@dataclass(frozen=True)
class Board:
    """All settings; `superseded` counts results that a later one of the same model, clips and episodes replaces."""

    settings: Sequence[Setting]
    entrants: Sequence[Entrant]
    results: Sequence[Result]
    superseded: int = 0
    tasks: Sequence[str] = field(default_factory=tuple)

    def main(self) -> Setting:
        """The setting that a reader sees first: the paper's 5-way 1-shot, else the one with most results."""
        usual = [setting for setting in self.settings if setting.id == "5w1s"]
        return max(usual or self.settings, key=lambda setting: sum(len(row.results) for row in setting.standings))


def board(results: Iterable[Result]) -> Board:
    """Sorts results into settings, columns and rows, and ranks them.

    Args:
        results: Of any models, tasks and protocols; each id counts once, and of two of one unit the later one.
    """
    unique = {result.id: result for result in sorted(results, key=lambda result: result.sounds_recorded)}
    newest: dict[str, Result] = {}
    for result in sorted(unique.values(), key=lambda result: (result.provenance.started_at, result.id)):
        newest[result.unit() or result.id] = result
    recorded = {_asked(result) for result in newest.values() if result.sounds_recorded}
    kept = [one for one in newest.values() if one.sounds_recorded or _asked(one) not in recorded]
    entrants = _entrants(kept)
    groups: dict[tuple[Protocol, str], list[Result]] = {}
    for result in kept:
        groups.setdefault((result.protocol, result.model.dtype), []).append(result)
    settings: list[Setting] = []
    for (protocol, dtype), group in sorted(groups.items(), key=lambda item: _order(*item[0])):
        series = _remarks(protocol.model_copy(update={"min_clips": None}), dtype)
        made = _setting(protocol, _remarks(protocol, dtype), series, group, entrants)
        if any(made.id == other.id for other in settings):  # they differ in what no id can hold
            key = files.digest([protocol.model_dump(mode="json"), dtype])[:6]
            words, joined = (f"{text} {key}".strip() for text in (made.remarks, made.series))
            made = replace(made, id=f"{made.id}-{key}", remarks=words, series=joined)
        settings.append(made)
    tasks = sorted({result.task.name for result in kept})
    return Board(settings, sorted(entrants.values(), key=lambda e: e.label), kept, len(unique) - len(kept), tasks)


def _asked(result: Result) -> str:
    """What a result was asked, whatever sounds it is of."""
    table = result.task.model_dump(mode="json", exclude={"content_sha256"})
    model, protocol = (part.model_dump(mode="json") for part in (result.model, result.protocol))
    return files.digest([model, table, protocol, result.episodes.digest, result.status.complete])


def why_apart(result: Result) -> str:
    """Why a result that is not complete has no rank, in a few words."""
    if result.status.skipped:
        return f"{count(len(result.status.skipped), 'clip')} left out"
    return "a part of each class" if result.status.limited else "an incomplete copy"


def _order(protocol: Protocol, dtype: str) -> tuple[bool, str, int, int]:
    remarks = _remarks(protocol, dtype)
    return bool(remarks), remarks, protocol.n_way, protocol.k_shot


def _remarks(protocol: Protocol, dtype: str) -> str:
    """In words, what tells a protocol from the paper's but for ways and shots."""
    words = {
        "name": "" if protocol.name in ("paper", "custom") else protocol.name,
        "n_query": count(protocol.n_query, "query", "queries"),
        "episodes": f"{protocol.episodes:,} episodes",
        "seed": f"seed {protocol.seed}",
        "classifier": protocol.classifier,
        "neighbors": f"{protocol.neighbors} neighbors",
        "group_disjoint": "group-disjoint",
        "min_clips": f"classes of {protocol.min_clips} clips",
        "segments": f"segments {protocol.segments}",
    }
    told = [word for name, word in words.items() if getattr(protocol, name) != getattr(PAPER, name)]
    return ", ".join(filter(None, [*told, "" if dtype == "float32" else dtype]))


def _entrants(results: Sequence[Result]) -> dict[ModelIdentity, Entrant]:
    """Every model with a label of its own."""
    identities = list(dict.fromkeys(result.model for result in results))
    by_name: dict[str, list[ModelIdentity]] = {}
    for identity in identities:
        by_name.setdefault(identity.name, []).append(identity)
    found = {}
    for same in by_name.values():
        telling = [name for name in _TELLING if len({getattr(one, name) for one in same}) > 1]
        labels = [" ".join([one.name, *(_told(one, name) for name in telling)]) for one in same]
        for identity, label in zip(same, labels, strict=True):
            if labels.count(label) > 1:  # they differ in what is no name, such as what they were trained on
                label += f" {files.digest(identity.model_dump(mode='json'))[:6]}"
            found[identity] = Entrant(identity, label, _speed(results, identity))
    return found


_TELLING = (
    "weights_sha256",
    "source_sha256",
    "metadata_sha256",
    "adapter_version",
    "input",
    "pooling",
    "dtype",
    "train_seed",
    "recipe_sha256",
)


def _told(identity: ModelIdentity, name: str) -> str:
    value = getattr(identity, name)
    return f"{value}"[:6] if name.endswith("sha256") else f"seed {value}" if name == "train_seed" else f"{value}"


def _speed(results: Iterable[Result], identity: ModelIdentity) -> Speed | None:
    timed = [one for one in results if one.model == identity and one.cost.embedded_clips and one.cost.embed_s > 0]
    if not timed:
        return None
    most = max(timed, key=lambda result: (result.cost.embedded_clips, result.provenance.started_at))
    return Speed(most.cost.embedded_clips / most.cost.embed_s, most.provenance.device)


def _setting(
    protocol: Protocol, remarks: str, series: str, results: Sequence[Result], entrants: dict[ModelIdentity, Entrant]
) -> Setting:
    complete = [result for result in results if result.status.complete]
    columns = _columns(results)
    rows: dict[ModelIdentity, dict[str, Result]] = {}
    for result in complete:
        rows.setdefault(result.model, {})[_label_in(columns, result)] = result
    apart: dict[ModelIdentity, dict[str, Result]] = {}
    for result in results:
        if not result.status.complete:
            apart.setdefault(result.model, {})[_label_in(columns, result)] = result
    identity = f"{protocol.n_way}w{protocol.k_shot}s" + (f"-{slug(remarks)}" if remarks else "")
    standings = _standings([(entrants[model], row) for model, row in rows.items()], columns)
    set_aside = [(entrants[model], row) for model, row in apart.items()]
    return Setting(identity, protocol, remarks, series, columns, standings, rank(complete), set_aside)


def _columns(results: Sequence[Result]) -> list[Column]:
    """The columns of complete results, and those of tasks that have no other."""
    found: dict[tuple[str, str, str], Result] = {}
    for result in results:
        if result.status.complete:
            found.setdefault((*_task_of(result), _key(result)), result)
    for result in results:
        if _task_of(result) not in {key[:2] for key in found}:
            found[*_task_of(result), ""] = result
    times = Counter(key[:2] for key in found)
    columns = []
    for (name, version, key), result in sorted(found.items(), key=lambda item: item[0]):
        label = task_label(name, version) + (f" {key[:6]}" if times[name, version] > 1 else "")
        left_out = result.episodes.classes_left_out
        columns.append(Column(name, version, label, result.task.classes, result.task.clips, left_out, key))
    return columns


def _task_of(result: Result) -> tuple[str, str]:
    return result.task.name, result.task.version


def _key(result: Result) -> str:
    return files.digest([result.task.model_dump(mode="json"), result.episodes.digest])


def _label_in(columns: Sequence[Column], result: Result) -> str:
    """The column that a result stands in: its own, or for one that is not complete the first of its task."""
    of_task = [column for column in columns if (column.name, column.version) == _task_of(result)]
    key = _key(result)
    return next((column.label for column in of_task if column.key == key), of_task[0].label)


def _standings(rows: Sequence[tuple[Entrant, dict[str, Result]]], columns: Sequence[Column]) -> list[Standing]:
    """Means, and the places that a model may have: Holm over the differences of all pairs' means."""
    whole = [(entrant, row) for entrant, row in rows if len(row) == len(columns)]
    ranked = []
    if whole:
        means, errors, differs = _compare([[row[column.label] for column in columns] for _, row in whole])
        for at, (entrant, row) in enumerate(whole):
            above = int(np.sum(differs[at] & (means > means[at])))
            below = int(np.sum(differs[at] & (means < means[at])))
            half = float(Z95 * errors[at]) if np.isfinite(errors[at]) else None
            ranked.append(Standing(entrant, row, float(means[at]), half, (1 + above, len(whole) - below)))
    ranked.sort(key=lambda row: (-(row.mean or 0.0), row.entrant.label))
    partial = [Standing(entrant, row) for entrant, row in rows if len(row) < len(columns)]
    return ranked + sorted(partial, key=lambda row: (-len(row.results), row.entrant.label))


def _compare(
    table: Sequence[Sequence[Result]],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Compares models by their mean over tasks, on the same episodes of each.

    The tasks are given, and their episodes independent: the variance of a mean of m tasks is that of the paired
    differences' means, summed over tasks, over m squared. Normal approximation, two-sided, Holm over all pairs.

    Args:
        table: Per model (n) its results of the same m columns.

    Returns:
        (n,) means, (n,) their standard errors, (n, n) whether two differ at 5%.
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
    pairs = list(combinations(range(models), 2))
    if pairs:
        one, other = np.array(pairs).T
        error = np.sqrt(np.maximum(variance[one] + variance[other] - 2 * covariance[one, other], 0.0))
        distance = np.abs(means[one] - means[other])
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(distance > 1e-12, distance / error, 0.0)  # equal on every episode: no difference
        p = 2 * ndtr(-np.nan_to_num(z, nan=0.0, posinf=np.inf))
        found = holm(p) < SIGNIFICANCE
        differs[one, other] = differs[other, one] = found
    return means, np.sqrt(variance), differs
