"""Differences between the arms of an ablation, from the episodes of its record. Pure functions, free of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from uamix_bench.records.results import Result
from uamix_bench.records.training_records import AblationRecord, Arm
from uamix_bench.scoring.statistics import conventional_interval, holm, paired_t, sign_flip_p
from uamix_bench.util.arrays import Doubles

UNTUNED = "untuned"


class Contrast(NamedTuple):
    """Difference of two rows on the same episodes, seed by seed, averaged over tasks. Fractions.

    Attributes:
        mean: Mean difference.
        half: Half-width of its 95% interval over episodes, of their means over seeds; None without one. It covers
            these clips and these trainings only. Tasks are independent.
        spread: Standard deviation over seeds; None with one seed.
        seeds_half: Half-width of the 95% t interval over seeds, whatever the episodes; None with one seed.
    """

    mean: float
    half: float | None
    spread: float | None
    seeds_half: float | None


class Delta(NamedTuple):
    """A row in one task and protocol, over all its seeds, compared with the reference on the same episodes.

    Accuracies are fractions.

    Attributes:
        label: Label of the arm, or `UNTUNED` for the starting weights.
        reference: True for the reference itself; `difference` is then None.
        task: Name and version of the task, or their number in words for the mean over tasks.
        n_way: Number of classes in an episode.
        k_shot: Number of supports a class.
        classes_left_out: Number of classes with too few clips. Protocols of a task with equal numbers leave out the
            same classes.
        seeds: Number of trainings; 0 for the starting weights.
        accuracy: Mean accuracy over seeds and episodes.
        half_width: Conventional 95% half-width over episodes, of their means over seeds.
        seed_spread: Standard deviation of the seeds' accuracies; None with one seed.
        difference: Row less reference.
        over_untuned: Row less starting weights; None for these, and in records without their results.
        p: Two-sided p value of the paired t test of `difference` over episodes, Holm-adjusted over the rows and tasks
            of the first protocol. None in the other protocols, which are exploratory, and for means over tasks.
        tasks: Number of tasks that the row is the mean of.
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
    difference: Contrast | None
    over_untuned: Contrast | None
    p: float | None
    tasks: int = 1


class Beside(NamedTuple):
    """A model beside the arms, under one pooling: accuracy and half-width by (task, classifier), fractions."""

    model: str
    pooling: str
    dimensions: int
    accuracies: Mapping[tuple[str, str], tuple[float, float | None]]


def deltas(record: AblationRecord) -> list[Delta]:
    """Computes the difference of every row from the reference and from the starting weights, from their episodes.

    An arm with a failed seed is compared over the seeds that both have.

    Returns:
        Rows by task and protocol in the order of the results, the reference first; then, with several tasks, the means
        over them by protocol.
    """
    arms: dict[str, dict[int, Arm]] = {}
    for arm in record.arms:
        arms.setdefault(arm.label, {})[arm.training.train_seed] = arm
    (reference,) = {arm.label: arms[arm.label] for arm in record.arms if arm.reference}.values()
    labels = sorted(arms, key=lambda label: arms[label] is not reference)
    cells = record.arms[0].results
    by_protocol: dict[tuple[int, int], list[int]] = {}
    for cell, result in enumerate(cells):
        by_protocol.setdefault((result.protocol.n_way, result.protocol.k_shot), []).append(cell)
    untuned = [_untuned(record, result) for result in cells]
    known = all(one is not None for one in untuned)
    shown = [labels[0], *([UNTUNED] if known else []), *labels[1:]]

    def row(label: str, chosen: Sequence[int]) -> Delta:
        base = [untuned[cell] for cell in chosen] if known else None
        return _row(label, arms.get(label), reference, base, chosen, [cells[cell] for cell in chosen])

    found = [row(label, [cell]) for cell in range(len(cells)) for label in shown]
    for chosen in by_protocol.values():
        if len(chosen) > 1:
            found += [row(label, chosen) for label in shown]
    first = cells[0].protocol
    family = {
        index: delta.p
        for index, delta in enumerate(found)
        if delta.p is not None and (delta.n_way, delta.k_shot) == (first.n_way, first.k_shot)
    }
    adjusted = dict(zip(family, holm([*family.values()]).tolist(), strict=True)) if family else {}
    return [delta._replace(p=adjusted.get(index)) for index, delta in enumerate(found)]


def _untuned(record: AblationRecord, cell: Result) -> Doubles | None:
    """Accuracies (1, episodes) of the starting weights in a cell, pooled as the arms are; None if not recorded."""
    parent = record.arms[0].training.parent_sha256
    for result in record.beside:
        same = (result.protocol, result.task, result.model.pooling) == (cell.protocol, cell.task, cell.model.pooling)
        if same and result.model.weights_sha256 == parent:
            return result.accuracies()[None]
    return None


def _row(
    label: str,
    arms: Mapping[int, Arm] | None,
    reference: Mapping[int, Arm],
    untuned: Sequence[Doubles | None] | None,
    cells: Sequence[int],
    results: Sequence[Result],
) -> Delta:
    """Row of a label in cells of one protocol, one a task; `arms` is None for the starting weights.

    Accuracies are (seeds, episodes).
    """

    def of(one: Mapping[int, Arm], cell: int) -> Doubles:
        return np.array([one[seed].results[cell].accuracies() for seed in arms or reference])

    base = [] if untuned is None else [given for given in untuned if given is not None]
    own = base if arms is None else [of(arms, cell) for cell in cells]
    difference = None if arms is reference else _contrast(own, [of(reference, cell) for cell in cells])
    halves = [conventional_interval(values.mean(0)).half_width for values in own]
    test_p = None
    if difference is not None and len(cells) == 1 and own[0].shape[1] > 1:
        mine, theirs = own[0].mean(0), of(reference, cells[0]).mean(0)
        tested = paired_t(mine, theirs).p
        test_p = sign_flip_p(mine - theirs) if tested is None else tested
    by_seed = np.mean([values.mean(1) for values in own], axis=0)
    protocol = results[0].protocol
    return Delta(
        label=label,
        reference=arms is reference,
        task=results[0].task.label if len(results) == 1 else f"mean of {len(results)} tasks",
        n_way=protocol.n_way,
        k_shot=protocol.k_shot,
        classes_left_out=sum(result.episodes.classes_left_out for result in results),
        seeds=0 if arms is None else len(own[0]),
        accuracy=float(by_seed.mean()),
        half_width=_together(halves),
        seed_spread=float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None,
        difference=difference,
        over_untuned=_contrast(own, base) if base and arms is not None else None,
        p=test_p,
        tasks=len(results),
    )


def _contrast(own: Sequence[Doubles], theirs: Sequence[Doubles]) -> Contrast:
    """Mean over tasks of the differences of two rows; a row without seeds stands against each seed of the other."""
    paired = [mine - other for mine, other in zip(own, theirs, strict=True)]  # (seeds, episodes) a task
    halves = [
        paired_t(mine.mean(0), other.mean(0)).half_width if mine.shape[1] > 1 else None
        for mine, other in zip(own, theirs, strict=True)
    ]
    by_seed = np.mean([one.mean(1) for one in paired], axis=0)
    spread = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None
    return Contrast(
        mean=float(by_seed.mean()),
        half=_together(halves),
        spread=spread,
        seeds_half=float(stdtrit(len(by_seed) - 1, 0.975)) * spread / math.sqrt(len(by_seed)) if spread else spread,
    )


def _together(halves: Sequence[float | None]) -> float | None:
    """Half-width of the mean of independent means."""
    known = [half for half in halves if half is not None]
    return math.hypot(*known) / len(known) if len(known) == len(halves) else None


def beside(record: AblationRecord) -> list[Beside]:
    """Models beside the arms with their poolings, in the order of the record, in the first protocol of every task."""
    first = record.arms[0].results[0].protocol
    rows: dict[tuple[str, str, str], Beside] = {}
    for result in record.beside:
        protocol = result.protocol
        if (protocol.n_way, protocol.k_shot) == (first.n_way, first.k_shot):
            key = (result.model.name, result.model.weights_sha256 or "", result.model.pooling)
            row = rows.setdefault(key, Beside(result.model.name, result.model.pooling, result.model.embedding_dim, {}))
            cell = {(result.task.label, protocol.classifier): (result.score.accuracy, result.score.ci95)}
            rows[key] = row._replace(accuracies={**row.accuracies, **cell})
    return list(rows.values())
