"""How cost grows: with clips, with N and K, and with the entries of the embedding cache."""

from __future__ import annotations

import hashlib
import time
import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt

from uamix_bench.data.clip_table import sort_clips
from uamix_bench.embeddings.cache import EmbeddingCache, ModelKey
from uamix_bench.reports.blocks import Cell, Prose, Section, Table
from uamix_bench.scoring.classifiers import nearest_centroid
from uamix_bench.scoring.episodes import EpisodeSet, draw_sorted
from uamix_bench.scoring.protocol import Protocol

from .. import limits, peers, tables
from ..scale import Scale
from ..tables import Case
from ..timing import Side, Times, measure
from ..workloads import WIDTH, drawn, embeddings, episode_bytes, episode_operations, table

BLOCK = 32_768  # rows of random numbers, repeated through the largest table
LOOKED_UP = 48_000  # clips that 600 episodes draw, at most
CACHED_WIDTH, ENTRY_BYTES = 192, 44  # bytes of an entry and its place in the index, beside its numbers
PAPER = Protocol()

Floats = npt.NDArray[np.float32]


def section(scale: Scale, folder: Path) -> Section:
    text = f"""
        The paper's evaluation, {PAPER.episodes} episodes of 5 classes, 1 support and 15 queries, of ever more clips.
        Their embeddings, of {WIDTH} numbers, lie in a mapped file, as large as they would be; those that are drawn are
        read from it. The clip table is sorted once a task, whatever the number of evaluations; its column stands apart.
        Memory is the peak of what Python and numpy allocate meanwhile (tracemalloc), without the mapped file and the
        table; needed are the embeddings drawn and the episodes' indices.
    """
    return Section("Growth", [Prose(text), _clips(scale, folder), _grid(scale), _cache(scale)])


def _clips(scale: Scale, folder: Path) -> Table:
    largest = max(scale.table_clips)
    mapped = np.memmap(folder / "embeddings", np.float32, "w+", shape=(largest, WIDTH))
    block = embeddings(min(BLOCK, largest))
    for start in range(0, largest, len(block)):
        mapped[start : start + len(block)] = block[: largest - start]
    rows = [_row(scale, mapped[:count], count) for count in scale.table_clips]
    columns = ["Clips", "drawn>", "sort, ms>", "draw and score, ms>", "easyfsl, ms>", "limit, ms>", tables.SHARE]
    del mapped
    (folder / "embeddings").unlink()
    return Table([*columns, "memory, MB>", "needed, MB>"], rows)


def _row(scale: Scale, features: Floats, count: int) -> list[Cell | str]:
    clips, labels = table([20] * (count // 20) if count < 10_000 else [200] * (count // 200))
    ordered = sort_clips(clips, labels, clips, ordered=True)

    def ours() -> EpisodeSet:
        episodes = draw_sorted(PAPER, ordered, task="bench", version="1")
        nearest_centroid(features[episodes.clips], *episodes.compact())
        return episodes

    sides = {
        "ours": Side(ours),
        "sort": Side(lambda: sort_clips(clips, labels, clips, ordered=True)),
        "gather": limits.gather(features),
        "product": limits.numpy_product(),
    }
    absent = {}
    if peers.is_installed("easyfsl"):
        evaluate, few = peers.easyfsl(features, labels), scale.peer_episodes
        sides["easyfsl"] = Side(lambda: evaluate(few), few / PAPER.episodes)
    else:
        absent["easyfsl"] = tables.NOT_INSTALLED
    times = measure(sides, scale.rounds)
    tracemalloc.start()
    episodes = ours()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    needed = len(episodes.clips) * 4 * WIDTH + episodes.support.nbytes + episodes.query.nbytes
    case = Case(f"{count:,}", times, _limit(times, 5, 1, PAPER.episodes), absent)
    name, *rest = case.row(["easyfsl"], tables.milliseconds)
    memory = [tables.significant(amount / 1e6) for amount in (peak, needed)]
    return [name, f"{len(episodes.clips):,}", tables.milliseconds(times.median("sort")), *rest, *memory]


def _limit(times: Times, n_way: int, k_shot: int, episodes: int = 1) -> npt.NDArray[np.float64]:
    moved, computed = episode_bytes(n_way, k_shot, PAPER.n_query), episode_operations(n_way, PAPER.n_query)
    return limits.least(times, gather=episodes * moved, product=episodes * computed)


def _grid(scale: Scale) -> Table:
    clips, labels = table([40] * 50)
    features = embeddings(len(clips))
    rows = []
    for n_way in scale.ways:
        cells: list[Cell | str] = [f"{n_way}-way"]
        for k_shot in scale.shots:
            protocol = Protocol(n_way=n_way, k_shot=k_shot, episodes=scale.episodes // n_way)

            def ours(protocol: Protocol = protocol) -> None:
                episodes = drawn(clips, labels, protocol)
                nearest_centroid(features, episodes.support, episodes.query)

            times = measure(
                {
                    "ours": Side(ours, protocol.episodes),
                    "gather": limits.gather(features),
                    "product": limits.numpy_product(),
                },
                scale.repeats,
            )
            share = float(np.median(_limit(times, n_way, k_shot) / times.seconds["ours"]))
            cells.append(Cell(tables.microseconds(times.median("ours")), f"({tables.per_cent(share)})"))
        rows.append(cells)
    note = "µs an episode, drawn and scored; in brackets our share of the limit. 2,000 clips of 50 classes, 15 queries."
    return Table(["N and K", *(f"{k_shot}-shot>" for k_shot in scale.shots)], rows, note=note)


def _cache(scale: Scale) -> Table:
    """Keeps ever more embeddings, and looks some up each time a new process would."""
    key = ModelKey("Bench", "bench/1", None, "0" * 64, None, "native", "mean", "float32", 16_000, CACHED_WIDTH)
    vectors = np.random.default_rng(0).standard_normal((BLOCK, CACHED_WIDTH + 1), np.float32)
    rng, keys, rows = np.random.default_rng(1), [], []
    for count in scale.table_clips:
        new = [hashlib.sha256(str(number).encode()).digest() for number in range(len(keys), count)]
        begun = time.process_time()
        for start in range(0, len(new), BLOCK):
            part = new[start : start + BLOCK]
            EmbeddingCache(key).put(part, vectors[: len(part)])
        keeping = (time.process_time() - begun) / len(new)
        keys += new
        wanted = [keys[at] for at in rng.permutation(count)[:LOOKED_UP]]

        def look_up(wanted: list[bytes] = wanted) -> None:
            found, _ = EmbeddingCache(key).get(wanted)
            if not found.all():
                raise AssertionError("the cache has lost embeddings")

        times = measure(
            {
                "ours": Side(look_up, len(wanted)),
                "one": Side(lambda wanted=wanted: look_up(wanted[:1])),  # type: ignore[misc]
                "read": limits.read(),
            },
            scale.rounds,
        )
        limit = limits.least(times, read=ENTRY_BYTES + 4 * (CACHED_WIDTH + 1))
        name, each, least, share = Case(f"{count:,}", times, limit).row([], tables.microseconds)
        one = tables.milliseconds(times.median("one"))
        rows.append([name, tables.microseconds(keeping), one, f"{len(wanted):,}", each, least, share])
    columns = ["Embeddings kept", "keep, µs each>", "open and find one, ms>", "found>", "find, µs each>", "limit>"]
    note = f"""
        The cache of a model with {CACHED_WIDTH} numbers, on a disk that the system has cached; opened anew for every
        look-up, checked byte for byte. The limit is reading the entries at the speed of memory.
    """
    return Table([*columns, tables.SHARE], rows, note=note)
