"""``uamix-bench fit``: the classifier that was evaluated, fitted to labelled clips and kept in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from uamix_bench.cli import commands, options, selection
from uamix_bench.cli.errors import Session
from uamix_bench.util.errors import UsageError

if TYPE_CHECKING:
    from uamix_bench.evaluation.classifier import Classifier

_OF_AN_EPISODE = ("n", "q", "episodes", "group_disjoint", "min_clips")


@commands.command("fit")
@options.model
@options.task
@click.option(
    "--classifier",
    default="nearest-centroid",
    show_default=True,
    metavar="NAME",
    help="Classifier, as in fewshot: nearest-centroid, cosine, simpleshot, l2n, knn, logistic-regression.",
)
@click.option("--neighbors", type=options.COUNT, default=1, show_default=True, help="Clips that vote in knn.")
@click.option(
    *options.SHOT, "k", type=options.COUNT, help="Clips of each class, chosen by --seed; default all. Of an episode: 1."
)
@click.option(
    "--seed",
    type=options.Number(0, 2**53 - 1),
    default=0,
    show_default=True,
    help="Seed of the choice of clips, or of the episodes.",
)
@click.option("--classes", metavar="FILE", callback=options.to_path, help="Only these classes of the task, one a line.")
@click.option(
    "--segments",
    type=click.Choice(["first", "mean"]),
    default="first",
    show_default=True,
    help="Part of a longer clip that is heard: its first segment, or the mean over all of them.",
)
@click.option(
    "--episode",
    type=options.Number(0),
    help="Fit the supports of this episode alone, from 0, as fewshot with the same options draws it.",
)
@click.option(*options.WAY, "n", type=options.CountOrAll(), help="Classes of the episode, or all; default 5.")
@click.option(
    "--q", "--query", type=options.COUNT, help="Queries of each class of the episode; default its protocol's."
)
@click.option("--episodes", type=options.COUNT, help="Number of episodes drawn; default the protocol's.")
@click.option(
    "--protocol",
    type=click.Choice(["paper", "metaaudio"]),
    default="paper",
    show_default=True,
    help="Protocol of the episode, as in fewshot.",
)
@click.option("--group-disjoint", is_flag=True, help="Draw the episode with no group on both sides.")
@click.option("--min-clips", type=options.COUNT, help="Clips that a class of the episode must have, as in fewshot.")
@options.checkpoint
@options.name
@click.option("--pooling", metavar="NAME", help="Pooling from tokens to an embedding; default the model's own.")
@options.layer
@options.trust_remote_code
@options.input_length
@options.data_dir
@options.audio_root
@options.clip_seconds
@options.device
@options.batch_size
@options.keep_going
@options.out("Folder of the classifier.", default="uamix-classifier", show_default=True)
@options.of_a_run
@click.pass_obj
def command(
    session: Session,
    /,
    model: tuple[str, ...],
    task: tuple[str, ...],
    k: int | None,
    seed: int,
    classes: Path | None,
    segments: Literal["first", "mean"],
    episode: int | None,
    protocol: Literal["paper", "metaaudio"],
    checkpoint: Path | None,
    name: tuple[str, ...],
    pooling: str | None,
    layer: str | None,
    trust_remote_code: bool,
    input: Literal["native", "official"],
    data_dir: Path | None,
    audio_root: Path | None,
    clip_seconds: float | None,
    device: str,
    batch_size: int,
    keep_going: bool,
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
    models = selection.chosen_models(model, checkpoint, name)
    names = selection.chosen_tasks(task)
    for option, found in (("--model", models), ("--task", names)):
        if len(found) > 1:
            raise UsageError(option, f"a classifier is of one, and {len(found)} are given", "fit them one by one")
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
    from uamix_bench.data.task import load_task

    places: dict[str, Any] = {"audio_root": audio_root, "clip_seconds": clip_seconds, "keep_going": keep_going}
    data = load_task(names[0], data_dir, **places)
    if classes is not None:
        data = data.only(selection.classes(classes))
    elif protocol == "metaaudio":
        data = data.metaaudio()
    selection.say(data.name, data.remarks)
    progress = TerminalProgress(quiet)

    from uamix_bench.evaluation import fitting
    from uamix_bench.models.model import load_model

    if line := selection.demonstration(models, checkpoint):
        progress.say(line)
    encoder = load_model(
        models[0],
        checkpoint,
        device=device,
        input=input,
        pooling=pooling,
        label=next(iter(name), None),
        layer=layer,
        trust_remote_code=trust_remote_code,
    )
    how: fitting.Options = {"batch_size": batch_size, "keep_going": keep_going, "progress": progress}
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
