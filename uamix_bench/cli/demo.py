"""``uamix-bench demo``: the way from a folder of sounds to a decision, a classifier and a report, on bundled sounds."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import click

from uamix_bench.cli import commands, options, selection
from uamix_bench.cli.errors import Session

_CLASSES, _CLIPS = 12, 24  # of the bundled sounds; 24 clips a class are enough for intervals for new clips
_MODELS = "uamix-tiny,audiomae-tiny,logmel"


@commands.command("demo")
@options.out("Folder for sounds, results, classifier and report; default a new temporary one.")
@options.device
@options.quiet
@options.json_output
@click.pass_obj
def command(session: Session, output: Path | None, device: str, quiet: bool) -> int:
    """Show the way from a folder of sounds to a decision, on bundled sounds: a minute or two, offline.

    Each command is printed before it runs: tasks info, recommend, fit, predict, report. The report holds sounds and a
    t-SNE. Nothing is written outside the folder.
    """
    items = session.begin("demo")
    folder = output or Path(tempfile.mkdtemp(prefix="uamix-bench-demo-"))
    selection.check_new(folder, "home")
    sounds, results, classifier, report = (folder / name for name in ("my_sounds", "results", "classifier", "report"))
    with _at_home(folder.absolute() / "home"):
        heard = _write_sounds(sounds)

        def step(*words: str) -> list[Any]:
            with redirect_stdout(sys.stderr if session.json else sys.stdout):
                click.echo(f"\n$ {shlex.join(('uamix-bench', *words))}")
                items.append({"command": ["uamix-bench", *words]})
                return _run(words)

        said, own = (("--quiet",) if quiet else ()), ("--task", str(sounds))
        how = ("--device", device, *said)
        step("tasks", "info", str(sounds))
        (answer,) = step("recommend", "--model", _MODELS, *own, "-o", str(results), *how)
        step("fit", "--model", answer["model"], *own, "--out", str(classifier), *how)
        step("predict", str(classifier), *map(str, heard), *how)
        step("report", str(results), *own, "--sounds", "--tsne", "default", "-o", str(report), *said)
    session.facts["report"] = str(report / "fewshot.html")
    if not session.json:
        click.echo(f"\nOpen {report / 'fewshot.html'}")
    return 0


@contextmanager
def _at_home(folder: Path) -> Iterator[None]:
    """Context in which caches and data are below a folder."""
    before = os.environ.get("UAMIX_BENCH_HOME")
    os.environ["UAMIX_BENCH_HOME"] = str(folder)
    try:
        yield
    finally:
        del os.environ["UAMIX_BENCH_HOME"]
        if before is not None:
            os.environ["UAMIX_BENCH_HOME"] = before


def _write_sounds(folder: Path) -> list[Path]:
    """Writes bundled sounds as class folders; returns one clip of each of two classes that is not among them."""
    from uamix_bench.data.clip_table import earlier_equals
    from uamix_bench.data.task import load_task
    from uamix_bench.util.files import write_atomic

    task = load_task("synthetic")
    labels = sorted(set(task.table["label"]))
    chosen = labels[:: len(labels) // _CLASSES][:_CLASSES]
    few = task.table.take(earlier_equals(task.table["label"]) <= _CLIPS)
    clips = few.take(few.among("label", chosen))
    task.task.materialise(clips)
    new = []
    for label in chosen:
        *known, held_out = map(Path, clips["path"][clips["label"] == label])
        new.append(folder.with_name("new_sounds") / f"{label}.wav")
        targets = [folder / label / f"{number:02d}.wav" for number in range(len(known))]
        for source, target in zip([*known, held_out], [*targets, new[-1]], strict=True):
            if not target.exists():
                write_atomic(target, source.read_bytes())
    return new[:2]


def _run(words: tuple[str, ...]) -> list[Any]:
    """Runs a command line in this process; returns the items that it found."""
    from uamix_bench.cli import cli

    inner = Session()
    with cli.make_context("uamix-bench", list(words), obj=inner) as context:
        cli.invoke(context)
    return inner.items or []
