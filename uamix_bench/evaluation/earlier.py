"""Earlier results of an evaluation in a store: same model and sounds, or the changes since then."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from uamix_bench.data.sound import sound_digests, sounds
from uamix_bench.data.task import TaskData
from uamix_bench.records.record import TaskIdentity
from uamix_bench.records.results import Result, other_model
from uamix_bench.records.store import ResultStore
from uamix_bench.scoring.episodes import draw_sorted
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.storage.digests import sounds_sha256
from uamix_bench.util.arrays import Ints
from uamix_bench.util.errors import UsageError
from uamix_bench.util.progress import SILENT, Progress

if TYPE_CHECKING:  # a command checks names, episodes and folders before torch is imported
    from uamix_bench.embeddings.known import KnownModel
    from uamix_bench.models.model import AudioModel

Overwrite = Literal["never", "missing", "always"]

_SETTINGS = ("input", "pooling", "dtype")  # of a model: what a user asks for, and so no change


class Earlier(NamedTuple):
    """Earlier results of an evaluation in a store.

    Attributes:
        same: Complete results of the same evaluation, with their files.
        changed: If `same` is empty, the differences from the latest result of the same names, settings and draw, with
            its file and accuracy. Empty if no such result exists.
    """

    same: list[tuple[Path, Result]]
    changed: str


def find_earlier(
    store: ResultStore,
    model: AudioModel | KnownModel,
    task: TaskData,
    protocols: Sequence[Protocol],
    overwrite: Overwrite,
    limit: int | None,
    *,
    memo: bool = True,
    progress: Progress = SILENT,
) -> list[Earlier]:
    """Finds the earlier results of an evaluation in a store, for each protocol.

    Sounds are digested only if a result may be of them. Files with a stored digest are not read again.

    The arguments are those of :func:`uamix_bench.evaluation.grid.evaluate`.

    Raises:
        UsageError: `overwrite` is ``never``, and a result exists.
    """
    if model.identity is None:
        raise ValueError("the model has no identity: load it with load_model")
    if limit is not None or task.partial or task.unread:
        return [Earlier([], "") for _ in protocols]
    tables = draw_tables(task, protocols, progress)
    draws = [
        draw_sorted(protocol, table.sorted_clips, task=task.name, version=task.card.version)
        for protocol, table in zip(protocols, tables, strict=True)
    ]
    found = [
        list(
            store.find(model.identity, TaskIdentity.of(table, None, named=protocol.k_shot == 0), protocol, drawn.digest)
        )
        for protocol, table, drawn in zip(protocols, tables, draws, strict=True)
    ]
    asked = [drawn.clips for drawn, candidates in zip(draws, found, strict=True) if candidates]
    here = iter(sounds_here(task, asked, memo, progress))
    there = [_earlier(candidates, model, task, next(here)) if candidates else Earlier([], "") for candidates in found]
    if overwrite == "never" and any(earlier.same for earlier in there):
        path = next(earlier.same[0][0] for earlier in there if earlier.same)
        raise UsageError(path, "is there already", "use --overwrite missing to reuse it, or another folder with -o")
    return there


def draw_tables(task: TaskData, protocols: Sequence[Protocol], progress: Progress = SILENT) -> list[TaskData]:
    """Clip table that each protocol draws from; equal clips share a group if its episodes are group-disjoint."""
    grouped = task.group_copies(progress) if any(protocol.group_disjoint for protocol in protocols) else task
    return [grouped if protocol.group_disjoint else task for protocol in protocols]


def _earlier(
    candidates: Sequence[tuple[Path, Result]], model: AudioModel | KnownModel, task: TaskData, here: str | None
) -> Earlier:
    """Separates results of the same evaluation from those of other weights, code or sounds."""
    assert model.identity is not None
    table = TaskIdentity.of(task, here)
    same: list[tuple[Path, Result]] = []
    others: list[tuple[str, str]] = []
    for path, result in candidates:
        if any(getattr(result.model, name) != getattr(model.identity, name) for name in _SETTINGS):
            continue
        there = result.provenance.content_sha256
        changes = [what for what, *_ in other_model(result.model, model.identity)]
        changes += ["sounds"] * (result.task.content_sha256 != table.content_sha256)
        score = f"{path.name} ({result.score.accuracy:.2%})"
        if there is None:
            others.append((result.provenance.started_at, f"{score} does not record its sounds"))
            continue
        if not changes and result.model == model.identity:
            same.append((path, result))
            if here and there != here:
                found = f"digest {there[:12]}, here {here[:12]}"
                warnings.warn(f"{table.label}: {path.name} is of a copy with other sounds ({found})", stacklevel=3)
            continue
        what = ", ".join(changes) or "what is said of the model"
        others.append((result.provenance.started_at, f"{what} changed since {score}"))
    return Earlier(same, "" if same else max(others, default=("", ""))[1])


def sounds_here(
    task: TaskData, draws: Sequence[Ints], memo: bool = True, progress: Progress = SILENT
) -> list[str | None]:
    """Digest of the sounds of each draw; None if a file is missing or unreadable.

    Args:
        task: Task whose clips are drawn.
        draws: Draws, each (U,) ascending rows of the task's clip table.
        memo: Whether to look up and store digests of files.
        progress: Progress display of the files that are read.
    """
    if not draws:
        return []
    rows = np.unique(np.concatenate(draws))
    found = sound_digests(sounds(task.table.take(rows)), memo=memo, progress=progress)
    unread = rows[list(found.failed)]
    of_row = dict(zip(rows.tolist(), found.digests, strict=True))
    return [
        None if np.isin(unread, drawn).any() else sounds_sha256([of_row[row] for row in drawn.tolist()])
        for drawn in draws
    ]
