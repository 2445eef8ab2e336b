"""``uamix-bench models``: what can be evaluated, from the cards alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from uamix_bench.cli.errors import Session
from uamix_bench.cli.options import json_output

if TYPE_CHECKING:
    from uamix_bench.card import ModelCard


@click.group("models")
def command() -> None:
    """List the models, or show one."""


@command.command("ls")
@json_output
@click.pass_obj
def ls(session: Session) -> None:
    """List the models and the bundled weights."""
    from uamix_bench import registry

    items = session.begin("models ls")
    plugins = registry.models()
    items += [_facts(plugin.card, plugin.name) for plugin in plugins.values()]
    if session.json:
        return
    from uamix_bench.cli.tables import Table, show

    table = Table("model", "parameters>", "Hz>", "dim>", "pre-trained on", "weights", wrapped=("pre-trained on",))
    for name, plugin in plugins.items():
        card = plugin.card
        bundled = ", ".join(weights.id for weights in card.weights)
        weights = bundled or ("your file" if card.needs_weights else "none needed")
        table.add(
            name,
            f"{card.parameters / 1e6:.1f}M" if card.parameters else "0",
            str(card.sample_rate),
            str(card.embedding_dim),
            ", ".join(card.pretrained_on) or "nothing",
            weights,
        )
    show(table)


@command.command("info")
@click.argument("name")
@json_output
@click.pass_obj
def info(session: Session, name: str) -> None:
    """Show the card of a model or of bundled weights."""
    from uamix_bench import registry

    items = session.begin("models info")
    plugin, weights = registry.find_model(name)
    facts = _facts(plugin.card, plugin.name)
    items.append(facts)
    if session.json:
        return
    from uamix_bench.cli.tables import show_card

    stands_for = f"{weights.id}: {weights.note}" if weights else None
    use = f"--model {name}" if weights or not plugin.card.needs_weights else f"--model {name}=PATH"
    show_card({**facts, **({"stands for": stands_for} if stands_for else {}), "use": use})


def _facts(card: ModelCard, name: str) -> dict[str, object]:
    facts: dict[str, object] = card.model_dump(mode="json")
    return {**facts, "name": name}
