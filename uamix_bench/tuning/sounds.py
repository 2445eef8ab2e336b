"""Training data by the name that a recipe gives. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from uamix_bench.data.task import TaskData, is_path, load_task
from uamix_bench.tuning.recipe import Recipe
from uamix_bench.util.errors import UsageError

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


def find_data(name: str, data_dir: Path | None = None, audio_root: Path | None = None) -> TaskData:
    """Resolves a recipe's data: ``TASK[:SPLIT]``, or a path as `load_task` takes it; labels are not needed.

    A task's name comes before a file or folder of the same name.

    Raises:
        UsageError: Unknown task or split.
        BadInputError: The data is missing, or is not what its name says.
    """
    if is_path(name):
        return load_task(name, audio_root=audio_root, allow_partial=True, keep_going=True, labelled=False)
    task, _, split = name.partition(":")
    try:
        return load_task(task, data_dir, splits=(split,) if split else None)
    except UsageError as error:
        if Path(name).exists():
            return find_data(f"./{name}", data_dir, audio_root)
        raise UsageError(f"--data {name}", error.reason, "give a folder, a list, or TASK[:SPLIT]") from error


def shareable(recipe: AnyRecipe, data: TaskData) -> AnyRecipe:
    """Recipe with the data's name in place of a path, which neither weights nor records may hold."""
    return recipe.model_copy(update={"data": data.name}) if is_path(recipe.data) else recipe
