"""Progress reporting. The library calls a `Progress`; the command line draws bars; the default is silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Progress:
    """Silent progress; ``uamix_bench.cli`` has one that draws bars on a terminal."""

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "clips") -> Iterator[Callable[[int, str], None]]:
        """Opens a bar of `total` units and yields ``advance(count, note)``; the note is shown beside the bar."""

        def advance(count: int, note: str) -> None:
            """Ignores the progress."""

        yield advance

    def say(self, line: str) -> None:
        """Shows one line that the user should see now."""


SILENT = Progress()
