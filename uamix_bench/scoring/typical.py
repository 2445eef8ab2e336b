"""Likeness of an embedding to any class of a classifier, which tells sounds that are none of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from uamix_bench.util.arrays import Doubles, Ints

Table = npt.NDArray[np.floating[Any]]

_NARROWEST = 0.1  # of the mean radius: a class of near copies


class Typical(NamedTuple):
    """Place and size of each class among embeddings.

    Attributes:
        centres: Mean of each class's embeddings, (N, D) float64.
        radii: Mean squared distance of a class's embeddings from its centre, (N,) float64.
    """

    centres: Doubles
    radii: Doubles

    @classmethod
    def of(cls, rows: Table, slots: Ints) -> Typical:
        """Places of the classes of embeddings (n, D), whose class slots (n,) are 0 .. N - 1."""
        ways = int(slots.max()) + 1
        centres = np.stack([rows[slots == slot].mean(axis=0, dtype=np.float64) for slot in range(ways)])
        squares = ((rows - centres[slots]) ** 2).sum(axis=1)
        radii = np.bincount(slots, squares, ways) / np.bincount(slots, minlength=ways)
        least = max(_NARROWEST * float(radii.mean()), float(np.finfo(np.float64).tiny))
        return cls(centres, np.maximum(radii, least))

    def strangeness(self, rows: Table) -> Doubles:
        """Least squared distance of embeddings (n, D) from a centre, in radii of that class, (n,) float64.

        It is the distance of Lee et al., "A simple unified framework for detecting out-of-distribution samples and
        adversarial attacks", NeurIPS 2018, with one variance for all directions of a class.
        """
        from scipy.spatial.distance import cdist

        least: Doubles = (cdist(rows, self.centres, "sqeuclidean") / self.radii).min(axis=1)
        return least
