"""``uamix-bench models``: list models from their cards, get and convert weights, check the contract."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uamix_bench.cli import commands, inputs, options, selection
from uamix_bench.cli.errors import Session
from uamix_bench.cli.options import json_output, layer, model_arg, out, quiet, trust_remote_code
from uamix_bench.util.errors import BadInputError, UsageError, nearest
from uamix_bench.util.files import expanded, home
from uamix_bench.util.text import millions

if TYPE_CHECKING:
    from uamix_bench.plugins.card import ModelCard
    from uamix_bench.plugins.registry import Plugin

_MODELS = "NAME[=PATH]|hf:ID|hear:MODULE|FILE.py:CLASS"
_PROSE = ("paper", "licence", "trained on", "weights here")


@commands.group("models")
def command() -> None:
    """List the models, show one, fetch or convert its weights, check it."""


@command.command("ls")
@json_output
@click.pass_obj
def ls(session: Session) -> None:
    """List the models and the bundled weights."""
    from uamix_bench.plugins import registry

    items = session.begin("models ls")
    plugins = registry.models()
    items += [_facts(plugin) for plugin in plugins.values()]
    if session.json:
        return
    from uamix_bench.cli.tables import Table, show
    from uamix_bench.plugins.card import trained_on

    table = Table("model", "paper", "size>", "Hz>", "licence", "trained on", "weights here", prose=_PROSE)
    for name, plugin in plugins.items():
        card, size = plugin.card, millions(plugin.card.parameters)
        shown, rate = (f"{name}:{card.reference}", "") if card.reference else (name, str(card.sample_rate))
        table.add(shown, card.paper, size, rate, card.licence, trained_on(card.pretrained_on), _state(plugin))
    show(table)


@command.command("info")
@click.argument("name", metavar=_MODELS)
@options.pooling
@layer
@model_arg
@trust_remote_code
@json_output
@click.pass_obj
def info(session: Session, /, name: str, **chosen: Any) -> None:
    """Show a model's card, or what results would record of a given one.

    NAME alone shows the card of a model or of bundled weights. Weights, a reference, own code or
    an option are loaded, on the CPU.
    """
    from uamix_bench.cli.tables import show_card
    from uamix_bench.plugins import registry
    from uamix_bench.plugins.card import trained_on

    items = session.begin("models info")
    if name not in (*registry.models(), *registry.bundled_weights()) or any(chosen.values()):
        items.append(facts := _loaded(inputs.Models((name,), device="cpu", **chosen)))
        if not session.json:
            lists = {field: ", ".join(facts[field]) for field in ("poolings", "layers")}
            show_card({**facts, **lists, "pretrained_on": trained_on(facts["pretrained_on"])})
        return
    plugin, weights = registry.find_model(name)
    facts = _facts(plugin)
    items.append(facts)
    if weights:
        facts["stands_for"] = {**weights.model_dump(mode="json"), **_making(plugin.folder / weights.file)}
    if session.json:
        return
    here = weights or not plugin.card.needs_weights or registry.fetched(plugin.card)[0] or len(_fetched(plugin)) == 1
    use = f"--model {name}" if here else f"--model {name}=PATH"
    if plugin.card.reference:
        use = f"--model {name}:{plugin.card.reference}"
    stands_for: Any = facts.pop("stands_for", {})
    show_card({**facts, "pretrained_on": trained_on(plugin.card.pretrained_on), "use": use})
    if weights:
        click.echo(f"\n{name} stands for")
        recipe = {name: value for name, value in stands_for.get("recipe", {}).items() if name != "views"}
        words = ", ".join(f"{name} {json.dumps(value)}" for name, value in recipe.items())
        show_card({**stands_for, "pretrained_on": trained_on(weights.pretrained_on), "recipe": words})


@command.command("fetch")
@click.argument("name")
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--offline", is_flag=True, help="Check and unpack the files that exist; download nothing.")
@quiet
@json_output
@click.pass_obj
def fetch(session: Session, name: str, files: tuple[str, ...], offline: bool, quiet: bool) -> None:
    """Download and check a model's official files.

    As far as its authors allow; else the files to get are listed, with the pages to get them from. All that its card
    lists, or the FILEs named. They come to UAMIX_BENCH_HOME/checkpoints/NAME, where those that only a person can get
    are to be put; then run this again. What was interrupted goes on where it was.
    """
    from uamix_bench.plugins import registry

    items = session.begin("models fetch")
    plugin, weights = registry.find_model(name)
    known = {file.name: file for file in plugin.card.files}
    if not known or (weights is not None and weights.id == name):
        raise UsageError(name, "has no files to fetch", f"use --model {name}")
    for unknown in set(files) - set(known):
        raise UsageError(unknown, f"is no file of {name}", nearest(unknown, list(known)))

    from uamix_bench.cli.progress import TerminalProgress
    from uamix_bench.data.archive import extract
    from uamix_bench.data.fetch import download

    progress, folder = TerminalProgress(quiet), home() / "checkpoints" / plugin.name
    chosen = [known[given] for given in dict.fromkeys(files or known)]
    errors: list[BadInputError] = []
    alike: dict[tuple[str, str], list[str]] = {}  # names of files by what is said of each, with * for the name
    for file in chosen:
        facts = {"model": plugin.name, "file": file.name, "page": file.page, "note": file.note}
        facts |= {"path": None, "problem": None}
        try:
            path = download(file, folder, progress=progress, offline=offline)
            if path.suffix == ".zip":  # each to a folder of its own, as M2D's files have one name
                path = extract(path, path.with_suffix(""), progress=progress)
            facts["path"] = str(path)
        except BadInputError as error:  # the others may come all the same
            facts["problem"] = f"{error.reason}; {error.remedy}"
            errors.append(error)
            alike.setdefault((error.reason, error.remedy.replace(file.name, "*")), []).append(file.name)
        items.append(facts)
        if facts["path"] and not session.json:
            click.echo(f"{path} ({'verified' if file.sha256 or file.md5 else 'pinned'})")
    if len(chosen) > 1 and not session.json:
        for (reason, remedy), names in alike.items():
            click.echo(f"{', '.join(names)}: {reason}; {remedy.replace('*', names[0] if len(names) == 1 else 'them')}")
    if len(errors) > 1:
        remedy = f"put them there and run this again; 'uamix-bench models info {plugin.name}' lists their pages"
        raise BadInputError(folder, f"{len(errors)} of {len(chosen)} files are not here or not right", remedy)
    if errors:
        raise errors[0]
    if not session.json:
        found = _fetched(plugin)
        click.echo(f"--model {plugin.name}" + (f" takes {found[0]}; of the others:" if found[1:] else ""))
        for path in found[1:]:
            click.echo(f"--model {plugin.name}={path}")


@command.command("check")
@click.argument("models", nargs=-1, required=True, metavar=f"{_MODELS}...")
@options.pooling
@layer
@model_arg
@trust_remote_code
@json_output
@click.pass_obj
def check(
    session: Session,
    models: tuple[str, ...],
    pooling: str | None,
    layer: str | None,
    model_arg: tuple[str, ...],
    trust_remote_code: bool,
) -> None:
    """Check that models keep the contract of an adapter.

    Exit code 3 where one does not. Shapes, no gradient, determinism, batches, padding, silence, very short and long
    clips, NaN, sample rates, layers, poolings, the card, and that the model can be built again. On the CPU.
    """
    items = session.begin("models check")
    given = inputs.Models(
        models, device="cpu", model_arg=model_arg, pooling=pooling, layer=layer, trust_remote_code=trust_remote_code
    )
    names = given.chosen()

    from uamix_bench.models import contract
    from uamix_bench.models.loading import load_model

    broken = []
    for name, load in zip(names, given.loaders(names, load_model), strict=True):
        try:
            outcomes = contract.check(load())
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
        which = "each failed check names its remedy; docs/your-model.md explains the checks"
        raise BadInputError(", ".join(broken), f"{failed} check{'s' * (failed > 1)} failed", which)


@command.command("convert")
@click.argument("source", metavar="NAME=FILE|FILE")
@out("File to write; default FILE with the ending .safetensors.", metavar="FILE")
@options.choice(
    "--dtype",
    "Precision of the weights. float16 halves the file and changes embeddings slightly.",
    "float32",
    "float16",
)
@json_output
@click.pass_obj
def convert(session: Session, source: str, output: Path | None, dtype: str) -> None:
    """Write an official checkpoint as safetensors.

    That loads faster and without pickle. The card and all that the file says of the model go into its header. Without
    NAME, the one model that takes FILE.
    """
    items = session.begin("models convert")
    bare = expanded(source).exists()
    name, _, path_text = ("", "", source) if bare else source.rpartition("=")
    path = expanded(path_text)
    if not path.exists():
        raise BadInputError(path, "no such file", "give NAME=FILE, or the path of a checkpoint")
    target = output or (path / "model" if path.is_dir() else path).with_suffix(".safetensors")
    if target.exists():
        raise UsageError(target, "is there already", "remove it, or name another file with -o")

    import torch

    from uamix_bench.cli.tables import show_card  # before the file is there: an interrupt then leaves none
    from uamix_bench.models import convert as converting
    from uamix_bench.models.loading import load_model

    name = name or converting.owner(path)
    model = load_model(name, path, device="cpu")
    done = converting.convert(model, target, getattr(torch, dtype))
    facts = {
        "model": name,
        "source": str(path),
        "source_sha256": model.metadata.get("sha256") or (model.identity and model.identity.weights_sha256),
        "file": str(done.path),
        "sha256": done.sha256,
        "bytes": done.bytes,
        "dtype": dtype,
        "embedding_difference": done.difference,
    }
    items.append(facts)
    if not session.json:
        equal = f"{done.difference:.1e} of the largest value" if done.difference else "none, bit for bit"
        show_card({**facts, "embedding_difference": equal, "use": f"--model {name}={done.path}"})


def _loaded(given: inputs.Models) -> dict[str, Any]:
    """Identity of a model as its results would record it, and what may be asked of it."""
    names = given.chosen()
    selection.one(given.model[0], names, "an identity")

    from uamix_bench.models.loading import load_model

    model = given.loaders(names, load_model)[0]()
    identity = model.identity.model_dump(mode="json") if model.identity else {}
    return {
        **{field: value for field, value in identity.items() if value is not False},
        "sample_rate": model.sample_rate,
        "poolings": list(model.poolings),
        "layers": list(model.layer_choices),
        "zero_shot": model.reads_texts,
        "remarks": list(model.remarks),
    }


def _facts(plugin: Plugin[ModelCard]) -> dict[str, object]:
    """Card as plain data, with the paths of the model's weights on this machine."""
    card = plugin.card
    here = [str(path) for path in (*_bundled(plugin).values(), *_fetched(plugin))]
    return {**card.model_dump(mode="json"), "name": plugin.name, "here": here}


def _making(path: Path) -> dict[str, object]:
    """Recipe, seed, revision and data that a file of our own weights states in its header; empty without them."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            stated = file.metadata() or {}
        recipe = json.loads(stated.get("recipe", "{}"))
    except (OSError, SafetensorError, ValueError):
        return {}
    fields = {"data": "data", "train_seed": "seed", "git_revision": "revision", "parent_sha256": "parent"}
    return {**{shown: stated[name] for name, shown in fields.items() if name in stated}, "recipe": recipe}


def _state(plugin: Plugin[ModelCard]) -> str:
    """Names the weights of a model that are on this machine."""
    ids, here = [weights.id for weights in plugin.card.weights], _bundled(plugin)
    bundled = [name if name in here else f"{name} (missing)" for name in ids]
    fetched = [path.name for path in _fetched(plugin)]
    return ", ".join([*bundled, *fetched]) or ("no" if plugin.card.needs_weights else "none needed")


def _bundled(plugin: Plugin[ModelCard]) -> dict[str, Path]:
    """Weights files beside the card, by id."""
    paths = {weights.id: plugin.folder / weights.file for weights in plugin.card.weights}
    return {name: path for name, path in paths.items() if path.is_file()}


def _fetched(plugin: Plugin[ModelCard]) -> list[Path]:
    """Weights files in the model's folder of checkpoints, the one that its name alone stands for first."""
    from uamix_bench.plugins import registry

    listed, others = registry.fetched(plugin.card)
    return [*listed, *others]
