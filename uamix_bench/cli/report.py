"""``uamix-bench report``: records of any kind as pages, HTML and Markdown with the same content."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uamix_bench.cli import commands, options
from uamix_bench.cli.errors import Session
from uamix_bench.cli.values import CommaList
from uamix_bench.util.errors import BadInputError, UsageError
from uamix_bench.util.files import expanded, home

if TYPE_CHECKING:
    from uamix_bench.records.record import Record


@commands.command("report")
@click.argument("records", nargs=-1, metavar="[FILE|DIR]...")
@options.own_task
@options.data_dir
@click.option(
    "--tsne",
    metavar="CLASSES",
    type=CommaList(metavar="CLASS,..."),
    help="Classes of a t-SNE for two models; 'default': those of the paper's figure, or the first eight.",
)
@click.option(
    "--sounds",
    is_flag=True,
    help="Put excerpts of the clips confused most into the page: 3 s each, 2 MB a task at most. They may be private.",
)
@click.option("--keep-going", is_flag=True, help="Skip files that are not records and name them; exit code 6.")
@options.report_folder
@options.quiet
@options.json_output
@click.pass_obj
def command(
    session: Session,
    records: tuple[str, ...],
    task: tuple[str, ...],
    data_dir: Path | None,
    tsne: tuple[str, ...] | None,
    sounds: bool,
    keep_going: bool,
    output: Path,
    quiet: bool,
) -> int:
    """Render records as one page a kind: KIND.html and KIND.md.

    Records are files of results and trainings, or folders of them; default UAMIX_BENCH_HOME/results.

    Confusion matrices come from the cached embeddings of the results' own clips: they need the data, but no model.
    """
    items = session.begin("report")
    from uamix_bench.cli.pages import write_page
    from uamix_bench.cli.progress import TerminalProgress
    from uamix_bench.plugins import registry
    from uamix_bench.records.store import read_all

    progress, paths = TerminalProgress(quiet), [expanded(name) for name in records]
    found = read_all(paths)
    for error in found.bad:
        if not keep_going:
            raise error
        progress.say(f"set aside: {error}")
    kinds: dict[str, dict[str, Record]] = {}  # each record once, by its id
    for _, record in sorted(found.records, key=lambda item: item[1].kind):
        kinds.setdefault(record.kind, {})[record.id] = record
    if not kinds:
        place = ", ".join(map(str, paths)) or str(home() / "results")
        raise BadInputError(place, "holds no record", "run 'uamix-bench fewshot' first, or name its folder -o")
    if tsne and "fewshot" not in kinds:
        raise UsageError("--tsne", "shows the embeddings of few-shot results, and none is given", "omit it")
    if sounds and "fewshot" not in kinds:
        raise UsageError("--sounds", "are clips of few-shot results, and none is given", "omit it")
    more: dict[str, dict[str, Any]] = {"fewshot": {"data_dir": data_dir, "own": task, "tsne": tsne, "sounds": sounds}}
    if "fewshot" in kinds and "finetune" in kinds:
        more["fewshot"]["supervised"] = list(kinds["finetune"].values())
    pages = {
        kind: registry.find_report(kind)(list(of_kind.values()), **more.get(kind, {}))
        for kind, of_kind in kinds.items()
    }
    for kind, page in pages.items():
        for line in getattr(page, "said", ()):
            progress.say(line)
        *_, html, markdown = write_page(page, output, kind)
        items.append({"kind": kind, "records": len(kinds[kind]), "html": str(html), "markdown": str(markdown)})
        if not session.json:
            click.echo(f"{html}\n{markdown}")
    return 6 if found.bad else 0
