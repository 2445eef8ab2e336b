"""Values of --model, --task and the protocol options, checked before anything heavy is imported or read."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uamix_bench.util.errors import BadInputError, UsageError, nearest
from uamix_bench.util.files import expanded
from uamix_bench.util.text import visible

if TYPE_CHECKING:
    from uamix_bench.data.folders import Remark
    from uamix_bench.data.task import TaskData
    from uamix_bench.evaluation.plan import TaskPlan
    from uamix_bench.scoring.episodes import Protocol
    from uamix_bench.util.progress import Progress


_CLASSIFIERS_MEANT = {
    **dict.fromkeys(("linear", "lr", "logreg", "logistic", "svm", "probe"), "logistic-regression"),
    **dict.fromkeys(("ncc", "ncm", "centroid", "prototype", "prototypical", "protonet"), "nearest-centroid"),
    **dict.fromkeys(("nn", "1nn", "nearest-neighbor", "nearest-neighbour"), "knn"),
    "cl2n": "simpleshot",
}


def models(given: str, checkpoint: Path | None = None) -> list[str]:
    """Expands one value of --model.

    Args:
        given: Name, glob over names, ``NAME=PATH``, ``NAME:REFERENCE`` or ``FILE.py:CLASS``.
        checkpoint: Value of --checkpoint.

    Raises:
        UsageError: No such model, or it needs weights.
        BadInputError: The weights do not exist.
    """
    from uamix_bench.plugins import registry

    if registry.find_reference(given):
        return [given]
    name, separator, path_text = given.partition("=")
    path = expanded(path_text) if separator else checkpoint
    if path is not None and not path.exists():
        raise BadInputError(path, "no such file", f"give {name}=PATH, the path of its weights")
    if ".py:" in name:
        return [given]
    if _is_glob(name):
        named = [name for name, plugin in registry.models().items() if not plugin.card.reference]
        return _matching(name, [*named, *registry.bundled_weights()], "--model")
    plugin, weights = registry.find_model(name)
    if plugin.card.needs_weights and weights is None and path is None:
        bundled = [entry.id for entry in plugin.card.weights]
        remedy = f"give {name}=PATH" + (f", or use {bundled[0]}" if bundled else "")
        raise UsageError(
            f"--model {name}", "needs weights", f"{remedy}; 'uamix-bench models info {name}' says where they are"
        )
    return [f"{name}={path}" if separator else name]


def chosen_models(
    given: Sequence[str], checkpoint: Path | None, label: str | None, pretrained_on: Sequence[str] = ()
) -> list[str]:
    """Expands the values of --model, which --checkpoint, --name and --pretrained-on belong to.

    Raises:
        UsageError: No such model, or it needs weights; weights or a label for several; or no label of results.
        BadInputError: The weights do not exist.
    """
    found = list(dict.fromkeys(name for one in given for name in models(one, checkpoint)))
    alone = {"--checkpoint": checkpoint, "--name": label, "--pretrained-on": pretrained_on}
    if len(found) > 1 and any(alone.values()):
        option = next(option for option, value in alone.items() if value)
        remedy = "run them one by one" + (", or use NAME=PATH" if checkpoint else "")
        raise UsageError(option, f"belongs to one model, and {len(found)} are given", remedy)
    check_label(label)
    return found


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


def check_label(label: str | None) -> None:
    """Checks that a label can name a folder of results.

    Raises:
        UsageError: The label cannot name a folder.
    """
    if label is None:
        return
    from uamix_bench.plugins.card import NAME_PATTERN

    if len(label) > 80 or not re.fullmatch(NAME_PATTERN, label):
        remedy = "use up to 80 letters, digits, spaces and . _ + - /, each part beginning with a letter or digit"
        raise UsageError(f"--name {label}", "cannot name results", remedy)


def classes(path: Path) -> tuple[str, ...]:
    """Reads the file of --classes: one class a line, empty lines skipped.

    Raises:
        BadInputError: The file does not exist, is no text, or names no class.
    """
    from uamix_bench.util.files import regular, unreadable

    try:
        listed = regular(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise BadInputError(path, f"is not UTF-8 text ({error.reason})", "list one class a line") from error
    found = tuple(dict.fromkeys(line.strip() for line in listed if line.strip()))
    if not found:
        raise BadInputError(path, "names no class", "list one class a line")
    return found


def protocol(published: str, **fields: Any) -> Protocol:
    """Makes the protocol of one pair of ways and shots.

    Args:
        published: Name of the published protocol whose values replace None.
        **fields: Fields of `Protocol`.

    Raises:
        UsageError: The classifier is unknown, or takes no neighbors.
    """
    from uamix_bench.scoring.classifiers import CLASSIFIERS
    from uamix_bench.scoring.episodes import METAAUDIO, PAPER

    base = {"paper": PAPER, "metaaudio": METAAUDIO}[published]
    given = {name: value for name, value in fields.items() if value is not None}
    if (name := given.get("classifier", base.classifier)) not in CLASSIFIERS:
        meant = _CLASSIFIERS_MEANT.get(name.lower())
        remedy = f"did you mean '{meant}'?" if meant else nearest(name, list(CLASSIFIERS))
        raise UsageError(f"--classifier {name}", "no such classifier", remedy)
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


def demonstration(chosen: list[str], checkpoint: Path | None) -> str:
    """Returns a line that names the models with demonstration weights; empty if there are none."""
    from uamix_bench.plugins import registry

    shown = []
    for name in chosen:
        if checkpoint is None and "=" not in name and ":" not in name:
            weights = registry.find_model(name)[1]
            if weights is not None and weights.demonstration:
                shown.append(name if name == weights.id else f"{name} (here {weights.id})")
    if not shown:
        return ""
    hold = "hold" if len(shown) > 1 else "holds"
    return f"{' and '.join(shown)} {hold} small demonstration weights; your own: --model NAME=PATH, as in uamix=PATH"


def _is_glob(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _matching(pattern: str, names: list[str], option: str) -> list[str]:
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise UsageError(f"{option} {pattern}", "matches nothing", f"known: {', '.join(sorted(names))}")
    return found
