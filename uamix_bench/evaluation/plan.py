"""Preparation of an evaluation: the clips of a task that take part, and the episodes drawn from them. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from uamix_bench.data.clip_table import earlier_equals
from uamix_bench.data.folders import Remark
from uamix_bench.data.task import TaskData
from uamix_bench.evaluation.earlier import draw_tables
from uamix_bench.scoring.episodes import EpisodeSet, draw_sorted
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.scoring.remarks import remarks
from uamix_bench.scoring.sweep import sweep
from uamix_bench.util.arrays import Ints
from uamix_bench.util.errors import UsageError
from uamix_bench.util.progress import SILENT, Progress


@dataclass(frozen=True)
class TaskPlan:
    """Task of a grid with its protocols and their episodes, before any model is loaded.

    Attributes:
        task: Task, with the classes and groups that episodes are drawn by.
        protocols: Protocols, made a sweep (:func:`uamix_bench.scoring.sweep.sweep`).
        draws: Episodes of each protocol.
        limit: Number of clips of each class that take part, the first ones; None for all.
    """

    task: TaskData
    protocols: Sequence[Protocol]
    draws: Sequence[EpisodeSet]
    limit: int | None = None

    @property
    def table(self) -> TaskData:
        """Task with only the clips that take part."""
        return limited(self.task, self.limit)

    @property
    def clips_drawn(self) -> int:
        """Number of clips that at least one episode draws."""
        return len(self._rows())

    def remarks(self, progress: Progress = SILENT, sounds: bool = True) -> tuple[Remark, ...]:
        """Remarks on these episodes for readers of their scores; see :func:`uamix_bench.scoring.remarks.remarks`.

        Args:
            progress: Progress display of the files that are read.
            sounds: Whether files are read to find copies.
        """
        first = self.table.first_copies(self._rows(), progress) if sounds else None
        return remarks(self.protocols, self.draws, first)

    def _rows(self) -> Ints:
        return np.unique(np.concatenate([episodes.clips for episodes in self.draws]))


def plan_task(
    task: TaskData,
    protocols: Sequence[Protocol],
    *,
    classes: Sequence[str] | Literal["all", "metaaudio"] = "all",
    limit: int | None = None,
    auto_queries: bool = False,
    progress: Progress = SILENT,
) -> TaskPlan:
    """Plans the evaluation of a grid of protocols on a task.

    Args:
        task: Task from :func:`uamix_bench.load_task`.
        protocols: Protocols to evaluate.
        classes: Classes that take part: all, the test classes of MetaAudio's split, or a list, which the protocols'
            names then tell.
        limit: Number of clips of each class that take part, the first ones; None for all.
        auto_queries: Whether the protocols get the largest number of queries a class that all of them can draw, up to
            their own (:func:`most_queries`).
        progress: Progress display of the files that are read.

    Raises:
        UsageError: Too few classes or clips; of several protocols, the error is that of the one with most shots.
    """
    if classes == "metaaudio":
        task = task.metaaudio()
    elif classes != "all":
        task = task.only(classes)
    if any(one.group_disjoint for one in protocols):
        task = task.group_copies(progress)
    table = limited(task, limit)
    if auto_queries:
        queries = most_queries(table, protocols)
        protocols = [one.changed(n_query=queries) for one in protocols]
    if classes not in ("all", "metaaudio"):
        protocols = [one.model_copy(update={"name": f"{one.name}-classes"}) for one in protocols]
    cells = sweep(protocols, table.sorted_clips)
    drawn = {cell: draw_episodes(table, cell) for cell in sorted(cells, key=lambda cell: -cell.k_shot)}
    return TaskPlan(task, cells, [drawn[cell] for cell in cells], limit)


def draw_episodes(task: TaskData, protocol: Protocol) -> EpisodeSet:
    """Draws a protocol's episodes from a task's clip table; see :func:`uamix_bench.scoring.episodes.draw_sorted`.

    Raises:
        UsageError: Too few classes or clips for the protocol.
    """
    (table,) = draw_tables(task, [protocol])
    return draw_sorted(protocol, table.sorted_clips, task=task.name, version=task.card.version)


def most_queries(task: TaskData, protocols: Sequence[Protocol]) -> int:
    """Largest number of queries a class that all protocols can draw, up to the number they ask for.

    Protocols of several shots share their queries. No class is left out. If episodes are group-disjoint, the groups
    that are no supports must hold as many clips.

    Raises:
        UsageError: The protocols cannot draw even one query a class.
    """
    most = task.most_queries(max(1, *(one.k_shot for one in protocols)), max(one.n_query for one in protocols))
    if not any(one.group_disjoint for one in protocols):
        return most
    for queries in range(most, 0, -1):
        try:
            for one in sweep([one.model_copy(update={"n_query": queries}) for one in protocols], task.sorted_clips):
                draw_episodes(task, one)
            return queries
        except UsageError as error:
            refusal = error
    raise refusal


def limited(task: TaskData, clips_per_class: int | None) -> TaskData:
    """Task with only the first clips, by id, of each class."""
    if clips_per_class is None:
        return task
    return replace(task, table=task.table.take(earlier_equals(task.table["label"]) < clips_per_class))
