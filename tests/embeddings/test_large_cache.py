"""The cache as large as it is meant to be: what a lookup reads, size limit, several processes, damage."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from uamix_bench.embeddings import housekeeping
from uamix_bench.embeddings.cache import EmbeddingCache, ModelKey

from .test_cache import MODEL, flip

BLOCK = 512  # what an evaluation keeps at once
INDEX = 8  # bytes of an entry in a shard's index


class Large(NamedTuple):
    """`count` clips of a model with `dim` numbers each: i and i + 1/2 in turn for clip i."""

    count: int
    dim: int

    @property
    def model(self) -> ModelKey:
        return dataclasses.replace(MODEL, embedding_dim=self.dim)

    @property
    def entry(self) -> int:
        return 36 + 4 * (self.dim + 1)


def keys(clips: Any) -> list[bytes]:
    return [hashlib.sha256(b"%d" % clip).digest() for clip in clips]


def rows(clips: Any, dim: int) -> np.ndarray:
    return np.asarray(clips, np.float32)[:, None] + np.arange(dim + 1, dtype=np.float32) % 2 / 2


def assert_found(cache: EmbeddingCache, clips: list[int], dim: int) -> None:
    found, got = cache.get(keys(clips))
    assert found.all()
    np.testing.assert_array_equal(got, rows(clips, dim))


@pytest.fixture(
    params=[pytest.param(Large(20_000, 8), id="20k"), pytest.param(Large(10**6, 192), id="1M", marks=pytest.mark.slow)]
)
def large(request: pytest.FixtureRequest, bench_home: Path, monkeypatch: pytest.MonkeyPatch) -> Large:
    """A cache of that size, filled as evaluations fill it; the disk need not keep up."""
    made: Large = request.param
    began = time.perf_counter()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        cache = EmbeddingCache(made.model)
        for start in range(0, made.count, BLOCK):
            clips = range(start, min(start + BLOCK, made.count))
            assert cache.put(keys(clips), rows(clips, made.dim))
    say(f"{made.count:,} clips of {made.dim} numbers kept in blocks of {BLOCK}", time.perf_counter() - began)
    return made


def say(what: str, seconds: float) -> None:
    """For who runs the long form with -s."""
    print(f"{what}: {seconds:.2f} s")


def bytes_read(work: Callable[[], object]) -> int:
    """What this process reads from files meanwhile."""

    def count() -> int:
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(fields["rchar"])

    before = count()
    work()
    return count() - before


READER = """
import sys
sys.path[:0] = [{root!r}]
from tests.embeddings.test_large_cache import Large, assert_found
from uamix_bench.embeddings.cache import EmbeddingCache
large, clips = Large(*{large!r}), {clips!r}
cache = EmbeddingCache(large.model)
assert_found(cache, clips, large.dim)
assert not cache.warnings
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts what is read by /proc")
def test_a_large_cache(large: Large, bench_home: Path) -> None:
    draw = random.Random(1)
    wanted = draw.sample(range(large.count), 1_000)
    held = housekeeping.holdings()[0]
    assert held.count() == large.count  # nothing twice
    assert len(held.pieces) <= 15 * 4 + large.count * large.entry // (32 << 20)

    # A lookup reads every index and the rows it is asked for; one of what is not there no row.
    cache = EmbeddingCache(large.model)
    indexes = large.count * INDEX + 8_192 * len(held.pieces)  # and as much as Python reads at once after each
    began = time.perf_counter()
    assert bytes_read(lambda: cache.get(keys(range(-1_000, 0)))) <= indexes
    say(f"{len(held.pieces)} shards opened, 1,000 clips looked up in vain", time.perf_counter() - began)
    began = time.perf_counter()
    assert bytes_read(lambda: cache.get(keys(wanted))) <= 1_000 * large.entry + 4_096
    say("1,000 clips found", time.perf_counter() - began)
    assert_found(cache, wanted, large.dim)

    # Several processes at once.
    root = str(Path(__file__).parents[2])
    scripts = [READER.format(root=root, large=tuple(large), clips=draw.sample(range(large.count), 500)) for _ in "abcd"]
    readers = [
        subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) for script in scripts
    ]
    assert [(reader.communicate(timeout=300)[1], reader.returncode) for reader in readers] == [("", 0)] * 4

    # Damage: one byte of all of them.
    began = time.perf_counter()
    assert list(housekeeping.verify(housekeeping.holdings())) == []
    say(f"{held.size / 1e9:.2f} GB verified", time.perf_counter() - began)
    victim = draw.choice([piece.path for piece in held.pieces])
    flip(victim, victim.stat().st_size - 1)
    assert [path for path, _ in housekeeping.verify(housekeeping.holdings())] == [victim]
    found, _ = EmbeddingCache(large.model).get(keys(range(large.count)))
    assert np.count_nonzero(~found) == 1  # a miss, and never used
    assert list(housekeeping.verify(housekeeping.holdings())) == []

    # The size limit: what was used longest ago goes, and no more than must.
    pieces = list(housekeeping.holdings()[0].pieces)
    draw.shuffle(pieces)
    for age_days, piece in enumerate(pieces):
        os.utime(piece.path, (time.time() - 86_400 * (1 + age_days),) * 2)
    limit = sum(piece.size for piece in pieces) // 2
    began = time.perf_counter()
    assert housekeeping.keep_to(limit) is None
    say(f"pruned to {limit / 1e9:.2f} GB", time.perf_counter() - began)
    kept = [piece.path.exists() for piece in pieces]
    assert kept == sorted(kept, reverse=True)
    assert sum(piece.size for piece in pieces if piece.path.exists()) <= limit
    assert sum(piece.size for piece in pieces[: kept.index(False) + 1]) > limit
