"""``uamix-bench leaderboard``: results as a static site that opens from disk."""

from __future__ import annotations

from pathlib import Path

import click

from uamix_bench.cli import commands, options, selection
from uamix_bench.cli.errors import Session
from uamix_bench.cli.values import CommaList


@commands.group("leaderboard")
def command() -> None:
    """Build a leaderboard from result files."""


@command.command("build")
@click.argument("results", nargs=-1, metavar="[RESULTS]...")
@options.out("Folder of the site.", metavar="SITE", default="uamix-leaderboard", show_default=True)
@options.listed(
    "-t",
    "--task",
    kind=CommaList(metavar="NAME|PATH[,...]"),
    words="Tasks to show, and to take means over; default all. Own data by folder or CSV: their clips are then known.",
)
@options.data_dir
@click.option("--title", default="Few-shot audio leaderboard", show_default=True, help="Title of the site.")
@click.option("--keep-going", is_flag=True, help="Skip damaged or invalid result files and name them; exit code 6.")
@options.quiet
@options.json_output
@click.pass_obj
def build(
    session: Session,
    results: tuple[str, ...],
    output: Path,
    task: tuple[str, ...],
    data_dir: Path | None,
    title: str,
    keep_going: bool,
    quiet: bool,
) -> int:
    """Write a site from RESULTS.

    RESULTS are files or folders of them; default UAMIX_BENCH_HOME/results. SITE/index.html needs no network and no
    server. Beside it stand the same as Markdown and a page of classes for each task and setting. A model is called
    best only if it is so for new clips, too: this needs the data (--data-dir, -t).
    """
    items = session.begin("leaderboard build")

    from uamix_bench.cli.pages import write_page
    from uamix_bench.cli.progress import TerminalProgress
    from uamix_bench.evaluation.redraw import Redraw
    from uamix_bench.plugins import registry
    from uamix_bench.records.results import Result
    from uamix_bench.records.store import read_all
    from uamix_bench.util import files
    from uamix_bench.util.errors import UsageError, nearest

    files.check_writable(files.make_folder(output))
    found = read_all([files.expanded(given) for given in results])
    if found.bad and not keep_going:
        raise found.bad[0]
    for error in found.bad:
        TerminalProgress(quiet).say(f"left out: {error}")
    evaluated = [record for _, record in found.records if isinstance(record, Result)]
    named = {result.task.name for result in evaluated}
    own = {name: selection.own_path(name) for name in task if name not in named}
    redraw = Redraw(data_dir, filter(None, own.values()))
    wanted = {name for name in task if not own.get(name)} | redraw.own
    for unknown in wanted - named:
        raise UsageError(f"--task {unknown}", "no result is of it", nearest(unknown, sorted(named)))
    chosen = [result for result in evaluated if not task or result.task.name in wanted]
    page = registry.find_report("leaderboard")(chosen, title=title, draws=redraw.draws)
    for line in getattr(page, "said", ()):
        TerminalProgress(quiet).say(line)
    write_page(page, output, "index", durable=False)
    items.append(
        {"site": str(output), "page": str(output / "index.html"), "results": len(chosen), "left_out": len(found.bad)}
    )
    if not session.json:
        click.echo(str(output / "index.html"))
    return 6 if found.bad else 0
