"""``uamix-bench ablate``: a grid of recipes, tuned, evaluated on the same episodes, and compared with the paper's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uamix_bench.cli import commands, options, selection, training
from uamix_bench.cli.errors import Session
from uamix_bench.cli.values import CommaList, Number
from uamix_bench.engines.engine import find_engine
from uamix_bench.util.errors import UsageError

if TYPE_CHECKING:
    from uamix_bench.comparison.deltas import Contrast, Delta
    from uamix_bench.records.training_records import AblationRecord
    from uamix_bench.studies.ablation import Ablation
    from uamix_bench.tuning.forecast import Forecast
    from uamix_bench.tuning.trainings import Job


@commands.command("ablate")
@options.listed(
    "--mix",
    kind=CommaList(options.MIXINGS, "MIX[,...]"),
    words="Mixings to compare: none, mixup, t-cutmix, tf-cutmix; default tf-cutmix, or t-cutmix with --vary.",
)
@click.option(
    "--vary",
    multiple=True,
    metavar="FIELD=V[,V...]",
    help="Field of the recipe with its values, as in topk=1,5,20. Repeatable: all combinations are run.",
)
@click.option(
    "--seeds", type=Number(1, 1_000), default=1, show_default=True, help="Trainings of each arm, with seeds 0, 1, ..."
)
@options.recipe
@click.option(
    "--init", default="audiomae-tiny", show_default=True, metavar="MODEL", help="Pretrained encoder, as for tune."
)
@click.option("--data", metavar="DATA", help="Sounds to tune on, as for tune; default the recipe's.")
@options.changes
@options.task
@options.way
@options.shot
@options.query
@options.episodes
@options.data_dir
@options.audio_root
@click.option("--jobs", type=Number(1, 64), help="Number of trainings at once; default 2 on a processor, 1 with a GPU.")
@options.batch_size
@click.option("--keep-going", is_flag=True, help="Skip failed arms and name them; exit code 6.")
@options.report_folder
@options.engine
@options.dry_run("List the arms with their estimated time; train nothing.")
@options.device
@options.of_a_run
@click.pass_obj
def command(
    session: Session,
    /,
    mix: tuple[Any, ...],
    vary: tuple[str, ...],
    seeds: int,
    recipe: str,
    init: str,
    data: str | None,
    changes: tuple[str, ...],
    task: tuple[str, ...],
    n: tuple[int, ...],
    k: tuple[int, ...],
    q: int | None,
    episodes: int | None,
    data_dir: Path | None,
    audio_root: Path | None,
    jobs: int | None,
    batch_size: int,
    keep_going: bool,
    output: Path,
    engine: str,
    engine_address: str | None,
    dry_run: bool,
    device: str,
    quiet: bool,
) -> int:
    """Tune variants of a recipe from the same weights and compare them on the same episodes.

    Without options: tf-cutmix against the paper's t-cutmix, from audiomae-tiny with the tiny recipe, tuned on generated
    sounds and evaluated on the bundled recorded ones. The table shows every arm's difference to the recipe's own
    setting with t-cutmix; report.html, report.md and ablation.json, which holds every episode, go to --output.
    Trainings are stored under the digest of their recipe and reused. If the run is killed, repeat the command to resume
    it.
    """
    items = session.begin("ablate")
    training.refuse_torchrun(session)
    workers = find_engine(engine, engine_address, device, jobs)
    fixed: dict[str, Any] = {"n_query": q, "episodes": episodes}
    protocols = [selection.protocol("paper", n_way=ways, k_shot=shots, **fixed) for ways in n for shots in k]

    from uamix_bench.cli.progress import TerminalProgress
    from uamix_bench.data.task import load_task
    from uamix_bench.studies import ablation as library
    from uamix_bench.tuning.recipe import TUNE, TuneRecipe
    from uamix_bench.tuning.sounds import find_data, shareable
    from uamix_bench.util.files import check_writable, home

    progress = TerminalProgress(quiet)
    base = training.change(training.find(TUNE, recipe, TuneRecipe), {"data": data}, changes, device)
    sounds = find_data(base.data, data_dir, audio_root)
    arms = library.plan(shareable(base, sounds), mix, _varied(vary), range(seeds) if seeds > 1 else (base.seed,))
    tasks = [load_task(name, data_dir, audio_root=audio_root) for name in selection.chosen_tasks(task)]
    # Too few classes or clips show now, and not after the training.
    plans = selection.planned(tasks, protocols, progress, sounds=not dry_run)
    ablation = library.Ablation(arms, init, base.data, data_dir, audio_root, workers)
    if not dry_run:
        for folder in (output, home() / "training", *([home() / "embeddings"] if workers.elsewhere else [])):
            check_writable(folder)
    work = [*ablation.heads(), *map(ablation.job, arms)]
    forecast = ablation.forecast()
    progress.say(_announcement(ablation, forecast, sum(plan.clips_drawn for plan in plans)))
    if dry_run:
        items += _plan_items(ablation, work, forecast)
        session.facts["forecast"] = {
            "seconds": forecast and forecast.total,
            "source": forecast.source if forecast else f"how fast --engine {engine} is, only its cluster knows",
            "jobs": workers.at_once(len(arms)),
        }
        if not session.json:
            _show_plan(items)
        return 0
    with workers:
        with training.stoppable() as stop:
            failed = ablation.tune(keep_going=keep_going, progress=progress, stop=stop)
        record = ablation.evaluate(plans, failed, keep_going=keep_going, batch_size=batch_size, progress=progress)
    files = _write(record, output)
    from uamix_bench.comparison.deltas import deltas

    found = deltas(record)
    items += map(_item, found)
    session.facts["set_aside"] = [arm.model_dump(mode="json") for arm in record.set_aside]
    session.facts["files"] = list(map(str, files))
    if not session.json:
        _show(record, found)
    for path in files:
        progress.say(f"wrote {path}")
    return 6 if record.set_aside else 0


def _varied(texts: Sequence[str]) -> dict[str, list[Any]]:
    from uamix_bench.tuning.fields import read_values

    varied: dict[str, list[Any]] = {}
    for text in texts:
        name, separator, values = text.partition("=")
        if not separator or not values.strip(", "):
            raise UsageError(f"--vary {text}", "has no value", "give FIELD=VALUE[,VALUE...], as in topk=1,5,20")
        varied.setdefault(name, []).extend(read_values(values))
    return varied


def _announcement(ablation: Ablation, forecast: Forecast | None, clips: int) -> str:
    from uamix_bench.cli.tables import duration
    from uamix_bench.tuning.trainings import is_finished

    left = sum(not is_finished(ablation.job(arm)) for arm in ablation.arms)
    tuning = f"{left} of them to tune on a cluster"
    if forecast:
        workers = ablation.engine.at_once(len(ablation.arms)) or 1
        at_once = f", {workers} at once" if workers > 1 else ""
        tuning = f"tuning takes about {duration(forecast.total)}{at_once} ({forecast.source})"
        left = bool(forecast.total)
    return f"{len(ablation.arms)} arms: {tuning if left else 'all are tuned'}; then each embeds {clips:,} clips"


def _plan_items(ablation: Ablation, work: Sequence[Job], forecast: Forecast | None) -> list[dict[str, Any]]:
    """Trainings as plain data: stage 1 alone, which arms share, then the arms."""
    from uamix_bench.tuning.trainings import is_finished, remaining

    arms = {ablation.job(arm).folder: arm for arm in ablation.arms}
    return [
        {
            "label": job.label,
            "arm": job.folder in arms,
            "reference": job.folder in arms and arms[job.folder].reference,
            "seed": job.recipe.seed,
            "recipe_sha256": job.recipe.sha256,
            "recipe": job.recipe.model_dump(mode="json"),
            "folder": str(job.folder),
            "finished": is_finished(job),
            "steps_left": 0 if is_finished(job) else sum(remaining(job).values()),
            "seconds": seconds,
        }
        for job, seconds in zip(work, forecast.seconds if forecast else [None] * len(work), strict=True)
    ]


def _show_plan(items: Sequence[dict[str, Any]]) -> None:
    from uamix_bench.cli.tables import Table, count, duration, show

    table = Table("training", "seed>", "recipe", "steps left>", "time>", "")
    for item in items:
        note = "reference" if item["reference"] else "" if item["arm"] else "shared"
        note = "there" if item["finished"] else note
        time = "" if item["finished"] or item["seconds"] is None else duration(item["seconds"])
        steps = "" if item["finished"] else count(item["steps_left"])
        table.add(item["label"], str(item["seed"]), item["recipe_sha256"][:12], steps, time, note)
    show(table)


def _write(record: AblationRecord, out: Path) -> list[Path]:
    from uamix_bench.cli.pages import write_page
    from uamix_bench.plugins.registry import find_report
    from uamix_bench.records.record import record_text
    from uamix_bench.util.files import write_atomic

    page = find_report("ablation")([record])
    return [*write_page(page, out, "report"), write_atomic(out / "ablation.json", record_text(record).encode())]


def _show(record: AblationRecord, found: Sequence[Delta]) -> None:
    """Prints every arm's accuracy and its difference to the reference."""
    from uamix_bench.cli.tables import Table, per_cent, show
    from uamix_bench.util.text import p_value

    many_tasks = len({delta.task for delta in found}) > 1
    sweep = len({(delta.n_way, delta.k_shot) for delta in found}) > 1
    seeds = len(record.seeds) > 1
    tested = any(delta.p is not None for delta in found)
    untuned = any(delta.over_untuned for delta in found)
    columns: list[tuple[str, bool, Callable[[Delta], str]]] = [
        ("arm", True, lambda delta: delta.label),
        ("task", many_tasks, lambda delta: delta.task),
        ("n>", sweep, lambda delta: str(delta.n_way)),
        ("k>", sweep, lambda delta: str(delta.k_shot)),
        ("accuracy %>", True, lambda delta: per_cent(delta.accuracy, delta.half_width)),
        ("seeds>", seeds, lambda delta: _spread(delta.seed_spread)),
        ("points>", True, lambda delta: _points(delta.difference) or "reference"),
        ("seeds>", seeds, lambda delta: _over_seeds(delta.difference)),
        ("p>", tested, lambda delta: "" if delta.p is None else p_value(delta.p)),
        ("over untuned>", untuned, lambda delta: _points(delta.over_untuned)),
        ("seeds>", seeds and untuned, lambda delta: _over_seeds(delta.over_untuned)),
    ]
    shown = [(heading, cell) for heading, wanted, cell in columns if wanted]
    table = Table(*(heading for heading, _ in shown))
    for delta in found:
        table.add(*(cell(delta) for _, cell in shown))
    first = record.arms[0].results[0].protocol
    setting = "" if sweep else f"{first.cell}, "
    where = "" if many_tasks else f"{found[0].task}, "
    show(table, f"{where}{setting}{first.n_query} queries a class, {first.episodes:,} episodes, {first.classifier}")
    reference = next(delta.label for delta in found if delta.reference)
    print(f"points: difference to {reference} on the same episodes, 95% interval for these clips and trainings only")
    if seeds:
        print(f"seeds: standard deviation over {len(record.seeds)} trainings, apart from the spread over episodes;")
        print("of differences with the half-width of their 95% t interval over seeds")
    elif found:
        print("one training each: another seed may differ by more than the interval; --seeds 3 measures that")
    if tested:
        family = sum(delta.p is not None for delta in found)
        print("p: paired t" + (f", Holm over the {family} differences of the first cell" if family > 1 else ""))
    if untuned:
        print(f"untuned: {record.init} as it is, pooled as the arms are")
    _show_beside(record)
    for arm in record.set_aside:
        print(f"set aside: {arm.label}, seed {arm.seed}: {arm.reason}")


def _show_beside(record: AblationRecord) -> None:
    """Prints the models beside the arms: their poolings and dimensions, raw and under CL2N."""
    from uamix_bench.cli.tables import Table, per_cent, show
    from uamix_bench.comparison.deltas import beside

    rows = beside(record)
    if not rows:
        return
    keys = list(dict.fromkeys(key for row in rows for key in row.accuracies))
    print()
    table = Table("model", "pooling", "dimensions>", *(f"{task.partition('@')[0]}, {how}>" for task, how in keys))
    for row in rows:
        cells = [per_cent(*row.accuracies[key]) if key in row.accuracies else "" for key in keys]
        table.add(row.model, row.pooling, f"{row.dimensions:,}", *cells)
    show(table, "Poolings and floors, accuracy % on the same episodes; uamix is the reference of the first seed")


def _item(delta: Delta) -> dict[str, Any]:
    """Row as flat data: a contrast's mean under its name, the rest under the name with a suffix."""
    item = delta._asdict()
    for name in ("difference", "over_untuned"):
        contrast = item[name]
        item[name] = contrast and contrast.mean
        item |= {f"{name}_{part}": contrast and getattr(contrast, part) for part in ("half", "spread", "seeds_half")}
    return item


def _points(contrast: Contrast | None) -> str:
    from uamix_bench.cli.tables import per_cent

    return "" if contrast is None else per_cent(contrast.mean, contrast.half, "+")


def _over_seeds(contrast: Contrast | None) -> str:
    if contrast is None or contrast.spread is None or contrast.seeds_half is None:
        return ""
    return f"{_spread(contrast.spread)} ± {_spread(contrast.seeds_half)}"


def _spread(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"
