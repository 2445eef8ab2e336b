"""Clips whose files are equal byte for byte under other names. Free of torch.

Decoded sounds are not compared: the same recording in another format, or with another header, is no copy here.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from uamix_bench.storage.digests import file_digests
from uamix_bench.util.progress import SILENT, Progress

Integers = npt.NDArray[np.int64]


def first_of_equals(digests: Sequence[bytes]) -> Integers:
    """(n,) int64: for each of n digests the index of the first equal one."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest, index) for index, digest in enumerate(digests)], np.int64)


def first_copies(paths: Sequence[str], progress: Progress = SILENT) -> Integers:
    """(n,) int64: for each of n files the index of the first of equal bytes; its own where it cannot be read.

    Files are read where others have the same size, and those whose digest is remembered are not read again.
    """
    sizes = [_size(path) for path in paths]
    times = Counter(sizes)
    alike = [index for index, size in enumerate(sizes) if size is not None and times[size] > 1]
    found = file_digests([paths[index] for index in alike], progress=progress)
    readable = [at for at in range(len(alike)) if at not in found.failed]
    rows = np.array(alike, np.int64)[readable]
    first = np.arange(len(paths))
    first[rows] = rows[first_of_equals([found.digests[at] for at in readable])]
    return first


def one_group(groups: Sequence[str], first: Integers) -> list[str]:
    """Groups such that clips of equal content share one, named by the first of those that come together.

    Args:
        groups: (n,) the group of each clip.
        first: (n,) from :func:`first_copies`.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    group_of, names = pd.factorize(np.asarray(groups, object), sort=True)
    count = len(names)
    links = coo_array((np.ones(len(first), np.int8), (group_of, count + first)), shape=(count + len(first),) * 2)
    _, component = connected_components(links, directed=False)
    _, lowest = np.unique(component[:count], return_index=True)  # of each component that has a group: all have
    leader = np.empty(component.max(initial=-1) + 1, np.int64)
    leader[component[lowest]] = lowest
    return [str(name) for name in names[leader[component[group_of]]]]


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - half the time of Path.stat, and there are 300,000
    except OSError:
        return None
