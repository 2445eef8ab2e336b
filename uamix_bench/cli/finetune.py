"""``uamix-bench finetune``: supervised fine-tuning and linear probes, each stored in a record of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uamix_bench.cli import commands, inputs, look, options, selection, training
from uamix_bench.cli.errors import Session
from uamix_bench.cli.values import COUNT, COUNTS, CommaList, Number
from uamix_bench.util.errors import UsageError

if TYPE_CHECKING:
    from uamix_bench.data.task import TaskData
    from uamix_bench.finetuning.finetune import Finetuning
    from uamix_bench.finetuning.recipe import FinetuneRecipe, ProbeRecipe
    from uamix_bench.records.finetune_record import FinetuneResult

_SEEDS_OF_FRACTIONS = 3


class _Labels(Number):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Value of --fraction: a share of the training clips, or from 2 on a number of clips of each class."""
        if str(value).isdecimal() and int(value) > 1:
            return COUNT.convert(value, param, ctx)
        return super().convert(value, param, ctx)


@commands.command("finetune")
@inputs.models(options.checkpoint, options.name, options.model_arg, options.device)
@inputs.places(options.task, options.allow_partial, options.keep_going)
@click.option("--test", metavar="DATA", help="List or folder to test on; all of the one --task is then for training.")
@click.option(
    "--freeze",
    type=Number(0, words={"all": "all"}),
    default=0,
    show_default=True,
    help="Number of lower blocks to freeze; all: a linear probe on embeddings.",
)
@options.listed(
    "--fraction",
    kind=CommaList(_Labels(0.0, 1, beyond=True), "SHARE|N[,...]"),
    words="Fractions of the training clips, at least one clip of each class; from 2 on, clips of each class. One "
    "result each, over three seeds.",
)
@click.option(*options.SHOT, "k", type=COUNTS, help="Training clips of each class, as --fraction; 1 is one clip.")
@click.option(
    "--folds",
    type=Number(2),
    default=5,
    show_default=True,
    help="Number of random folds for data without splits; no group is split across folds.",
)
@click.option("--seeds", type=COUNT, help="Number of trainings of each fold; default 1, with --fraction 3.")
@click.option(
    "--label-separator", metavar="TEXT", help="Separator between the classes of a clip with several; scored by mAP."
)
@click.option("--recipe", metavar="NAME", help="Recipe, by name or as a JSON file; default the task's, else tiny.")
@options.changes
@options.seed("First seed of the random draws; further trainings use the next ones.")
@options.workers
@options.path("--training-dir", "Folder for checkpoints and scores; default below UAMIX_BENCH_HOME/training.")
@options.results_folder
@options.dry_run("Show runs, steps and estimated time; train nothing.")
@options.of_a_run
@click.pass_obj
def command(
    session: Session,
    /,
    models: inputs.Models,
    places: inputs.Places,
    test: str | None,
    freeze: Any,
    fraction: tuple[float | int, ...],
    k: tuple[int, ...] | None,
    folds: int,
    seeds: int | None,
    label_separator: str | None,
    recipe: str | None,
    changes: tuple[str, ...],
    seed: int | None,
    workers: int | None,
    training_dir: Path | None,
    output: Path | None,
    dry_run: bool,
    quiet: bool,
) -> int:
    """Fine-tune an encoder on a task's labels, or probe it with a linear classifier.

    `finetune --model uamix --task esc50` follows AudioMAE's recipe over ESC-50's five folds; `--freeze all` trains a
    linear probe. The last epoch is scored, with an interval clustered by recording, speaker or video. If a run is
    killed, repeat the command to resume it.
    """
    items = session.begin("finetune", "items" if dry_run else "results")
    training.refuse_torchrun(session)
    chosen = models.chosen()

    from uamix_bench.cli.progress import TerminalProgress
    from uamix_bench.data.task import is_path
    from uamix_bench.records.store import ResultStore

    progress = TerminalProgress(quiet)
    store = ResultStore(output)
    if not dry_run:
        store.check_writable()
    names = places.chosen()
    if test is not None and (len(names) > 1 or not is_path(names[0]) or not is_path(test)):
        remedy = "give one folder or list with --task, and one here"
        raise UsageError(f"--test {test}", "joins your own data alone", remedy)
    tasks = [_load(name, places) for name in names]
    if test is not None:
        from uamix_bench.finetuning.splits import joined

        tasks = [joined(tasks[0], _load(test, places))]
    if label_separator is None and any(map(_is_audioset, names)):
        label_separator = ","
    recipes = [_recipe(recipe, data, freeze == "all", seed, changes) for data in tasks]

    from uamix_bench.finetuning.finetune import Finetuning
    from uamix_bench.models.loading import load_model

    selection.say_demonstration(chosen, models.checkpoint, progress)
    asked: list[float | None] = [share for share in fraction if share <= 1]
    counts = dict.fromkeys([*(int(share) for share in fraction if share > 1), *(k or ())])
    parts = [*((share, None) for share in asked), *((None, shots) for shots in counts)] or [(None, None)]
    alone = len(chosen) * len(tasks) * len(parts) == 1
    results: list[FinetuneResult] = []
    planned: list[dict[str, Any]] = []
    for load in models.loaders(chosen, load_model):
        encoder = load()
        for data, of_task in zip(tasks, recipes, strict=True):
            for share, shots in parts:
                with training.stoppable() if freeze != "all" and not dry_run else nullcontext(lambda: False) as stop:
                    work = Finetuning(
                        encoder,
                        data,
                        of_task,
                        freeze=freeze,
                        fraction=share,
                        shots=shots,
                        folds=folds,
                        seeds=seeds or (_SEEDS_OF_FRACTIONS if share or shots else 1),
                        separator=label_separator,
                        workers=workers,
                        keep_going=places.keep_going,
                        progress=progress,
                        stop=stop,
                    )
                    if training_dir is not None:
                        work.folder = training_dir if alone else training_dir / work.place.name
                    if dry_run:
                        planned.append(_plan(work))
                        continue
                    runs = f"{len(work.runs)} run{'s' * (len(work.runs) > 1)}"
                    progress.say(f"{runs} of recipe '{work.recipe.name}' on {data.name}; checkpoints in {work.place}")
                    result = work.result()
                results.append(result)
                items.append(result.model_dump(mode="json"))
                how = "reused" if store.path(result).exists() else "wrote"
                progress.say(f"{how} {store.write(result)}")
    if dry_run:
        items += planned
        if not session.json:
            _show_plans(planned)
        look.plan_sounds(session, tasks, progress)
        return 0
    if not session.json:
        _show(results)
    return 6 if any(not result.status.complete for result in results) else 0


def _is_audioset(name: str) -> bool:
    from uamix_bench.data.own_data import is_audioset_list

    return name.endswith(".csv") and is_audioset_list(Path(name))


def _load(name: str, places: inputs.Places) -> TaskData:
    """Loads a task, a folder or a list; AudioSet's own lists have labels but no header that says so."""
    return places.load(name, labelled=not _is_audioset(name))


def _recipe(
    name: str | None, data: TaskData, probe: bool, seed: int | None, changes: tuple[str, ...]
) -> FinetuneRecipe | ProbeRecipe:
    """Recipe that is named, else the task's own, else ``tiny``; with its changes."""
    from uamix_bench.finetuning.recipe import FINETUNE, PROBE, FinetuneRecipe, ProbeRecipe

    known: dict[str, Any] = {PROBE.name: PROBE} if probe else dict(FINETUNE)
    own = data.card.supervised.recipe if data.card.supervised else ""
    default = PROBE.name if probe else own or "tiny"
    found = training.find(known, name or default, ProbeRecipe if probe else FinetuneRecipe)
    changed: FinetuneRecipe | ProbeRecipe = training.change(found, {"seed": seed}, changes)
    return changed


def _plan(work: Finetuning) -> dict[str, Any]:
    """Dry run as plain data."""
    from uamix_bench.finetuning.forecast import estimate

    assert work.model.identity is not None
    steps, seconds = estimate(work)
    return {
        "model": work.model.identity.name,
        "task": f"{work.data.name}@{work.data.card.version}",
        "split": work.plan.scheme,
        "fraction": work.fraction,
        "shots": work.shots,
        "classes": len(work.plan.labels.classes),
        "runs": [
            {"fold": run.fold.name, "seed": run.seed, "train_clips": len(rows), "test_clips": len(run.fold.test)}
            for run, rows in ((run, work.train_rows(run)) for run in work.runs)
        ],
        "steps": steps,
        "estimated_s": None if seconds is None else round(seconds, 1),
        "recipe": work.recipe.model_dump(mode="json"),
        "folder": str(work.place),
        "notes": [str(remark) for remark in work.data.remarks],
    }


def _show_plans(plans: Sequence[dict[str, Any]]) -> None:
    from uamix_bench.cli.tables import Table, count, duration, show
    from uamix_bench.records.finetune_record import labels_used
    from uamix_bench.util.text import visible

    columns = ("model", "task", "recipe", "labels>", "runs>", "train clips>", "test clips>", "steps>", "time>")
    table = Table(*columns, wrapped=("model", "task", "recipe"))
    for plan in plans:
        runs, labels = plan["runs"], labels_used(plan["fraction"], plan["shots"])
        clips = (max(run["train_clips"] for run in runs), sum(run["test_clips"] for run in runs))
        numbers = map(count, (len(runs), *clips, plan["steps"] or None))
        time = "" if plan["estimated_s"] is None else duration(plan["estimated_s"])
        table.add(plan["model"], plan["task"], plan["recipe"]["name"], labels, *numbers, time)
    show(table, "time: estimated from one small batch, without decoding")
    for note in dict.fromkeys(f"{plan['task']}: {note}" for plan in plans for note in plan["notes"]):
        print(visible(note))


def _show(results: Sequence[FinetuneResult]) -> None:
    from uamix_bench.cli.listing import what_was_trained
    from uamix_bench.cli.tables import Table, count, per_cent, show
    from uamix_bench.plugins.overlap import notes as overlap_notes

    table = Table("model", "task", "trained", "labels>", "metric", "%>", "runs>", "seeds ±>", wrapped=("model", "task"))
    notes = [
        f"{label}: {split}" for label, split in dict.fromkeys((one.task.label, one.setting.split) for one in results)
    ]
    for result in results:
        score, setting = result.score, (what_was_trained(result), result.labels, result.setting.metric)
        value = per_cent(score.value, score.ci95) + ("" if result.status.complete else "*") + result.overlap_mark
        spread = "" if score.seeds_std is None else f"{100 * score.seeds_std:.2f}"
        table.add(result.model.name, result.task.label, *setting, value, count(len(result.runs)), spread)
        notes += [f"{result.model.name} on {result.task.label}: {note}" for note in result.status.notes]
        if score.ci95 is None:
            notes.append(f"{result.model.name} on {result.task.label}: no interval: {score.intervals.groups.reason}")
        if not result.status.complete:
            notes.append(f"* {result.model.name} on {result.task.label}: partial, not comparable")
    show(table, "last epoch; ± is the 95% interval for new groups (recordings, speakers, videos)")
    told = [one for one in results if one.overlap_mark]
    notes += overlap_notes((one.model.name, one.task.label, one.overlap_known) for one in told)
    for note in dict.fromkeys(notes):
        print(note)
