"""``uamix-bench fewshot``: models x tasks x settings, as tables or JSON, each result stored in a file of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from uamix_bench.cli import commands, inputs, look, options, selection
from uamix_bench.cli.errors import Session
from uamix_bench.cli.values import COUNT, CommaList, Number
from uamix_bench.engines.engine import find_engine
from uamix_bench.util.errors import UsageError
from uamix_bench.util.text import visible

if TYPE_CHECKING:
    from uamix_bench.embeddings.known import KnownModel
    from uamix_bench.evaluation.earlier import Overwrite
    from uamix_bench.evaluation.plan import TaskPlan
    from uamix_bench.models.model import AudioModel
    from uamix_bench.records.results import Result


@commands.command("fewshot")
@inputs.models(
    options.checkpoint,
    options.name,
    options.model_arg,
    options.pooling,
    options.layer,
    options.trust_remote_code,
    options.pretrained_on,
    options.input_length,
    options.device,
    options.dtype,
)
@inputs.places(options.task, options.allow_partial, options.keep_going)
@options.protocol
@options.classes
@options.way
@click.option(
    *options.SHOT,
    "k",
    type=CommaList(Number(0), "N[,N...]"),
    default="1",
    show_default=True,
    help="Supports of each class; 0 classifies by class names, with models that read texts (CLAP).",
)
@click.option(
    "--template",
    metavar="TEXT",
    help="Text that --k 0 puts a class name into, for {}; default 'This is a sound of {}.'",
)
@click.option(
    "--q",
    "--query",
    type=Number(1, words={"auto": "auto"}),
    help="Queries per class; default the protocol's. auto: the most that every class has clips for.",
)
@options.episodes
@options.seed("Seed of the episode sampler.", default=0, show_default=True)
@options.classifier
@options.neighbors
@options.group_disjoint
@options.min_clips
@options.segments
@options.batch_size
@click.option(
    "--limit", type=COUNT, help="Number of clips per class, the first ones, for a quick look; not comparable."
)
@click.option("--allow-unhealthy", is_flag=True, help="Score even if the embedding health check fails.")
@options.no_cache
@click.option(
    "--overwrite",
    type=click.Choice(["never", "missing", "always"]),
    default="missing",
    show_default=True,
    help="Treatment of an existing result: refuse it, reuse it, or compute it again and compare.",
)
@options.results_folder
@options.engine
@options.dry_run("Show the evaluations and their episodes; load no model, write nothing.")
@options.of_a_run
@click.pass_obj
def command(
    session: Session,
    /,
    models: inputs.Models,
    places: inputs.Places,
    protocol: Literal["paper", "metaaudio"],
    classes: Path | None,
    n: tuple[int, ...],
    k: tuple[int, ...],
    template: str | None,
    q: int | Literal["auto"] | None,
    batch_size: int,
    limit: int | None,
    allow_unhealthy: bool,
    no_cache: bool,
    overwrite: Overwrite,
    output: Path | None,
    engine: str,
    engine_address: str | None,
    dry_run: bool,
    quiet: bool,
    **setting: Any,
) -> int:
    """Evaluate models on few-shot tasks.

    Without options: the bundled uamix-tiny on the bundled tasks of recorded sounds, 600 episodes of 5 classes,
    1 support and 15 queries a class, nearest centroid, as in the paper. Lists for --n and --k give one result per cell,
    from one embedding pass. All cells use the classes that have clips enough for the largest --k.
    """
    items = session.begin("fewshot", "results")
    names = models.chosen()
    if template is not None and 0 not in k:
        raise UsageError("--template", "is for class names, and --k has no 0", "add 0 to --k, as in --k 0,1")
    listed = selection.classes(classes) if classes else None
    queries = None if q == "auto" else q
    protocols = [
        selection.protocol(protocol, template, n_way=ways, k_shot=shots, n_query=queries, **setting)
        for ways in n
        for shots in k
    ]
    workers = find_engine(engine, engine_address, models.device)

    from uamix_bench.cli.progress import TerminalProgress
    from uamix_bench.comparison.ranking import rank
    from uamix_bench.embeddings.known import recall_model
    from uamix_bench.evaluation.grid import evaluate
    from uamix_bench.records.store import ResultStore

    store, progress = ResultStore(output), TerminalProgress(quiet)
    if not dry_run:
        store.check_writable()
    tasks = [places.load(name).named(listed or {}) for name in places.chosen()]
    plans = selection.planned(
        tasks,
        protocols,
        progress,
        sounds=not dry_run,
        classes=list(listed) if listed else "metaaudio" if protocol == "metaaudio" else "all",
        limit=limit,
        auto_queries=q == "auto",
    )
    if dry_run:
        _show_plan(session, names, plans)
        look.plan_sounds(session, tasks, progress)
        return 0

    load: Callable[..., AudioModel | KnownModel] = recall_model
    if no_cache or workers.elsewhere:
        from uamix_bench.models.loading import load_model as load
    loaders = models.loaders(names, load, device=workers.device_here)
    selection.say_demonstration(names, models.checkpoint, progress)
    left_out: list[UsageError] = []

    def say_left_out(error: UsageError) -> None:
        left_out.append(error)
        if len(names) > 1 or any(k):
            print(visible(f"left out: {error}"), file=sys.stderr)

    evaluated = evaluate(
        loaders,
        plans,
        store=store,
        overwrite=overwrite,
        engine=workers,
        batch_size=batch_size,
        cache=not no_cache,
        keep_going=places.keep_going,
        allow_unhealthy=allow_unhealthy,
        progress=progress,
        without_texts=say_left_out,
    )
    results: list[Result] = []
    with workers:
        for kept in evaluated:
            results.append(kept.result)
            items.append(kept.result.model_dump(mode="json"))
            progress.say(f"{kept.how} {kept.path}")
    if left_out:
        if not results:
            raise left_out[0]
        session.facts["left_out"] = [str(error) for error in left_out]
    ranking = rank(results, {episodes.digest: episodes for plan in plans for episodes in plan.draws})
    session.facts["comparison"] = ranking.facts()
    if not session.json:
        from uamix_bench.cli.scores import show_results

        show_results(results, ranking)
    return 6 if any(result.status.skipped for result in results) or any(data.partial for data in tasks) else 0


def _show_plan(session: Session, names: Sequence[str], plans: Sequence[TaskPlan]) -> None:
    """Shows the evaluations that would run, and the number of clips that each would embed."""
    items = session.begin("fewshot")
    items += [
        {
            "model": name,
            "task": f"{plan.task.name}@{plan.task.card.version}",
            "protocol": protocol.model_dump(mode="json"),
            "episodes_digest": episodes.digest,
            "clips": len(plan.task.table),
            "clips_drawn": len(episodes.clips),
            "classes": len(episodes.table.class_names),
            "classes_left_out": episodes.classes_left_out,
        }
        for name in names
        for plan in plans
        for protocol, episodes in zip(plan.protocols, plan.draws, strict=True)
    ]
    if not session.json:
        from uamix_bench.cli.scores import show_plan

        show_plan(items)
