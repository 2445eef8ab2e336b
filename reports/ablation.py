"""Report of an ablation: differences to the reference, seeds apart from episodes, curves, the paper's Table 3."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from uamix_bench.comparison.deltas import UNTUNED, Contrast, Delta, beside, deltas
from uamix_bench.comparison.ranking import SIGNIFICANCE
from uamix_bench.records.training_records import AblationRecord, Arm
from uamix_bench.reports import figures
from uamix_bench.reports.blocks import Block, Cell, Code, Facts, Figure, Mark, Prose, Section, Table, percent
from uamix_bench.reports.figures import Series
from uamix_bench.reports.page import Page, render
from uamix_bench.reports.published import published
from uamix_bench.util.errors import UsageError
from uamix_bench.util.text import p_value, with_half

_CURVES = {"loss": "loss", "rank": "effective rank of the embeddings"}


def ablation(records: Iterable[Any]) -> Page:
    """Renders one ablation.

    Args:
        records: Records of any kind, one of them an ablation.

    Raises:
        UsageError: The records hold no ablation, or more than one.
    """
    found = [record for record in records if isinstance(record, AblationRecord)]
    if len(found) != 1:
        raise UsageError("ablation", f"{len(found)} ablations among the records", "give the ablation.json of one")
    record, differences = found[0], deltas(found[0])
    first = [delta for delta in differences if _cell(delta) == _cell(differences[0])]
    alone = [delta for delta in first if delta.tasks == 1]
    return render(
        f"Ablation of uaMix-MAE's tuning on {record.arms[0].training.data.name}",
        [
            Prose(_verdict(alone)),
            Section("Differences", list(_differences(record, first)), id="differences"),
            *_beside(record),
            *_sweep(record, [delta for delta in differences if delta.tasks == 1]),
            Section("Training", [_training(record)], id="training"),
            Section("Published results", list(_published()), id="published"),
            Section("How to read it", [Prose(_limits(record, alone))], id="limits"),
            Section("Trainings", list(_run(record)), id="run"),
        ],
        lead=_lead(record, alone),
        footer="Made by uamix-bench. All but the published figures can be recomputed from ablation.json.",
    )


def _lead(record: AblationRecord, first: Sequence[Delta]) -> str:
    labels = len({arm.label for arm in record.arms})
    protocol = record.arms[0].results[0].protocol
    tasks = list(dict.fromkeys(delta.task for delta in first))
    seeds = len(record.seeds)
    return (
        f"{labels} variants tuned from {record.init}, {'one seed' if seeds == 1 else f'{seeds} seeds'} each, and "
        f"evaluated on the same {protocol.episodes:,} episodes of {', '.join(tasks)}: {protocol.cell}, "
        f"{protocol.n_query} queries a class, {protocol.classifier}."
    )


def _verdict(first: Sequence[Delta]) -> str:
    """Verdict on the first cells: variants better than the reference, worse, and not told apart from it."""
    reference = next(delta.label for delta in first if delta.reference)
    words: dict[Mark, str] = {
        "better": f"Better than {reference}",
        "worse": f"Worse than {reference}",
        "": f"Cannot be told apart from {reference} on these episodes",
    }
    told: dict[Mark, list[str]] = {look: [] for look in words}
    several = len({delta.task for delta in first}) > 1
    for delta in first:
        if delta.difference is not None:
            where = f" on {delta.task}" if several else ""
            told[_look(delta)].append(f"{delta.label}{where} ({_points(delta)})")
    sentences = [f"{words[look]}: {', '.join(labels)}." for look, labels in told.items() if labels]
    return " ".join(sentences) or f"Only the reference, {reference}, was evaluated."


def _look(delta: Delta) -> Mark:
    if delta.p is None or delta.p >= SIGNIFICANCE or not delta.difference or not delta.difference.mean:
        return ""
    return "better" if delta.difference.mean > 0 else "worse"


def _points(delta: Delta) -> str:
    shown = with_half(delta.difference.mean, delta.difference.half, sign="+") if delta.difference else ()
    return " ".join([*filter(None, shown), "points"])


def _differences(record: AblationRecord, first: Sequence[Delta]) -> Iterator[Block]:
    yield _table(record, first, "Accuracy in per cent, and the difference to the reference in points")
    compared = [delta for delta in first if delta.difference is not None]
    if not compared:
        return
    labels = list(dict.fromkeys(delta.label for delta in compared))
    panels = {}
    for task in dict.fromkeys(delta.task for delta in compared):
        at = {delta.label: delta for delta in compared if delta.task == task}
        panels[task] = (
            [100 * contrast.mean for label in labels if (contrast := at[label].difference)],
            [_nan(contrast.half) for label in labels if (contrast := at[label].difference)],
        )
    reference = next(delta.label for delta in first if delta.reference)
    words = "; ".join(f"{delta.label} on {delta.task} {_points(delta)}" for delta in compared)
    yield figures.forest(
        f"Difference to {reference}",
        labels,
        panels,
        x_label="points, with the paired 95% interval of these clips and these trainings",
        description=f"One row a variant, a line at no difference. {words}.",
        reference=0.0,
    )


def _table(record: AblationRecord, shown: Sequence[Delta], title: str) -> Table:
    seeds = len(record.seeds) > 1
    tasks = len({delta.task for delta in shown}) > 1
    cells = len({_cell(delta) for delta in shown}) > 1
    tested = sum(delta.p is not None for delta in shown)
    untuned = any(delta.over_untuned for delta in shown)
    columns: list[tuple[str, bool, Callable[[Delta], Cell | str]]] = [
        ("variant", True, lambda delta: Cell(delta.label, "reference" if delta.reference else "")),
        ("task", tasks, lambda delta: delta.task),
        ("N>", cells, lambda delta: Cell(str(delta.n_way), sort=float(delta.n_way))),
        ("K>", cells, lambda delta: Cell(str(delta.k_shot), sort=float(delta.k_shot))),
        ("accuracy>", True, lambda delta: percent(delta.accuracy, delta.half_width)),
        ("over seeds>", seeds, lambda delta: _spread(delta.seed_spread)),
        ("difference>", True, lambda delta: _contrast(delta.difference, _look(delta))),
        ("over seeds>", seeds, lambda delta: _over_seeds(delta.difference)),
        ("p>", bool(tested), lambda delta: Cell("" if delta.p is None else p_value(delta.p), sort=delta.p)),
        ("over untuned>", untuned, lambda delta: _contrast(delta.over_untuned)),
        ("over seeds>", seeds and untuned, lambda delta: _over_seeds(delta.over_untuned)),
    ]
    notes = [
        "± of the accuracy: conventional 95% half-width over episodes. ± of the difference: paired t interval on the "
        "same episodes. Both cover these clips and these trainings only.",
        f"Over seeds: standard deviation over the {len(record.seeds)} trainings, without the spread over episodes; "
        "of a difference also the half-width of its 95% t interval over seeds."
        if seeds
        else "One training of each variant: the spread over seeds is unknown.",
        f"p: paired t test{f', Holm over these {tested} differences' if tested > 1 else ''}." if tested else "",
        f"{UNTUNED}: {record.init} as it is, pooled as the variants are." if untuned else "",
    ]
    wanted = [(heading, cell) for heading, there, cell in columns if there]
    rows = [tuple(cell(delta) for _, cell in wanted) for delta in shown]
    return Table([heading for heading, _ in wanted], rows, title, "\n\n".join(filter(None, notes)))


def _beside(record: AblationRecord) -> Iterator[Section]:
    """Table of the models beside the variants, raw and under CL2N, if the record has any."""
    rows = beside(record)
    if not rows:
        return
    keys = list(dict.fromkeys(key for row in rows for key in row.accuracies))
    tasks = len({task for task, _ in keys}) > 1
    columns = ["model", "pooling", "dimensions>", *(f"{task}, {how}>" if tasks else f"{how}>" for task, how in keys)]
    body: list[tuple[Cell | str, ...]] = [
        (
            row.model,
            row.pooling,
            Cell(f"{row.dimensions:,}", sort=float(row.dimensions)),
            *(percent(*row.accuracies[key]) if key in row.accuracies else Cell("") for key in keys),
        )
        for row in rows
    ]
    note = (
        "Accuracy in per cent on the same episodes; simpleshot is CL2N. uamix is the reference of the first seed. The "
        "floors logmel and random have learned from no sound: a variant below them shows little."
    )
    yield Section("Poolings and floors", [Table(columns, body, "", note)], id="floors")


def _sweep(record: AblationRecord, differences: Sequence[Delta]) -> Iterator[Section]:
    """Curves over N and over K, if the grid has several."""
    ways, shots = ([*dict.fromkeys(numbers)] for numbers in zip(*map(_cell, differences), strict=True))
    if len(ways) * len(shots) == 1:
        return
    blocks: list[Block] = [
        Prose(
            "Figures 4 and 5 of the paper vary ways and shots without giving them: this grid is assumed. "
            "These cells are exploratory and not tested; the declared tests are those above."
        )
    ]
    for task, left_out in dict.fromkeys((delta.task, delta.classes_left_out) for delta in differences):
        here = [delta for delta in differences if (delta.task, delta.classes_left_out) == (task, left_out)]
        ways, shots = ([*dict.fromkeys(numbers)] for numbers in zip(*map(_cell, here), strict=True))
        if len(shots) > 1:
            blocks.append(_curves(here, task, "shots", "way", shots, ways, 1))
        if len(ways) > 1:
            blocks.append(_curves(here, task, "ways", "shot", ways, shots, 0))
    table = _table(record, [delta._replace(p=None) for delta in differences], "Every cell")
    yield Section("Ways and shots", [*blocks, Section("Every cell", [table], look="folded")], id="sweep")


def _curves(
    here: Sequence[Delta], task: str, along: str, fixed: str, x: Sequence[int], panels: Sequence[int], axis: int
) -> Figure:
    lines: dict[str, list[Series]] = {}
    for at in panels:
        lines[f"{at}-{fixed}"] = [
            Series(label, [_cell(delta)[axis] for delta in own], [100 * delta.accuracy for delta in own])
            for label in dict.fromkeys(delta.label for delta in here)
            if (own := [delta for delta in here if delta.label == label and _cell(delta)[1 - axis] == at])
        ]
    return figures.curves(
        f"Accuracy over {along} on {task}",
        lines,
        x_label=along,
        y_label="accuracy in %",
        description=f"A panel for every {fixed}, a line for every variant; the table of every cell has the intervals.",
        x_ticks=x,
        log_x=along == "shots",
    )


def _training(record: AblationRecord) -> Figure:
    """Figure of loss and effective rank over the steps of stage 2, for the first seed."""
    arms = [arm for arm in record.arms if arm.training.train_seed == record.seeds[0]]
    panels = {
        words: [line for arm in arms if (line := _history(arm, name)) is not None] for name, words in _CURVES.items()
    }
    return figures.curves(
        "Stage 2 of the first seed",
        {words: lines for words, lines in panels.items() if lines} or {"loss": [Series("none", [], [])]},
        x_label="step",
        y_label="",
        description="Losses of different mixings are not comparable: the labels of mixtures have an entropy, a lower "
        "bound of the loss. An effective rank near 1 means collapse.",
    )


def _history(arm: Arm, name: str) -> Series | None:
    last = max((entry["stage"] for entry in arm.training.history), default=0.0)
    points = [
        (entry["step"], entry[name]) for entry in arm.training.history if entry["stage"] == last and name in entry
    ]
    return Series(arm.label, *np.array(points).T) if points else None


def _published() -> Iterator[Block]:
    papers = published()
    yield Prose(
        "Published figures, of ViT-B tuned on AudioSet-20K. They are "
        "another model on other sounds; nothing above is compared with them."
    )
    yield papers.show(papers.table("uamix-table-3"))


def _limits(record: AblationRecord, first: Sequence[Delta]) -> str:
    protocol = record.arms[0].results[0].protocol
    smallest = [delta.difference.half for delta in first if delta.difference and delta.difference.half is not None]
    texts = [
        f"The intervals of differences cover only which {protocol.episodes:,} episodes were drawn from these clips. "
        "They narrow with the number of episodes, and do not cover new clips, new classes or other data sets."
        + (f" Here they are about ± {100 * float(np.median(smallest)):.2f} points wide." if smallest else ""),
        "A training is one random draw as well."
        + (
            f" The spread over {len(record.seeds)} seeds is shown separately; a smaller difference is not a finding."
            if len(record.seeds) > 1
            else " With one seed that spread is unknown, and a small difference may come from the seed."
        ),
        "All arms of a seed share data order, views and initial heads. They differ only in the named fields. Each was "
        "trained with the recipe's own learning rates: a variant may do better with others.",
    ]
    revisions = {arm.training.provenance.git_revision for arm in record.arms}
    if len(revisions) > 1:
        texts.append(f"The arms were trained by {len(revisions)} revisions of the code, which may differ in more.")
    return "\n\n".join(texts)


def _run(record: AblationRecord) -> Iterator[Block]:
    first = record.arms[0].training
    provenance = record.provenance
    yield Facts(
        {
            "tuned from": f"{record.init} ({(first.parent_sha256 or '')[:12]})",
            "tuned on": f"{first.data.label} (clips {first.data.sha256[:12]})",
            "recipe": str(first.recipe.get("name", "")),
            "seeds": ", ".join(map(str, record.seeds)),
            "package": provenance.package,
            "revision": provenance.revision,
            "trained on": ", ".join(dict.fromkeys(arm.training.provenance.device for arm in record.arms)),
            "evaluated on": provenance.device,
        }
    )
    yield Code(provenance.command, "The command")
    if record.set_aside:
        yield Table(
            ("variant", "seed>", "reason"),
            [(arm.label, str(arm.seed), arm.reason) for arm in record.set_aside],
            "Failed arms, skipped in every table",
        )
    yield Table(
        ("variant", "seed>", "recipe", "weights", "revision", "minutes>"),
        [
            (
                Cell(arm.label, "reference" if arm.reference else ""),
                str(arm.training.train_seed),
                arm.training.recipe_sha256[:12],
                arm.training.weights_sha256[:12],
                arm.training.provenance.revision,
                _minutes(arm),
            )
            for arm in record.arms
        ],
        "The arms",
        "Digests of recipe and weights. Minutes: of the steps, in the process that finished the training; stage 1 is "
        "shared and not in them.",
    )
    fields = _flat(first.recipe)
    varied = {name for arm in record.arms for name in arm.varied}
    yield Section(
        "The reference's recipe",
        [
            Table(
                ("field", "value"),
                [(Cell(name, "varied" if name in varied else ""), value) for name, value in fields.items()],
            )
        ],
        look="folded",
    )


def _minutes(arm: Arm) -> Cell:
    seconds = sum(cost.seconds for cost in arm.training.cost)
    return Cell(f"{seconds / 60:.1f}", sort=seconds) if seconds else Cell("")


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in recipe.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return found


def _cell(delta: Delta) -> tuple[int, int]:
    return delta.n_way, delta.k_shot


def _nan(value: float | None) -> float:
    return float("nan") if value is None else 100 * value


def _contrast(contrast: Contrast | None, mark: Mark = "") -> Cell:
    if contrast is None:
        return Cell("", sort=0.0)
    return Cell(*with_half(contrast.mean, contrast.half, sign="+"), sort=contrast.mean, mark=mark)


def _over_seeds(contrast: Contrast | None) -> Cell:
    if contrast is None or contrast.spread is None or contrast.seeds_half is None:
        return Cell("")
    return Cell(f"{100 * contrast.spread:.2f}", f"± {100 * contrast.seeds_half:.2f}", sort=contrast.spread)


def _spread(value: float | None) -> Cell:
    return Cell("") if value is None else Cell(f"{100 * value:.2f}", sort=value)
