"""``uamix-bench tasks``: list the data sets, check their copies on this machine, and get them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uamix_bench.cli import commands, inputs, look, options, selection
from uamix_bench.cli.errors import Session
from uamix_bench.cli.options import json_output, quiet, to_path
from uamix_bench.cli.values import COUNT, Number
from uamix_bench.util.errors import BadInputError, UsageError

if TYPE_CHECKING:
    from uamix_bench.data.task import Task
    from uamix_bench.util.progress import Progress

_SHOWN = 20  # problems on the terminal; --json has all


@commands.group("tasks")
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

    table = Table("task", "classes>", "clips>", "seconds>", "licence", "data", prose=("licence",))
    for card in cards:
        source = "with the package" if card.bundled else "yours to fetch" if card.home else "made on first use"
        source += "; layout unverified" if card.unverified else ""
        names = " ".join([f"{card.name}@{card.version}", *card.aliases])
        table.add(names, count(card.classes), count(card.clips), f"{card.clip_seconds:g}", card.licence, source)
    show(table)
    own = "--task FOLDER (one sub-folder a class), FILE.csv (path,label[,group,split]), FILE.parquet or CARD.toml"
    click.echo(f"Your own: {own}; docs/your-task.md has the columns.", err=True)


@command.command("info")
@click.argument("name", metavar="NAME|PATH")
@click.option("--deep", is_flag=True, help="Read the sounds of a published data set as well; your own are always read.")
@inputs.places()
@quiet
@json_output
@click.pass_obj
def info(session: Session, places: inputs.Places, name: str, deep: bool, quiet: bool) -> None:
    """Show the card of a task, or what your own sounds hold.

    Of a folder, list or card of your own: clips and seconds of each class, rates, channels, splits, groups, what is
    silent, broken or there twice, the largest settings that every class serves, and a first command. Of a published
    data set, its card, and what its copy holds if there is one.
    """
    from uamix_bench.cli.progress import TerminalProgress
    from uamix_bench.plugins import registry

    items = session.begin("tasks info")
    progress = TerminalProgress(quiet)
    chosen = selection.one(name, selection.tasks(name), "a card")
    if chosen not in registry.tasks():
        items.append(_survey(chosen, places, progress))
        if not session.json:
            look.show(items[0])
        return
    card = registry.find_task(chosen).card
    folder = _folder(places.data_dir)
    here = (folder / card.name).exists() or places.data_dir is not None
    held = _survey(card.name, places._replace(audio_root=None), progress, deep) if here else None
    items.append({**card.model_dump(mode="json"), **({"copy": held} if held else {})})
    if session.json:
        return
    from uamix_bench.cli.tables import show_card

    shown = card.model_dump(mode="json")
    on_one_line = {key: ", ".join(shown[key] or ()) for key in ("aliases", "metaaudio")}
    absent = f"not in {folder}; 'uamix-bench tasks prepare {card.name}'" if card.home and not here else None
    show_card({**shown, **on_one_line, "holds": None, "copy": absent, "use": f"--task {card.name}"})
    if held:
        print()
        look.show(held)


@command.command("status")
@options.data_dir
@json_output
@click.pass_obj
def status(session: Session, data_dir: Path | None) -> None:
    """Show which data sets are here, and what is missing.

    By the names of folders and archives; 'tasks verify' counts clips.
    """
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
@click.argument("name", metavar="NAME|PATH")
@click.option("--deep", is_flag=True, help="Decode every file of a published data set as well; your own always are.")
@inputs.places()
@quiet
@json_output
@click.pass_obj
def verify(session: Session, places: inputs.Places, name: str, deep: bool, quiet: bool) -> None:
    """Count the clips of a data set and find bad ones.

    Exit code 3 where it is not whole. With --deep every file is decoded, and the bad ones are named. Of your own
    sounds, all that 'tasks info' shows; exit code 3 where one is broken or of a format that is not read.
    """
    items = session.begin("tasks verify")
    from uamix_bench.cli.progress import TerminalProgress
    from uamix_bench.data.task import find_reader

    if _is_own(own := next(iter(selection.tasks(name)))):
        document = _survey(own, places, TerminalProgress(quiet))
        items.append(document)
        if not session.json:
            look.show(document)
        bad = [*document["sounds"]["broken"], *document["unread"]]
        if bad:
            reason = f"{len(bad):,} sound{'s' * (len(bad) > 1)} cannot be read: {bad[0]['clip']} {bad[0]['reason']}"
            reason += f", and {len(bad) - 1:,} more" if len(bad) > 1 else ""
            raise BadInputError(own, reason, "repair or convert them, or set them aside with --keep-going")
        return
    task, root = find_reader(name, _folder(places.data_dir), audio_root=places.audio_root)
    problems = task.verify(root, deep, TerminalProgress(quiet))
    card = task.edition(root)
    found = [problem._asdict() for problem in problems]
    items.append({"task": card.name, "version": card.version, "root": str(root), "deep": deep, "problems": found})
    if not problems:
        count = card.clips
        if count is None or card.layout:  # no reader of the project's own has counted
            listing = task.listing(root)
            count = len(listing.clips)
            selection.say(card.name, listing.remarks)
        items[0]["clips"] = count
        if not session.json:
            label = card.name if card.name.startswith("local/") else f"{card.name}@{card.version}"
            print(f"{label}: {count:,} clips in {root}{', all decoded' if deep else ''}")
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
    """Download, check and unpack a data set.

    As far as its authors allow; else what to request is said. Archives stay in DIR/archives/NAME. A run that was
    interrupted goes on where it was.
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
    "--classes", type=COUNT, help="Number of classes, the first ones; default all, or 30 if there are hundreds."
)
@click.option("--clips-per-class", type=COUNT, default=4, show_default=True, help="Number of clips per class.")
@click.option(
    "--seconds", type=Number(0.01, 60), default=0.25, show_default=True, help="Length of each clip in seconds."
)
@json_output
@click.pass_obj
def miniature(
    session: Session, name: str, folder: Path, classes: int | None, clips_per_class: int, seconds: float
) -> None:
    """Make a small stand-in of a data set in a new DIR.

    It has the folders and names of the data set, and generated sounds. Its version says that it is a miniature.
    """
    items = session.begin("tasks miniature")
    task = _task(name)
    root = task.miniature(folder, classes=classes, clips_per_class=clips_per_class, seconds=seconds)
    card = task.edition(root)
    items.append({"task": card.name, "version": card.version, "root": str(root), "clips": card.clips})
    if not session.json:
        from uamix_bench.cli.progress import TerminalProgress

        try:
            held = _survey(name, inputs.Places(data_dir=root), TerminalProgress(True), sounds=False)
        except BaseException:  # an interrupt: the folder was empty, and is so again
            for entry in root.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            raise
        print(f"{card.name}@{card.version}: {card.clips or 0:,} clips")
        print(f"evaluate it:\n{held['first_command']}")


def _folder(data_dir: Path | None) -> Path:
    from uamix_bench.util.files import home

    return data_dir or home() / "data"


def _is_own(name: str) -> bool:
    """Test for a value of --task that is a folder or list of one's own, and no card."""
    from uamix_bench.plugins import registry

    return name not in registry.tasks() and ".py:" not in name and not name.lower().endswith(".toml")


def _survey(name: str, places: inputs.Places, progress: Progress, sounds: bool = True) -> dict[str, Any]:
    """Survey of a task's clips as plain data."""
    from uamix_bench.data.survey import survey

    data = places.load(name, allow_partial=True, keep_going=True)
    return look.facts(survey(data, sounds=sounds, progress=progress), data, places.words(name))


def _task(name: str) -> Task:
    from uamix_bench.data.task import is_path, reader

    if is_path(name):
        remedy = "'uamix-bench tasks info PATH' looks at sounds of your own"
        raise UsageError(name, "is a path, where the name of a published data set goes", remedy)
    return reader(name)
