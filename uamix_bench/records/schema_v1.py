"""Upgrade of records of schema version 1 to version 2. The digest of sounds, which version 1 lacks, stays empty.

No other module knows version 1. Its id is verified here; in version 2 the record has another id. Free of torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uamix_bench.util import files

Document = dict[str, Any]

_INTERVALS = {"ci95": "episodes", "ci95_clips": "clips", "ci95_classes": "classes"}
_LIMITED, _PARTIAL = "--limit: a part of each class; not comparable", "--allow-partial: "


class OldRecordError(ValueError):
    """Refusal of a document that is no record of schema version 1, or whose parts disagree."""


def upgraded(document: Document) -> Document:
    """A record of version 1, as parsed from JSON, in the form of version 2. Its `id` is still the old one.

    Raises:
        OldRecordError: The id does not match the content, or the document has not the form of version 1.
    """
    try:
        made: Document = _KINDS[document["kind"]](document)
    except (LookupError, TypeError, AttributeError) as error:
        raise OldRecordError("has not the form of schema version 1") from error
    return made


def _fewshot(document: Document) -> Document:
    status, score = document["status"], document["score"]
    signed = {part: document[part] for part in ("kind", "model", "task", "protocol", "episodes", "per_class")}
    signed |= {"skipped": status["skipped"], **({} if status["complete"] else {"complete": False})}
    _hold(document, signed)
    intervals = {of: _interval(score[name], name, status["notes"]) for name, of in _INTERVALS.items()}
    made = {"accuracy": score["accuracy"], "intervals": intervals}
    return document | {"schema_version": 2, "status": _status(document), "score": made}


def _finetune(document: Document) -> Document:
    _hold(document, _all_parts(document))
    score = document["score"]
    made = {name: value for name, value in score.items() if name not in ("ci95", "interval")}
    made["intervals"] = {"groups": _interval(score["ci95"], "ci95", document["status"]["notes"])}
    made["method"] = score["interval"]
    return document | {"schema_version": 2, "status": _status(document), "score": made}


def _training(document: Document) -> Document:
    _hold(document, _all_parts(document))
    return document | {"schema_version": 2}


def _ablation(document: Document) -> Document:
    arms = [
        {
            **{name: arm[name] for name in ("label", "reference", "varied")},
            "training": arm["training"]["id"],
            "results": [result["id"] for result in arm["results"]],
        }
        for arm in document["arms"]
    ]
    _hold(document, {name: document[name] for name in ("kind", "init", "assumed", "set_aside")} | {"arms": arms})
    made = [
        arm | {"training": _training(arm["training"]), "results": [_fewshot(result) for result in arm["results"]]}
        for arm in document["arms"]
    ]
    return document | {"schema_version": 2, "arms": made}


_KINDS: dict[str, Callable[[Document], Document]] = {
    "fewshot": _fewshot,
    "finetune": _finetune,
    "training": _training,
    "ablation": _ablation,
}


def _all_parts(document: Document) -> Document:
    return {part: value for part, value in document.items() if part not in _UNSIGNED}


_UNSIGNED = ("schema_version", "id", "cost", "provenance")


def _hold(document: Document, signed: Document) -> None:
    try:
        if document["id"] == files.digest(signed):
            return
    except ValueError:  # lone surrogates, which no digest can be taken of
        pass
    raise OldRecordError("the id is not that of the content")


def _status(document: Document) -> Document:
    """Status with fields for facts that version 1 kept in notes, and a note that the sounds are not recorded."""
    status: Document = document["status"]
    told = tuple(f"{name}: " for name in _INTERVALS)
    kept = [note for note in status["notes"] if not note.startswith((*told, _LIMITED, _PARTIAL))]
    partial = next((note for note in status["notes"] if note.startswith(_PARTIAL)), "")
    return status | {
        "limited": _LIMITED in status["notes"],
        "partial": partial.removeprefix(_PARTIAL),
        "notes": [*kept, f"sounds not recorded (schema version 1, id {document['id'][:12]})"],
    }


def _interval(half_width: float | None, name: str, notes: list[str]) -> Document:
    reasons = (note.removeprefix(f"{name}: ") for note in notes if note.startswith(f"{name}: "))
    return {"half_width": half_width, "reason": "" if half_width is not None else next(reasons, "")}
