"""What --model, --task and the options of a protocol stand for, checked before anything heavy is imported or read."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uamix_bench.errors import BadInputError, UsageError, nearest

if TYPE_CHECKING:
    from uamix_bench.episodes import Protocol


def models(given: str, checkpoint: Path | None = None) -> list[str]:
    """Expands one value of --model.

    Args:
        given: A name, a glob over names, ``NAME=PATH`` or ``FILE.py:CLASS``.
        checkpoint: The value of --checkpoint.

    Raises:
        UsageError: No such model, or it needs weights.
        BadInputError: The weights are not there.
    """
    from uamix_bench import registry

    name, separator, path_text = given.partition("=")
    path = Path(path_text).expanduser() if separator else checkpoint
    if path is not None and not path.exists():
        raise BadInputError(path, "no such file", f"check {'--model' if separator else '--checkpoint'}")
    if ".py:" in name:
        return [given]
    if _is_glob(name):
        return _matching(name, [*registry.models(), *registry.bundled_weights()], "--model")
    plugin, weights = registry.find_model(name)
    if plugin.card.needs_weights and weights is None and path is None:
        bundled = [entry.id for entry in plugin.card.weights]
        remedy = f"give {name}=PATH" + (f", or use {bundled[0]}" if bundled else "")
        raise UsageError(
            f"--model {name}", "needs weights", f"{remedy}; 'uamix-bench models info {name}' says where they are"
        )
    return [f"{name}={path}" if separator else name]


def tasks(given: str) -> list[str]:
    """Expands one value of --task: a name or alias, a glob over names, a path, or ``FILE.py:CLASS``.

    Raises:
        UsageError: No such task.
    """
    from uamix_bench import registry

    if given.startswith("~"):
        return [str(Path(given).expanduser())]
    if ".py:" in given or any(mark in given for mark in "./\\"):
        return [given]
    if _is_glob(given):
        return _matching(given, list(registry.tasks()), "--task")
    return [registry.find_task(given).name]


def check_label(label: str | None) -> None:
    """Makes sure that a label can name a folder of results.

    Raises:
        UsageError: It cannot.
    """
    if label is None:
        return
    from uamix_bench.card import NAME_PATTERN

    if len(label) > 80 or not re.fullmatch(NAME_PATTERN, label):
        remedy = "use up to 80 letters, digits, spaces and . _ + - /, each part beginning with a letter or digit"
        raise UsageError(f"--name {label}", "cannot name results", remedy)


def protocol(*, q: int, **fields: Any) -> Protocol:
    """Makes the protocol of one cell; ``paper`` where only ways and shots differ from the paper's.

    Raises:
        UsageError: Unknown classifier.
    """
    from uamix_bench.classifiers import CLASSIFIERS
    from uamix_bench.episodes import PAPER, Protocol

    if fields["classifier"] not in CLASSIFIERS:
        name = fields["classifier"]
        raise UsageError(f"--classifier {name}", "no such classifier", nearest(name, list(CLASSIFIERS)))
    cell = Protocol(n_query=q, **fields)
    paper = PAPER.model_copy(update={"n_way": cell.n_way, "k_shot": cell.k_shot})
    return cell if cell == paper else cell.model_copy(update={"name": "custom"})


def demonstration(chosen: list[str], checkpoint: Path | None) -> str:
    """Returns the line that says which of the models hold demonstration weights; empty where none does."""
    from uamix_bench import registry

    shown = []
    for name in chosen:
        if checkpoint is None and "=" not in name and ".py:" not in name:
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
