"""Differences between the arms of an ablation, from the episodes of its record. Pure functions, free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from uamix_bench.records.training_records import AblationRecord, Arm
from uamix_bench.scoring.statistics import conventional_interval, holm, paired_t, sign_flip_p


class Delta(NamedTuple):
    """An arm in one task and protocol, over all its seeds, compared with the reference on the same episodes.

    Accuracies are fractions.

    Attributes:
        label: Label of the arm.
        reference: True for the reference itself; the differences are then None.
        task: Name and version of the task.
        n_way: Number of classes in an episode.
        k_shot: Number of supports a class.
        classes_left_out: Number of classes with too few clips. Protocols of a task with equal numbers leave out the
            same classes.
        seeds: Number of trainings.
        accuracy: Mean accuracy over seeds and episodes.
        half_width: Conventional 95% half-width over episodes, of their means over seeds.
        seed_spread: Standard deviation of the seeds' accuracies; None with one seed.
        difference: Mean of arm less reference, seed by seed and episode by episode.
        difference_half: Half-width of the difference's 95% t interval over episodes, of their means over seeds. It
            covers these clips and these trainings only.
        difference_spread: Standard deviation over seeds of the difference; None with one seed.
        p: Two-sided p value of the paired t test over episodes, Holm-adjusted over the arms and tasks of the first
            protocol. None in the other protocols, which are exploratory.
    """

    label: str
    reference: bool
    task: str
    n_way: int
    k_shot: int
    classes_left_out: int
    seeds: int
    accuracy: float
    half_width: float | None
    seed_spread: float | None
    difference: float | None
    difference_half: float | None
    difference_spread: float | None
    p: float | None


def deltas(record: AblationRecord) -> list[Delta]:
    """Computes the difference of every arm from the reference, from their episodes.

    An arm with a failed seed is compared over the seeds that both have.

    Returns:
        Differences by task and protocol in the order of the results, the reference first.
    """
    arms: dict[str, dict[int, Arm]] = {}
    for arm in record.arms:
        arms.setdefault(arm.label, {})[arm.training.train_seed] = arm
    (reference,) = {arm.label: arms[arm.label] for arm in record.arms if arm.reference}.values()
    labels = sorted(arms, key=lambda label: arms[label] is not reference)
    found = [
        _delta(cell, arms[label], reference, label) for cell in range(len(record.arms[0].results)) for label in labels
    ]
    family = {index: p for index, delta in enumerate(found) if (p := delta.p) is not None and _first(record, delta)}
    adjusted = dict(zip(family, holm([*family.values()]).tolist(), strict=True)) if family else {}
    return [delta._replace(p=adjusted.get(index)) for index, delta in enumerate(found)]


def _delta(cell: int, arms: Mapping[int, Arm], reference: Mapping[int, Arm], label: str) -> Delta:
    def accuracies(of: Mapping[int, Arm]) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array([of[seed].results[cell].accuracies() for seed in arms])  # (seeds, episodes)

    own, theirs = accuracies(arms), accuracies(reference)
    result = next(iter(arms.values())).results[cell]
    many_seeds = len(own) > 1
    is_reference = arms is reference
    test = paired_t(own.mean(0), theirs.mean(0)) if own.shape[1] > 1 and not is_reference else None
    p = None
    if test is not None:
        p = sign_flip_p(own.mean(0) - theirs.mean(0)) if test.p is None else test.p
    return Delta(
        label=label,
        reference=is_reference,
        task=result.task.label,
        n_way=result.protocol.n_way,
        k_shot=result.protocol.k_shot,
        classes_left_out=result.episodes.classes_left_out,
        seeds=len(own),
        accuracy=float(own.mean()),
        half_width=conventional_interval(own.mean(0)).half_width,
        seed_spread=float(own.mean(1).std(ddof=1)) if many_seeds else None,
        difference=None if is_reference else float((own - theirs).mean()),
        difference_half=None if test is None else test.half_width,
        difference_spread=float((own - theirs).mean(1).std(ddof=1)) if many_seeds and not is_reference else None,
        p=p,
    )


def _first(record: AblationRecord, delta: Delta) -> bool:
    """Test for the first protocol of a task, which the declared family of tests consists of."""
    first = record.arms[0].results[0].protocol
    return (delta.n_way, delta.k_shot) == (first.n_way, first.k_shot)
