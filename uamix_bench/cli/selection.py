"""Values of --model, --task and the protocol options, checked before anything heavy is imported or read."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uamix_bench.util.errors import BadInputError, UsageError, nearest
from uamix_bench.util.files import check_writable, expanded
from uamix_bench.util.text import UNFIT, listed, visible

if TYPE_CHECKING:
    from uamix_bench.data.folders import Remark
    from uamix_bench.data.task import TaskData
    from uamix_bench.evaluation.plan import TaskPlan
    from uamix_bench.plugins.card import ModelCard
    from uamix_bench.plugins.registry import Plugin
    from uamix_bench.scoring.protocol import Protocol
    from uamix_bench.util.progress import Progress

_HUB = "hf:"  # of weights that are a repository of the Hub
_WEIGHTLESS = "weights are not here: 'uamix-bench models fetch NAME' gets them or says where they are"


_CLASSIFIERS_MEANT = {
    **dict.fromkeys(("linear", "lr", "logreg", "logistic", "svm", "probe"), "logistic-regression"),
    **dict.fromkeys(("ncc", "ncm", "centroid", "prototype", "prototypical", "protonet"), "nearest-centroid"),
    **dict.fromkeys(("nn", "1nn", "nearest-neighbor", "nearest-neighbour"), "knn"),
    "cl2n": "simpleshot",
}


def models(given: str, checkpoint: Path | None = None) -> list[str]:
    """Expands one value of --model.

    Args:
        given: Name, glob over names, ``NAME=PATH``, ``NAME=hf:ID``, ``NAME:REFERENCE`` or ``FILE.py:CLASS``.
        checkpoint: Value of --checkpoint.

    Raises:
        UsageError: No such model, or it needs weights.
        BadInputError: The weights do not exist.
    """
    from uamix_bench.plugins import registry

    if registry.find_reference(given):
        return [given]
    name, separator, path_text = given.partition("=")
    weights = path_text if separator else None if checkpoint is None else str(checkpoint)
    of_hub = weights is not None and weights.startswith(_HUB)
    path = None if weights is None or of_hub else expanded(weights)
    if path is not None and not path.exists():
        raise BadInputError(path, "no such file", f"give {name}=PATH, the path of its weights")
    if ".py:" in name:
        return [given]
    if _is_glob(name):
        return _models_here(name, bool(weights))
    plugin, bundled = registry.find_model(name)
    if weights is None and bundled is None and _lacks_weights(plugin):
        ids = [entry.id for entry in plugin.card.weights]
        remedy = f"give {name}=PATH" + (f", or use {ids[0]}" if ids else "")
        if any(file.url for file in plugin.card.files):
            remedy = f"'uamix-bench models fetch {name}' gets them; or give {name}=PATH"
        raise UsageError(
            f"--model {name}", "needs weights", f"{remedy}; 'uamix-bench models info {name}' says where they are"
        )
    return [given if of_hub else f"{name}={path}" if separator else name]


def _lacks_weights(plugin: Plugin[ModelCard]) -> bool:
    from uamix_bench.plugins import registry

    return plugin.card.needs_weights and not any(registry.fetched(plugin.card))


def _models_here(pattern: str, given: bool) -> list[str]:
    """Models that match a pattern and can run here; the others are named on stderr."""
    found, left_out = models_here(pattern, given)
    told = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in left_out.items())
    if not found:
        raise UsageError(f"--model {pattern}", "matches nothing that can run here", f"left out: {told}")
    if told:
        print(f"--model {pattern}: left out {told}", file=sys.stderr)
    return found


def models_here(pattern: str = "*", given: bool = False) -> tuple[list[str], dict[str, list[str]]]:
    """Models that match a pattern and can run here, each once; and the names of the others, by the reason.

    Args:
        pattern: Glob over names.
        given: Whether weights are given.

    Raises:
        UsageError: The pattern matches nothing.
    """
    from uamix_bench.plugins import registry

    known, bundled = registry.models(), registry.bundled_weights()
    matching = _matching(pattern, [*known, *bundled], "--model")
    found: list[str] = []
    left_out: dict[str, list[str]] = {}
    for name in matching:
        card = known[name].card if name in known else None
        if card is None:
            found.append(name)
        elif card.reference:
            left_out.setdefault("what follows the colon names a model", []).append(f"{name}:")
        elif card.default_weights is None and not given and _lacks_weights(known[name]):
            left_out.setdefault(_WEIGHTLESS, []).append(name)
        elif card.default_weights is None or card.default_weights not in matching or given:
            found.append(name)
    return found, dict(sorted(left_out.items(), key=lambda item: item[0] != _WEIGHTLESS))


def one(option: str, found: Sequence[str], what: str) -> str:
    """The only value of an option.

    Raises:
        UsageError: There are several, and `what` is of one.
    """
    if len(found) > 1:
        raise UsageError(option, f"names {len(found)}, and {what} is of one", f"give one of {listed(found, 5)}")
    return found[0]


def chosen_tasks(given: Sequence[str]) -> list[str]:
    """Expands the values of --task, each task once.

    Raises:
        UsageError: No such task.
    """
    return list(dict.fromkeys(name for one in given for name in tasks(one)))


def tasks(given: str) -> list[str]:
    """Expands one value of --task: a name or alias, ``all``, a glob over names, a path, or ``FILE.py:CLASS``.

    A task's name comes before a file or folder of the same name.

    Raises:
        UsageError: No such task.
    """
    from uamix_bench.plugins import registry

    if given.startswith("~"):
        return [str(expanded(given))]
    if ".py:" in given or any(mark in given for mark in "./\\"):
        return [given]
    if given == "all" or _is_glob(given):
        known = {name: plugin.card for name, plugin in registry.tasks().items()}
        if given == "all":  # layouts that no copy was read by are taken by name
            known = {name: card for name, card in known.items() if not card.unverified}
        return _matching("*" if given == "all" else given, list(known), "--task")
    try:
        return [registry.find_task(given).name]
    except UsageError:
        if not Path(given).exists():
            raise
        return [f"./{given}"]


def own_path(given: str) -> str | None:
    """Path of a user's own data that a value of --task names; None for any other name."""
    from uamix_bench.data.task import is_path

    try:
        found = tasks(given)[0]
    except UsageError:
        return None
    return found if is_path(found) else None


def check_new(folder: Path, mark: str) -> bool:
    """Makes sure that a folder can be written, and is new or empty, or holds an entry `mark` of an earlier run.

    Returns:
        True if it holds that entry.

    Raises:
        UsageError: The folder holds other files.
        MachineError: No file can be written there.
    """
    held = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    if held and mark not in held:
        raise UsageError(f"--out {folder}", f"holds other files ({listed(held, 3)})", "name a new folder")
    check_writable(next(place for place in (folder, *folder.absolute().parents) if place.exists()))
    return bool(held)


def check_labels(labels: Sequence[str], models: Sequence[str]) -> None:
    """Checks that each model gets a label of its own, which can name a folder of results.

    Raises:
        UsageError: It does not.
    """
    from uamix_bench.plugins.card import NAME_PATTERN

    given = f"--name {','.join(labels)}"
    if len(labels) != len(models):
        counted = f"{len(labels)} name{'s' * (len(labels) > 1)} for {len(models)} model{'s' * (len(models) > 1)}"
        raise UsageError(given, f"gives {counted}", f"name each: {', '.join(models)}")
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(given, f"gives '{label}' twice", "give each model a name of its own")
        if len(label) > 80 or not re.fullmatch(NAME_PATTERN, label):
            remedy = "use up to 80 letters, digits, spaces and . _ + - /, each part beginning with a letter or digit"
            raise UsageError(f"--name {label}", "cannot name results", remedy)


def classes(path: Path) -> dict[str, str]:
    """Reads the file of --classes: one class a line, empty lines skipped; or a CSV with the columns label,class_name.

    Returns:
        The classes, each with its name for zero-shot evaluation; empty if none is given.

    Raises:
        BadInputError: The file does not exist, is no text, or names no class.
    """
    from uamix_bench.util.files import regular, unreadable

    if path.suffix.lower() == ".csv":
        from uamix_bench.data.folders import composed
        from uamix_bench.data.own_data import class_names, read_csv

        given = read_csv(path, ("label", "class_name"))
        names = class_names(path, given)
        return {label: names.get(label, "") for label in map(composed, given.columns["label"])}
    try:
        listed = regular(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise BadInputError(path, f"is not UTF-8 text ({error.reason})", "list one class a line") from error
    found = dict.fromkeys((line.strip() for line in listed if line.strip()), "")
    if not found:
        raise BadInputError(path, "names no class", "list one class a line")
    return found


def protocol(published: str, template: str | None = None, **fields: Any) -> Protocol:
    """Makes the protocol of one pair of ways and shots.

    Args:
        published: Name of the published protocol whose values replace None.
        template: Text that a class name is put into, for a protocol without supports; default `TEMPLATE`.
        **fields: Fields of `Protocol`.

    Raises:
        UsageError: The classifier is unknown, or takes no neighbors.
    """
    from uamix_bench.scoring.classifiers import CLASS_NAMES, CLASSIFIERS
    from uamix_bench.scoring.protocol import METAAUDIO, PAPER, TEMPLATE

    base = {"paper": PAPER, "metaaudio": METAAUDIO}[published]
    given = {name: value for name, value in fields.items() if value is not None}
    if (name := given.get("classifier", base.classifier)) not in CLASSIFIERS:
        meant = _CLASSIFIERS_MEANT.get(name.lower())
        remedy = f"did you mean '{meant}'?" if meant else nearest(name, list(CLASSIFIERS))
        raise UsageError(f"--classifier {name}", "no such classifier", remedy)
    if not given["k_shot"]:
        given |= {"classifier": CLASS_NAMES, "neighbors": 1, "template": TEMPLATE if template is None else template}
        if given["template"].count("{}") != 1 or UNFIT.search(given["template"]):
            remedy = f"write it once, in place of the class name, as in '{TEMPLATE}'"
            raise UsageError(f"--template {given['template']}", "does not hold {} once", remedy)
    if (voters := given.get("neighbors", 1)) > 1:
        supports = given["n_way"] * given["k_shot"]
        if name != "knn":
            reason = f"is of no use to the classifier {name}"
            raise UsageError(f"--neighbors {voters}", reason, "give --classifier knn too")
        if voters > supports:
            reason = f"is more than the {supports} supports of an episode"
            raise UsageError(f"--neighbors {voters}", reason, f"give at most {supports}, or a larger --k")
    return base.changed(**given)


def planned(
    tasks: Sequence[TaskData], protocols: Sequence[Protocol], progress: Progress, *, sounds: bool, **options: Any
) -> list[TaskPlan]:
    """Plans a grid; prints on stderr, even with --quiet, the remarks on its tasks and episodes.

    Args:
        tasks: Tasks of the grid.
        protocols: Protocols of the grid.
        progress: Progress display of the files that are read.
        sounds: Whether files are read to find copies.
        **options: Options of :func:`uamix_bench.evaluation.plan.plan_task`.

    Raises:
        UsageError: A task has too few classes or clips for a protocol.
    """
    from uamix_bench.evaluation.plan import plan_task

    plans = []
    for data in tasks:
        say(data.name, data.remarks)  # before an error of the episodes, which they may explain
        plans.append(plan_task(data, protocols, progress=progress, **options))
        if options.get("auto_queries"):
            queries = plans[-1].protocols[0].n_query
            progress.say(f"{data.name}: {queries} {'queries' if queries > 1 else 'query'} a class (--q auto)")
        say(data.name, plans[-1].remarks(progress, sounds))
    return plans


def say(name: str, remarks: Iterable[Remark]) -> None:
    """Says on stderr, quiet or not, what must be known of a task; the records of results on it say it too."""
    for remark in remarks:
        print(visible(f"{name}: {remark.text}"), file=sys.stderr)


def say_demonstration(chosen: list[str], checkpoint: Path | None, progress: Progress) -> None:
    """Names the models with demonstration weights, if there are any."""
    from uamix_bench.plugins import registry

    shown = []
    for name in chosen:
        if checkpoint is None and "=" not in name and ":" not in name:
            weights = registry.find_model(name)[1]
            if weights is not None and weights.demonstration:
                shown.append(name if name == weights.id else f"{name} (here {weights.id})")
    if shown:
        hold = f"{' and '.join(shown)} hold{'s' * (len(shown) == 1)} small demonstration weights"
        progress.say(f"{hold}; your own: --model NAME=PATH, as in uamix=PATH")


def _is_glob(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _matching(pattern: str, names: list[str], option: str) -> list[str]:
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise UsageError(f"{option} {pattern}", "matches nothing", f"known: {', '.join(sorted(names))}")
    return found
