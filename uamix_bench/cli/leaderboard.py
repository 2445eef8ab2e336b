"""``uamix-bench leaderboard``: results as a static site that opens from disk."""

from __future__ import annotations

from pathlib import Path

import click

from uamix_bench.cli import options
from uamix_bench.cli.errors import Session
from uamix_bench.errors import BadInputError


@click.group("leaderboard")
def command() -> None:
    """Build a leaderboard from result files."""


@command.command("build")
@click.argument("results", nargs=-1, metavar="[RESULTS]...")
@click.option("--out", metavar="SITE", required=True, callback=options.to_path, help="Folder of the site.")
@click.option(
    "-t",
    "--task",
    multiple=True,
    type=options.CommaList(metavar="NAME[,...]"),
    callback=options.merged,
    help="Only these tasks; means are over them.",
)
@click.option("--title", default="Few-shot audio leaderboard", show_default=True, help="Heading of the site.")
@click.option("--keep-going", is_flag=True, help="Leave out files that are no sound result; exit code 6.")
@options.quiet
@options.json_output
@click.pass_obj
def build(
    session: Session,
    results: tuple[str, ...],
    out: Path,
    task: tuple[str, ...],
    title: str,
    keep_going: bool,
    quiet: bool,
) -> int:
    """Write a site from RESULTS, files or folders of them; default UAMIX_BENCH_HOME/results.

    SITE/index.html needs no network and no server. Beside it stand the same as Markdown and a page of classes for each
    task and setting.
    """
    items = session.begin("leaderboard build")

    from uamix_bench import files, registry
    from uamix_bench.cli.progress import TerminalProgress
    from uamix_bench.errors import UsageError, nearest
    from uamix_bench.record import Record
    from uamix_bench.store import ResultStore, load_record

    progress = TerminalProgress(quiet)
    files.check_writable(files.make_folder(out))
    paths = [Path(given).expanduser() for given in results] or [ResultStore().folder]
    records: list[Record] = []
    broken = 0
    found = [path for given in paths for path in (sorted(given.rglob("*.json")) if given.is_dir() else [given])]
    with progress.bar("reading", len(found), "files") as advance:
        for path in found:
            try:
                records.append(load_record(path))
            except BadInputError as error:
                if not keep_going:
                    raise
                progress.say(f"left out: {error}")
                broken += 1
            advance(1, "")
    named = {name for record in records if (name := _task(record))}
    for unknown in set(task) - named:
        raise UsageError(f"--task {unknown}", "no result is of it", nearest(unknown, sorted(named)))
    if task:
        records = [record for record in records if _task(record) in task]
    page = registry.find_report("leaderboard")(records, title=title)
    for name, text in {"index.html": page.html, "index.md": page.markdown, **page.files}.items():
        files.write_atomic(out / name, text.encode(), durable=False)
    items.append({"site": str(out), "page": str(out / "index.html"), "records": len(records), "left_out": broken})
    if not session.json:
        click.echo(str(out / "index.html"))
    return 6 if broken else 0


def _task(record: object) -> str | None:
    identity = getattr(record, "task", None)
    return getattr(identity, "name", None)
