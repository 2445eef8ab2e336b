"""What the commands that train share: options, recipe changes, and stopping with the state saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from uamix_bench.cli import options
from uamix_bench.cli.errors import Session
from uamix_bench.errors import UsageError, nearest

AnyCallback = TypeVar("AnyCallback", bound=Callable[..., Any])


def common(function: AnyCallback) -> AnyCallback:
    """Adds the options that every training has."""
    for option in reversed(
        (
            click.option(
                "--recipe", default="tiny", show_default=True, help="Name of a recipe, or a JSON file of one."
            ),
            click.option(
                "--data",
                metavar="DATA",
                help="TASK[:SPLIT], a folder of class folders, or a CSV; default the recipe's.",
            ),
            click.option("--data-dir", metavar="DIR", callback=options.to_path, help="Folder of the data sets."),
            click.option(
                "--audio-root",
                metavar="DIR",
                callback=options.to_path,
                help="What a CSV's paths are relative to.",
            ),
            click.option("--out", metavar="DIR", callback=options.to_path, help="Folder for checkpoints and weights."),
            click.option("--seed", type=click.IntRange(min=0), help="Seed of every random draw."),
            click.option(
                "--set",
                "changes",
                multiple=True,
                metavar="FIELD=VALUE",
                help="Change any field of the recipe.",
            ),
            click.option("--dry-run", is_flag=True, help="Print the recipe and stop."),
            options.device,
            options.config,
            options.quiet,
            options.json_output,
        )
    ):
        function = option(function)
    return function


def change(recipe: Any, changes: dict[str, Any], texts: tuple[str, ...]) -> Any:
    """Returns the recipe with fields changed, validated.

    Args:
        recipe: A recipe.
        changes: Fields from options; None leaves a field alone.
        texts: ``field=value`` as given to --set; the value is JSON, or else a string. ``views.x=1`` reaches into views.

    Raises:
        UsageError: An unknown field or a value that does not fit; the line says which.
    """
    from uamix_bench.tuning.fields import changed, find_field, read_value

    fields = {field: value for field, value in changes.items() if value is not None}
    for text in texts:
        path, separator, value_text = text.partition("=")
        if not separator:
            raise UsageError(f"--set {text}", "has no value", "give FIELD=VALUE")
        fields[find_field(recipe, path, "--set")] = read_value(value_text)
    return changed(recipe, fields)


def find(recipes: dict[str, Any], name: str, kind: type[Any]) -> Any:
    """Returns a recipe by name, or from a JSON file such as the metadata of weights holds.

    Raises:
        UsageError: Neither is there, or the file is not a recipe.
    """
    from pydantic import ValidationError

    if name in recipes:
        return recipes[name]
    if not Path(name).is_file():
        raise UsageError(f"--recipe {name}", "no such recipe", nearest(name, list(recipes)))
    try:
        return kind.model_validate_json(Path(name).read_bytes())
    except ValidationError as error:
        raise UsageError(name, f"is not a recipe ({error.errors()[0]['msg']})", "see --dry-run --json") from error


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Lets the first SIGINT or SIGTERM end the training at the next step with its state saved; the second ends at once.

    Yields:
        The function that a training asks whether to stop.
    """
    from uamix_bench.tuning.loop import Stopped

    asked = threading.Event()
    received: list[int] = []
    previous: dict[int, Any] = {}

    def ask(number: int, _: object) -> None:
        received.append(number)
        asked.set()
        signal.signal(number, previous[number])

    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        previous[number] = signal.signal(number, ask)
    try:
        yield asked.is_set
    except Stopped as stopped:
        stopped.exit_code = 128 + received[0]
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def carry_out(
    session: Session,
    kind: str,
    recipe: Any,
    init: str | None,
    data_dir: Path | None,
    audio_root: Path | None,
    out: Path | None,
    device: str,
    quiet: bool,
    dry_run: bool,
) -> None:
    """Runs a training, or says what it would do, and prints where the weights are."""
    from uamix_bench.cli.progress import TerminalProgress
    from uamix_bench.tuning.recipe import training_folder

    items = session.begin(kind)
    folder = out or training_folder(recipe, init, recipe.data)
    progress = TerminalProgress(quiet)
    if dry_run:
        items.append({"recipe": recipe.model_dump(mode="json"), "init": init, "out": str(folder)})
        if not session.json:
            click.echo(recipe.model_dump_json(indent=2))
            progress.say(f"would write to {folder}")
        return
    from uamix_bench.tuning import run
    from uamix_bench.tuning.data import find_data

    data = find_data(recipe.data, data_dir, audio_root)
    with stoppable() as stop:
        if init is None:
            weights = run.pretrain(recipe, data, folder, device=device, progress=progress, stop=stop)
        else:
            weights = run.tune(recipe, data, init, folder, device=device, progress=progress, stop=stop)
    items.append({"weights": str(weights), "recipe_sha256": recipe.sha256})
    if not session.json:
        click.echo(weights)
    architecture = "audiomae" if init is None else "uamix"
    progress.say(f"evaluate it: uamix-bench fewshot --model {architecture}={weights}")
