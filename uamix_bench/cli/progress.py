"""Progress on a terminal: rich bars on stderr, and lines that the user should see."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from uamix_bench.util.progress import Progress


class TerminalProgress(Progress):
    """Progress display: bars if stderr is a terminal; `say` prints to stderr.

    Args:
        quiet: Whether to show neither bars nor lines.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "clips") -> Iterator[Callable[[int, str], None]]:
        """Draws a bar with rate and time left; see :meth:`Progress.bar`."""
        if self.quiet or not sys.stderr.isatty():
            with super().bar(what, total, unit) as advance:
                yield advance
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress as Display, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn(unit, markup=False),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Display(*columns, console=console, transient=True, disable=console.is_dumb_terminal) as display:
            bar = display.add_task(what, total=total, note="")

            def advance(count: int, note: str = "") -> None:
                display.advance(bar, count)
                if note:
                    display.update(bar, note=note)

            plain, self._say = self._say, lambda line: display.console.print(line, markup=False, highlight=False)
            try:
                yield advance
            finally:
                self._say = plain

    def say(self, line: str) -> None:
        """Prints one line to stderr."""
        if not self.quiet:
            self._say(line)
