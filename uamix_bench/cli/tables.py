"""Tables on stdout that fit 80 columns of a terminal, and are never cut or wrapped in a pipe."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

if TYPE_CHECKING:
    from uamix_bench.contract import Check
    from uamix_bench.results import Result

_UNBOUNDED = 1_000  # columns: what a pipe can take
_NARROWEST = 72  # below it the terminal itself has to wrap


class Table(RichTable):
    """A table of plain text.

    Args:
        columns: Headings; one that ends in ``>`` is aligned to the right.
        wrapped: Headings of the columns whose text may go over several lines.
    """

    def __init__(self, *columns: str, wrapped: tuple[str, ...] = ()) -> None:
        super().__init__(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for heading in columns:
            right = heading.endswith(">")
            words = heading in wrapped
            self.add_column(
                heading.removesuffix(">"),
                justify="right" if right else "left",
                no_wrap=right,  # numbers are never cut
                overflow="fold" if words else "ellipsis",
            )

    def add(self, *cells: str) -> None:
        """Adds a row; nothing in it is markup."""
        self.add_row(*map(Text, cells))


def show(table: RichTable, title: str = "") -> None:
    """Prints a table to stdout, without spaces at the ends of lines."""
    console = Console() if sys.stdout.isatty() else Console(width=_UNBOUNDED, no_color=True)
    console.width = max(console.width, _NARROWEST)
    if console.measure(table).maximum > console.width:
        table.padding = 0  # one space between columns before anything is cut
    with console.capture() as captured:
        console.print(table)
    lines = (line.rstrip() for line in captured.get().splitlines())
    if title:
        print(title)
    print(textwrap.dedent("\n".join(lines)).strip("\n"))


def show_card(facts: Mapping[str, Any]) -> None:
    """Prints facts one a line; those that are empty are left out."""
    table = RichTable.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value not in (None, "", [], {}):
            table.add_row(Text(name.replace("_", " ")), Text(_words(value)))
    show(table)


def show_checks(title: str, checks: Sequence[Check]) -> None:
    """Prints the outcome of checks, one a line."""
    width = max(len(check.name) for check in checks)
    print(title)
    for check in checks:
        text = "; ".join(filter(None, (check.reason, check.remedy)))
        print(f"  {'ok    ' if check.passed else 'failed'}  {check.name:{width}}  {text}".rstrip())


def count(number: int | None) -> str:
    """A number with thousands separated; nothing where it is not known."""
    return "" if number is None else f"{number:,}"


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_words(part)}" for name, part in value.items() if part not in (None, "", []))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "\n".join(_words(part) for part in value)
    return str(value).strip()


def show_results(results: Sequence[Result]) -> None:
    """Prints the scores, and each model's paired difference to the first on the same episodes."""
    protocols = {result.protocol for result in results}
    sweep = len({(protocol.n_way, protocol.k_shot) for protocol in protocols}) > 1
    first = results[0].protocol
    setting = "" if sweep else f"{first.n_way}-way {first.k_shot}-shot, "
    words = f"{setting}{first.n_query} queries a class, {first.episodes:,} episodes, {first.classifier}"
    words += f", seed {first.seed}" if first.seed else ""
    words += ", group-disjoint" if first.group_disjoint else ""
    words += "" if first.name in ("paper", "custom") else f", {first.name}"
    cell = ["n", "k"] if sweep else []
    labels = _labels(results)
    table = Table(
        "model",
        "task",
        *(f"{name}>" for name in cell),
        "accuracy %>",
        "classes>",
        "clips>",
        "clips/s>",
        "episodes/s>",
    )
    for result in results:
        cost = result.cost
        table.add(
            labels[result.id],
            _task(result),
            *_cell(result, sweep),
            _per_cent(result.score.accuracy, result.score.ci95) + ("" if result.status.complete else "*"),
            count(result.task.classes),
            count(result.task.clips),
            _rate(cost.embedded_clips, cost.embed_s) if cost.embedded_clips else "cached",
            _rate(result.protocol.episodes, cost.episodes_s),
        )
    show(table, words)
    for result in results:
        if not result.status.complete:
            skipped = len(result.status.skipped)
            what = f"{skipped} broken clip{'s' * (skipped != 1)} left out" if skipped else "a part of the clips"
            print(f"* {labels[result.id]} on {_task(result)}: partial ({what}), not comparable")
    _show_differences(results, labels, sweep)


def show_plan(items: Sequence[Mapping[str, Any]]) -> None:
    """Prints what would be evaluated."""
    table = Table("model", "task", "n>", "k>", "q>", "episodes>", "clips to embed>", "of>")
    for item in items:
        protocol = item["protocol"]
        numbers = (protocol["n_way"], protocol["k_shot"], protocol["n_query"], protocol["episodes"])
        table.add(item["model"], item["task"], *map(count, (*numbers, item["clips_drawn"], item["clips"])))
    show(table)


def _show_differences(results: Sequence[Result], labels: Mapping[str, str], sweep: bool) -> None:
    from uamix_bench.statistics import paired

    pairs: list[tuple[Result, Result]] = []
    firsts: dict[tuple[str, ...], Result] = {}
    for result in results:
        if result.status.complete and result.protocol.episodes > 1:
            episodes = result.protocol.model_dump_json(), result.episodes.digest
            key = (result.task.clips_sha256, *episodes, result.model.dtype)
            first = firsts.setdefault(key, result)
            if first is not result:
                pairs.append((first, result))
    if not pairs:
        return
    cell = ["n>", "k>"] if sweep else []
    title = f"Difference to {labels[pairs[0][0].id]} on the same episodes (95%, of these clips)"
    table = Table("model", "task", *cell, "points>")
    for first, result in pairs:
        found = paired(result.accuracies(), first.accuracies())
        table.add(
            labels[result.id],
            _task(result),
            *_cell(result, sweep),
            f"{100 * found.difference:+.2f} ± {100 * found.half_width:.2f}",
        )
    print()
    show(table, title)


def _labels(results: Sequence[Result]) -> dict[str, str]:
    """What to call each result's model: its name, a part of its weights' fingerprint where two share it, and bf16."""
    weights: dict[str, set[str | None]] = {}
    for result in results:
        weights.setdefault(result.model.name, set()).add(result.model.weights_sha256)
    return {
        result.id: result.model.name
        + (f" {(result.model.weights_sha256 or '')[:6]}" if len(weights[result.model.name]) > 1 else "")
        + (f" {result.model.dtype}" if result.model.dtype != "float32" else "")
        for result in results
    }


def _task(result: Result) -> str:
    """Name and version; of a user's own data the name alone, as its version is a hash."""
    name = result.task.name
    return name if name.startswith("local/") else f"{name}@{result.task.version}"


def _cell(result: Result, sweep: bool) -> tuple[str, ...]:
    return (str(result.protocol.n_way), str(result.protocol.k_shot)) if sweep else ()


def _per_cent(value: float, half_width: float | None) -> str:
    return f"{100 * value:.2f}" + (f" ± {100 * half_width:.2f}" if half_width is not None else "")


def _rate(number: int, seconds: float) -> str:
    rate = number / max(seconds, 1e-9)
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
