"""Splits of a supervised task: its own, else folds with no group split across them; and subsets of the labels."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from uamix_bench.data.clip_table import ClipTable, earlier_equals
from uamix_bench.data.task import TaskData
from uamix_bench.plugins.card import Supervised
from uamix_bench.util.arrays import Ints, Mask
from uamix_bench.util.errors import BadInputError, UsageError

FOLDS = 5  # of data that brings no split
_NAMES = {
    "train": ("train", "training"),
    "validation": ("valid", "validation", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_FOLD = re.compile(r"(fold[-_ ]?)?\d+", re.IGNORECASE)


class Fold(NamedTuple):
    """Fold: rows of the clip table, each in at most one part; `validation` may be empty."""

    name: str
    train: Ints
    validation: Ints
    test: Ints


class Labels(NamedTuple):
    """Labels to predict: the sorted classes, and (n, C) True for the classes of each clip."""

    classes: tuple[str, ...]
    targets: Mask


class Plan(NamedTuple):
    """Plan of a fine-tuning: the folds, their origin in words, and the labels to predict."""

    folds: tuple[Fold, ...]
    scheme: str
    labels: Labels


def supervised(data: TaskData) -> TaskData:
    """Task for fine-tuning, whose labels or groups may differ from those of few-shot episodes."""
    return replace(data, table=ClipTable(data.task.supervised(data.root, data.table)))


def joined(data: TaskData, test: TaskData) -> TaskData:
    """Task made of two: all clips of `data` train, those of `test` are tested; a first folder in the ids tells which.

    Clips, digest and version are those of both tasks together; the name is that of `data`.
    """
    parts = [
        part.table.assign(clip=[f"{split}/{clip}" for clip in part.table["clip"]], split=split)
        for split, part in (("train", data), ("test", test))
    ]
    if data.several and test.several and data.several != test.several:
        reason = f"gives clips several classes in another way ({test.several}) than {data.name} ({data.several})"
        raise BadInputError(test.name, reason, "give both lists the same column and separator")
    card = data.card.model_copy(update={"supervised": Supervised(train=("train",), test=("test",))})
    table = ClipTable.joined(parts).by_clip()
    lacks = "; ".join(part.partial for part in (data, test) if part.partial)
    remarks = tuple(dict.fromkeys((*data.remarks, *test.remarks)))
    both = replace(
        data,
        card=card,
        table=table,
        partial=lacks,
        remarks=remarks,
        unread=(*data.unread, *test.unread),
        several=data.several or test.several,
    )
    return replace(both, card=card.model_copy(update={"version": both.clips_sha256[:12]}))


def plan(data: TaskData, *, folds: int = FOLDS, seed: int = 0, separator: str | None = None) -> Plan:
    """Chooses splits and labels.

    The first of these that exists: the card's splits; a split column that names train and test (and perhaps
    validation), or folds; else `folds` seeded folds with no group split across them and balanced classes.

    Args:
        data: Task from :func:`supervised`.
        folds: Number of folds for data that have no split; reduced to the number of groups if that is smaller.
        seed: Seed of these folds.
        separator: Text between the classes of a clip that has several, in the label column.

    Raises:
        UsageError: The data has fewer than two classes or groups.
        BadInputError: A named split has no clip.
    """
    labels = read_labels(data, separator)
    card = data.card.supervised or _named_splits(set(data.table["split"]))
    if card is None:
        return Plan(*_grouped(data, labels, folds, seed), labels)
    if card.folds:
        parts = [_rows(data, (name,)) for name in card.folds]
        rotated = tuple(
            Fold(name, np.sort(np.concatenate([*parts[:i], *parts[i + 1 :]])), np.zeros(0, np.int64), parts[i])
            for i, name in enumerate(card.folds)
        )
        return Plan(rotated, f"{len(parts)} folds of the data set, mean over folds", labels)
    train, test = _rows(data, card.train), _rows(data, card.test)
    validation = _rows(data, card.validation) if card.validation else np.zeros(0, np.int64)
    return Plan((Fold("test", train, validation, test),), "train and test split of the data set", labels)


def read_labels(data: TaskData, separator: str | None = None) -> Labels:
    """Reads the label column: one class a clip or, with a separator, several.

    Raises:
        UsageError: The data has fewer than two classes.
    """
    column = data.table["label"].tolist()
    parts = (
        [[part.strip() for part in text.split(separator)] for text in column] if separator else [[t] for t in column]
    )
    classes = tuple(sorted({name for clip in parts for name in clip if name}))
    if len(classes) < 2:
        raise UsageError(data.name, f"has {len(classes)} class", "give data with two classes at least")
    number = {name: index for index, name in enumerate(classes)}
    targets = np.zeros((len(parts), len(classes)), np.bool_)
    for row, clip in enumerate(parts):
        targets[row, [number[name] for name in clip if name]] = True
    return Labels(classes, targets)


def subset(train: Ints, targets: Mask, fraction: float | None, seed: int, shots: int | None = None) -> Ints:
    """Chooses a share of the training clips, or a number of each class; a smaller choice is part of a larger.

    A share is a prefix of one seeded order of the clips. First comes one clip of each class. The others are ordered by
    their relative place among the clips of their rarest class, so that classes stay balanced.

    Args:
        train: (n,) rows of the training clips.
        targets: (N, C) classes of all clips.
        fraction: Share of the clips; None for all.
        seed: Seed of the order.
        shots: Number of clips of each class, instead of a share; of clips with several classes enough for each.

    Returns:
        Sorted rows of the chosen clips; of a share at least one of each class.

    Raises:
        UsageError: A class has fewer clips than `shots`.
    """
    if fraction is None and shots is None:
        return train
    generator = np.random.Generator(np.random.Philox(key=seed))
    shuffled = generator.permutation(np.sort(train))
    own = targets[shuffled]
    count = own.sum(axis=0)
    if shots is not None:
        held = count[count > 0]
        if held.min(initial=shots) < shots:
            reason = f"a class has {held.min()} training clips in a fold"
            raise UsageError(f"--k {shots}", reason, f"give at most {held.min()}")
        return np.sort(shuffled[np.any(own & (own.cumsum(axis=0) <= shots), axis=1)])
    assert fraction is not None
    by_count = np.argsort(count, kind="stable")
    rarest = by_count[own[:, by_count].argmax(axis=1)]
    place = earlier_equals(rarest.tolist())
    order = shuffled[np.argsort((place + 1) / np.maximum(count[rarest], 1), kind="stable")]
    first = np.unique([int(np.argmax(targets[order, c])) for c in np.flatnonzero(count)])
    order = np.concatenate([order[first], np.delete(order, first)])
    return np.sort(order[: max(len(first), int(fraction * len(train) + 0.5))])


def group_folds(label: Ints, groups: npt.NDArray[np.str_], count: int, seed: int) -> list[tuple[Ints, Ints]]:
    """Folds with no group split across them, and classes as balanced as that allows.

    Args:
        label: (n,) class of each clip.
        groups: (n,) group of each clip.
        count: Number of folds, at most the number of groups.
        seed: Seed of the draw.

    Returns:
        Rows of each fold: those that train, and those that are tested.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    balanced = np.bincount(label).max() >= count  # where no class reaches every fold there is nothing to balance
    splitter = (StratifiedGroupKFold if balanced else GroupKFold)(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer clips than folds
        return [(train.astype(np.int64), test.astype(np.int64)) for train, test in splitter.split(label, label, groups)]


def _named_splits(splits: set[str]) -> Supervised | None:
    """Splits that a split column names: train and test, or folds; None if it names neither."""
    names = sorted(splits - {""})
    if len(names) > 1 and all(map(_FOLD.fullmatch, names)):
        return Supervised(folds=tuple(names))
    parts = {part: tuple(n for n in names if n.lower() in known) for part, known in _NAMES.items()}
    return Supervised.model_validate(parts) if parts["train"] and parts["test"] else None


def _rows(data: TaskData, names: tuple[str, ...]) -> Ints:
    found = np.flatnonzero(data.table.among("split", names))
    if not len(found):
        hint = "put the data set's own list of splits beside it" if data.card.supervised else "fill the split column"
        raise BadInputError(data.root, f"no clip is in the split {' or '.join(names)}", hint)
    return found.astype(np.int64)


def _grouped(data: TaskData, labels: Labels, folds: int, seed: int) -> tuple[tuple[Fold, ...], str]:
    groups = data.table["group"].astype(str)
    count = min(folds, len(np.unique(groups)))
    if count < 2:
        raise UsageError(data.name, "all clips are of one group", "give a split column, or groups that can be parted")
    label = labels.targets.argmax(axis=1)  # of several classes the first: a balance, not a promise
    made = tuple(
        Fold(f"fold{number}", train, np.zeros(0, np.int64), test)
        for number, (train, test) in enumerate(group_folds(label, groups, count, seed), start=1)
    )
    return made, f"{count} folds drawn here, groups whole (seed {seed}), mean over folds"
