"""Fields of a recipe by name: set one at a time from text or data; a wrong name gets the nearest one suggested."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from uamix_bench.tuning.recipe import Recipe
from uamix_bench.util.errors import UsageError, nearest

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)

_SHORT = {"lr": "learning_rate", "tau": "temperature", "wd": "weight_decay"}


def find_field(recipe: Recipe, path: str, option: str) -> str:
    """Returns a field's exact name: ``topk`` is ``top_k``, ``lr`` ``learning_rate``; ``views.stretch`` is inside views.

    Args:
        recipe: Recipe that has the field.
        path: Name as a user spells it; case, hyphens and underscores do not count.
        option: Option that the name was given to, for the error.

    Raises:
        UsageError: The recipe has no such field; the line suggests the nearest.
    """
    place: Any = recipe.whole()
    found = []
    for part in path.split("."):
        known = {_plain(name): name for name in place} if isinstance(place, dict) else {}
        name = known.get(_plain(_SHORT.get(part, part)))
        if name is None:
            whole = list(known.values()) or list(type(recipe).model_fields)
            raise UsageError(f"{option} {path}", "no such field of the recipe", nearest(part, whole))
        found.append(name)
        place = place[name]
    return ".".join(found)


def changed(recipe: AnyRecipe, fields: Mapping[str, Any]) -> AnyRecipe:
    """Returns the recipe with fields changed, validated.

    Args:
        recipe: Recipe to change.
        fields: Values by exact field names, as :func:`find_field` returns them.

    Raises:
        UsageError: A value is not valid; the line names the field.
    """
    whole = {path: value for path, value in fields.items() if "." not in path}
    recipe = _validated(recipe, recipe.model_dump(mode="json") | whole)  # a preset of views is a dictionary from here
    document = recipe.model_dump(mode="json")
    for path in fields.keys() - whole.keys():
        *parents, name = path.split(".")
        place = document
        for parent in parents:
            place = place[parent]
        place[name] = fields[path]
    return _validated(recipe, document)


def _validated(recipe: AnyRecipe, document: dict[str, Any]) -> AnyRecipe:
    try:
        return type(recipe).model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "recipe"
        raise UsageError(name, first["msg"].removeprefix("Value error, "), "correct the recipe") from error


def read_value(text: str) -> Any:
    """Value of a command-line text: JSON (without NaN and Infinity), or else the text itself."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text


def read_values(text: str) -> list[Any]:
    """Values of a comma-separated text, each as in :func:`read_value`: ``1,5``, ``[48,64],[80]``, ``a,b``."""
    try:
        values: list[Any] = json.loads(f"[{text}]", parse_constant=_refuse)
    except ValueError:
        values = [read_value(part.strip()) for part in text.split(",")]
    return values


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
