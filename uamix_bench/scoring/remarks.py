"""Remarks on the clips of episodes: classes left out, missing groups, copies of clips. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from uamix_bench.data.folders import Remark
from uamix_bench.scoring.episodes import EpisodeSet
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.util.arrays import Ints
from uamix_bench.util.text import listed

_NAMED = 4  # classes in one line
_PAIRS = 2  # of copies


def remarks(
    protocols: Sequence[Protocol], draws: Sequence[EpisodeSet], first: Ints | None = None
) -> tuple[Remark, ...]:
    """Remarks for readers of scores on these episodes; empty if there are none.

    Args:
        protocols: Protocols of one sweep, or one alone.
        draws: Episodes of each protocol, of one clip table of n rows.
        first: First row of equal content for each clip drawn, (n,), from
            :func:`uamix_bench.data.copies.first_copies`; None if sounds are not compared.
    """
    copies = _copies(protocols[0], draws, first) if first is not None else ()
    return (*_left_out(protocols, draws), *_ungrouped(protocols, draws), *copies)


def _left_out(protocols: Sequence[Protocol], draws: Sequence[EpisodeSet]) -> Iterable[Remark]:
    """Remark on classes with too few clips, with the numbers of the protocol that needs most."""
    protocol, drawn = max(
        zip(protocols, draws, strict=True), key=lambda one: (one[0].fewest_clips, one[0].k_shot + one[0].n_query)
    )
    if not drawn.classes_left_out:
        return
    names, k, q, fewest = drawn.table.class_names, protocol.k_shot, protocol.n_query, protocol.fewest_clips
    sizes = np.bincount(drawn.table.class_of, minlength=len(names))
    short = [f"{names[c]} has {sizes[c]}" for c in np.argsort(sizes, kind="stable") if sizes[c] < fewest]
    asked = fewest == k + q  # and not by min_clips, which --q auto keeps
    why = f"k {k} + q {q}" if asked else "min_clips"
    text = f"{len(short)} of {len(names)} classes are left out for having fewer than {fewest} clips ({why}): "
    text += listed(short, _NAMED)
    yield Remark("classes", text + ("; --q auto leaves no class out" if asked and sizes.min() > k else ""))


def _ungrouped(protocols: Sequence[Protocol], draws: Sequence[EpisodeSet]) -> Iterable[Remark]:
    """Remark on group-disjoint episodes of a table without a group of several clips."""
    if any(protocol.group_disjoint for protocol in protocols) and draws[0].group_of is None:
        yield Remark("groups", "no two clips share a group, so that group-disjoint episodes keep nothing apart")


def _copies(protocol: Protocol, draws: Sequence[EpisodeSet], first: Ints) -> Iterable[Remark]:
    """Remark on drawn clips of equal content under other names, perhaps under other labels."""
    rows = np.unique(np.concatenate([drawn.clips for drawn in draws]))
    _, content, times = np.unique(first[rows], return_inverse=True, return_counts=True)
    copied = times[content] > 1
    if not copied.any():
        return
    table = draws[0].table
    alike: dict[int, list[int]] = {}
    for row, number in zip(rows[copied].tolist(), content[copied].tolist(), strict=True):
        alike.setdefault(number, []).append(row)
    pairs = [" and ".join(table.ids[row] for row in those[:2]) for those in alike.values()]
    text = f"{int(copied.sum()):,} of {len(rows):,} clips drawn are identical copies ({listed(pairs, _PAIRS)})"
    several = []
    for those in alike.values():
        of_label = {table.class_of[row]: row for row in reversed(those)}
        if len(of_label) > 1:
            chosen = [(table.ids[row], table.class_names[table.class_of[row]]) for row in sorted(of_label.values())]
            several.append(" and ".join(f"{clip} as {label}" for clip, label in chosen[:2]))
    if several:
        stand = "recording stands" if len(several) == 1 else "recordings stand"
        text += f"; {len(several):,} {stand} under several labels ({listed(several, _PAIRS)})"
    shares = dict.fromkeys(f"{100 * share:.1f}" for share in sorted(drawn.shared(first) for drawn in draws))
    ends = list(shares)
    text += f"; {' to '.join(dict.fromkeys((ends[0], ends[-1])))}% of queries have a copy among their supports"
    yield Remark("copies", text + ("" if protocol.group_disjoint else "; --group-disjoint keeps copies on one side"))
