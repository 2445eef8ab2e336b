"""Parts shared by the commands that train: options, recipe changes, and stopping with the state saved."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from uamix_bench.cli import options
from uamix_bench.cli.errors import Session
from uamix_bench.util.errors import BenchError, Stopped, UsageError, nearest
from uamix_bench.util.progress import Progress

AnyCallback = TypeVar("AnyCallback", bound=Callable[..., Any])


def common(function: AnyCallback) -> AnyCallback:
    """Adds the options that every training has."""
    for option in reversed(
        (
            options.recipe,
            click.option(
                "--data",
                metavar="DATA",
                help="TASK[:SPLIT], a folder of sounds, a CSV (AudioSet's too) or a text list; default the recipe's.",
            ),
            options.data_dir,
            options.path(
                "--audio-root",
                "Folder that the paths of a list are relative to; for AudioSet's CSV, the folder of its clips.",
            ),
            options.workers,
            options.out("Folder for checkpoints and weights; default below UAMIX_BENCH_HOME/training."),
            options.seed("Seed of every random draw."),
            options.changes,
            options.dry_run("Print the recipe, the trained parameters and the steps; train nothing."),
            options.device,
            click.option("--compile", "compiled", is_flag=True, help="Compile the encoder's blocks; on a GPU only."),
            options.of_a_run,
        )
    ):
        function = option(function)
    return function


def change(recipe: Any, changes: dict[str, Any], texts: tuple[str, ...], device: str | None = None) -> Any:
    """Returns the recipe with fields changed, validated.

    Args:
        recipe: Recipe to change.
        changes: Values of fields from options; None leaves a field alone.
        texts: Values of --set, ``field=value``; the value is JSON, or else a string. ``views.x=1`` sets a field of
            views.
        device: Value of --device. If it is given, ``precision=auto`` stands for the precision that is faster on it.

    Raises:
        UsageError: A field is unknown or a value is not valid; the line names it.
    """
    from uamix_bench.tuning.fields import changed, find_field, read_value

    fields = {field: value for field, value in changes.items() if value is not None}
    for text in texts:
        path, separator, value_text = text.partition("=")
        if not separator:
            raise UsageError(f"--set {text}", "has no value", "give FIELD=VALUE")
        fields[find_field(recipe, path, "--set")] = read_value(value_text)
    if device is not None and fields.get("precision") == "auto":
        from uamix_bench.tuning.throughput import faster_precision

        fields["precision"] = faster_precision(device)
    return changed(recipe, fields)


def find(recipes: dict[str, Any], name: str, kind: type[Any]) -> Any:
    """Returns a recipe by name, or from a JSON file such as the metadata of weights.

    Raises:
        UsageError: Neither exists, or the file is not a recipe.
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


def refuse_torchrun(session: Session) -> None:
    """Refuses to run under torchrun, for commands that use one process; the first process prints the error.

    Raises:
        UsageError: The environment, as torchrun sets it, asks for several processes.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes == "1":
        return
    if os.environ.get("RANK", "0") != "0":
        session.items = None
        raise click.exceptions.Exit(UsageError.exit_code)
    reason = f"works in one process, and WORLD_SIZE says that {processes} were started"
    raise UsageError(session.command, reason, "run it without torchrun, which is for pretrain and tune")


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Ends the training at the next step with its state saved on the first SIGINT or SIGTERM; at once on the second.

    Yields:
        Function that a training polls; True asks it to stop.
    """
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
        stopped.exit_code = 128 + (received[0] if received else signal.SIGTERM)  # perhaps another process's
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def carry_out(
    session: Session,
    recipes: dict[str, Any],
    kind: type[Any],
    init: str | None,
    *,
    recipe: str,
    changes: tuple[str, ...],
    data_dir: Path | None,
    audio_root: Path | None,
    output: Path | None,
    workers: int | None,
    device: str,
    compiled: bool,
    quiet: bool,
    dry_run: bool,
    **fields: Any,
) -> None:
    """Runs a training, or prints its dry run; then prints the path of the weights."""
    from uamix_bench.cli.progress import TerminalProgress
    from uamix_bench.tuning.recipe import training_folder

    chosen = change(find(recipes, recipe, kind), fields, changes, device)
    items = session.begin(chosen.kind)
    folder = output or training_folder(chosen, init)
    if dry_run:
        plan = _plan(chosen, init, data_dir, audio_root, TerminalProgress(quiet))
        if chosen.kind == "tune" and plan["steps"] and plan["data"]["hours"] is not None:
            plan |= _need(plan, chosen, str(init), data_dir, audio_root, device)
        items.append({**plan, "init": init, "out": str(folder)})
        if not session.json:
            click.echo(chosen.model_dump_json(indent=2))
            for line in _plan_lines(plan):
                TerminalProgress(quiet).say(line)
            TerminalProgress(quiet).say(f"would write to {folder}")
        return
    from uamix_bench.tuning import distributed, run
    from uamix_bench.tuning.sounds import find_data, shareable

    try:
        with distributed.joined(device), stoppable() as stop:
            leads = distributed.rank() == 0
            progress = TerminalProgress(quiet or not leads)
            data = find_data(chosen.data, data_dir, audio_root)
            chosen = shareable(chosen, data)
            options: dict[str, Any] = {"device": device, "compiled": compiled, "workers": workers}
            options |= {"progress": progress, "stop": stop}
            if chosen.kind == "tune":
                assert init is not None
                weights = run.tune(chosen, data, init, folder, **options)
            else:
                weights = run.pretrain(chosen, data, folder, init=init, **options)
    except distributed.Told as told:
        session.items = None
        raise click.exceptions.Exit(told.exit_code) from told
    if not leads:
        session.items = None
        return
    items.append({"weights": str(weights), "recipe_sha256": chosen.sha256})
    if not session.json:
        click.echo(weights)
    own = init.partition("=")[0] if init and ".py:" in init else None
    name = own or ("audiomae" if chosen.kind == "pretrain" else "uamix")
    progress.say(f"evaluate it: uamix-bench fewshot --model {name}={weights}")


def _plan(
    recipe: Any, init: str | None, data_dir: Path | None, audio_root: Path | None, progress: Progress
) -> dict[str, Any]:
    """Dry run of a training as plain data; ``steps`` and ``data`` are None if the data does not exist."""
    from uamix_bench.tuning import dry_run
    from uamix_bench.tuning.run import initial_model
    from uamix_bench.tuning.sounds import find_data

    if recipe.kind == "tune":
        assert init is not None
        stages = dry_run.tuning_on_paper(recipe, initial_model(init).encoder.shape)
    else:
        stages = dry_run.pretraining_on_paper(recipe)
    document: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_sha256": recipe.sha256,
        "views": recipe.views.preset,
        "sources": {name: field.description for name, field in type(recipe).model_fields.items() if field.description},
        "trained_parameters": dry_run.trained_parameters(stages),
        "steps": None,
        "estimated_s": None,
        "estimated_memory_mb": None,
        "data": None,
        "notes": [],
    }
    try:
        data = find_data(recipe.data, data_dir, audio_root)
        document["notes"] += map(str, data.remarks)
        for remark in data.remarks:
            progress.say(f"{data.name}: {remark.text}")
        document["data"] = dry_run.holdings(data)
        document["steps"] = dry_run.steps(stages, recipe, data)
    except BenchError as error:
        document["notes"].append(str(error))
        progress.say(f"the data: {error}")
    return document


def _need(
    plan: dict[str, Any], recipe: Any, init: str, data_dir: Path | None, audio_root: Path | None, device: str
) -> dict[str, Any]:
    """Estimated time and memory of a tuning; without them, the reason as a note."""
    from uamix_bench.tuning.forecast import need
    from uamix_bench.tuning.run import initial_model
    from uamix_bench.tuning.trainings import Job

    job = Job("", recipe, init, recipe.data, data_dir, audio_root, Path(), None, device, None)
    encoder = sum(parameter.numel() for parameter in initial_model(init).encoder.parameters())
    head = max(plan["trained_parameters"].values())
    try:
        found = need(job, plan["steps"], plan["trained_parameters"], encoder + head)
    except BenchError as error:
        return {"notes": [*plan["notes"], f"time and memory are not estimated: {error}"]}
    return {"estimated_s": round(found.seconds, 1), "estimated_memory_mb": round(found.memory_bytes / 2**20)}


def _plan_lines(plan: dict[str, Any]) -> Iterator[str]:
    """Dry run of a training as lines of text."""
    held = plan["data"]
    if held:
        hours = "generated on first use" if held["hours"] is None else f"{held['hours']:,.2f} hours"
        yield f"{held['name']}: {held['clips']:,} clips of {held['recordings']:,} recordings, {hours}"
        if held["unreadable"]:
            yield f"{held['unreadable']:,} of them cannot be read and would be skipped"
        if held["partial"]:
            yield held["partial"]
    for stage, count in plan["trained_parameters"].items():
        steps = f"{plan['steps'][stage]:,} steps, " if plan["steps"] else ""
        yield f"{stage}: {steps}{count:,} trained parameters"
    if plan["estimated_s"] is not None:
        from uamix_bench.cli.tables import duration

        memory = f"{plan['estimated_memory_mb']:,} MiB for weights, optimiser and a batch in float32"
        yield f"about {duration(plan['estimated_s'])} here without decoding, {memory}; from a few small steps"
