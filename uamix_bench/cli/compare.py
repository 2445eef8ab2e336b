"""``uamix-bench compare``: verdicts on two sets of results, for a person and for a build server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from uamix_bench.cli import commands, options
from uamix_bench.cli.errors import Session
from uamix_bench.util.errors import RegressionFound, UsageError
from uamix_bench.util.text import listed

if TYPE_CHECKING:
    from uamix_bench.cli.ci import Case
    from uamix_bench.comparison.compare import Comparison
    from uamix_bench.comparison.gate import Gate
    from uamix_bench.comparison.sides import Side
    from uamix_bench.comparison.timings import Timing

_NAMED = 3  # pairs that the last line names


@commands.command("compare")
@click.argument("base", callback=options.to_path)
@click.argument("head", callback=options.to_path)
@click.option(
    "--fail-on",
    multiple=True,
    metavar="FIELD:NUMBER%",
    help="Largest drop allowed, else exit code 5: accuracy:1pp, accuracy:2%, or a time, min:10%. Repeatable.",
)
@options.data_dir
@options.own_task
@options.audio_root
@options.path("--markdown", "Markdown file for a pull request comment, at most 65,000 bytes.", "FILE")
@options.path("--html", "HTML file for the report.", "FILE")
@options.path("--junit", "JUnit file with a test case for each pair.", "FILE")
@options.json_output
@click.pass_obj
def command(
    session: Session,
    base: Path,
    head: Path,
    fail_on: tuple[str, ...],
    data_dir: Path | None,
    task: tuple[str, ...],
    audio_root: Path | None,
    markdown: Path | None,
    html: Path | None,
    junit: Path | None,
) -> None:
    """Compare the results in HEAD with those in BASE: folders, single files, or two files of pytest-benchmark.

    Pairs share model, task, protocol and episodes. Verdicts speak of new clips where the clip table is here and 10,000
    episodes were drawn, else of these clips only. Without --fail-on the exit code is 0, or 2 where a pair of BASE is
    missing or cannot be compared; with it 5 where a one-sided 95% interval, Holm-adjusted, excludes the margin.
    """
    items = session.begin("compare")
    from uamix_bench.comparison.gate import parse_gates
    from uamix_bench.comparison.sides import read_side

    gates = parse_gates(fail_on)
    sides = read_side(base), read_side(head)
    _check(base, sides[0], gates)
    comparison = _compare_results(*sides, gates, data_dir, task, audio_root)
    timings = _compare_timings(head, *sides, gates)
    items += comparison.facts() if comparison else []
    if timings:
        from uamix_bench.comparison.timings import facts

        items += facts(timings)

    from uamix_bench.cli import ci
    from uamix_bench.plugins import registry
    from uamix_bench.util.files import write_atomic

    page = registry.find_report("regression")(comparison, timings, gates=[gate.text for gate in gates])
    found = ci.cases(comparison, timings)
    if markdown:
        write_atomic(markdown, ci.cut(page.markdown, ci.COMMENT_BYTES))
    if html:
        write_atomic(html, page.html.encode())
    if junit:
        ci.write_junit(junit, found)
    ci.summarise(page.markdown)
    if not session.json:
        from uamix_bench.cli.verdicts import show_verdicts

        show_verdicts(comparison, timings)
    ci.annotate(found)
    _end(found, gates)


def _check(path: Path, base: Side, gates: tuple[Gate, ...]) -> None:
    """Refuses a BASE that has nothing to compare with, or nothing that a gate applies to."""
    if not base.results and base.timings is None:
        raise UsageError(
            path, "holds nothing to compare with", "name a folder of results or a file of pytest-benchmark"
        )
    for gate in gates:
        if not (base.results if gate.field == "accuracy" else base.timings):
            what = "few-shot result" if gate.field == "accuracy" else "file of pytest-benchmark"
            raise UsageError(f"--fail-on {gate.text}", f"BASE holds no {what}", "omit it, or name another BASE")


def _compare_results(
    base: Side,
    head: Side,
    gates: tuple[Gate, ...],
    data_dir: Path | None,
    own: tuple[str, ...],
    audio_root: Path | None,
) -> Comparison | None:
    if not base.results:
        return None
    from uamix_bench.comparison.compare import compare
    from uamix_bench.evaluation.redraw import Redraw

    draws = Redraw(data_dir, own, audio_root).draws([*base.results, *head.results])
    gate = next((gate for gate in gates if gate.field == "accuracy"), None)
    return compare(base.results, head.results, gate, draws)


def _compare_timings(path: Path, base: Side, head: Side, gates: tuple[Gate, ...]) -> tuple[Timing, ...]:
    if base.timings is None:
        return ()
    if head.timings is None:
        raise UsageError(path, "holds no file of pytest-benchmark, and BASE does", "write it with --benchmark-json")
    from uamix_bench.comparison.timings import compare_timings

    return compare_timings(base.timings, head.timings, [gate for gate in gates if gate.field != "accuracy"])


def _end(found: list[Case], gates: tuple[Gate, ...]) -> None:
    """Reports the outcome in one line and by the exit code."""
    for outcome, error, words in (
        ("failed", RegressionFound, f"fail {', '.join(gate.text for gate in gates)}"),
        ("error", UsageError, "cannot be made"),
    ):
        wrong = [case for case in found if case.outcome == outcome]
        if wrong:
            named = listed((f"{case.group}, {case.name}: {case.message}" for case in wrong), _NAMED, "; ")
            raise error(f"{len(wrong)} of {len(found)} comparisons", f"{words}: {named}")
