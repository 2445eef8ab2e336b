"""``uamix-bench tasks``: what models can be evaluated on, from the cards alone."""

from __future__ import annotations

import click

from uamix_bench.cli.errors import Session
from uamix_bench.cli.options import json_output


@click.group("tasks")
def command() -> None:
    """List the tasks, or show one."""


@command.command("ls")
@json_output
@click.pass_obj
def ls(session: Session) -> None:
    """List the tasks."""
    from uamix_bench import registry

    items = session.begin("tasks ls")
    cards = [plugin.card for plugin in registry.tasks().values()]
    items += [card.model_dump(mode="json") for card in cards]
    if session.json:
        return
    from uamix_bench.cli.tables import Table, count, show

    table = Table("task", "classes>", "clips>", "seconds>", "licence", "data", wrapped=("licence",))
    for card in cards:
        source = "yours to fetch" if card.home else "made on first use"
        table.add(
            f"{card.name}@{card.version}",
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
    from uamix_bench import registry

    items = session.begin("tasks info")
    card = registry.find_task(name).card
    items.append(card.model_dump(mode="json"))
    if session.json:
        return
    from uamix_bench.cli.tables import show_card

    show_card({**items[0], "use": f"--task {name}"})
