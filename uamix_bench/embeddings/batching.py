"""Batches of items with equal length in tokens, so that nothing is padded. Equal input order gives equal batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")

_HELD = 32 << 20  # samples that wait for a full batch of their length: 128 MiB as float32


class Batches(Generic[Item]):
    """Collector of items with equal length in tokens into batches.

    Args:
        size: Number of items in a batch, at most.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._waiting: defaultdict[int, list[tuple[Item, int]]] = defaultdict(list)  # by columns of tokens
        self._held = 0

    def add(self, item: Item, samples: int, columns: int) -> list[Item]:
        """Adds an item. Returns the batch that is due: a full one, the fullest if too many samples wait, or none."""
        waiting = self._waiting[columns]
        waiting.append((item, samples))
        self._held += samples
        if len(waiting) == self.size:
            return self._take(columns)
        if self._held > _HELD:
            return self._take(max(self._waiting, key=lambda columns: len(self._waiting[columns])))
        return []

    def rest(self) -> Iterator[list[Item]]:
        """Batches of the items that still wait."""
        return map(self._take, sorted(self._waiting))

    def _take(self, columns: int) -> list[Item]:
        batch = self._waiting.pop(columns)
        self._held -= sum(samples for _, samples in batch)
        return [item for item, _ in batch]
