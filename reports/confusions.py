"""Confusion matrices of replayed episodes, and the classes that are confused most often."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from uamix_bench.evaluation.replay import Replay
from uamix_bench.reports.blocks import Block, Prose, Table, percent
from uamix_bench.reports.matrix import matrix
from uamix_bench.util.errors import BenchError
from uamix_bench.util.text import listed

_PAIRS = 15  # of classes, most often confused
_MOST_CELLS = 250_000  # of all matrices of a page: 100 matrices of 50 classes, some 30 MB
_ABOUT = "Shares of confusions are of the queries of the true class, in episodes that contain the other class as well."


class Confusions:
    """Confusions for one page. What holds for all of them is told once.

    Args:
        most_classes: Number of classes up to which a matrix is drawn; beyond, only the pairs are shown.
    """

    def __init__(self, most_classes: int) -> None:
        self._most_classes = most_classes
        self._cells = _MOST_CELLS
        self._told: set[str] = set()

    def blocks(self, replays: Mapping[str, Replay | BenchError]) -> Iterator[Block]:
        """Matrix and most frequent errors of each model, and the reasons for missing ones.

        Args:
            replays: Replays of one draw, or the errors that prevent them, by model.
        """
        for name, found in replays.items():
            if isinstance(found, Replay):
                yield from self._once(_ABOUT)
                yield from self._confusion(name, found)
        lacking: dict[str, list[str]] = {}  # models by the reason
        for name, found in replays.items():
            if not isinstance(found, Replay):
                lacking.setdefault("; ".join(filter(None, (found.reason, found.remedy))), []).append(name)
        for reason, names in lacking.items():
            yield from self._once(f"No confusion matrix of {listed(names)}: {reason}.")

    def _once(self, text: str) -> Iterator[Prose]:
        if text not in self._told:
            self._told.add(text)
            yield Prose(text)

    def _confusion(self, name: str, found: Replay) -> Iterator[Block]:
        counts, of = found.confusion()
        labels = found.episodes.class_names
        shares = counts / np.maximum(of, 1)
        wrong = np.where(np.eye(len(labels), dtype=bool), -1.0, shares)
        worst = np.column_stack(np.unravel_index(np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS], wrong.shape))
        pairs = [(int(true), int(given)) for true, given in worst if wrong[true, given] > 0]
        if len(labels) <= self._most_classes:
            if self._cells >= len(labels) ** 2:
                self._cells -= len(labels) ** 2
                words = "; ".join(f"{labels[true]} as {labels[given]}" for true, given in pairs[:3])
                description = f"Most frequent errors of {name}: {words}." if pairs else f"{name} makes no error."
                title = f"Confusion matrix of {name}, %"
                yield matrix(title, labels, counts, of=of, description=description)
            else:
                yield from self._once(f"Matrices beyond {_MOST_CELLS:,} cells are left out of this page.")
        if not pairs:
            yield Prose(f"{name} makes no error in these episodes.")
            return
        rows = [
            (
                labels[true],
                labels[given],
                percent(float(shares[true, given])),
                f"{counts[true, given]:,} of {of[true, given]:,}",
            )
            for true, given in pairs
        ]
        yield Table(("class", "predicted", "% of queries>", "queries>"), rows, f"Most often confused by {name}")
