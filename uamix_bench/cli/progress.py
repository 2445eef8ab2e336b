"""Progress on a terminal: rich bars on stderr, and lines that the user should see."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from uamix_bench.util.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Display


class TerminalProgress(Progress):
    """Progress display: bars if stderr is a terminal; `say` prints to stderr.

    Args:
        quiet: Whether to show neither bars nor lines.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._display: Display | None = None  # of all bars that are open

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "clips") -> Iterator[Callable[[int, str], None]]:
        """Draws a bar with rate and time left; see :meth:`Progress.bar`."""
        if self.quiet or not sys.stderr.isatty():
            with super().bar(what, total, unit) as silent:
                yield silent
            return
        display = self._display = self._display or _begun()
        bar = display.add_task(what, total=total, unit=unit, note="")

        def advance(count: int, note: str = "") -> None:
            display.advance(bar, count)
            if note:
                display.update(bar, note=note)

        try:
            yield advance
        finally:
            display.remove_task(bar)
            if not display.tasks:
                display.stop()
                self._display = None

    def say(self, line: str) -> None:
        """Prints one line to stderr."""
        if self.quiet:
            return
        if self._display:
            self._display.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)


def _begun() -> Display:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress as Display, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}", markup=False),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", markup=False),
    )
    display = Display(*columns, console=console, transient=True, disable=console.is_dumb_terminal)
    display.start()
    return display
