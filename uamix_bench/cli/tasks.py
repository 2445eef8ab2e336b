"""``uamix-bench tasks``: list the data sets, check their copies on this machine, and get them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from uamix_bench.cli import options
from uamix_bench.cli.errors import Session
from uamix_bench.cli.options import json_output, quiet, to_path
from uamix_bench.util.errors import BadInputError, UsageError

if TYPE_CHECKING:
    from uamix_bench.data.task import Task

_SHOWN = 20  # problems on the terminal; --json has all


@click.group("tasks")
def command() -> None:
    """List the tasks, show one, check or prepare its data."""


@command.command("ls")
@json_output
@click.pass_obj
def ls(session: Session) -> None:
    """List the tasks."""
    from uamix_bench.plugins import registry

    items = session.begin("tasks ls")
    cards = [plugin.card for plugin in registry.tasks().values()]
    items += [card.model_dump(mode="json") for card in cards]
    if session.json:
        return
    from uamix_bench.cli.tables import Table, count, show

    table = Table("task", "classes>", "clips>", "seconds>", "licence", "data", wrapped=("licence",))
    for card in cards:
        source = "with the package" if card.bundled else "yours to fetch" if card.home else "made on first use"
        table.add(
            " ".join([f"{card.name}@{card.version}", *card.aliases]),
            count(card.classes),
            count(card.clips),
            f"{card.clip_seconds:g}",
            card.licence,
            source,
        )
    show(table)
    click.echo(
        "Your own: --task FOLDER (one sub-folder a class) or --task FILE.csv (path,label[,group,split]).", err=True
    )


@command.command("info")
@click.argument("name")
@json_output
@click.pass_obj
def info(session: Session, name: str) -> None:
    """Show the card of a task."""
    from uamix_bench.plugins import registry

    items = session.begin("tasks info")
    card = registry.find_task(name).card
    items.append(card.model_dump(mode="json"))
    if session.json:
        return
    from uamix_bench.cli.tables import show_card

    on_one_line = {key: ", ".join(items[0][key] or ()) for key in ("aliases", "metaaudio")}
    show_card({**items[0], **on_one_line, "holds": None, "use": f"--task {card.name}"})


@command.command("status")
@options.data_dir
@json_output
@click.pass_obj
def status(session: Session, data_dir: Path | None) -> None:
    """Show which data sets are here, and what is missing, by their names; 'tasks verify' counts."""
    from uamix_bench.data.prepare import look
    from uamix_bench.plugins import registry

    items = session.begin("tasks status")
    folder = _folder(data_dir)
    copies = [
        look(plugin.card, folder)._replace(**({"root": plugin.load()().locate(folder)} if plugin.card.bundled else {}))
        for plugin in registry.tasks().values()
    ]
    items += [{**copy._asdict(), "root": str(copy.root)} for copy in copies]
    if session.json:
        return
    from uamix_bench.cli.tables import Table, show

    table = Table("task", "state", "where", "missing", "archives", wrapped=("where", "missing", "archives"))
    for copy in copies:
        state = "made on first use" if copy.state == "generated" else copy.state
        lacks = "all" if copy.state == "absent" else ", ".join(copy.missing)
        table.add(copy.task, state, str(copy.root), lacks, ", ".join(copy.archives))
    show(table)


@command.command("verify")
@click.argument("name")
@click.option("--deep", is_flag=True, help="Decode every file as well.")
@options.data_dir
@quiet
@json_output
@click.pass_obj
def verify(session: Session, name: str, deep: bool, data_dir: Path | None, quiet: bool) -> None:
    """Count the clips of a data set and find empty ones; exit code 3 where it is not whole.

    With --deep every file is decoded, and the bad ones are named.
    """
    items = session.begin("tasks verify")
    task = _task(name)
    from uamix_bench.cli.progress import TerminalProgress

    root = task.locate(_folder(data_dir))
    problems = task.verify(root, deep, TerminalProgress(quiet))
    card = task.edition(root)
    found = [problem._asdict() for problem in problems]
    items.append({"task": card.name, "version": card.version, "root": str(root), "deep": deep, "problems": found})
    if not problems:
        if not session.json:
            decoded = ", all decoded" if deep else ""
            print(f"{card.name}@{card.version}: {card.clips or 0:,} clips in {root}{decoded}")
        return
    if not session.json:
        for problem in problems[:_SHOWN]:
            print(f"{problem.subject}: {problem.reason}")
    more = f", of which {_SHOWN} are shown" if len(problems) > _SHOWN else ""
    reason = f"{len(problems):,} problem{'s' * (len(problems) > 1)}{more}"
    raise BadInputError(card.name, reason, problems[0].remedy)


@command.command("prepare")
@click.argument("name")
@options.data_dir
@click.option("--offline", is_flag=True, help="Check and unpack the files that exist; download nothing.")
@quiet
@json_output
@click.pass_obj
def prepare(session: Session, name: str, data_dir: Path | None, offline: bool, quiet: bool) -> None:
    """Download, check and unpack a data set, as far as its authors allow; else say what to request.

    Archives stay in DIR/archives/NAME. A run that was interrupted goes on where it was.
    """
    items = session.begin("tasks prepare")
    task = _task(name)
    from uamix_bench.cli.progress import TerminalProgress
    from uamix_bench.data import prepare as preparing

    progress = TerminalProgress(quiet)
    root = preparing.prepare(task, _folder(data_dir), offline=offline, progress=progress)
    card = task.edition(root)
    items.append({"task": card.name, "version": card.version, "root": str(root), "clips": card.clips})
    if not session.json:
        print(f"{card.name}@{card.version}: {card.clips or 0:,} clips in {root}; licence: {card.licence}")


@command.command("miniature")
@click.argument("name")
@click.argument("folder", metavar="DIR", callback=to_path)
@click.option(
    "--classes", type=options.COUNT, help="Number of classes, the first ones; default all, or 30 if there are hundreds."
)
@click.option("--clips-per-class", type=options.COUNT, default=4, show_default=True, help="Number of clips per class.")
@click.option(
    "--seconds", type=options.Number(0.01, 60), default=0.25, show_default=True, help="Length of each clip in seconds."
)
@json_output
@click.pass_obj
def miniature(
    session: Session, name: str, folder: Path, classes: int | None, clips_per_class: int, seconds: float
) -> None:
    """Make a small stand-in of a data set in a new DIR: its folders and names, generated sounds.

    Evaluate it with --task NAME --data-dir DIR. Its version says that it is a miniature.
    """
    items = session.begin("tasks miniature")
    task = _task(name)
    root = task.miniature(folder, classes=classes, clips_per_class=clips_per_class, seconds=seconds)
    card = task.edition(root)
    items.append({"task": card.name, "version": card.version, "root": str(root), "clips": card.clips})
    if not session.json:
        print(f"{card.name}@{card.version}: {card.clips or 0:,} clips; use --task {card.name} --data-dir {root}")


def _folder(data_dir: Path | None) -> Path:
    from uamix_bench.util.files import home

    return data_dir or home() / "data"


def _task(name: str) -> Task:
    from uamix_bench.data.task import is_path
    from uamix_bench.plugins import registry

    if is_path(name):
        remedy = "'uamix-bench fewshot --task PATH' names what is wrong with sounds of your own"
        raise UsageError(name, "is a path, where the name of a published data set goes", remedy)
    task: Task = registry.find_task(name).load()()
    return task
