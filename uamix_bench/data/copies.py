"""Detection of clips whose sounds are identical byte for byte under other names. Free of torch.

Segments are identical if their files and their times are. Decoded sounds are not compared: the same recording in
another format, or with another header, does not count.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

import numpy as np

from uamix_bench.data.clip_table import codes
from uamix_bench.data.sound import Sound, sound_digests
from uamix_bench.util.arrays import Ints
from uamix_bench.util.progress import SILENT, Progress


def first_of_equals(digests: Sequence[bytes]) -> Ints:
    """Index of the first equal digest for each of n digests, (n,) int64."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest, index) for index, digest in enumerate(digests)], np.int64)


def first_copies(sounds: Sequence[Sound], progress: Progress = SILENT, memo: bool = True) -> Ints:
    """Index of the first identical sound for each of n sounds, (n,) int64; its own index if one cannot be read.

    Only files of equal size, and rows of parquet files, are read. With `memo` digests are stored, and what has
    one is not read again.
    """
    shapes = [_shape(sound) for sound in sounds]
    times = Counter(shapes)
    alike = [index for index, shape in enumerate(shapes) if shape is not None and times[shape] > 1]
    found = sound_digests([sounds[index] for index in alike], memo=memo, progress=progress)
    readable = [at for at in range(len(alike)) if at not in found.failed]
    rows = np.array(alike, np.int64)[readable]
    first = np.arange(len(sounds))
    first[rows] = rows[first_of_equals([found.digests[at] for at in readable])]
    return first


def one_group(groups: Sequence[str], first: Ints) -> list[str]:
    """Groups in which clips of equal content share one. Joined groups take the name of the first of them.

    Args:
        groups: Group of each clip, (n,).
        first: Index of each clip's first identical sound, (n,) int64, from :func:`first_copies`.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names, group_of = codes(groups)
    count = len(names)
    links = coo_array((np.ones(len(first), np.int8), (group_of, count + first)), shape=(count + len(first),) * 2)
    _, component = connected_components(links, directed=False)
    _, lowest = np.unique(component[:count], return_index=True)  # of each component that has a group: all have
    leader = np.empty(component.max(initial=-1) + 1, np.int64)
    leader[component[lowest]] = lowest
    return [names[number] for number in leader[component[group_of]].tolist()]


def _shape(sound: Sound) -> tuple[float | None, ...] | None:
    """Size of the file, and times, which identical sounds share; rows of parquet files share none."""
    if sound.row is not None:
        return ()
    try:
        size = os.stat(sound.path).st_size  # noqa: PTH116 - half the time of Path.stat, and there are 300,000
    except OSError:
        return None
    return size, sound.start_s, sound.end_s
