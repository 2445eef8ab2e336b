"""``uamix-bench recommend``: a model and a number of labelled examples for a task, in plain words or JSON."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from uamix_bench.cli import commands, inputs, options, selection
from uamix_bench.cli.errors import Session
from uamix_bench.cli.values import COUNT, COUNTS, WAYS, Number, Points
from uamix_bench.util.errors import BadInputError, MachineError, UsageError

if TYPE_CHECKING:
    from uamix_bench.models.model import AudioModel
    from uamix_bench.plugins.card import ModelIdentity
    from uamix_bench.records.results import Result


@commands.command("recommend")
@options.listed(
    "-m",
    "--model",
    kind=options.MODELS,
    words="Models to compare, as in fewshot; default all that can run here, the floors included.",
)
@inputs.places(options.task, options.keep_going)
@click.option(
    *options.WAY,
    "n",
    type=WAYS,
    help="Ways: classes per episode; all: every class that takes part. Default 5, or all if they are fewer.",
)
@click.option(
    *options.SHOT,
    "k",
    type=COUNTS,
    help="Shots: supports per class, a list or a range 1-5; default 1, 2, 4, ... up to the most that the clips allow.",
)
@click.option(
    "--gain",
    type=Points(),
    default="1pp",
    show_default=True,
    help="Gain in accuracy from one number of examples to the next, below which more are not worth it.",
)
@click.option(
    "--min-clips", type=Number(4), help="Fewest clips of a class that takes part; default 4, two in each half."
)
@click.option("--episodes", type=COUNT, default=10_000, show_default=True, help="Number of episodes.")
@options.seed("Seed of the split into halves and of the episode sampler.", default=0, show_default=True)
@options.input_length
@options.device
@options.batch_size
@options.results_folder
@options.of_a_run
@click.pass_obj
def command(
    session: Session,
    /,
    model: tuple[str, ...],
    places: inputs.Places,
    n: int | None,
    k: tuple[int, ...] | None,
    gain: float,
    min_clips: int | None,
    episodes: int,
    seed: int,
    input: Literal["native", "official"],
    device: str,
    batch_size: int,
    output: Path | None,
    quiet: bool,
) -> int:
    """Recommend a model and a number of labelled examples for a task.

    The clips are split at random into two halves, no group across them. Every model is evaluated on both, at every
    number of examples that the clips allow. One half chooses; the other gives the figures, so that no figure is the
    winner's luck. Results are stored as those of fewshot are; the same command again takes them from there.
    """
    items = session.begin("recommend")
    task = selection.one("--task", places.chosen(), "a recommendation")
    models = inputs.Models(model, input=input, device=device)
    names, left_out = (models.chosen(), {}) if model else selection.models_here()

    from uamix_bench.cli.progress import TerminalProgress
    from uamix_bench.evaluation.grid import evaluate
    from uamix_bench.records.store import ResultStore
    from uamix_bench.studies import recommend as library

    store, progress = ResultStore(output), TerminalProgress(quiet)
    store.check_writable()
    for reason, others in left_out.items():
        progress.say(f"passed over {', '.join(others)}: {reason}")
    data = places.load(task)
    selection.say(data.name, data.remarks)
    plans = library.plan(
        data, ways=n, shots=k or (), min_clips=min_clips, episodes=episodes, seed=seed, progress=progress
    )
    selection.say(data.name, [one for one in plans.choosing.task.remarks if one not in data.remarks])

    from uamix_bench.models.loading import load_model

    failed: dict[str, BadInputError] = {}

    def set_aside(place: int, error: BadInputError) -> None:
        failed[names[place]] = error
        progress.say(f"passed over {names[place]}: {error}")

    results: list[Result] = []
    files: Counter[str] = Counter()
    given: dict[ModelIdentity, str] = {}  # names that models were given by
    for kept in evaluate(
        list(map(_or_passed_over, models.loaders(names, load_model))),
        list(plans),
        store=store,
        set_aside=set_aside,
        batch_size=batch_size,
        keep_going=places.keep_going,
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
        words += places.words(task)
        words += ["--input", input] if input != "native" else []
        words += ["--keep-going"] if places.keep_going else []
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
