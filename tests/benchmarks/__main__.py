"""Measures how fast the bench is, beside others and beside the machine's limits, and writes the page.

``python -m tests.benchmarks`` from the repository's root takes a quarter of an hour and needs nothing but the machine
to itself. Every figure on the page is of that run.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click

from uamix_bench.reports.blocks import Code, Prose, Section
from uamix_bench.reports.markdown import markdown
from uamix_bench.util import files
from uamix_bench.util.errors import BenchError

from .scale import QUICK, WHOLE
from .sections import encoder, episodes, evaluation, frontend, growth, machine, process, store, training
from .timing import one_thread

LEAD = """
Every figure here was measured in one run of one process (start-up and memory are those of its children), and every
comparison side by side: in each round all sides are timed one after another, and medians over {rounds} rounds are shown
where nothing else is said; a ratio or a share is the median of the rounds' own. Times are CPU times of one thread; on a
GPU, wall times. Behind another's figure stands how many times as long it takes.

The limit is the time in which this machine could do it if it did nothing but move the bytes or compute the products, at
the rates that it reached in the same rounds; our share of it says what is left to win. Ratios hold elsewhere too, times
do not. The load average tells what else the machine was doing.
"""


@click.command()
@click.option("--quick", is_flag=True, help="Measure little, in less than a minute, to see that everything works.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("docs/performance.md"),
    show_default=True,
    help="The page.",
)
def main(quick: bool, output: Path) -> None:
    """Measure the bench beside others and the machine's limits, and write the page."""
    scale = QUICK if quick else WHOLE
    begun = time.perf_counter()
    try:
        files.check_writable(output.parent)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    with tempfile.TemporaryDirectory() as scratch, one_thread():
        folder = Path(scratch)
        os.environ["UAMIX_BENCH_HOME"] = str(folder / "home")
        sounds = folder / "sounds"
        parts: dict[str, Callable[[], Section]] = {
            "machine": lambda: machine.section(scale),
            "episodes": lambda: episodes.section(scale),
            "front end": lambda: frontend.section(scale),
            "encoder": lambda: encoder.section(scale),
            "training": lambda: training.section(scale),
            "a whole evaluation": lambda: evaluation.section(scale, sounds),
            "growth": lambda: growth.section(scale, folder),
            "store and leaderboard": lambda: store.section(scale, folder),
            "start-up and memory": lambda: process.section(scale, sounds),
        }
        sections = []
        for number, (name, measure) in enumerate(parts.items(), start=1):
            click.echo(f"{number}/{len(parts)} {name} ({time.perf_counter() - begun:.0f} s)", err=True)
            sections.append(measure())
    last = f"""
        Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC in {time.perf_counter() - begun:.0f} s; load average after it
        {machine.load_average()}.
    """
    again = Code(f"python -m tests.benchmarks{' --quick' * quick}", "In a clone set up as CONTRIBUTING.md says")
    quickly = [Prose("A quick look: too little is measured for any figure to be quoted.")] if quick else []
    page = Section("Performance", [*quickly, Prose(LEAD.format(rounds=scale.rounds)), again, *sections, Prose(last)])
    files.write_atomic(output, markdown([page], level=1).encode())
    click.echo(f"wrote {output} ({time.perf_counter() - begun:.0f} s)", err=True)


if __name__ == "__main__":
    main()
