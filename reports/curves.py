"""Accuracy over shots and over ways, as in the paper's Figure 3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice

import numpy as np

from uamix_bench.records.results import Result
from uamix_bench.reports import figures
from uamix_bench.reports.blocks import Figure
from uamix_bench.reports.board import DRAWN, Setting, which_drawn
from uamix_bench.scoring.protocol import PAPER
from uamix_bench.util.text import classes_drawn

_AXES = {"k_shot": "shots", "n_way": "ways"}


def accuracy_curves(settings: Sequence[Setting]) -> tuple[list[Figure], Iterator[Figure]]:
    """Draws accuracy over shots for each number of ways that has several, and over ways for each number of shots.

    Args:
        settings: Settings in their order. Only those that differ in ways and shots alone share a figure. Only results
            on the same classes of the same clip table share a line.

    Returns:
        Figure with most points for each axis, of equals that at the paper's 5 ways or 1 shot; then all others, drawn
        as they are taken.
    """
    first: list[Figure] = []
    others: list[Iterator[Figure]] = []
    for series in dict.fromkeys(setting.series for setting in settings):
        alike = [setting for setting in settings if setting.series == series]
        for axis, fixed in (("k_shot", "n_way"), ("n_way", "k_shot")):
            lines: dict[int, list[Setting]] = {}
            on_axis = (one for one in alike if getattr(one.protocol, axis))  # zero-shot has no place on an axis of logs
            for setting in sorted(on_axis, key=lambda setting: getattr(setting.protocol, axis)):
                lines.setdefault(getattr(setting.protocol, fixed), []).append(setting)
            usual = getattr(PAPER, fixed)
            order = sorted(lines, key=lambda value: (-len(lines[value]), value != usual, value))
            drawn = _drawn([lines[value] for value in order], axis, fixed)
            first += islice(drawn, 1)
            others.append(drawn)
    return first, chain.from_iterable(others)


def _drawn(lines: Sequence[Sequence[Setting]], axis: str, fixed: str) -> Iterator[Figure]:
    return (figure for along in lines if (figure := _figure(along, axis, fixed)))


def _figure(along: Sequence[Setting], axis: str, fixed: str) -> Figure | None:
    """Figure of settings in the order of the axis: a panel a task, a line a model, the best of the first on top.

    A task has another panel for settings that leave out some of its classes. None if no panel has a line.
    """
    panels: dict[str, list[figures.Series]] = {}
    entrants = list(dict.fromkeys(row.entrant.label for setting in along for row in setting.standings))
    for label in dict.fromkeys(column.label for setting in along for column in setting.columns):
        lines = _lines(along, axis, label)
        tables = {table for table, _ in lines}
        for (table, left_out), of in lines.items():
            if any(len(points) > 1 for points in of.values()):
                classes = next(iter(next(iter(of.values())).values())).task.classes
                told = [f"{classes_drawn(classes, left_out)} classes"] * bool(left_out)
                told += [f"clips {table[:6]}"] * (len(tables) > 1)
                drawn = [_series(name, sorted(of[name].items())) for name in entrants[:DRAWN] if name in of]
                panels[", ".join((label, *told))] = drawn
    if not panels:
        return None
    value = getattr(along[0].protocol, fixed)
    where = ", ".join(filter(None, (f"{value}-{_AXES[fixed].removesuffix('s')}", along[0].series)))
    words = _AXES[axis]
    return figures.curves(
        f"Accuracy over {words}, {where}{which_drawn(len(entrants))}",
        panels,
        x_label=words,
        y_label="accuracy in %",
        description=f"Accuracy with its 95% band over {words} at {where}: one panel a task, a line a model.",
        x_ticks=sorted({getattr(setting.protocol, axis) for setting in along}),
        log_x=axis == "k_shot",
        looks={name: look for setting in along for name, look in setting.looks.items()},
    )


def _lines(along: Sequence[Setting], axis: str, label: str) -> dict[tuple[str, int], dict[str, dict[int, Result]]]:
    """Results of a task by clip table and classes left out, by model, and by place on the axis.

    Every setting leaves out the smallest classes, so on one table an equal number means the same classes.
    """
    lines: dict[tuple[str, int], dict[str, dict[int, Result]]] = {}
    for setting in along:
        for row in setting.standings:
            if result := row.results.get(label):
                on = (result.task.clips_sha256, result.episodes.classes_left_out)
                points = lines.setdefault(on, {}).setdefault(row.entrant.label, {})
                points.setdefault(getattr(setting.protocol, axis), result)
    return lines


def _series(name: str, points: Sequence[tuple[int, Result]]) -> figures.Series:
    halves = [np.nan if result.score.ci95 is None else 100 * result.score.ci95 for _, result in points]
    return figures.Series(name, [x for x, _ in points], [100 * result.score.accuracy for _, result in points], halves)
