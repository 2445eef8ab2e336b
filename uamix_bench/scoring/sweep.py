"""Sweeps over shots, whose protocols all draw from the classes that the largest number of shots can use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from uamix_bench.data.clip_table import SortedClips
from uamix_bench.scoring.protocol import ALL_CLASSES, PAPER, Protocol
from uamix_bench.util.errors import UsageError


def sweep(protocols: Sequence[Protocol], table: SortedClips) -> list[Protocol]:
    """Protocols of a grid with the `min_clips` that gives all protocols of a sweep the same classes.

    Protocols that differ in ways, shots and `min_clips` alone are one sweep; a single protocol is one too. Otherwise a
    larger number of shots leaves out the small classes, and accuracy falls although it should rise. `min_clips` is set
    only if it leaves out a class that has enough supports and queries; else it is None. So a protocol of a sweep that
    loses no class has the same id as alone. A zero-shot protocol joins those of any classifier.
    Protocols that this function returned are returned unchanged.
    `ALL_CLASSES` ways become the number of classes with enough clips for all protocols of the sweep.

    Args:
        protocols: Protocols of the grid.
        table: Clip table that the episodes are drawn from.

    Raises:
        UsageError: All classes have fewer supports than a protocol has neighbors.
    """
    sizes = np.bincount(table.class_of, minlength=len(table.class_names))
    fewest: dict[Protocol, int] = {}
    for one in protocols:
        for kin in {_kin(one), _beside(one)}:
            fewest[kin] = max(fewest.get(kin, 0), one.fewest_clips)
    cells = []
    for one in protocols:
        most, own = fewest[_kin(one) if one.k_shot else _beside(one)], max(one.k_shot, 1) + one.n_query
        drops = bool(np.any((sizes >= own) & (sizes < most)))
        ways = max(2, int(np.count_nonzero(sizes >= most))) if one.n_way == ALL_CLASSES else one.n_way
        if one.neighbors > max(1, ways * one.k_shot):
            reason = f"is more than the {ways * one.k_shot} supports of an episode of all {ways} classes"
            raise UsageError(f"--neighbors {one.neighbors}", reason, "give fewer, or a larger --k")
        cells.append(one.model_copy(update={"n_way": ways, "min_clips": most if drops else None}))
    return cells


def _beside(protocol: Protocol) -> Protocol:
    """Fields that a zero-shot protocol shares with the few-shot ones beside it, whatever classifier these have."""
    return _kin(protocol).model_copy(update={"classifier": "", "neighbors": 1, "template": None})


def _kin(protocol: Protocol) -> Protocol:
    """Fields that the protocols of one sweep share, with defaults in the free ones."""
    free = ("name", "n_way", "k_shot", "min_clips")
    return protocol.model_copy(update={name: getattr(PAPER, name) for name in free})
