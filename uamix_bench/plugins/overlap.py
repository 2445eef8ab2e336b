"""Overlap of a model's training data with a task, from documented facts about data sets alone. Free of torch.

A task's card and ``data_sets.toml`` say by which names a data set goes, which data sets hold it, and where its sounds
come from. What they do not say is never taken for "no overlap".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

from uamix_bench.plugins import registry
from uamix_bench.plugins.card import UNTRAINED, DataSet, Frozen, Text, Training
from uamix_bench.util.files import read_toml

_OTHERS = "others"  # among origins: some are not listed
Level = Literal["none", "unknown", "may overlap", "overlaps"]
LEVELS: tuple[Level, ...] = ("none", "unknown", "may overlap", "overlaps")  # the gravest last
MARKS: dict[Level, str] = {"none": "", "unknown": "?", "may overlap": "(†)", "overlaps": "†"}
_ENDS: dict[Level, str] = {
    "unknown": ": overlap with its training unknown: {}",
    "may overlap": ": overlap with its training possible: {}",
    "overlaps": ": {}, so it has no rank",
}
MEANINGS: dict[Level, str] = {
    "unknown": "? It is not known whether the model was trained on data of this task.",
    "may overlap": "(†) The model may have been trained on sounds of this task: both draw from one source.",
    "overlaps": "† The model was trained on data of this task: its score has no rank and is never the best.",
}


class Overlap(Frozen):
    """Overlap of a model's training data with a task.

    Attributes:
        level: ``overlaps`` if the training data hold sounds of the task; ``may overlap`` if both are drawn from one
            source and nothing says that they share no sound; ``none`` if they are documented to share none;
            ``unknown`` if the facts do not say.
        why: Reason in words.
    """

    level: Level
    why: Text = ""

    @property
    def words(self) -> str:
        """Level with its reason, for tables and notes."""
        return f"{self.level}: {self.why}" if self.why else self.level


@lru_cache(maxsize=4096)
def overlap(training: Training, task: str, facts: DataSet | None = None) -> Overlap:
    """Overlap of training data with a task; of several data sets the gravest.

    Args:
        training: Names of the data sets that a model was trained on; see `ModelCard.pretrained_on`.
        task: Name of the task, ``local/...`` for a user's own data.
        facts: Facts about the task's data set, if no registered task of that name states them.
    """
    if training == (UNTRAINED,):
        return Overlap(level="none", why="trained on no data")
    if not training:
        return Overlap(level="unknown", why="the training data are not stated")
    tested = (None if task in registry.tasks() else facts) or _task(task)
    found = [_of_text(part, tested) for text in training for part in _parts(text)]
    level = max((one.level for one in found), key=LEVELS.index)
    reasons = dict.fromkeys(one.why for one in found if one.level == level)
    return Overlap(level=level, why="; ".join(reasons)[:500])


def meanings(levels: Iterable[Level]) -> list[str]:
    """Meanings of the marks of these levels, the gravest first."""
    found = set(levels)
    return [MEANINGS[level] for level in reversed(LEVELS) if level in found and level in MEANINGS]


def notes(found: Iterable[tuple[str, str, Overlap]]) -> list[str]:
    """Lines on scores whose model may know the task, the gravest first; none for a level of ``none``.

    Args:
        found: Label of the model, label of the task, and overlap of each score.
    """
    who: dict[Overlap, dict[str, dict[str, None]]] = {}
    for model, task, one in found:
        if one.level != "none":
            who.setdefault(one, {}).setdefault(task, {})[model] = None
    ordered = sorted(who, key=lambda one: -LEVELS.index(one.level))
    return [
        f"{MARKS[one.level]} "
        + "; ".join(f"{', '.join(models)} on {task}" for task, models in who[one].items())
        + _ENDS[one.level].format(one.why)
        for one in ordered
    ]


def known_data_sets() -> tuple[DataSet, ...]:
    """Data sets with documented facts: those of the registered tasks, and those of ``data_sets.toml``."""
    return (*(_task(name) for name in registry.tasks()), *_listed())


def _task(name: str) -> DataSet:
    """Facts about a task's data set; the name alone if nothing is stated."""
    plugin = registry.tasks().get(name)
    if plugin is None:
        return DataSet(names=(name,))
    card = plugin.card
    return card.data or DataSet(names=(card.name, *card.aliases, card.title.split(":")[0]))


@cache
def _listed() -> tuple[DataSet, ...]:
    document = read_toml(Path(__file__).with_name("data_sets.toml"))
    return tuple(DataSet.model_validate(one) for one in document["data"])


def _parts(text: str) -> list[str]:
    """Parts of a text that may name several data sets, such as ``AudioSet and FSD50K``."""
    return [part for part in re.split(r"[,;+&]|\band\b", text) if part.strip()] or [text]


def _of_text(text: str, tested: DataSet) -> Overlap:
    found = list(_named(text, tested))
    if not found:
        return Overlap(level="unknown", why=f"nothing is known here of '{text.strip()}'")
    return max((_relation(one, tested) for one in found), key=lambda one: LEVELS.index(one.level))


def _named(text: str, tested: DataSet) -> Iterator[DataSet | str]:
    """Data sets that a text names, and documented parts that share nothing with `tested`; longer names first."""
    names: list[tuple[str, DataSet | str]] = [(name, name) for name in tested.apart]
    names += [(name, one) for one in (tested, *known_data_sets()) for name in one.names]
    names.sort(key=lambda pair: -len(pair[0]))  # of equal ones the first: what is apart, then the task itself
    left = text.lower()
    for name, one in names:
        matched = _pattern(name).search(left)
        if matched:
            left = f"{left[: matched.start()]} | {left[matched.end() :]}"
            yield one


@cache
def _pattern(name: str) -> re.Pattern[str]:
    """Pattern of a name that may be spelt with other separators, or none: ``ESC-50``, ``esc50``, ``ESC 50``.

    A name that is a common word counts alone or before a split or version: ``synthetic``, ``synthetic:test@1``.
    """
    if name.isalpha() and name.islower():
        return re.compile(rf"^\s*{name}\s*$|(?<![a-z0-9]){name}(?=[:@])")
    spelt = "[^a-z0-9|]*".join(re.findall(r"[a-z]+|\d+", name.lower()))
    return re.compile(rf"(?<![a-z0-9])({spelt or re.escape(name.lower())})(?![a-z0-9])")


def _relation(learned: DataSet | str, tested: DataSet) -> Overlap:
    if isinstance(learned, str):
        return Overlap(level="none", why=f"'{learned}' shares no sound with it")
    here, there = learned.names[0], tested.names[0]
    if learned == tested:
        return Overlap(level="overlaps", why=f"trained on {here}")
    if _key(here) in _above(tested.within, "within"):
        return Overlap(level="overlaps", why=f"trained on {here}, which holds {there}")
    sources = [_above((*one.names[:1], *one.origins, *one.within), "origins", "within") for one in (learned, tested)]
    shared = [name for key, name in sources[0].items() if key in sources[1] and key != _OTHERS]
    if shared:
        via = f"both {here} and {there} draw from {shared[-1]}"
        return Overlap(level="may overlap", why=via if _key(shared[-1]) != _key(here) else f"{there} draws from {here}")
    if _OTHERS in {*sources[0], *sources[1]}:
        return Overlap(
            level="unknown", why=f"the sources of {here if _OTHERS in sources[0] else there} are not all known"
        )
    if learned.origins and tested.origins:
        sides = [f"{one.names[0]} ({' and '.join(one.origins)})" for one in (learned, tested)]
        return Overlap(level="none", why=", ".join(sides))
    lacking = here if not learned.origins else there
    return Overlap(level="unknown", why=f"the source of {lacking} is not stated")


def _above(names: Iterable[str], *fields: str) -> dict[str, str]:
    """Names, and all that these data sets are of by these fields, by their keys; the farthest last."""
    found: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop(0)
        if _key(name) not in found:
            found[_key(name)] = name
            of_name = (one for one in known_data_sets() if _key(name) in map(_key, one.names))
            waiting += [above for one in of_name for field in fields for above in getattr(one, field)]
    return found


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()) or name
