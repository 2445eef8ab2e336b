"""Export of few-shot results: a table, CSV, Hugging Face metadata, LaTeX. MTEB's form is in `mteb`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from uamix_bench.plugins.card import trained_on
from uamix_bench.plugins.overlap import LEVELS, MARKS, MEANINGS
from uamix_bench.records.results import Result
from uamix_bench.util import latex
from uamix_bench.util.errors import UsageError
from uamix_bench.util.text import classes_drawn, plus_minus, with_half

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\0")  # OWASP, "CSV Injection"; ASVS 5.0, 1.2.10


def frame(results: Iterable[Result]) -> pd.DataFrame:
    """Table of plain values with one row a result: model, task, protocol and score; accuracies are fractions."""
    import pandas as pd

    return pd.DataFrame([_row(result) for result in results], columns=_COLUMNS)


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
    refuse_shared(results, lambda result: result.task.name)
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
    refuse_shared(results, lambda result: result.task.label)
    entries = [
        {
            "task": {"type": "audio-classification", "name": f"Few-shot audio classification, {setting_words(result)}"},
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
        UsageError: Two results belong to one cell of the table.
    """
    refuse_shared(results, lambda result: (result.model.name, result.task.label))
    cells = {
        (result.model.name, result.task.label, setting_words(result)): (
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
    found = {result.overlap_known.level for result in results}
    notes = [latex.escape(MEANINGS[level]) for level in reversed(LEVELS) if level in found and level in MEANINGS]
    table = latex.booktabs("l" + "r" * len(columns), [head, rows])
    return table + "".join(f"\\par\\footnotesize {note}\n" for note in notes)


_COLUMNS = (
    "id model adapter_version weights_sha256 source_sha256 metadata_sha256 parameters embedding_dim input pooling "
    "dtype pretrained_on overlap overlap_reason licence task version clips_sha256 content_sha256 classes "
    "classes_left_out clips protocol n_way k_shot n_query episodes seed classifier neighbors group_disjoint min_clips "
    "episodes_digest accuracy ci95 ci95_clips ci95_classes complete limited partial skipped health embedded_clips "
    "embed_s episodes_s device started_at package"
).split()


def _row(result: Result) -> dict[str, Any]:
    model, task = result.model.model_dump(), result.task.model_dump()
    parts = (model, task, result.protocol.model_dump())
    return {
        **{name: value for part in parts for name, value in part.items() if name in _COLUMNS},
        "id": result.id,
        "model": model["name"],
        "pretrained_on": trained_on(result.model.pretrained_on),
        "overlap": result.overlap_known.level,
        "overlap_reason": result.overlap_known.why,
        "task": task["name"],
        "classes_left_out": result.episodes.classes_left_out,
        "content_sha256": result.provenance.content_sha256,
        "protocol": result.protocol.name,
        "neighbors": result.protocol.neighbors,
        "episodes_digest": result.episodes.digest,
        "accuracy": result.score.accuracy,
        **{name: getattr(result.score, name) for name in ("ci95", "ci95_clips", "ci95_classes")},
        "complete": result.status.complete,
        "limited": result.status.limited,
        "partial": result.status.partial,
        "skipped": len(result.status.skipped),
        "health": result.health.verdict,
        "embedded_clips": result.cost.embedded_clips,
        "embed_s": result.cost.embed_s,
        "episodes_s": result.cost.episodes_s,
        "device": result.provenance.device,
        "started_at": result.provenance.started_at,
        "package": result.provenance.package,
    }


def _harmless(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _one_model(results: Sequence[Result]) -> str:
    names = sorted({result.model.name for result in results})
    if len(names) != 1:
        raise UsageError(
            ", ".join(names), "are several models, and the Hub wants a file for each", "choose one: --model"
        )
    return names[0]


def refuse_shared(results: Iterable[Result], place: Callable[[Result], object]) -> None:
    """Makes sure that no two results share place and setting.

    Raises:
        UsageError: Two results share both.
    """
    seen = set()
    for result in results:
        if (place(result), setting_words(result)) in seen:
            reason = f"two results of {result.model.name}, {setting_words(result)}, would share a cell"
            raise UsageError(result.task.name, reason, "name the files")
        seen.add((place(result), setting_words(result)))


def setting_words(result: Result) -> str:
    """Setting in words: ways and shots, and the number of classes if some are left out, to tell cells apart."""
    words, left_out = f"{result.protocol.n_way}-way {result.protocol.k_shot}-shot", result.episodes.classes_left_out
    return words + (f", {classes_drawn(result.task.classes, left_out)} classes" if left_out else "")


def named(result: Result) -> str:
    """Name of a result in a line: model, task and setting."""
    return f"{result.model.name} on {result.task.label}, {setting_words(result)}"


def slug(result: Result) -> str:
    """Setting as one word, for names of files and cells."""
    return setting_words(result).replace(", ", "-").replace(" ", "-")


def _per_cent(result: Result) -> float:
    return round(100 * result.score.accuracy, 2)


def _words(result: Result) -> str:
    protocol, half = result.protocol, result.score.ci95
    drawn = f"{protocol.episodes} episodes of {protocol.n_query} queries, {protocol.scored_by}"
    words = f"{setting_words(result)}, {drawn} {plus_minus(half)}".strip()
    found = result.overlap_known
    return words if found.level == "none" else f"{words}; overlap with the training data {found.words}"


def _yaml(document: object) -> str:
    import yaml

    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    return text
