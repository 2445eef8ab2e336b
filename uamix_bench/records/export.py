"""Export of few-shot results: a table, CSV, Hugging Face metadata, LaTeX. MTEB's form is in `mteb`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from uamix_bench.plugins.card import ModelIdentity, trained_on
from uamix_bench.plugins.overlap import MARKS, meanings
from uamix_bench.records.record import TaskIdentity
from uamix_bench.records.results import Result, model_labels
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.util import latex
from uamix_bench.util.errors import UsageError
from uamix_bench.util.text import plus_minus, with_half

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\0")  # OWASP, "CSV Injection"; ASVS 5.0, 1.2.10


def frame(results: Iterable[Result]) -> pd.DataFrame:
    """Table of plain values with one row a result: all of model, task and protocol, and the score, as a fraction."""
    import pandas as pd

    rows = list(results)
    table = {name: [value(result) for result in rows] for name, value in _COLUMNS.items()}
    return pd.DataFrame({**table, "arguments": ["; ".join(one) for one in table["arguments"]]})


def to_csv(results: Iterable[Result]) -> str:
    """CSV of `frame`. A text that a spreadsheet would take for a formula gets an apostrophe in front."""
    table = frame(results)
    for column in table.columns:
        table[column] = table[column].map(_harmless)
    text: str = table.to_csv(index=False, lineterminator="\n")
    return text


def to_eval_results(results: Sequence[Result], datasets: Mapping[str, str]) -> str:
    """YAML of ``.eval_results/`` in a model's repository on the Hub (its documentation, "Evaluation Results").

    Args:
        results: Results of one model.
        datasets: Data set on the Hub that is registered as a task's benchmark, by task name. The entry's `task_id` is
            the setting.

    Raises:
        UsageError: Results are of several models, two are of one task and setting, or a task has no data set.
    """
    _one_model(results)
    refuse_mixed(results, lambda result: result.task.name)
    entries = []
    for result in results:
        if result.task.name not in datasets:
            remedy = f"name its benchmark on the Hub: --hub-dataset {result.task.name}=OWNER/NAME"
            raise UsageError(result.task.name, "has no data set on the Hub that is known here", remedy)
        entries.append(
            {
                "dataset": {"id": datasets[result.task.name], "task_id": slug(result)},
                "value": _per_cent(result),
                "date": result.provenance.started_at,
                "notes": f"accuracy in per cent, {_words(result)}",
            }
        )
    return _yaml(entries)


def to_model_index(results: Sequence[Result], datasets: Mapping[str, str]) -> str:
    """YAML of the ``model-index`` in a model card's metadata (``modelcard.md`` of the Hub's documentation).

    Args:
        results: Results of one model.
        datasets: Data set on the Hub, by task name; the task's own name by default.

    Raises:
        UsageError: Results are of several models, or two are of one task and setting.
    """
    name = _one_model(results)
    refuse_mixed(results, lambda result: result.task.label)
    entries = [
        {
            "task": {"type": "audio-classification", "name": f"Few-shot audio classification, {result.setting()}"},
            "dataset": {
                "type": datasets.get(result.task.name, result.task.name),
                "name": f"{result.task.name}@{result.task.version}",
                "config": slug(result),
            },
            "metrics": [
                {"type": "accuracy", "value": _per_cent(result), "name": f"accuracy, per cent, {_words(result)}"}
            ],
        }
        for result in results
    ]
    return _yaml({"model-index": [{"name": name, "results": entries}]})


def to_latex(results: Sequence[Result]) -> str:
    r"""LaTeX table for ``\usepackage{booktabs}``: a row a model, a column a task and setting, per cent with ci95.

    Marks of overlap with the training data are explained in a line below the table.

    Raises:
        UsageError: A result is partial, two belong to one cell of the table, or two of a column are not comparable.
    """
    labels = model_labels(result.model for result in results)
    refuse_mixed(results, lambda result: (result.model, result.task.label))
    cells = {
        (labels[result.model], result.task.label, result.setting()): (
            *with_half(result.score.accuracy, result.score.ci95),
            MARKS[result.overlap_known.level],
        )
        for result in results
    }
    columns = list(dict.fromkeys((task, setting) for _, task, setting in cells))
    tasks = [(task, len(list(those))) for task, those in groupby(task for task, _ in columns)]
    head = [
        ["", *(latex.span(latex.escape(task), width, "c") for task, width in tasks)],
        ["model", *(latex.escape(setting) for _, setting in columns)],
    ]
    rows = [
        [latex.escape(" ".join(cell).strip()) for cell in ((model,), *(cells.get((model, *at), ()) for at in columns))]
        for model in dict.fromkeys(model for model, *_ in cells)
    ]
    table = latex.booktabs("l" + "r" * len(columns), [head, rows])
    return table + latex.notes(meanings(result.overlap_known.level for result in results))


def _fields(part: str, of: type[BaseModel]) -> dict[str, Callable[[Result], Any]]:
    """Columns for every field of a part of a result; that of its name is named as the part."""
    return {part if field == "name" else field: attrgetter(f"{part}.{field}") for field in of.model_fields}


_COLUMNS: dict[str, Callable[[Result], Any]] = {
    "id": attrgetter("id"),
    **_fields("model", ModelIdentity),
    "pretrained_on": lambda result: trained_on(result.model.pretrained_on),
    "overlap": attrgetter("overlap_known.level"),
    "overlap_reason": attrgetter("overlap_known.why"),
    **_fields("task", TaskIdentity),
    "content_sha256": attrgetter("provenance.content_sha256"),
    "classes_left_out": attrgetter("episodes.classes_left_out"),
    **_fields("protocol", Protocol),
    "episodes_digest": attrgetter("episodes.digest"),
    **{name: attrgetter(f"score.{name}") for name in ("accuracy", "ci95", "ci95_clips", "ci95_classes")},
    **{name: attrgetter(f"status.{name}") for name in ("complete", "limited", "partial")},
    "skipped": lambda result: len(result.status.skipped),
    "health": attrgetter("health.verdict"),
    **{name: attrgetter(f"cost.{name}") for name in ("embedded_clips", "embed_s", "episodes_s")},
    **{name: attrgetter(f"provenance.{name}") for name in ("device", "started_at", "package")},
}


def _harmless(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _one_model(results: Sequence[Result]) -> str:
    labels = sorted(model_labels(result.model for result in results).values())
    if len(labels) != 1:
        reason = "are several models, and the Hub wants a file for each"
        raise UsageError(", ".join(labels), reason, "choose one: --model, or name its files")
    return results[0].model.name


def refuse_mixed(results: Iterable[Result], place: Callable[[Result], object]) -> None:
    """Makes sure that results can stand side by side: one a place, and in a column only what is comparable.

    Args:
        results: Results of a table.
        place: Function from a result to its place in a column, which is of a task and setting.

    Raises:
        UsageError: A result is partial, two share place and setting, or two of one task and setting are of other clips,
            sounds or episodes.
    """
    seen: set[object] = set()
    cells: dict[tuple[str, str], str | None] = {}
    for result in results:
        words = result.setting()
        if not result.status.complete:
            raise UsageError(named(result), "is partial, and this form has no mark for that", "leave it out")
        if (place(result), slug(result)) in seen:
            reason = f"two results of {result.model.name}, {words}, would share a cell"
            raise UsageError(result.task.name, reason, "name the files")
        seen.add((place(result), slug(result)))
        if cells.setdefault((result.task.label, words), result.cell()) != result.cell():
            reason = f"results of other clips, sounds or episodes, {words}, would share a column"
            raise UsageError(result.task.name, reason, "name the files")


def named(result: Result) -> str:
    """Name of a result in a line: model, task and setting."""
    return f"{result.model.name} on {result.task.label}, {result.setting()}"


def slug(result: Result) -> str:
    """Setting as one word, for names of files and cells."""
    return "-".join(re.findall(r"\w+", result.setting().replace(",", "")))


def _per_cent(result: Result) -> float:
    return round(100 * result.score.accuracy, 2)


def _words(result: Result) -> str:
    protocol, half = result.protocol, result.score.ci95
    drawn = f"{protocol.episodes} episodes of {protocol.n_query} queries, {protocol.scored_by}"
    setting = result.setting("n_query", "episodes", "classifier", "neighbors", "template")
    words = f"{setting}, {drawn} {plus_minus(half)}".strip()
    found = result.overlap_known
    return words if found.level == "none" else f"{words}; overlap with the training data {found.words}"


def _yaml(document: object) -> str:
    import yaml

    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    return text
