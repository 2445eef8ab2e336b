"""``uamix-bench results``: list, show, verify and export the results folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uamix_bench.cli import commands, options
from uamix_bench.cli.errors import Session
from uamix_bench.cli.values import CommaList, Number
from uamix_bench.util.errors import BadInputError, UsageError
from uamix_bench.util.text import listed, visible

if TYPE_CHECKING:
    from uamix_bench.records.record import Record
    from uamix_bench.records.results import Result
    from uamix_bench.records.store import Found

_SHOWN = 5  # classes at either end of a card
_COUNTS = CommaList(Number(0), "N[,N...]")
_GLOBS = CommaList(metavar="GLOB[,...]")
_PATHS = click.argument("paths", nargs=-1, metavar="[PATH]...", callback=lambda *given: tuple(map(Path, given[2])))


def _filters(function: options.AnyCallback) -> options.AnyCallback:
    """Adds the options that choose results."""
    for names, kind, words in (
        (options.SHOT, _COUNTS, "Supports of each class."),
        (options.WAY, _COUNTS, "Classes of an episode."),
        (("-t", "--task"), _GLOBS, "Tasks, by name."),
        (("-m", "--model"), _GLOBS, "Models, by name."),
    ):
        function = options.listed(*names, kind=kind, words=f"{words} Lists, repeatable.")(function)
    return function


@commands.group("results")
def command() -> None:
    """List, show, verify or export results: files, or folders of them; default UAMIX_BENCH_HOME/results."""


@command.command("ls")
@_PATHS
@_filters
@options.json_output
@click.pass_obj
def ls(session: Session, /, paths: tuple[Path, ...], **chosen: tuple[Any, ...]) -> None:
    """List results, best first within a task and setting.

    Fine-tunings, trainings and ablations follow in tables of their own.
    --n and --k choose few-shot results alone, --model those and fine-tunings. A damaged file is named and passed over;
    a file that by its own words is not chosen is not checked.
    """
    items = session.begin("results ls", "results")
    import warnings

    found = _read(paths, _chosen(**chosen))
    for error in found.bad:
        warnings.warn(str(error), stacklevel=1)
    results, others = _sorted(found)
    records = [*results, *others]
    items += [record.model_dump(mode="json") for record in records]
    if not session.json:
        from uamix_bench.cli.listing import show_records

        show_records(records)


@command.command("show")
@click.argument("name", metavar="ID|FILE")
@click.argument("folder", required=False, metavar="[DIR]", callback=options.to_path)
@options.json_output
@click.pass_obj
def show(session: Session, name: str, folder: Path | None) -> None:
    """Show one record, by its file or the beginning of its id.

    Ids are looked up in DIR, by default the results folder.
    """
    items = session.begin("results show", "results")
    path, record = _one(name, folder)
    items.append(record.model_dump(mode="json"))
    if session.json:
        return
    from uamix_bench.cli.tables import show_card

    show_card({"file": visible(str(path)), **_card(record)})


@command.command("verify")
@_PATHS
@options.data_dir
@options.own_task
@options.audio_root
@options.json_output
@click.pass_obj
def verify(
    session: Session, paths: tuple[Path, ...], data_dir: Path | None, task: tuple[str, ...], audio_root: Path | None
) -> None:
    """Recompute what follows from the parts of a record.

    Mean, interval, id and sums; with --data-dir or --task episodes and sounds too. Exit code 3 where a file's parts
    disagree, or two files give one evaluation different outcomes; all are listed.
    """
    items = session.begin("results verify")
    from uamix_bench.records.verify import conflicts

    found = _read(paths)
    if not (found.records or found.bad):
        raise BadInputError(", ".join(map(str, paths)) or "results", "holds no file of results", "check the path")
    problems: dict[str, list[str]] = {}
    for error in found.bad:
        problems.setdefault(error.subject, []).append(error.reason)
    for path, reason in conflicts(found.records):
        problems.setdefault(str(path), []).append(reason)
    unchecked: dict[str, str] = {}
    if data_dir or task:
        unchecked = _draw_again(found, problems, data_dir, task, audio_root)
    for name in [*(str(path) for path, _ in found.records), *(error.subject for error in found.bad)]:
        items.append({"file": name, "problems": problems.get(name, []), "episodes_unchecked": unchecked.get(name)})
    if not session.json:
        for name, reasons in problems.items():
            for reason in reasons:
                print(visible(f"{name}: {reason}"))
        for reason in dict.fromkeys(unchecked.values()):
            times = list(unchecked.values()).count(reason)
            click.echo(f"episodes of {times} result{'s' * (times != 1)} not drawn again: {reason}", err=True)
    if problems:
        raise BadInputError(
            f"{len(problems)} of {len(items)} files", "do not verify", "restore the originals, or delete them"
        )
    if not session.json:
        print(f"{len(items)} file{'s' * (len(items) != 1)} verified")


@command.command("export")
@_PATHS
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "mteb", "eval-results", "model-index", "latex"]),
    default="csv",
    show_default=True,
    help="mteb writes a folder for its ResultCache; eval-results and model-index are the Hub's, of one --model.",
)
@click.option("--hub-dataset", multiple=True, metavar="TASK=OWNER/NAME", help="Id of a task's data set on the Hub.")
@options.out("File, or folder for mteb; default stdout.", metavar="FILE")
@_filters
@click.pass_obj
def export(
    session: Session,
    /,
    paths: tuple[Path, ...],
    form: str,
    hub_dataset: tuple[str, ...],
    output: Path | None,
    **chosen: tuple[Any, ...],
) -> None:
    """Export few-shot results to other forms.

    A damaged file is refused, and partial results are left out.
    """
    session.begin("results export")
    from uamix_bench.records import export as exporting

    found = _read(paths, _chosen(**chosen))
    if found.bad:
        raise found.bad[0]
    from uamix_bench.records.newest import newest

    given, _ = _sorted(found)
    shown = newest(given)
    kept = {result.id for result in shown.records if result.status.complete}
    results = [result for result in given if result.id in kept]
    for line in shown.earlier:
        click.echo(line, err=True)
    for result in shown.records:
        if not result.status.complete:
            click.echo(visible(f"left out: {exporting.named(result)} ({result.id[:12]}), {_lacks(result)}"), err=True)
    if not results:
        raise UsageError("results", "none is chosen", "see 'uamix-bench results ls'")
    if form == "mteb":
        if output is None:
            raise UsageError("--format mteb", "writes a folder", "name it with -o DIR")
        from uamix_bench.records.mteb import to_mteb

        _write_folder(output, to_mteb(results))
        return
    datasets = _datasets(hub_dataset)
    text = {
        "csv": lambda: exporting.to_csv(results),
        "latex": lambda: exporting.to_latex(results),
        "eval-results": lambda: exporting.to_eval_results(results, datasets),
        "model-index": lambda: exporting.to_model_index(results, datasets),
    }[form]()
    if output is None:
        click.echo(text, nl=False)
    else:
        _write_folder(output.parent, {output.name: text})


@command.command("schema")
def schema() -> None:
    """Print the JSON Schema of the files."""
    from uamix_bench.records.store import schema as published

    click.echo(json.dumps(published(), indent=2))


def _read(paths: Sequence[Path], wanted: Callable[[Mapping[str, Any]], bool] | None = None) -> Found:
    from uamix_bench.records.store import read_all

    return read_all(paths, wanted)


def _chosen(
    model: tuple[str, ...], task: tuple[str, ...], n: tuple[int, ...], k: tuple[int, ...]
) -> Callable[[Mapping[str, Any]], bool] | None:
    """Test of a record's parts against the filters; None without any."""

    def passes(parts: Mapping[str, Any]) -> bool:
        kind = parts["kind"]
        if n or k:
            protocol = parts["protocol"] if kind == "fewshot" else {}
            if not protocol or (n and protocol["n_way"] not in n) or (k and protocol["k_shot"] not in k):
                return False
        if kind in ("fewshot", "finetune"):
            return _fits([parts["model"]["name"]], model) and _fits([parts["task"]["name"]], task)
        names = [parts["data"]["name"]] if kind == "training" else _tasks(parts["arms"][0])
        return not model and _fits(names, task)

    return passes if model or task or n or k else None


def _tasks(arm: Mapping[str, Any]) -> list[str]:
    return [result["task"]["name"] for result in arm["results"]]


def _sorted(found: Found) -> tuple[list[Result], list[Record]]:
    """Records, each id once: few-shot results by setting, the best first, and the others."""
    from uamix_bench.records.results import Result

    def order(result: Result) -> tuple[Any, ...]:
        protocol, model = result.protocol, result.model.name
        return result.task.name, protocol.n_way, protocol.k_shot, -result.score.accuracy, model, result.id

    chosen = {record.id: record for _, record in found.records}
    results = [record for record in chosen.values() if isinstance(record, Result)]
    others = [record for record in chosen.values() if not isinstance(record, Result)]
    return sorted(results, key=order), sorted(others, key=lambda record: (record.kind, record.place(), record.id))


def _fits(names: Sequence[str], globs: tuple[str, ...]) -> bool:
    return not globs or any(fnmatchcase(name, glob) for name in names for glob in globs)


def _one(name: str, folder: Path | None) -> tuple[Path, Record]:
    """Record of a file, or the record whose id begins with a text."""
    from uamix_bench.records.store import load_record

    if Path(name).suffix == ".json" or Path(name).is_file():
        return Path(name), load_record(Path(name))
    there = _read([folder] if folder else [], lambda parts: parts["id"].startswith(name.lower())).records
    found = {record.id: (path, record) for path, record in there}
    if len(found) != 1 or len(name) < 4:
        reason = f"is the beginning of {len(found)} ids" if len(name) >= 4 else "is too short for an id"
        raise UsageError(name, reason, "give four digits or more of one that 'uamix-bench results ls' lists, or a file")
    return next(iter(found.values()))


def _card(record: Record) -> dict[str, Any]:
    """Facts of a record in the order of the file; long ones are cut short."""
    from uamix_bench.plugins.card import trained_on
    from uamix_bench.records.record import SoundsRecord

    document = record.model_dump(mode="json")
    facts: dict[str, Any] = {}
    for name, part in document.items():
        if name == "score":
            intervals = {f"95%, {of}": one["reason"] or one["half_width"] for of, one in part.pop("intervals").items()}
            part = {
                field: f"{100 * value:.2f}%" if isinstance(value, float) else value
                for field, value in (part | intervals).items()
            }
        elif name == "overlap" and isinstance(record, SoundsRecord):
            part = record.overlap_known.words
        elif name == "model":
            part["pretrained_on"] = trained_on(part["pretrained_on"])
        elif name == "per_class":
            shares = sorted(((hits / max(1, total), label) for label, (hits, total) in part.items()), reverse=True)
            lines = [f"{label}: {share:.1%}" for share, label in shares]
            part = lines if len(lines) <= 2 * _SHOWN else [*lines[:_SHOWN], "...", *lines[-_SHOWN:]]
        elif name == "history":
            part = f"{len(part):,} entries; the last: {part[-1]}" if part else None
        if isinstance(part, dict):
            kept = {field: ", ".join(map(str, v)) if isinstance(v, list) else v for field, v in part.items() if v != []}
            part = {field: value for field, value in kept.items() if field != "correct"}
        facts[name] = part
    return facts


def _draw_again(
    found: Found, problems: dict[str, list[str]], data_dir: Path | None, own: tuple[str, ...], audio_root: Path | None
) -> dict[str, str]:
    """Adds contradictions with the clip tables; returns by file why its episodes could not be drawn."""
    from uamix_bench.evaluation.redraw import Redraw
    from uamix_bench.records.results import Result
    from uamix_bench.records.verify import disagreements

    redraw, unchecked = Redraw(data_dir, own, audio_root), {}
    for path, record in found.records:
        if isinstance(record, Result):
            drawn = redraw(record)
            if isinstance(drawn, str):
                unchecked[str(path)] = drawn
            else:
                problems.setdefault(str(path), []).extend(disagreements(record, drawn, redraw.sounds(record)))
    for name in [name for name, reasons in problems.items() if not reasons]:
        del problems[name]
    return unchecked


def _lacks(result: Result) -> str:
    """Reason why a result is partial, in a few words."""
    status = result.status
    if status.limited:
        return "of the first clips of each class alone (--limit)"
    if status.partial:
        return f"of an incomplete copy ({status.partial})"
    clips = [one.clip for one in status.skipped]
    return f"without {len(clips)} broken clip{'s' * (len(clips) != 1)}: {listed(clips, 3)}" if clips else "incomplete"


def _datasets(given: tuple[str, ...]) -> dict[str, str]:
    datasets = dict(text.partition("=")[::2] for text in given)
    for task, name in datasets.items():
        if not task or name.count("/") != 1:
            raise UsageError(f"--hub-dataset {task}={name}", "is not understood", "give TASK=OWNER/NAME")
    return datasets


def _write_folder(folder: Path, texts: dict[str, str]) -> None:
    from uamix_bench.util.files import write_atomic

    for name, text in texts.items():
        click.echo(f"wrote {write_atomic(folder / name, text.encode())}", err=True)
