"""Sweeps over shots: every cell of one draws from the classes that its largest number of shots can use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from uamix_bench.data.clip_table import SortedClips
from uamix_bench.scoring.episodes import PAPER, Protocol


def sweep(protocols: Sequence[Protocol], table: SortedClips) -> list[Protocol]:
    """The cells of a grid with the `min_clips` that gives all cells of a sweep the same classes.

    Cells that differ in ways, shots and `min_clips` alone are one sweep, a single cell too. Without this a larger
    number of shots leaves out the small classes, and accuracy falls where it should rise. `min_clips` is stated where
    it leaves out a class that supports and queries alone would keep, and None elsewhere: a cell of a sweep that loses
    no class has the id that it has alone. What this returns, or a part of it, is returned unchanged.

    Args:
        protocols: The cells.
        table: The clips that they draw from.
    """
    sizes = np.bincount(table.class_of, minlength=len(table.class_names))
    fewest: dict[Protocol, int] = {}
    for one in protocols:
        fewest[_kin(one)] = max(fewest.get(_kin(one), 0), one.fewest_clips)
    cells = []
    for one in protocols:
        most, own = fewest[_kin(one)], one.k_shot + one.n_query
        drops = bool(np.any((sizes >= own) & (sizes < most)))
        cells.append(one.model_copy(update={"min_clips": most if drops else None}))
    return cells


def _kin(protocol: Protocol) -> Protocol:
    """What the cells of one sweep share."""
    free = ("name", "n_way", "k_shot", "min_clips")
    return protocol.model_copy(update={name: getattr(PAPER, name) for name in free})
