"""``uamix-bench fit``: the classifier that was evaluated, fitted to labelled clips and kept in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from uamix_bench.cli import commands, inputs, options, selection
from uamix_bench.cli.errors import Session
from uamix_bench.cli.values import COUNT, WAYS, Number
from uamix_bench.util.errors import UsageError

if TYPE_CHECKING:
    from uamix_bench.evaluation.classifier import Classifier

_OF_AN_EPISODE = ("n", "q", "episodes", "group_disjoint", "min_clips")


@commands.command("fit")
@inputs.models(
    options.checkpoint,
    options.name,
    options.pooling,
    options.layer,
    options.trust_remote_code,
    options.input_length,
    options.device,
)
@inputs.places(options.task, options.keep_going)
@options.classifier
@options.neighbors
@click.option(
    *options.SHOT, "k", type=COUNT, help="Clips of each class, chosen by --seed; default all. Of an episode: 1."
)
@options.seed("Seed of the choice of clips, or of the episodes.", default=0, show_default=True)
@options.classes
@options.segments
@click.option(
    "--episode",
    type=Number(0),
    help="Fit the supports of this episode alone, from 0, as fewshot with the same --n, --k, --q, --episodes, --seed, "
    "--protocol, --group-disjoint and --min-clips draws it.",
)
@click.option(*options.WAY, "n", type=WAYS, help="Ways of the episode; default 5.")
@options.query
@options.episodes
@options.protocol
@options.group_disjoint
@options.min_clips
@options.batch_size
@options.out("Folder of the classifier.", default="uamix-classifier", show_default=True)
@options.of_a_run
@click.pass_obj
def command(
    session: Session,
    /,
    models: inputs.Models,
    places: inputs.Places,
    k: int | None,
    seed: int,
    classes: Path | None,
    segments: Literal["first", "mean"],
    episode: int | None,
    protocol: Literal["paper", "metaaudio"],
    batch_size: int,
    output: Path,
    quiet: bool,
    classifier: str,
    neighbors: int,
    **of_episode: Any,
) -> int:
    """Fit the evaluated classifier to labelled clips.

    The encoder stays as it is; --out gets a folder of JSON and safetensors for 'uamix-bench predict'. From 20 clips of
    each class on, scores are probabilities, and a sound may be none of the classes. Both are calibrated by
    cross-validation, and the error of that calibration is shown and kept.
    """
    items = session.begin("fit")
    names, what = models.chosen(), "a classifier"
    selection.one("--model", names, what)
    task = selection.one("--task", places.chosen(), what)
    given = [field for field in _OF_AN_EPISODE if of_episode[field]] + ["protocol"] * (protocol != "paper")
    if episode is None and given:
        option = f"--{given[0].replace('_', '-')}"
        raise UsageError(option, "is of an episode", "give --episode too, or leave it away")
    cell = selection.protocol(
        protocol,
        n_way=of_episode["n"] or 5,
        k_shot=k or 1,
        n_query=of_episode["q"],
        episodes=of_episode["episodes"],
        seed=seed,
        classifier=classifier,
        neighbors=neighbors if episode is not None else 1,
        segments=segments,
        group_disjoint=of_episode["group_disjoint"],
        min_clips=of_episode["min_clips"],
    )

    replaced = selection.check_new(output, "classifier.json")

    from uamix_bench.cli.progress import TerminalProgress

    data = places.load(task)
    if classes is not None:
        data = data.only(selection.classes(classes))
    elif protocol == "metaaudio":
        data = data.metaaudio()
    selection.say(data.name, data.remarks)
    progress = TerminalProgress(quiet)

    from uamix_bench.evaluation import fitting
    from uamix_bench.models.loading import load_model

    selection.say_demonstration(names, models.checkpoint, progress)
    encoder = models.loaders(names, load_model)[0]()
    how: fitting.Options = {"batch_size": batch_size, "keep_going": places.keep_going, "progress": progress}
    if episode is not None:
        made = fitting.fit_episode(encoder, data, cell, episode, **how)
    else:
        made = fitting.fit(
            encoder, data, classifier=classifier, neighbors=neighbors, segments=segments, k=k, seed=seed, **how
        )
    folder = made.save(output)
    if replaced:
        progress.say(f"replaced the classifier that was in {folder}")
    items.append({"folder": str(folder), **made.facts.model_dump(mode="json")})
    if not session.json:
        _show(made, folder)
    return 6 if made.facts.skipped else 0


def _show(made: Classifier, folder: Path) -> None:
    """Prints what was fitted, and how far its probabilities can be believed."""
    import shlex

    from uamix_bench.cli.tables import show_card
    from uamix_bench.util.text import listed

    facts, calibration = made.facts, made.facts.calibration
    found = calibration and calibration.unknown_found
    unknown = "others an unknown share (two classes)" if found is None else f"{found:.0%} of clips of classes left out"
    judged = {} if calibration is None else {
        "accuracy": f"{calibration.accuracy:.1%} of {calibration.clips:,} clips, each held out once",
        "calibration error": f"{calibration.calibration_error:.3f} (ECE), log loss {calibration.log_loss:.3f} nats",
        "none of these": f"said of {calibration.known_lost:.0%} of known clips, of {unknown}",
    }  # fmt: skip
    episode = facts.episode and f"{facts.episode.index} of {facts.episode.protocol.episodes:,}"
    show_card(
        {
            "folder": str(folder),
            "encoder": facts.model.name,
            "classifier": facts.classifier,
            "episode": episode,
            "classes": f"{len(facts.classes)}: {listed(list(facts.classes))}",
            "clips": f"{sum(facts.classes.values()):,}, {min(facts.classes.values())} or more of each class",
            **judged,
            "probabilities": facts.uncalibrated and f"none: {facts.uncalibrated}",
            "skipped": f"{len(facts.skipped)} clips" if facts.skipped else None,
            "use": f"uamix-bench predict {shlex.quote(str(folder))} SOUNDS...",
        }
    )
