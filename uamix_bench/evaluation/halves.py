"""Halves of a task: a model is chosen on one and reported on the other. No group has clips in both. Torch-free."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import replace

import numpy as np

from uamix_bench.data.task import TaskData
from uamix_bench.util.arrays import Mask
from uamix_bench.util.files import canonical_json
from uamix_bench.util.progress import SILENT, Progress

CHOOSING, REPORTING = "recommend-choosing", "recommend-reporting"  # names of the protocols of results on a half
_ALGORITHM = "halves-1"


def halves(task: TaskData, seed: int, progress: Progress = SILENT) -> tuple[TaskData, TaskData]:
    """Splits a task's clips into two random halves, the first to choose on and the second to report on.

    Groups are dealt in turn, the largest first, equal ones in the order of a hash of seed and name. Each goes to the
    half that has fewer clips of its classes; the hash decides a draw. So a class of single clips is split evenly.
    Clips of equal content stay together.

    Args:
        task: Task with all its clips.
        seed: Seed of the split.
        progress: Progress display of the files that are read to find copies.
    """
    grouped = task.group_copies(progress).table
    held: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))  # clips of each class, by group
    for group, label in zip(grouped["group"], grouped["label"], strict=True):
        held[group][label] += 1
    order = sorted((-sum(of.values()), _hash(seed, group), group) for group, of in held.items())
    lead: dict[str, int] = defaultdict(int)  # of the first half over the second, in clips of each class
    first: set[str] = set()
    for _, drawn, group in order:
        balance = sum(lead[label] * clips for label, clips in held[group].items())
        takes = balance < 0 or (balance == 0 and drawn[0] < 0x80)
        if takes:
            first.add(group)
        for label, clips in held[group].items():
            lead[label] += clips if takes else -clips
    chosen = np.array([group in first for group in grouped["group"]], np.bool_)
    return _rows(task, chosen), _rows(task, ~chosen)


def half_of(task: TaskData, protocol_name: str, seed: int) -> TaskData | None:
    """Half of a task that results under a protocol of this name and seed are on; None for any other protocol."""
    if protocol_name not in (CHOOSING, REPORTING):
        return None
    return halves(task, seed)[protocol_name == REPORTING]


def _rows(task: TaskData, chosen: Mask) -> TaskData:
    return replace(task, table=task.table.take(chosen))


def _hash(seed: int, group: str) -> bytes:
    return hashlib.sha256(canonical_json([_ALGORITHM, seed, group])).digest()
