"""Report of trainings: curves of loss, learning rate and effective rank, recipes and data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from uamix_bench.records.training_records import TrainingRecord
from uamix_bench.reports import figures, provenance
from uamix_bench.reports.blocks import Block, Cell, Code, Facts, Figure, Row, Section, Table
from uamix_bench.reports.page import Page, render
from uamix_bench.util.arrays import Doubles
from uamix_bench.util.errors import UsageError
from uamix_bench.util.text import listed

# What a training logs, besides stage and step. The rate is a share of the peak, as its schedule gives it.
_CURVES = {
    "loss": ("Loss", "loss"),
    "lr": ("Learning rate", "share of the peak"),
    "rank": ("Effective rank of the embeddings", "effective rank"),
    "projection_rank": ("Effective rank of the projections", "effective rank"),
    "cosine": ("Cosine to the neighbour", "cosine"),
}
_NAMED = 20  # skipped clips that are named


def report(records: Iterable[Any]) -> Page:
    """Renders trainings.

    Args:
        records: Records of any kind; those of trainings are shown.

    Raises:
        UsageError: The records hold no training.
    """
    found = list({record.id: record for record in records if isinstance(record, TrainingRecord)}.values())
    if not found:
        raise UsageError("report", "no training among the records", "name the folder that 'tune' or 'pretrain' wrote")
    labels = _labels(found)
    many = len(found) > 1
    blocks: list[Block] = [
        Section("What was trained", [_overview(found, labels)]),
        Section("Curves", _curves(found, labels)),
    ]
    blocks.append(Section("Recipes", [_recipes(found, labels)], look="folded" if many else "open"))
    blocks.append(Section("Provenance", [_provenance(one, label) for one, label in zip(found, labels, strict=True)]))
    return render(
        "Trainings" if many else f"Training of {labels[0]}",
        blocks,
        lead="Losses are comparable only between trainings of one kind of recipe and one batch size." * many,
        footer="Made by uamix-bench from training records.",
    )


def _labels(records: Sequence[TrainingRecord]) -> list[str]:
    """Labels of trainings: kind, name and mixing of the recipe; data, seed and the id's first digits if they differ."""
    data = len({record.data for record in records}) > 1
    seeds = len({record.train_seed for record in records}) > 1
    made = []
    for record in records:
        words = [str(record.recipe[name]) for name in ("kind", "name", "mix") if record.recipe.get(name)]
        words += [f"on {record.data.name}"] * data + [f"seed {record.train_seed}"] * seeds
        made.append(" ".join(words))
    alike = [made.count(label) > 1 for label in made]
    return [
        f"{label} {record.id[:6]}" if same else label for record, label, same in zip(records, made, alike, strict=True)
    ]


def _overview(records: Sequence[TrainingRecord], labels: Sequence[str]) -> Table:
    rows = []
    for record, label in zip(records, labels, strict=True):
        last = record.history[-1] if record.history else {}
        rows.append(
            (
                label,
                record.data.label,
                f"{len({entry.get('stage', 0) for entry in record.history})}",
                f"{int(_steps(record)[-1]) + 1:,}" if record.history else "",
                f"{last['loss']:.4f}" if "loss" in last else "",
                f"{_last(record, 'rank'):.1f}" if np.isfinite(_last(record, "rank")) else "",
                f"{len(record.skipped):,}",
                record.weights_sha256[:12],
            )
        )
    columns = ("training", "data", "stages>", "steps>", "last loss>", "effective rank>", "clips skipped>", "weights")
    return Table(columns, rows)


def _last(record: TrainingRecord, key: str) -> float:
    """Last logged value of a figure; NaN if there is none."""
    return next((entry[key] for entry in reversed(record.history) if key in entry), float("nan"))


def _steps(record: TrainingRecord) -> Doubles:
    """Step (n,) of each entry, counted on from stage to stage."""
    steps, before, stage = [], 0.0, None
    for entry in record.history:
        if stage is not None and entry.get("stage", 0) != stage:
            before = steps[-1] + 1
        stage = entry.get("stage", 0)
        steps.append(before + entry.get("step", 0))
    return np.array(steps, np.float64)


def _curves(records: Sequence[TrainingRecord], labels: Sequence[str]) -> list[Figure]:
    drawn = []
    for key, (title, y_label) in _CURVES.items():
        lines = []
        for record, label in zip(records, labels, strict=True):
            logged = np.array([entry.get(key, np.nan) for entry in record.history], np.float64)
            known = np.isfinite(logged)
            if known.any():
                lines.append(figures.Series(label, _steps(record)[known], logged[known]))
        if lines:
            ends = [f"{line.label} ends at {np.asarray(line.y)[-1]:.4g}" for line in lines]
            drawn.append(
                figures.curves(
                    title,
                    {"": lines},
                    x_label="step, counted on from stage to stage",
                    y_label=y_label,
                    description=f"{title} over the training's steps: {'; '.join(ends)}.",
                )
            )
    return drawn


def _recipes(records: Sequence[TrainingRecord], labels: Sequence[str]) -> Table:
    """Table of every field; with several trainings, the fields that differ come first."""
    fields = list(dict.fromkeys(field for record in records for field in record.recipe))
    told = {field: [_told(record.recipe.get(field)) for record in records] for field in fields}
    differ = [field for field in fields if len(set(told[field])) > 1]
    rows: list[Row] = [(field, *(Cell(text, mark="best") for text in told[field])) for field in differ]
    rows += [(field, *told[field]) for field in fields if field not in differ]
    note = f"Bold: fields in which the trainings differ ({', '.join(differ)})." if differ else ""
    return Table(("field", *labels), rows, note=note)


def _told(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_told, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _provenance(record: TrainingRecord, label: str) -> Section:
    run = record.provenance
    facts = {
        "id": record.id,
        "recipe": record.recipe_sha256,
        "data": f"{record.data.name}@{record.data.version}, {record.data.sha256}",
        "begun from": record.parent_sha256 or "scratch",
        "weights": record.weights_sha256,
        "skipped": listed((f"{clip.clip}: {clip.reason}" for clip in record.skipped), _NAMED, "; "),
        **provenance.facts(run),
    }
    return Section(label, [Facts(facts), Code(run.command, "Command")], look="folded")
