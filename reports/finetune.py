"""Report of fine-tunings and linear probes: scores with their intervals, folds, label fractions, classes, curves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from uamix_bench.plugins.overlap import notes
from uamix_bench.records.finetune_record import FinetuneResult
from uamix_bench.records.newest import newest
from uamix_bench.reports import figures, provenance
from uamix_bench.reports.blocks import Block, Cell, Code, Facts, Figure, Mark, Row, Section, Table, count, percent
from uamix_bench.reports.class_page import by_class
from uamix_bench.reports.drawing import SERIES
from uamix_bench.reports.looks import looks
from uamix_bench.reports.page import Page, render
from uamix_bench.reports.published import published
from uamix_bench.util.errors import UsageError

_MOST_MODELS = 4  # side by side


def report(records: Iterable[Any]) -> Page:
    """Renders fine-tunings.

    Args:
        records: Records of any kind; those of fine-tunings and linear probes are shown.

    Raises:
        UsageError: The records hold no fine-tuning and no linear probe.
    """
    found, superseded, earlier = newest(record for record in records if isinstance(record, FinetuneResult))
    if not found:
        raise UsageError("report", "no fine-tuning among the records", "run 'uamix-bench finetune' first")
    labels, look = _labels(found), looks(one.model.name for one in found)
    by_task: dict[str, list[FinetuneResult]] = {}
    for one in found:
        by_task.setdefault(one.task.label, []).append(one)
    lead = ["Last epoch of every run, on held-out clips."]
    lead += [f"{count(superseded, 'older record')} of the same evaluation skipped."] * bool(superseded)
    blocks: list[Block] = [
        Section(task, [_scores(of_task, labels), *_fractions(task, of_task, look), *_classes(of_task, labels, look)])
        for task, of_task in by_task.items()
    ]
    blocks += [*_published({one.task.name for one in found})]
    drawn = [figure for one in found if (figure := _training(one, labels[one.id]))]
    if drawn:
        blocks.append(Section("Trainings", drawn))
    blocks.append(Section("Records", [_record(one, labels[one.id]) for one in found], look="folded"))
    return render(
        "Fine-tuning and linear probes",
        blocks,
        lead=" ".join([*lead, *(f"{line}." for line in earlier)]),
        footer="Made by uamix-bench from its records.",
        said=earlier,
    )


def _labels(records: Sequence[FinetuneResult]) -> dict[str, str]:
    """Labels of records by id: model, method and fraction, and all that tells one from others on its task."""
    made = {}
    for one in records:
        share = f", {one.labels} of labels" if one.setting.fraction else f", {one.labels}" if one.labels else ""
        frozen = f", {one.setting.frozen_blocks} blocks frozen" if one.setting.frozen_blocks else ""
        made[one.id] = f"{one.model.shown}, {one.setting.method}{frozen}{share}"
    names = [(one.task.name, made[one.id]) for one in records]
    return {
        one.id: made[one.id] + (f" ({one.id[:6]})" if names.count((one.task.name, made[one.id])) > 1 else "")
        for one in records
    }


def _scores(records: Sequence[FinetuneResult], labels: dict[str, str]) -> Table:
    rows: list[Row] = []
    seeds = any(one.score.seeds_std is not None for one in records)
    for one in sorted(records, key=lambda one: -one.score.value):
        setting, score = one.setting, one.score
        rows.append(
            (
                labels[one.id],
                finetuned_cell(one),
                *(("" if score.seeds_std is None else f"{100 * score.seeds_std:.2f}",) if seeds else ()),
                ", ".join(f"{100 * run.value():.1f}" for run in one.runs),
                f"{len(one.runs)}",
                Cell(f"{setting.trained_parameters:,}", sort=setting.trained_parameters),
                setting.split,
            )
        )
    columns = (
        "what",
        "score %>",
        *(("over seeds>",) if seeds else ()),
        "by run",
        "runs>",
        "trained parameters>",
        "split",
    )
    intervals = " or ".join(dict.fromkeys(one.score.method for one in records))
    overlaps = notes((labels[one.id], one.task.label, one.overlap_known) for one in records if one.overlap_mark)
    return Table(
        columns,
        rows,
        "Mean over runs",
        f"± half-width of the 95% interval ({intervals}): it covers new recordings, speakers or videos under the "
        "same training clips."
        + " Over seeds: standard deviation of the mean over folds, reported separately." * seeds
        + "".join(f"\n\n{line}" for line in overlaps),
    )


def finetuned_cell(one: FinetuneResult) -> Cell:
    """Cell with a score, its interval or why there is none, and marks of a partial record and of an overlap."""
    interval = one.score.intervals.groups
    notes = [
        "" if one.setting.metric == "accuracy" else one.setting.metric,
        "" if one.status.complete else "partial, not ranked",
        interval.reason and f"no interval: {interval.reason}",
    ]
    mark: Mark = "" if one.status.complete else "faint"
    cell = percent(one.score.value, interval.half_width, mark=mark, note="; ".join(filter(None, notes)))
    return replace(cell, minor=f"{cell.minor} {one.overlap_mark}".strip())


def _fractions(task: str, records: Sequence[FinetuneResult], look: Mapping[str, int]) -> Iterator[Figure]:
    """Figure of the score over the number of labels, if a model has several."""
    lines: list[dict[float, FinetuneResult]] = []  # each of one model, trained one way on one clip table
    for one in records:
        labels = one.clips_a_class
        fitting = (line for line in lines if labels not in line and _line(next(iter(line.values()))) == _line(one))
        if (line := next(fitting, None)) is not None:
            line[labels] = one
        else:
            lines.append({labels: one})
    found = [sorted(line.items()) for line in lines if len(line) > 1]
    names = [f"{one.model.shown}, {one.setting.method}" for (_, one), *_ in found]
    several = {
        name + (f" ({points[0][1].id[:6]})" if names.count(name) > 1 else ""): points
        for name, points in zip(names, found, strict=True)
    }
    if several:
        models = [points[0][1].model.name for points in several.values()]
        looked = [look[model] + len(SERIES) * models[:at].count(model) for at, model in enumerate(models)]
        yield figures.curves(
            f"{task} with few labels",
            {
                "": [
                    figures.Series(
                        name,
                        [labels for labels, _ in points],
                        [100 * one.score.value for _, one in points],
                        [np.nan if one.score.ci95 is None else 100 * one.score.ci95 for _, one in points],
                    )
                    for name, points in several.items()
                ]
            },
            x_label="training clips a class",
            y_label="score in %",
            description="Score with its 95% band over the mean number of training clips of a class.",
            log_x=True,
            looks=dict(zip(several, looked, strict=True)),
        )


def _line(one: FinetuneResult) -> tuple[object, ...]:
    return one.model, one.setting.method, one.setting.frozen_blocks, one.setting.metric, one.task.clips_sha256


def _classes(records: Sequence[FinetuneResult], labels: dict[str, str], look: Mapping[str, int]) -> Iterator[Figure]:
    """Figures of accuracy by class over all runs; of average precision under mAP."""
    for metric, name in (("accuracy", "accuracy"), ("mAP", "average precision")):
        shown = sorted((one for one in records if one.setting.metric == metric), key=lambda one: -one.score.value)
        rates = {labels[one.id]: _rates(one) for one in shown[:_MOST_MODELS]}
        if rates:
            looked = {labels[one.id]: look[one.model.name] for one in shown}
            yield by_class(rates, looked, "One row a class, over all runs", name)


def _rates(one: FinetuneResult) -> dict[str, float]:
    if one.setting.metric == "mAP":
        values: dict[str, list[float]] = {}
        for run in one.runs:
            for name, precision in run.average_precision.items():
                values.setdefault(name, []).append(precision)
        return {name: float(np.mean(found)) for name, found in values.items()}
    counts: dict[str, tuple[int, int]] = {}
    for run in one.runs:
        for name, (right, asked) in run.per_class.items():
            before = counts.get(name, (0, 0))
            counts[name] = before[0] + right, before[1] + asked
    return {name: right / asked for name, (right, asked) in counts.items() if asked}


def _published(tasks: set[str]) -> Iterator[Section]:
    """Published results on one of the tasks."""
    tables = [table for table in published().tables if table.kind != "few-shot"]
    here = [table for table in tables if any(tasks & set(row.accuracy) for row in table.rows)]
    if here:
        yield Section("Published, not measured here", [published().show(table) for table in here], look="folded")


def _training(one: FinetuneResult, label: str) -> Figure | None:
    """Figure of the loss of every run over its steps."""
    lines = []
    for run in one.runs:
        points = [(entry["step"], entry["loss"]) for entry in run.history if {"step", "loss"} <= set(entry)]
        if points:
            lines.append(figures.Series(f"{run.fold}, seed {run.seed}", *zip(*points, strict=True)))
    if not lines:
        return None
    return figures.curves(
        f"{label} on {one.task.label}",
        {"": lines},
        x_label="step",
        y_label="training loss",
        description=f"Training loss over steps, one line a run; the last are "
        f"{', '.join(f'{np.asarray(line.y)[-1]:.3g}' for line in lines)}.",
    )


def _record(one: FinetuneResult, label: str) -> Section:
    recipe = "; ".join(f"{name} {value}" for name, value in one.setting.recipe.items() if value not in (None, "", []))
    facts = {
        "id": one.id,
        "status": "complete" if one.status.complete else "partial, not ranked",
        "notes": "; ".join(one.status.notes),
        "weights": one.model.weights_sha256,
        "adapter": f"{one.model.adapter_version}, pooling {one.model.pooling}, {one.model.dtype}",
        "recipe": recipe,
        "clips": f"{one.task.clips:,} in {one.task.classes:,} classes; table {one.task.clips_sha256[:16]}",
        "time": f"{one.cost.seconds:,.0f} s",
        **provenance.facts(one.provenance),
    }
    where = f"{label} on {one.task.label}"
    return Section(where, [Facts(facts), Code(one.provenance.command, "Command")], look="folded")
