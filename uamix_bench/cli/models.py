"""``uamix-bench models``: what can be evaluated, from the cards alone; whether a model keeps to the contract."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uamix_bench.cli import selection
from uamix_bench.cli.errors import Session
from uamix_bench.cli.options import json_output, to_path
from uamix_bench.errors import BadInputError, UsageError

if TYPE_CHECKING:
    from uamix_bench.card import ModelCard


@click.group("models")
def command() -> None:
    """List the models, show one, check one, or convert its weights."""


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
            _millions(card.parameters),
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


@command.command("check")
@click.argument("models", nargs=-1, required=True, metavar="NAME[=PATH]|FILE.py:CLASS...")
@json_output
@click.pass_obj
def check(session: Session, models: tuple[str, ...]) -> None:
    """Check that models keep to what the bench relies on; exit code 3 where one does not.

    Shapes, no gradient, determinism, batches, padding, silence, very short and long clips, NaN, sample rates,
    layers, poolings, the card, and that the model can be built again. On the CPU.
    """
    items = session.begin("models check")
    names = [name for given in models for name in selection.models(given)]

    from uamix_bench import contract
    from uamix_bench.model import load_model

    broken = []
    for name in names:
        try:
            outcomes = contract.check(load_model(name, device="cpu"))
        except BadInputError as error:
            outcomes = [contract.Check("loading", False, f"{error.subject}: {error.reason}", error.remedy)]
        passed = all(outcome.passed for outcome in outcomes)
        items.append({"model": name, "passed": passed, "checks": [asdict(outcome) for outcome in outcomes]})
        broken += [] if passed else [name]
        if not session.json:
            from uamix_bench.cli.tables import show_checks

            show_checks(name, outcomes)
    if broken:
        failed = sum(not outcome["passed"] for item in items for outcome in item["checks"])
        which = "each failed check says its remedy; docs/your-model.md explains them"
        raise BadInputError(", ".join(broken), f"{failed} check{'s' * (failed > 1)} failed", which)


@command.command("convert")
@click.argument("source", metavar="NAME=FILE|FILE")
@click.option("-o", "--output", metavar="FILE", callback=to_path, help="Default: beside FILE, as .safetensors.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="float16 halves the file, and changes embeddings a little.",
)
@json_output
@click.pass_obj
def convert(session: Session, source: str, output: Path | None, dtype: str) -> None:
    """Write an official checkpoint as safetensors, which loads faster and without pickle.

    The card and all that the file says of the model go into its header. Without NAME, the one model that takes FILE.
    """
    items = session.begin("models convert")
    bare = Path(source).expanduser().exists()
    name, _, path_text = ("", "", source) if bare else source.rpartition("=")
    path = Path(path_text).expanduser()
    if not path.exists():
        raise BadInputError(path, "no such file", "give NAME=FILE, or the path of a checkpoint")
    target = output or (path / "model" if path.is_dir() else path).with_suffix(".safetensors")
    if target.exists():
        raise UsageError(target, "is there already", "remove it, or name another file with -o")

    import torch

    from uamix_bench import convert as converting
    from uamix_bench.model import load_model

    name = name or converting.owner(path)
    model = load_model(name, path, device="cpu")
    done = converting.convert(model, target, getattr(torch, dtype))
    facts = {
        "model": name,
        "source": str(path),
        "source_sha256": model.metadata.get("sha256"),
        "file": str(done.path),
        "sha256": done.sha256,
        "bytes": done.bytes,
        "dtype": dtype,
        "embedding_difference": done.difference,
    }
    items.append(facts)
    if not session.json:
        from uamix_bench.cli.tables import show_card

        equal = f"{done.difference:.1e} of the largest value" if done.difference else "none, bit for bit"
        show_card({**facts, "embedding_difference": equal, "use": f"--model {name}={done.path}"})


def _millions(parameters: int | None) -> str:
    return "" if parameters is None else f"{parameters / 1e6:.1f}M" if parameters else "0"


def _facts(card: ModelCard, name: str) -> dict[str, object]:
    facts: dict[str, object] = card.model_dump(mode="json")
    return {**facts, "name": name}
