"""How long work tells how far it is: the library calls a Progress, the command line shows it, the default is silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Progress:
    """Silent progress; ``uamix_bench.cli`` has one that draws bars on a terminal."""

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "clips") -> Iterator[Callable[[int, str], None]]:
        """Opens a bar of `total` units and yields ``advance(count, note)``, where the note is shown beside it."""

        def advance(count: int, note: str) -> None:
            """Says nothing."""

        yield advance

    def say(self, line: str) -> None:
        """Tells one line that the user should see now."""


SILENT = Progress()
