"""Few-shot episodes: a draw that depends on protocol, labels and index only.

`ALGORITHM` in full, so that it can be implemented elsewhere (all integers unbounded):

- key: the first 16 bytes, little-endian, of SHA-256 over the canonical JSON (sorted keys, no spaces, UTF-8)
  of {algorithm, seed, task, version, n_way, group_disjoint}.
- stream s: the raw 64-bit output of ``numpy.random.Philox(key=key, counter=s << 192)``. Stream 0 draws
  classes, stream 1 orders groups, stream 2 + p makes the p-th clip draw of every class. Each has a fixed
  block of words per episode: n_way words, and in stream 1 one word for each group of the table; none depends
  on k_shot, n_query or the number of episodes.
- integer below n from word w: ``((w >> 32) * n) >> 32``.
- without replacement, the j-th of a pool of m: an integer r below m - j; then, over the ranks already taken
  in ascending order, r grows by one for each that is not above it. r is the rank in the sorted pool.
- episode e, class slot i: word e * n_way + i of stream 0 draws the class among those with enough clips,
  sorted by name; the same word of stream 2 + p draws the clip at position p, the n_query queries first, then
  the supports in order, from the clips of the class sorted by id.
- group_disjoint: word e * G + g of stream 1 belongs to the g-th of the G groups of the table, sorted; groups
  come in ascending order of their words. Support j is drawn from the shortest prefix of groups that gives
  every class j + 1 clips (pool sorted by word, then clip id), the queries from all groups behind the prefix
  of the last support. Where these are too few, the group order alone is drawn again with key + 1, key + 2,
  ...: classes keep their frequencies.

- k_shot 0 (zero-shot): the episodes of one support, without it; so queries and classes are those of k_shot 1.

Strings sort by code point.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from json.encoder import encode_basestring

import numpy as np
import numpy.typing as npt

from uamix_bench.data.clip_table import SortedClips
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.util import files
from uamix_bench.util.arrays import Ints, Words
from uamix_bench.util.errors import UsageError

ALGORITHM = "philox-1"
_CLASSES, _GROUPS, _CLIPS = 0, 1, 2  # streams; _CLIPS is the first of n_query + k_shot
_REDRAWS = 64
_CHUNK = 16_384  # class slots drawn together: their ranks stay in the processor's cache


@dataclass(frozen=True, eq=False)
class EpisodeSet:
    """Episodes as indices into a clip table of n clips.

    Attributes:
        classes: Class of each class slot, (E, N) int64, as an index into `class_names`.
        support: Rows of the clip table that are supports, (E, N, K) int64, in the order drawn.
        query: Rows of the clip table that are queries, (E, N, Q) int64, in the order drawn.
        class_names: Names of the C classes with enough clips, sorted.
        classes_left_out: Number of classes with fewer clips than `Protocol.fewest_clips`.
        class_of: Class of each clip, (n,) int64, as an index into `class_names`; -1 if its class is left out.
        table: Clip table that the episodes are drawn from.
    """

    classes: Ints
    support: Ints
    query: Ints
    class_names: tuple[str, ...]
    classes_left_out: int
    class_of: Ints
    table: SortedClips

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the n clips of the table, in the caller's order."""
        return self.table.ids

    @property
    def group_of(self) -> Ints | None:
        """Number of each clip's group, (n,) int64, in sorted order from 0; None if every clip is its own group."""
        return self.table.group_of if self.table.grouped else None

    @cached_property
    def drawn(self) -> Ints:
        """Rows of each class slot, (E, N, K + Q) int64, supports before queries."""
        return np.concatenate([self.support, self.query], axis=2)

    @cached_property
    def clips(self) -> Ints:
        """Distinct rows drawn, (U,) int64, ascending. Only these are ever embedded."""
        return np.flatnonzero(np.bincount(self.drawn.ravel(), minlength=len(self.ids)))

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON list of the clip ids in `drawn`, in its row-major order."""
        # What `files.digest` gives for the list, with each id quoted once: most are drawn again and again.
        quoted = np.empty(len(self.ids), object)
        quoted[self.clips] = [encode_basestring(self.ids[row]) for row in self.clips.tolist()]
        return hashlib.sha256(f"[{','.join(quoted[self.drawn.ravel()].tolist())}]".encode()).hexdigest()

    @cached_property
    def shared_group_share(self) -> float | None:
        """Share of queries whose group is also the group of a support of the same episode, of any class.

        None if every clip is its own group.
        """
        return None if self.group_of is None else self.shared(self.group_of)

    def shared(self, part_of: Ints) -> float:
        """Share of queries whose part is also a support's in the same episode. `part_of` (n,) numbers parts from 0."""
        supports = part_of[self.support].reshape(len(self.support), -1)
        queries = part_of[self.query].reshape(len(self.query), -1)
        held = np.zeros(int(part_of.max()) + 1, dtype=bool)
        shared = 0
        for support, query in zip(supports, queries, strict=True):
            held[support] = True
            shared += int(np.count_nonzero(held[query]))
            held[support] = False
        return shared / queries.size

    def compact(self) -> tuple[Ints, Ints]:
        """Supports (E, N, K) and queries (E, N, Q) as rows of a matrix with one row for each of `clips`."""
        row = np.zeros(len(self.ids), dtype=np.int64)
        row[self.clips] = np.arange(len(self.clips))
        return row[self.support], row[self.query]


def draw_sorted(
    protocol: Protocol,
    table: SortedClips,
    *,
    task: str,
    version: str,
    first: int = 0,
    episodes: int | None = None,
) -> EpisodeSet:
    """Draws the episodes of `protocol` from a clip table.

    Args:
        protocol: Protocol of the draw; its name, classifier and segments are unused.
        table: Sorted clip table.
        task: Name of the task, part of the key.
        version: Version of the task, part of the key.
        first: Index of the first episode.
        episodes: Number of episodes; by default the protocol's.

    Returns:
        Episodes ``first .. first + episodes``, identical to those of any longer draw.

    Raises:
        UsageError: Fewer than n_way classes have enough clips, or a class has too few groups.
    """
    count = protocol.episodes if episodes is None else episodes
    if protocol.k_shot == 0:
        one = protocol.model_copy(update={"k_shot": 1})
        whole = draw_sorted(one, table, task=task, version=version, first=first, episodes=count)
        return replace(whole, support=whole.support[:, :, :0])
    n, k, q = protocol.n_way, protocol.k_shot, protocol.n_query
    pools, class_of = _eligible(protocol, task, table)
    key = _key(protocol, task, version)

    class_words = _words(key, _CLASSES, first * n, count * n).reshape(count, n)
    classes = np.ascontiguousarray(_ranks(class_words.T, np.array(len(pools.names))).T, dtype=np.int64)
    support, query = np.empty((count, n, k), np.int64), np.empty((count, n, q), np.int64)
    step = max(1, _CHUNK // n)
    for start in range(0, count, step):
        chosen = classes[start : start + step]
        words = [_words(key, _CLIPS + p, (first + start) * n, chosen.size) for p in range(q + k)]
        if protocol.group_disjoint:
            queries, supports = _disjoint(protocol, key, first + start, chosen, pools, table.group_of, words)
        else:
            drawn = pools.starts[chosen].ravel() + _ranks(words, pools.sizes[chosen].ravel())
            queries, supports = drawn[:q], drawn[q:]
        query[start : start + step] = pools.rows[queries].T.reshape(-1, n, q)
        support[start : start + step] = pools.rows[supports].T.reshape(-1, n, k)
    return EpisodeSet(
        classes=classes,
        support=support,
        query=query,
        class_names=pools.names,
        classes_left_out=len(table.class_names) - len(pools.names),
        class_of=class_of,
        table=table,
    )


def _key(protocol: Protocol, task: str, version: str) -> int:
    fields = {
        "algorithm": ALGORITHM,
        "seed": protocol.seed,
        "task": task,
        "version": version,
        "n_way": protocol.n_way,
        "group_disjoint": protocol.group_disjoint,
    }
    return int.from_bytes(hashlib.sha256(files.canonical_json(fields)).digest()[:16], "little")


def _words(key: int, stream: int, start: int, count: int) -> Words:
    """Words ``start .. start + count`` of a random stream. The counter moves four words at a time."""
    skip = start % 4
    philox = np.random.Philox(key=key % 2**128, counter=(stream << 192) + start // 4)
    return philox.random_raw(skip + count)[skip:]


def _ranks(words: Sequence[Words] | Words, pool: Ints) -> npt.NDArray[np.int32]:
    """Draws ranks without replacement, in order, side by side for M pools.

    Args:
        words: Random word of each draw, (P, M) uint64.
        pool: Pool sizes, broadcast to (P, M). A pool may grow from draw to draw, at its end.

    Returns:
        Ranks in 0 .. pool, distinct in each column, (P, M) int32.
    """
    shape = len(words), len(words[0])
    sizes = np.broadcast_to(pool, shape)
    ranks = np.empty(shape, np.int32)
    taken = np.empty(shape, np.int32)  # the ranks so far, ascending
    spare = np.empty(shape[1], np.int32)
    for j, word in enumerate(words):
        rank = ranks[j]
        rank[:] = ((word >> np.uint64(32)) * (sizes[j] - j).astype(np.uint64)) >> np.uint64(32)
        for earlier in taken[:j]:
            rank += rank >= earlier
        if j + 1 == len(words):
            break
        moving = rank.copy()
        for place in taken[:j]:
            np.maximum(place, moving, out=spare)
            np.minimum(place, moving, out=place)
            moving, spare = spare, moving
        taken[j] = moving
    return ranks


def _disjoint(
    protocol: Protocol,
    key: int,
    first: int,
    classes: Ints,
    pools: _Pools,
    group_of: Ints,
    words: list[Words],
) -> tuple[Ints, Ints]:
    """Draws supports and queries that share no group, for M class slots.

    Returns:
        Queries (Q, M) and supports (K, M), as indices of `pools.rows`.
    """
    orders, sides = [], []
    groups = int(group_of.max()) + 1
    for episode, chosen in enumerate(classes, start=first):
        order, side = _part_groups(protocol, key, episode, chosen, pools, group_of, groups)
        orders += order
        sides.append(side)
    pool, side = np.concatenate(orders), np.concatenate(sides, axis=1)
    sizes = pools.sizes[classes].ravel()
    starts = np.cumsum(sizes) - sizes
    q = protocol.n_query
    queries = starts + side[-1] + _ranks(words[:q], sizes - side[-1])
    return pool[queries], pool[starts + _ranks(words[q:], side)]


def _part_groups(
    protocol: Protocol,
    key: int,
    episode: int,
    classes: Ints,
    pools: _Pools,
    group_of: Ints,
    groups: int,
) -> tuple[list[Ints], Ints]:
    """Orders the clips of an episode's classes by the words of their groups.

    Returns:
        Indices of `pools.rows` in that order, for each class; and the number of them, from the first, that support j is
        drawn from, (K, N). Queries are drawn from those behind ``[-1]``.
    """
    k, q = protocol.k_shot, protocol.n_query
    runs = [np.arange(pools.starts[c], pools.starts[c] + pools.sizes[c]) for c in classes]
    members = [group_of[pools.rows[run]] for run in runs]
    for attempt in range(_REDRAWS):
        words = _words(key + attempt, _GROUPS, episode * groups, groups)
        orders = [np.argsort(words[member], kind="stable") for member in members]
        ordered = [words[member[order]] for member, order in zip(members, orders, strict=True)]
        last = np.max([word[:k] for word in ordered], axis=0)  # (K,) the word that ends each shortest prefix
        side = np.stack([np.searchsorted(word, last, side="right") for word in ordered], axis=1)
        left = pools.sizes[classes] - side[-1]
        if left.min() >= q:
            return [run[order] for run, order in zip(runs, orders, strict=True)], side
    raise UsageError(
        f"class '{pools.names[classes[left.argmin()]]}'",
        f"{_REDRAWS} random orders of its groups left fewer than {q} queries apart from the supports",
        "use a smaller --q or --k, leave the class out, or give up group_disjoint",
    )


@dataclass(frozen=True)
class _Pools:
    """Classes with enough clips, as runs of one list sorted by class name and clip id."""

    names: tuple[str, ...]
    sizes: Ints  # (C,)
    starts: Ints  # (C,) where each class begins in `rows`
    rows: Ints  # rows of the clip table


def _eligible(protocol: Protocol, task: str, table: SortedClips) -> tuple[_Pools, Ints]:
    """Leaves out classes with too few clips. Returns the pools and each clip's class among them, (n,), or -1."""
    sizes = np.bincount(table.class_of, minlength=len(table.class_names))
    kept = np.flatnonzero(sizes >= protocol.fewest_clips)
    if len(kept) < protocol.n_way:
        raise _too_few(protocol, task, table.class_names, sizes, len(kept))
    class_of, rows = table.class_of, table.rows
    if len(kept) < len(sizes):
        number = np.full(len(sizes), -1)
        number[kept] = np.arange(len(kept))
        class_of = number[class_of]
        rows = rows[class_of[rows] >= 0]
    pools = _Pools(
        names=tuple(table.class_names[c] for c in kept),
        sizes=sizes[kept],
        starts=np.cumsum(sizes[kept]) - sizes[kept],
        rows=rows,
    )
    return pools, class_of


def _too_few(protocol: Protocol, task: str, names: list[str], sizes: Ints, kept: int) -> UsageError:
    n, k, q, fewest = protocol.n_way, protocol.k_shot, protocol.n_query, protocol.fewest_clips
    short = [f"{names[c]} has {sizes[c]}" for c in np.argsort(sizes, kind="stable") if sizes[c] < fewest]
    why = f"k {k} + q {q}" if fewest == k + q else "min_clips"
    reason = f"{n}-way episodes need {n} classes of at least {fewest} clips ({why}), "
    reason += f"and {kept} of {len(names)} have that many"
    if short:
        reason += f": {', '.join(short[:4])}{', ...' if len(short) > 4 else ''}"
    if len(names) < 2:
        return UsageError(task, reason, "add classes")
    if fewest > k + q:
        return UsageError(task, reason, "use a smaller --min-clips, or a smaller largest --k")
    ways = min(n, len(names))
    holds = int(np.sort(sizes)[-ways])  # the last of the largest classes must hold k + q
    choices = [f"--q {holds - k}{' or less' * (holds - k > 1)}"] * (holds > k)
    choices += [f"--k {holds - q}{' or less' * (holds - q > 1)}"] * (holds > q)
    if not choices:
        return UsageError(task, reason, "use a smaller --k or --n")
    choices += ["--q auto"] * bool(sizes.min() > k)
    changes = [f"--n {ways}"] * (ways < n) + [", or ".join(choices)] * (holds < k + q)
    return UsageError(task, reason, f"use {' and '.join(changes)}")
