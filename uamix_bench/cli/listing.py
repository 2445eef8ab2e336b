"""Records on stdout, one a line, with a table for each kind."""

from __future__ import annotations

from collections.abc import Sequence

from uamix_bench.cli.tables import Table, count, per_cent, show
from uamix_bench.plugins.overlap import LEVELS, MARKS
from uamix_bench.records.finetune_record import FinetuneResult
from uamix_bench.records.record import Record
from uamix_bench.records.results import Result
from uamix_bench.records.training_records import AblationRecord, TrainingRecord


def show_records(records: Sequence[Record]) -> None:
    """Prints records in their order, each kind in a table of its own."""
    tables = (
        ("few-shot results", _few_shot([one for one in records if isinstance(one, Result)])),
        ("fine-tunings and linear probes", _finetuned([one for one in records if isinstance(one, FinetuneResult)])),
        ("trainings", _trained([one for one in records if isinstance(one, TrainingRecord)])),
        ("ablations", _ablated([one for one in records if isinstance(one, AblationRecord)])),
    )
    filled = [(title, table) for title, table in tables if table.row_count]
    for number, (title, table) in enumerate(filled or tables[:1]):
        if number:
            print()
        show(table, title if len(filled) > 1 else "")
    found = {one.overlap_known.level for one in records if isinstance(one, Result | FinetuneResult)} - {"none"}
    if found:
        print(", ".join(f"{MARKS[level]} {level}" for level in LEVELS if level in found) + ": training data and task")


def what_was_trained(result: FinetuneResult) -> str:
    """Trained part of the model in a fine-tuning, in a few words."""
    blocks = result.setting.frozen_blocks
    return "linear probe" if blocks is None else f"all but {blocks} blocks" if blocks else "all"


def _few_shot(results: Sequence[Result]) -> Table:
    columns = ("model", "task", "n>", "k>", "episodes>", "accuracy %>", "", "id")
    table = Table(*columns, wrapped=("model", "task"), dropped=("episodes",))
    for result in results:
        protocol, score = result.protocol, result.score
        numbers = map(count, (protocol.n_way, protocol.k_shot, protocol.episodes))
        accuracy = per_cent(score.accuracy, score.ci95) + MARKS[result.overlap_known.level]
        of = "" if protocol.name in ("paper", "custom") else protocol.name.removeprefix("recommend-")
        notes = ", ".join(filter(None, (of, "" if result.status.complete else "partial")))
        table.add(result.model.name, result.task.label, *numbers, accuracy, notes, result.id[:12])
    return table


def _finetuned(results: Sequence[FinetuneResult]) -> Table:
    table = Table("model", "task", "trained", "labels>", "metric", "%>", "runs>", "", "id", wrapped=("model",))
    for result in results:
        score = per_cent(result.score.value, result.score.ci95) + MARKS[result.overlap_known.level]
        setting = (what_was_trained(result), result.labels, result.setting.metric)
        partial = "" if result.status.complete else "partial"
        runs = count(len(result.runs))
        table.add(result.model.name, result.task.label, *setting, score, runs, partial, result.id[:12])
    return table


def _trained(records: Sequence[TrainingRecord]) -> Table:
    table = Table("data", "recipe", "mixing", "seed>", "loss>", "", "weights", "id", wrapped=("data",))
    for record in records:
        losses = [f"{entry['loss']:.3f}" for entry in record.history if "loss" in entry]
        recipe = [str(record.recipe.get(field, "")) for field in ("name", "mix")]
        outcome = (losses[-1] if losses else "", "partial" if record.partial or record.skipped else "")
        ids = (record.weights_sha256[:12], record.id[:12])
        table.add(record.data.label, *recipe, str(record.train_seed), *outcome, *ids)
    return table


def _ablated(records: Sequence[AblationRecord]) -> Table:
    table = Table("data", "tuned from", "arms>", "seeds>", "set aside>", "tasks", "id", wrapped=("data", "tasks"))
    for record in records:
        first = record.arms[0]
        numbers = (len({arm.label for arm in record.arms}), len(record.seeds), len(record.set_aside) or None)
        tasks = ", ".join(dict.fromkeys(result.task.label for result in first.results))
        table.add(first.training.data.label, record.init, *map(count, numbers), tasks, record.id[:12])
    return table
