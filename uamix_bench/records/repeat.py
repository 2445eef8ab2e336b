"""Command line that repeats a result: the one mapping from a record's fields to flags. Free of torch."""

from __future__ import annotations

import shlex

from uamix_bench.plugins import registry
from uamix_bench.plugins.card import ModelIdentity
from uamix_bench.records.results import Result
from uamix_bench.scoring.protocol import Protocol

_SHORT = {"n_way": "--n", "k_shot": "--k", "n_query": "--q"}  # the flag of any other field is its name


def repeat_command(result: Result) -> str:
    """Command line that repeats the evaluation of a result, with every word quoted for a shell.

    A user's own weights, code, data and lists are no part of a record: words in capitals mark their places.
    """
    model, task, status = result.model, result.task, result.status
    evaluated = ["uamix-bench", "fewshot", *_model(result), "--task", _data(result)]
    heard = ["--clip-seconds", _number(task.clip_seconds), *(["--keep-going"] if status.skipped else [])]
    heard += [*(["--limit", "CLIPS"] if status.limited else []), *(["--allow-partial"] if status.partial else [])]
    embedded = ["--input", model.input, "--pooling", model.pooling, "--dtype", model.dtype]
    embedded += ["--layer", model.layer] if model.layer else []
    embedded += ["--pretrained-on", ",".join(model.pretrained_on)] if _said(model) else []
    embedded += ["--trust-remote-code"] if model.remote_code else []
    embedded += ["--allow-unhealthy"] if result.health.verdict == "red" else []
    lines = [evaluated, protocol_flags(result.protocol), heard, embedded]
    return " \\\n  ".join(map(shlex.join, lines))


def protocol_flags(protocol: Protocol) -> list[str]:
    """Flags of ``uamix-bench fewshot`` for a protocol. Unset fields have none."""
    words = ["--protocol", "metaaudio"] if protocol.name.startswith("metaaudio") else []
    words += ["--classes", "FILE"] if protocol.name.endswith("-classes") else []
    for field in type(protocol).model_fields:
        value = getattr(protocol, field)
        if field == "name" or value is None or value is False or (field == "classifier" and not protocol.k_shot):
            continue
        flag = _SHORT.get(field, f"--{field.replace('_', '-')}")
        words += [flag] if value is True else [flag, str(value)]
    return words


def _said(model: ModelIdentity) -> bool:
    """True if only the user can have named the model's training data: neither card nor tuning names it."""
    plugin = registry.models().get(model.name)
    bundled = registry.bundled_weights().get(model.name)
    of_card = bundled[1].pretrained_on if bundled else plugin.card.pretrained_on if plugin else ()
    return bool(model.pretrained_on) and model.pretrained_on != of_card and model.recipe_sha256 is None


def _model(result: Result) -> list[str]:
    model = result.model
    arguments = [word for argument in model.arguments for word in ("--model-arg", argument)]
    adapter = registry.models().get(model.adapter_version.partition("/")[0])
    if model.name in registry.bundled_weights():
        return ["--model", model.name, *arguments]
    if adapter is None or (model.source_sha256 and not adapter.card.reference):
        code = "FILE.py:CLASS" if model.source_sha256 else "ARCHITECTURE=WEIGHTS"
        return ["--model", code, "--name", model.name, *arguments]
    named = ["--name", model.name] if model.name != adapter.name or adapter.card.needs_weights else []
    if adapter.card.reference:
        places = adapter.card.reference.partition("[")[0].replace("ID_OR_", "")
        return ["--model", f"{adapter.name}:{model.repository or places}", *named, *arguments]
    weights = f"hf:{model.repository}" if model.repository else "WEIGHTS"
    return ["--model", f"{adapter.name}={weights}" if adapter.card.needs_weights else adapter.name, *named, *arguments]


def _data(result: Result) -> str:
    if result.task.own:
        return "FOLDER_OR_CSV"
    return result.task.name if result.task.name in registry.tasks() else "FILE.py:CLASS"


def _number(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
