"""``uamix-bench reproduce``: the paper's tables and figures, as far as this machine has data and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from uamix_bench.cli import commands, options
from uamix_bench.cli.errors import Session
from uamix_bench.cli.values import COUNTS, CommaList, Number
from uamix_bench.util.errors import BadInputError, UsageError, nearest
from uamix_bench.util.files import expanded

if TYPE_CHECKING:
    from uamix_bench.studies.reproduce import Reproduction


@commands.command("reproduce")
@click.argument("target", metavar="table2|table3|table4|fig3|fig4|fig5|fig6|all")
@options.data_dir
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    metavar="NAME=PATH",
    help="Weights of a model; default those of 'models fetch'. Tuned ones: uamix, uamix-none, -mixup, -tf-cutmix.",
)
@click.option("--tuning-data", metavar="DATA", help="Sounds to tune on, as for tune; the paper has AudioSet-20K.")
@options.choice("--recipe", "Recipe of tuning and fine-tuning; tiny is for trials and not comparable.", "paper", "tiny")
@click.option(
    *options.WAY, "ways", type=CommaList(Number(2), "N[,N...]"), help="Ways: classes per episode; default the target's."
)
@click.option(*options.SHOT, "shots", type=COUNTS, help="Shots: supports per class; default the target's.")
@options.query
@options.episodes
@options.input_length
@options.device
@options.batch_size
@options.path("--results", "Results folder; default UAMIX_BENCH_HOME/results.")
@options.report_folder
@options.dry_run("List jobs, missing parts and estimated time; run nothing.")
@options.of_a_run
@click.pass_obj
def command(
    session: Session,
    /,
    target: str,
    data_dir: Path | None,
    checkpoints: tuple[str, ...],
    tuning_data: str | None,
    recipe: Literal["paper", "tiny"],
    ways: tuple[int, ...] | None,
    shots: tuple[int, ...] | None,
    q: int | None,
    episodes: int | None,
    input: Literal["native", "official"],
    device: str,
    batch_size: int,
    results: Path | None,
    output: Path,
    dry_run: bool,
    quiet: bool,
) -> int:
    """Reproduce the paper's tables and figures, and show its numbers beside ours.

    Missing data and weights are listed with the command that gets them. Earlier results are reused. If the run is
    killed, repeat the command to resume it. Exit code 6 means that something is missing or was skipped.
    """
    items = session.begin("reproduce")
    from uamix_bench.cli.progress import TerminalProgress
    from uamix_bench.plugins import registry
    from uamix_bench.records.store import ResultStore
    from uamix_bench.scoring.protocol import PAPER
    from uamix_bench.studies.paper import Settings, find_targets
    from uamix_bench.studies.reproduce import find_here, plan
    from uamix_bench.util import files

    progress = TerminalProgress(quiet)
    targets = find_targets(target)
    protocol = PAPER.changed(n_query=q or PAPER.n_query, episodes=episodes or PAPER.episodes)
    settings = Settings(ways or (), shots or (), protocol, recipe, input)
    models = {name: plugin.card for name, plugin in registry.models().items()}
    tasks = {name: plugin.card for name, plugin in registry.tasks().items()}
    store = ResultStore(results)
    here = find_here(
        targets,
        models,
        tasks,
        data_dir=data_dir,
        given=_given(checkpoints),
        sounds=tuning_data or "",
        settings=settings,
        store=store,
    )
    plans = [plan(one, models, tasks, here, settings) for one in targets]
    short = any(made.missing for made in plans)
    if dry_run:
        _show(session, items, plans)
        return 6 if short else 0

    store.check_writable()
    files.check_writable(output)
    from uamix_bench.cli.pages import write_page
    from uamix_bench.cli.training import stoppable
    from uamix_bench.studies.carry_out import Work

    work = Work(here, settings, store, device, batch_size, progress, stoppable)
    records = work.carry_out(plans)
    page = registry.find_report("reproduce")(records, plans=plans, set_aside=work.set_aside, data_dir=data_dir)
    written = write_page(page, output, f"reproduce-{target}")[-2:]
    items += [record.model_dump(mode="json") for record in records]
    session.facts |= {"missing": _missing(plans), "set_aside": work.set_aside, "files": list(map(str, written))}
    if not session.json:
        _show_tables(page.markdown)
        click.echo("\n".join(map(str, written)))
    for line in _missing_lines(plans):
        progress.say(line)
    return 6 if short or work.set_aside else 0


def _given(checkpoints: Sequence[str]) -> dict[str, Path]:
    """Values of --checkpoint.

    Raises:
        UsageError: A value names a model of no target.
        BadInputError: A file does not exist.
    """
    from uamix_bench.studies.paper import TARGETS

    known = list(dict.fromkeys(model for target in TARGETS.values() for model in target.models))
    given = {}
    for text in checkpoints:
        name, _, path = text.partition("=")
        if name not in known or not path:
            raise UsageError(f"--checkpoint {text}", "is not NAME=PATH of a model here", nearest(name, known))
        given[name] = expanded(path)
        if not given[name].exists():
            raise BadInputError(given[name], "no such file", "check --checkpoint")
    return given


def _show_tables(markdown: str) -> None:
    """Prints the tables of a page; what is missing is said apart, and single results are left to the page."""
    from itertools import groupby

    from uamix_bench.cli.tables import Table, show

    ours = markdown.partition("\n## Our results")[0].splitlines()
    title = ""
    for is_table, lines in groupby(ours, lambda line: line[:1] == "|"):
        if not is_table:
            title = next((line.strip("*# ") for line in reversed([*lines]) if line[:1] in ("*", "#")), "")
            continue
        heading, *rows = [_cells(line) for line in lines]
        if heading[0] != "missing":
            table = Table(heading[0], *(f"{cell}>" for cell in heading[1:-1]), heading[-1], wrapped=(heading[-1],))
            for row in rows[1:]:  # behind the rule
                table.add(*row)
            show(table, title)
            print()


def _cells(line: str) -> list[str]:
    """Plain texts of a row of a Markdown table."""
    import html
    import re

    cells = re.split(r"(?<!\\)\|", line)[1:-1]
    return [html.unescape(re.sub(r"\\([^\w\s])|\*\*|</?u>", r"\1", cell)).strip() for cell in cells]


def _missing(plans: Sequence[Reproduction]) -> list[dict[str, Any]]:
    """Missing items of the plans, each once, with all that needs it."""
    found: dict[tuple[str, str], list[str]] = {}
    for made in plans:
        for need in made.missing:
            found.setdefault((need.subject, need.remedy), []).extend(f"{made.target.id}: {by}" for by in need.needed_by)
    return [{"subject": subject, "remedy": remedy, "needed_by": by} for (subject, remedy), by in sorted(found.items())]


def _missing_lines(plans: Sequence[Reproduction]) -> list[str]:
    return [f"missing: {need['subject']}; {need['remedy']}" for need in _missing(plans)]


def _show(session: Session, items: list[Any], plans: Sequence[Reproduction]) -> None:
    """Lists the jobs, then the missing items; for each target and model, how many jobs can run and their time."""
    from uamix_bench.studies.reproduce import matrix_rate

    rate = matrix_rate()
    for made in plans:
        for job in made.jobs:
            seconds = job.flops() / rate if not job.lacks else None
            items.append({"target": made.target.id, **asdict(job), "seconds": seconds})
    session.facts |= {
        "missing": _missing(plans),
        "assumed": {made.target.id: made.target.assumed for made in plans},
        "matrix_rate_flops_per_s": rate,
    }
    if session.json:
        return
    from uamix_bench.cli.tables import Table, count, duration, show

    table = Table("target", "job", "model", "ready", "settings>", "kept>", "clips to embed>", "time>")
    for made in plans:
        for kind, model in dict.fromkeys((job.kind, job.model) for job in made.jobs):
            jobs = [job for job in made.jobs if (job.kind, job.model) == (kind, model)]
            ready = [job for job in jobs if not job.lacks]
            clips, flops = sum(job.clips for job in ready), sum(job.flops() for job in ready)
            can_run = f"{len(ready)} of {len(jobs)}" if len(jobs) > 1 else "yes" if ready else "no"
            cells = len(jobs[0].cells) or None
            numbers = map(count, (cells, sum(job.kept for job in jobs) if cells else None, clips or None))
            table.add(made.target.id, kind, model, can_run, *numbers, duration(flops / rate) if clips else "")
    show(table)
    click.echo(
        "time: embedding on this processor at the rate of its matrix products, a lower bound; tunings and fine-tunings "
        "are estimated by 'ablate --dry-run' and 'finetune --dry-run'"
    )
    for line in dict.fromkeys(line for made in plans for line in made.target.assumed):
        names = ", ".join(made.target.id for made in plans if line in made.target.assumed)
        click.echo(f"assumed for {names}: {line}")
    for line in _missing_lines(plans):
        click.echo(line)
