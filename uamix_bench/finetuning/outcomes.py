"""Outcomes of a fine-tuning's runs: a file for each, and together the score that a record states."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from uamix_bench.data.task import TaskData
from uamix_bench.finetuning.splits import Fold, Plan
from uamix_bench.records.finetune_record import FinetuneRun, FinetuneScore, GroupIntervals, seeds_std
from uamix_bench.records.provenance import scrub
from uamix_bench.records.record import HalfInterval
from uamix_bench.scoring.metrics import Scored, average_precisions, bootstrap_interval, clustered_interval
from uamix_bench.tuning.checkpoints import refuse_other
from uamix_bench.util import files
from uamix_bench.util.arrays import Doubles, Floats, Ints
from uamix_bench.util.progress import Progress


class Run(NamedTuple):
    """Run of a fine-tuning: one training on one fold with one seed."""

    fold: Fold
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's files."""
        return f"{re.sub(r'[^A-Za-z0-9._-]', '_', self.fold.name)}-seed{self.seed}"


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run, stored in a file so that a repeated command skips the run.

    Attributes:
        scores: (n, C) float32 scores of the test clips.
        test: (n,) int64 rows of the test clips in the clip table.
        facts: Plain data by name: train_clips, batch, strength, trained_parameters, frames, history, notes, skipped,
            seconds, and the code that made it.
    """

    scores: Floats
    test: Ints
    facts: dict[str, Any]

    def write(self, path: Path, identity: dict[str, Any]) -> None:
        """Writes the outcome, with the identity of its run."""
        facts = json.dumps({"identity": identity, **self.facts}, allow_nan=False)
        files.write_atomic(
            path, lambda file: np.savez_compressed(file, scores=self.scores, test=self.test, facts=np.array(facts))
        )


def read_outcome(path: Path, identity: dict[str, Any], progress: Progress) -> Outcome | None:
    """Reads the outcome of a finished run; None if there is none, or the file is damaged.

    Raises:
        UsageError: The outcome is that of another training; the line names every difference.
    """
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            scores, test, facts = arrays["scores"], arrays["test"], json.loads(str(arrays["facts"]))
        written = facts.pop("identity")
    except Exception as error:  # numpy raises many kinds for a damaged file
        progress.say(f"{path.name} is damaged ({type(error).__name__}); running it again")
        return None
    refuse_other(path.parent, written, identity)
    return Outcome(scores, test, facts)


def score(
    data: TaskData, plan: Plan, done: Sequence[tuple[Run, Outcome]], several: bool
) -> tuple[tuple[FinetuneRun, ...], FinetuneScore, tuple[str, ...]]:
    """Computes the score of all runs.

    Args:
        data: Task that was tested.
        plan: Labels and folds of the task.
        done: Runs, each with its outcome.
        several: Whether a clip may have several classes; the metric is then mAP, else accuracy.

    Returns:
        Runs as the record has them, the score, and notes that a reader needs.
    """
    group_of = data.table["group"].astype(str)
    names = np.unique(np.concatenate([group_of[outcome.test] for _, outcome in done]))
    runs, tested = [], []
    for run, outcome in done:
        order = np.lexsort((outcome.test, group_of[outcome.test]))  # in a group by id: the table is sorted by it
        test, values = outcome.test[order], outcome.scores[order].astype(np.float64)
        numbers = np.searchsorted(names, group_of[test]).astype(np.int64)
        runs.append(_run(data, plan, run, outcome.facts, test, numbers, values, several))
        tested.append(Scored(numbers, values, plan.labels.targets[test]) if several else runs[-1].tested())
    interval = bootstrap_interval(tested) if several else clustered_interval(tested)
    made = FinetuneScore(
        value=float(np.mean([run.value() for run in runs])),
        intervals=GroupIntervals(groups=HalfInterval.of(interval)),
        method=(
            "1.96 x standard deviation over 1,000 bootstrap samples of groups"
            if several
            else "t(G - 1) x cluster-robust standard error over G groups"
        ),
        seeds_std=seeds_std(runs),
    )
    notes = dict.fromkeys(note for _, outcome in done for note in outcome.facts["notes"])
    return tuple(runs), made, (*notes, *_warnings(data, plan, several))


def _run(
    data: TaskData,
    plan: Plan,
    run: Run,
    facts: dict[str, Any],
    test: Ints,
    numbers: Ints,
    values: Doubles,
    several: bool,
) -> FinetuneRun:
    targets, classes = plan.labels.targets[test], plan.labels.classes
    present = np.flatnonzero(targets.any(axis=0)).tolist()
    right = np.zeros(len(test), np.bool_) if several else values.argmax(axis=1) == targets.argmax(axis=1)
    precision = average_precisions(values, targets) if several else None
    groups, sizes = np.unique(numbers, return_counts=True)
    return FinetuneRun(
        fold=run.fold.name,
        seed=run.seed,
        train_clips=facts["train_clips"],
        batch=facts["batch"],
        strength=facts["strength"],
        test_sha256=files.digest(data.table["clip"][test].tolist()),
        groups=tuple(zip(groups.tolist(), sizes.tolist(), strict=True)),
        correct="" if several else "".join(map(str, right.astype(int))),
        per_class={classes[c]: (int(right[targets[:, c]].sum()), int(targets[:, c].sum())) for c in present},
        average_precision={} if precision is None else {classes[c]: float(precision[c]) for c in present},
        history=tuple(facts["history"]),
    )


def _warnings(data: TaskData, plan: Plan, several: bool) -> list[str]:
    """Notes on limits of a score: shared groups, copies, and classes missing from training or test."""
    targets, group_of = plan.labels.targets, data.table["group"].astype(str)
    tested = sum(len(fold.test) for fold in plan.folds)
    used = np.unique(np.concatenate([part for fold in plan.folds for part in (fold.train, fold.test)]))
    first = data.first_copies(used)
    shared = copied = unknown = unheard = 0
    for fold in plan.folds:
        trained, heard = targets[fold.train].any(axis=0), targets[fold.test].any(axis=0)
        shared += int(np.isin(group_of[fold.test], group_of[fold.train]).sum())
        copied += 0 if first is None else int(np.isin(first[fold.test], first[fold.train]).sum())
        unknown += int((targets[fold.test] & ~trained).any(axis=1).sum())
        unheard += int((~heard).sum())
    notes = []
    if shared:
        notes.append(f"{shared:,} of {tested:,} test clips share a group with a training clip of their fold")
    if copied:
        notes.append(f"{copied:,} of {tested:,} test clips are identical copies of a training clip of their fold")
    if unknown:
        notes.append(f"{unknown:,} of {tested:,} test clips have a class that no training clip of their fold has")
    if several and unheard:
        notes.append(f"{unheard:,} classes without a positive test clip are left out of mAP, counted in every fold")
    return notes + [scrub(str(remark)) for remark in data.remarks]
