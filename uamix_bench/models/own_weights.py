"""Weights of a user's own: the name that their file or folder gives to results, and those that were fetched."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from uamix_bench.plugins import registry
from uamix_bench.plugins.card import ModelCard
from uamix_bench.util.errors import UsageError

# Words that programs call any file of weights by, with numbers between and behind them.
_ANY_FILE = frozenset("pytorch model checkpoint ckpt weights best last latest final epoch step val loss".split())
_WORDS = re.compile(r"[^\W\d_]+")
_UNFIT = re.compile(r"[^A-Za-z0-9._+\- ]+")
_LONGEST = 80


def split(name: str, checkpoint: str | Path | None) -> tuple[str, str | None]:
    """Name and weights of ``NAME``, or of ``NAME=WEIGHTS``; `checkpoint` are the weights of the first form.

    Raises:
        UsageError: Weights are given twice.
    """
    architecture, separator, given = name.partition("=")
    if not separator:
        return name, None if checkpoint is None else str(checkpoint)
    if checkpoint is not None:
        raise UsageError(f"--model {name}", "has a second checkpoint", "give =PATH or --checkpoint, not both")
    return architecture, given


def label(path: Path, otherwise: str) -> str:
    """Name in results of weights at a path: the folder's, or the file's without its ending.

    A file that is called as any other (``model.safetensors``, ``checkpoint-300.pth``) is named by its folder.

    Args:
        path: File or folder of the weights.
        otherwise: Name for weights whose path gives none.
    """
    place = path.absolute()
    name = place.name if place.is_dir() else place.stem
    if not place.is_dir() and all(word.lower() in _ANY_FILE for word in _WORDS.findall(name)):
        name = place.parent.name
    fit = _UNFIT.sub("-", name).lstrip("._+- ")[:_LONGEST]
    return fit or otherwise


def fetched(plugin: registry.Plugin[ModelCard]) -> Path | None:
    """Weights that ``models fetch`` got, or None: of several the first that the model's card lists, which is said.

    Raises:
        UsageError: Several files are there, and the card lists none of them.
    """
    listed, others = registry.fetched(plugin.card)
    found = [*listed, *others]
    if len(found) > 1 and not listed:
        remedy = f"give one as {plugin.name}=PATH; 'uamix-bench models info {plugin.name}' lists them"
        raise UsageError(f"--model {plugin.name}", f"has {len(found)} files of weights here", remedy)
    if len(found) > 1:
        taken = f"{found[0].parent.name}/{found[0].name}"
        warnings.warn(f"{plugin.name}: of {len(found)} files of weights here {taken} is taken", stacklevel=3)
    return found[0] if found else None
