"""Arguments of a model's own, as ``KEY=VALUE``: their values, their canonical texts, and what a model takes."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from uamix_bench.util.errors import UsageError, nearest

Value: TypeAlias = bool | int | float | str
Arguments: TypeAlias = Mapping[str, Value]

OPTION = "--model-arg"


def parsed(texts: Iterable[str]) -> dict[str, Value]:
    """Arguments by name from texts ``KEY=VALUE``: a number, true or false, else text. Quotes make a number a text.

    Raises:
        UsageError: A text has no key, or a key is given twice.
    """
    arguments: dict[str, Value] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key.isidentifier():
            raise UsageError(f"{OPTION} {text}", "is not of the form KEY=VALUE", f"give {OPTION} KEY=VALUE")
        if key in arguments:
            raise UsageError(f"{OPTION} {text}", f"gives '{key}' a second time", "give each argument once")
        arguments[key] = _value(value)
    return arguments


def canonical(arguments: Arguments) -> tuple[str, ...]:
    """Texts ``KEY=VALUE`` that `parsed` reads as equal arguments, sorted by key."""
    return tuple(f"{key}={_text(value)}" for key, value in sorted(arguments.items()))


def check_taken(maker: Callable[..., Any], arguments: Arguments, model: str, given: Iterable[str] = ()) -> None:
    """Checks that what makes a model takes these arguments.

    Args:
        maker: Class or function that is called with them.
        arguments: Arguments by name.
        model: Name of the model, for the error line.
        given: Names of parameters that are filled already.

    Raises:
        UsageError: It takes no argument of that name.
    """
    parameters = inspect.signature(maker).parameters.values() if arguments else ()
    named = [one.name for one in parameters if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)]
    known = [name for name in named if name not in set(given)]
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return
    for name in arguments:
        if name not in known:
            remedy = nearest(name, known) if known else "omit it"
            raise UsageError(f"{OPTION} {name}", f"is no argument of {model}", remedy)


def _value(text: str) -> Value:
    try:
        value = json.loads({"True": "true", "False": "false"}.get(text, text))
    except ValueError:
        return text
    if isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return text


def _text(value: Value) -> str:
    """The value as a person would write it; quoted where it would be read as another."""
    if isinstance(value, str):
        return value if _value(value) == value and isinstance(_value(value), str) else json.dumps(value)
    return json.dumps(value)
