"""Looks of models in figures: one model, one colour, on every page."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from uamix_bench.reports.drawing import SERIES


def looks(names: Iterable[str]) -> dict[str, int]:
    """Numbers of looks by name, for :func:`uamix_bench.reports.drawing.look_of`; no two names have one.

    A name has the look that its checksum gives, so that pages of other models show it in the same colour. If another
    name of the page has it, the later one by the alphabet has the next that is free.
    """
    found: dict[str, int] = {}
    taken: set[int] = set()
    for place, name in enumerate(sorted(set(names))):
        first = place - place % len(SERIES)  # looks of the second round once all colours are taken
        wanted = zlib.crc32(name.encode()) % len(SERIES)
        free = (first + (wanted + step) % len(SERIES) for step in range(len(SERIES)))
        found[name] = next(number for number in free if number not in taken)
        taken.add(found[name])
    return found
