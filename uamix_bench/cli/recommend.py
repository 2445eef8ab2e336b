"""``uamix-bench recommend``: a model and a number of labelled examples for a task, in plain words or JSON."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from uamix_bench.cli import commands, look, options, selection
from uamix_bench.cli.errors import Session
from uamix_bench.util.errors import BadInputError, MachineError, UsageError

if TYPE_CHECKING:
    from uamix_bench.models.model import AudioModel
    from uamix_bench.plugins.card import ModelIdentity
    from uamix_bench.records.results import Result


@commands.command("recommend")
@click.option(
    "-m",
    "--model",
    multiple=True,
    type=options.MODELS,
    callback=options.merged,
    help="Models to compare, as in fewshot; default all that can run here, the floors included.",
)
@options.task
@click.option(
    *options.WAY,
    "n",
    type=options.CountOrAll(),
    help="Ways: classes per episode; all: every class that takes part. Default 5, or all if they are fewer.",
)
@click.option(
    *options.SHOT,
    "k",
    type=options.COUNTS,
    help="Shots: supports per class, a list or a range 1-5; default 1, 2, 4, ... up to the most that the clips allow.",
)
@click.option(
    "--gain",
    type=options.Points(),
    default="1pp",
    show_default=True,
    help="Gain in accuracy from one number of examples to the next, below which more are not worth it.",
)
@click.option(
    "--min-clips", type=options.Number(4), help="Fewest clips of a class that takes part; default 4, two in each half."
)
@click.option("--episodes", type=options.COUNT, default=10_000, show_default=True, help="Number of episodes.")
@click.option(
    "--seed",
    type=options.Number(0, 2**53 - 1),
    default=0,
    show_default=True,
    help="Seed of the split into halves and of the episode sampler.",
)
@options.input_length
@options.data_dir
@options.audio_root
@options.clip_seconds
@options.device
@options.batch_size
@options.keep_going
@options.results_folder
@options.of_a_run
@click.pass_obj
def command(
    session: Session,
    /,
    model: tuple[str, ...],
    task: tuple[str, ...],
    n: int | None,
    k: tuple[int, ...] | None,
    gain: float,
    min_clips: int | None,
    episodes: int,
    seed: int,
    input: Literal["native", "official"],
    data_dir: Path | None,
    audio_root: Path | None,
    clip_seconds: float | None,
    device: str,
    batch_size: int,
    keep_going: bool,
    output: Path | None,
    quiet: bool,
) -> int:
    """Recommend a model and a number of labelled examples for a task.

    The clips are split at random into two halves, no group across them. Every model is evaluated on both, at every
    number of examples that the clips allow. One half chooses; the other gives the figures, so that no figure is the
    winner's luck. Results are stored as those of fewshot are; the same command again takes them from there.
    """
    items = session.begin("recommend")
    tasks = selection.chosen_tasks(task)
    if len(tasks) > 1:
        raise UsageError("--task", f"is one task here, and {len(tasks)} are given", "run them one by one")
    names, left_out = (selection.chosen_models(model, None), {}) if model else selection.models_here()

    from uamix_bench.cli.progress import TerminalProgress
    from uamix_bench.data.task import load_task
    from uamix_bench.evaluation.grid import evaluate
    from uamix_bench.records.store import ResultStore
    from uamix_bench.studies import recommend as library

    store, progress = ResultStore(output), TerminalProgress(quiet)
    store.check_writable()
    for reason, others in left_out.items():
        progress.say(f"passed over {', '.join(others)}: {reason}")
    (data,) = (
        load_task(name_or_path, data_dir, audio_root=audio_root, clip_seconds=clip_seconds, keep_going=keep_going)
        for name_or_path in tasks
    )
    selection.say(data.name, data.remarks)
    plans = library.plan(
        data, ways=n, shots=k or (), min_clips=min_clips, episodes=episodes, seed=seed, progress=progress
    )
    selection.say(data.name, [one for one in plans.choosing.task.remarks if one not in data.remarks])

    from uamix_bench.models.model import load_model

    failed: dict[str, BadInputError] = {}

    def set_aside(place: int, error: BadInputError) -> None:
        failed[names[place]] = error
        progress.say(f"passed over {names[place]}: {error}")

    results: list[Result] = []
    files: Counter[str] = Counter()
    given: dict[ModelIdentity, str] = {}  # names that models were given by
    for kept in evaluate(
        [_or_passed_over(partial(load_model, name, device=device, input=input)) for name in names],
        list(plans),
        store=store,
        set_aside=set_aside,
        batch_size=batch_size,
        keep_going=keep_going,
        progress=progress,
    ):
        results.append(kept.result)
        given[kept.result.model] = names[kept.model]
        files[kept.how] += 1
    progress.say(f"{', '.join(f'{how} {number}' for how, number in files.items())} results in {store.folder}")
    if len(failed) == len(names):
        raise next(iter(failed.values()))
    found = library.decide(results, library.drawn(plans, results), gain=gain)
    passed_over = {name: reason for reason, others in left_out.items() for name in others}
    passed_over |= {name: str(error) for name, error in failed.items()}
    items.append({"task": f"{data.name}@{data.card.version}", **found.facts(), "passed_over": passed_over})
    if not session.json:
        from uamix_bench.cli.advice import show_recommendation

        words = ["uamix-bench", "fit", "--model", given[found.chosen.model]]
        words += look.Places(tasks[0], audio_root, clip_seconds, data_dir).words
        words += ["--input", input] if input != "native" else []
        words += ["--keep-going"] if keep_going else []
        show_recommendation(found, plans, shlex.join(words))
    return 6 if (model and failed) or any(result.status.skipped for result in results) else 0


def _or_passed_over(load: Callable[[], AudioModel]) -> Callable[[], AudioModel]:
    """Function that loads a model, whose errors do not end the evaluation of the others."""

    def loaded() -> AudioModel:
        try:
            return load()
        except (MachineError, UsageError) as error:
            raise BadInputError(error.subject, error.reason, error.remedy) from error

    return loaded
