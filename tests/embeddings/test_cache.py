"""The embedding cache under kills, full disks, damage, strangers' files and eight writers."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import itertools
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from uamix_bench.embeddings.cache import EmbeddingCache, ModelKey, clip_keys
from uamix_bench.storage import shards as shards_module
from uamix_bench.storage.shards import ShardStore
from uamix_bench.util import files

MODEL = ModelKey("Tiny", "tiny/1", "a" * 64, "b" * 64, None, "native", "mean", "float32", 16_000, 4)
OWNER = "ab" * 32
FRESH = itertools.count()


def key(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


def row(of: bytes, width: int = 5) -> np.ndarray:
    """The one right embedding of a key, so that a wrong hit cannot pass."""
    return np.frombuffer(hashlib.shake_256(of).digest(4 * width), np.uint32).astype(np.float32)


def put(cache: EmbeddingCache, names: list) -> None:
    keys = [key(name) for name in names]
    cache.put(keys, np.stack([row(one) for one in keys]))


def hits(cache: EmbeddingCache, names: list) -> list:
    """The names that are found; asserts that every row found is the right one and the others are zero."""
    keys = [key(name) for name in names]
    found, rows = cache.get(keys)
    assert found.shape == (len(keys),)
    assert rows.dtype == np.float32
    for one, here, got in zip(keys, found, rows, strict=True):
        np.testing.assert_array_equal(got, row(one) if here else np.zeros(5))
    return [name for name, here in zip(names, found, strict=True) if here]


def shards(cache: EmbeddingCache) -> list[Path]:
    return sorted(cache.folder.glob("*.shard"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small writes: the disk need not keep up."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.usefixtures("bench_home", "quick")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=12), max_size=40), st.integers(0, 9))
def test_holds_what_was_put(puts: list[list[int]], seed: int) -> None:
    model = dataclasses.replace(MODEL, adapter_version=f"tiny/{next(FRESH)}")
    cache = EmbeddingCache(model)
    for names in puts:
        put(cache, names)
    asked = [*range(41), *range(0, 41, 3)]  # some twice
    random.Random(seed).shuffle(asked)
    known = set(itertools.chain(*puts))
    for reader in (cache, EmbeddingCache(model)):
        assert hits(reader, asked) == [name for name in asked if name in known]
        assert reader.contains([key(name) for name in asked]).tolist() == [name in known for name in asked]
        assert not reader.warnings


@pytest.mark.usefixtures("bench_home", "quick")
def test_small_shards_are_merged() -> None:
    cache = EmbeddingCache(MODEL)
    for start in range(0, 1_200, 3):
        put(cache, list(range(start, start + 3)))
    assert len(shards(cache)) <= 45  # at most 15 of each of three sizes
    assert sum(path.stat().st_size for path in shards(cache)) < 1_200 * (8 + 36 + 20) + 45 * 88 + 1  # nothing twice
    assert hits(EmbeddingCache(MODEL), list(range(1_200))) == list(range(1_200))


@pytest.mark.usefixtures("bench_home", "quick")
def test_a_merge_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "_LARGEST", 4_000)
    cache = EmbeddingCache(MODEL)
    for start in range(0, 600, 3):
        put(cache, list(range(start, start + 3)))
    assert max(path.stat().st_size for path in shards(cache)) <= 4_000
    assert len(hits(cache, list(range(600)))) == 600


@pytest.mark.usefixtures("bench_home", "quick")
def test_a_reader_survives_a_merge() -> None:
    reader, writer = EmbeddingCache(MODEL), EmbeddingCache(MODEL)
    put(writer, ["a", "b"])
    assert hits(reader, ["a"]) == ["a"]
    open_all = reader._store._open_all

    def merged_meanwhile() -> list:
        """Lists, and then the other process merges everything."""
        listed = open_all()
        if reader._store._open_all is merged_meanwhile:
            reader._store._open_all = open_all
            for name in range(16):
                put(writer, [name])
            assert not any(shard.path.exists() for shard in listed)
        return listed

    reader._store._open_all = merged_meanwhile
    assert hits(reader, ["b", "a", "c"]) == ["b", "a"]
    assert not reader.warnings


@pytest.mark.usefixtures("bench_home")
def test_rows_not_asked_for_are_not_read() -> None:
    cache = EmbeddingCache(MODEL)
    put(cache, list(range(100)))
    (path,) = shards(cache)
    order = sorted(range(100), key=key)
    flip(path, path.stat().st_size - 1)  # in the row of the last key
    assert len(hits(cache, order[:-1])) == 99
    assert cache.contains([key(name) for name in (*order, "another")]).tolist() == [True] * 100 + [False]
    assert not cache.warnings
    assert not hits(cache, order[-1:])
    assert len(cache.warnings) == 1
    assert not cache.contains([key(order[-1])]).any()


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ModelKey)])
@pytest.mark.usefixtures("bench_home")
def test_any_other_model_misses(field: str) -> None:
    put(EmbeddingCache(MODEL), ["a"])
    value = getattr(MODEL, field)
    other = value + 1 if isinstance(value, int) else (value or "") + "x"
    cache = EmbeddingCache(dataclasses.replace(MODEL, **{field: other}))
    assert cache.folder != EmbeddingCache(MODEL).folder
    assert not cache.get([key("a")])[0].any()
    shutil.copytree(EmbeddingCache(MODEL).folder, cache.folder)  # stale: the folder's name says what is not so
    assert not cache.get([key("a")])[0].any()
    (line,) = cache.warnings
    assert "another model's" in line
    assert not shards(cache)


@pytest.mark.usefixtures("bench_home")
def test_keys_that_begin_alike_are_told_apart() -> None:
    cache = EmbeddingCache(MODEL)
    one, other, third = (b"eight by" + bytes([number]) * 24 for number in (1, 2, 0))
    cache.put([one, other], np.stack([row(one), row(other)]))
    for keys in ([one, other, third], [third, other, one], [other], [third]):
        found, rows = cache.get(keys)
        assert third not in keys or not found[keys.index(third)]
        for key_, here, got in zip(keys, found, rows, strict=True):
            np.testing.assert_array_equal(got, row(key_) if here else np.zeros(5))
    cache.put([other], row(other)[None])  # the one that was a miss
    assert cache.get([one, other, third])[0].tolist() == [True, True, False]
    assert not cache.warnings


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


@pytest.mark.usefixtures("bench_home", "quick")
def test_every_flipped_byte_is_found() -> None:
    cache = EmbeddingCache(MODEL)
    put(cache, ["a", "b", "c"])
    (path,) = shards(cache)
    whole = path.read_bytes()
    for position in range(len(whole)):
        for old in shards(cache):
            old.unlink()
        path.write_bytes(whole)
        flip(path, position)
        damaged = EmbeddingCache(MODEL)
        found = hits(damaged, ["a", "b", "c"])
        assert len(found) == (2 if position >= 88 + 3 * 8 else 0), position  # an entry, or the index of all
        assert len(damaged.warnings) == 1, position
        again = EmbeddingCache(MODEL)  # it was told once, and what was whole is still here
        assert hits(again, ["a", "b", "c"]) == found
        assert not again.warnings
        put(again, ["a", "b", "c"])
        assert hits(again, ["a", "b", "c"]) == ["a", "b", "c"]


@pytest.mark.usefixtures("bench_home", "quick")
def test_every_truncation_is_found() -> None:
    cache = EmbeddingCache(MODEL)
    put(cache, ["a", "b", "c"])
    (path,) = shards(cache)
    whole = path.read_bytes()
    for length in [*range(len(whole)), len(whole) + 1]:
        path.write_bytes((whole + b"\0")[:length])
        damaged = EmbeddingCache(MODEL)
        assert not hits(damaged, ["a", "b", "c"])
        assert len(damaged.warnings) == 1
        assert not shards(cache)


@pytest.mark.usefixtures("bench_home")
def test_a_shard_truncated_after_it_was_opened() -> None:
    cache = EmbeddingCache(MODEL)
    put(cache, ["a", "b", "c"])
    (path,) = shards(cache)
    assert not hits(cache, ["d"])  # opens it
    os.truncate(path, path.stat().st_size - 57)  # into the second of three entries of 56 bytes
    assert hits(cache, ["a", "b", "c"]) == sorted("abc", key=key)[:1]
    assert len(cache.warnings) == 1


class Bomb:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("bomb",)


@pytest.mark.usefixtures("bench_home")
def test_a_strangers_file_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = EmbeddingCache(MODEL)
    put(cache, ["a"])
    array = io.BytesIO()
    np.save(array, np.array([Bomb()], object), allow_pickle=True)
    header = shards_module._HEADER.pack(shards_module._MAGIC, bytes.fromhex(MODEL.fingerprint), 2**40, 20, bytes(32))
    planted = [pickle.dumps(Bomb()), array.getvalue(), b"", b"<!doctype html>", os.urandom(5_000), header]
    for index, content in enumerate(planted):
        (cache.folder / f"{index}.shard").write_bytes(content)
    (cache.folder / "folder.shard").mkdir()
    (cache.folder / "note.txt").write_text("mine")
    assert hits(cache, ["a", "b"]) == ["a"]
    assert len(cache.warnings) == len(planted)
    assert not (tmp_path / "bomb").exists()
    assert (cache.folder / "note.txt").exists()


@pytest.mark.usefixtures("bench_home")
def test_rows_that_are_not_finite_are_not_kept() -> None:
    cache = EmbeddingCache(MODEL)
    rows = np.ones((3, 5), np.float32)
    rows[0, 2], rows[1, 4] = np.nan, np.inf
    cache.put([key(0), key(1), key(2)], rows)
    assert cache.get([key(0), key(1), key(2)])[0].tolist() == [False, False, True]
    cache._store.put([key(3)], rows[:1].view(np.uint8))  # as a stranger could
    assert not cache.get([key(3)])[0].any()
    assert len(cache.warnings) == 1


@pytest.mark.usefixtures("quick")
def test_a_disk_that_fills_up(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UAMIX_BENCH_HOME", str(small_disk))
    model = dataclasses.replace(MODEL, embedding_dim=1_023)
    cache, names = EmbeddingCache(model), iter(range(1_000))
    kept: list[bytes] = []
    while not cache.warnings:
        block = [key(next(names)) for _ in range(8)]
        cache.put(block, np.stack([row(one, 1_024) for one in block]))
        kept += [] if cache.warnings else block
    (line,) = cache.warnings
    assert re.search(r"no space left on the disk; .*goes on.*\([\d,]{6,} bytes needed, [\d,]+ free\)", line)
    assert len(kept) > 30
    assert not list(cache.folder.glob(".tmp-*"))
    for reader in (cache, EmbeddingCache(model)):
        found, rows = reader.get([*kept, *block])
        assert found.tolist() == [True] * len(kept) + [False] * len(block)
        np.testing.assert_array_equal(rows[: len(kept)], [row(one, 1_024) for one in kept])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.usefixtures("bench_home")
def test_a_full_disk_is_a_warning(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = EmbeddingCache(MODEL)
    put(cache, ["a"])
    before = {path.name: path.read_bytes() for path in cache.folder.iterdir()}
    writes = []

    def full(descriptor: int) -> None:
        writes.append(descriptor)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    put(cache, ["b"])
    put(cache, ["c"])
    assert len(writes) == 1  # not tried again
    assert len(cache.warnings) == 1
    assert ("no space left" in cache.warnings[0]) == (code in (errno.ENOSPC, errno.EDQUOT))
    assert {path.name: path.read_bytes() for path in cache.folder.iterdir()} == before
    assert hits(cache, ["a", "b"]) == ["a"]


def test_a_home_that_cannot_be_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UAMIX_BENCH_HOME", str(tmp_path / "file" / "home"))
    cache = EmbeddingCache(MODEL)
    put(cache, ["a"])
    assert not hits(cache, ["a"])
    assert len(cache.warnings) == 1


@pytest.mark.usefixtures("bench_home")
def test_last_use_is_kept_to_the_hour() -> None:
    cache = EmbeddingCache(MODEL)
    put(cache, ["a"])
    (path,) = shards(cache)
    for look in (hits, lambda cache, names: [name for name in names if cache.contains([key(name)])[0]]):
        for age, renewed in ((10_000, True), (100, False), (-10_000, True)):  # the last: a clock that jumped
            then = time.time() - age
            os.utime(path, (then, then))
            assert not look(cache, ["b"])  # of no use to this
            assert abs(path.stat().st_mtime - then) < 1
            assert look(cache, ["a"]) == ["a"]
            assert (abs(path.stat().st_mtime - time.time()) < 60) == renewed


def killed_at(fatal: int, work: Callable[[], None], patched: tuple[tuple[object, str], ...]) -> bool:
    """Runs `work` in a child that kills itself at its `fatal`-th call of a patched function; False if it has fewer."""
    child = os.fork()
    if not child:
        signal.alarm(120)
        count = itertools.count(1)

        def dying(real: Callable) -> Callable:
            def call(*args: object, **options: object) -> object:
                if next(count) == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **options)

            return call

        for owner, name in patched:
            setattr(owner, name, dying(getattr(owner, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("quick")
@pytest.mark.over_3s
def test_killed_at_every_call(bench_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "_FAN", 4)
    old, new = [1, 2], ["x", "y", "z"]
    for name in old:
        put(EmbeddingCache(MODEL), [name])

    def work() -> None:
        cache = EmbeddingCache(MODEL)
        for name in new:  # y is the fourth shard and starts a merge
            put(cache, [name])

    calls = ((os, "fsync"), (Path, "open"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir"), (os, "open"))
    for fatal in itertools.count(1):
        monkeypatch.setenv("UAMIX_BENCH_HOME", str(tmp_path / str(fatal)))
        shutil.copytree(bench_home, tmp_path / str(fatal))
        killed = killed_at(fatal, work, calls)
        cache = EmbeddingCache(MODEL)
        here = hits(cache, [*old, *new])
        assert here == [*old, *new][: len(here)], fatal
        assert len(here) >= len(old)
        assert not cache.warnings
        put(cache, new)
        assert hits(cache, [*old, *new]) == [*old, *new]
        if not killed:
            break
    assert fatal > 30
    assert len(shards(cache)) == 3  # the merged one, z, and all three again


WRITER = """
import sys
sys.path.insert(0, {tests!r})
import test_cache as t
cache = t.EmbeddingCache(t.MODEL)
print("ready", flush=True)
for start in range(0, {names}, 7):
    names = list(range(start, start + 7))
    t.put(cache, names)
    assert t.hits(cache, names) == names, names
    assert not cache.warnings, cache.warnings
    print(start + 7, flush=True)
"""


def writer(names: int) -> subprocess.Popen:
    script = WRITER.format(tests=str(Path(__file__).parent), names=names)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("bench_home")
def test_eight_writers_of_the_same_keys() -> None:
    writers = [writer(140) for _ in range(8)]
    assert [process.wait(120) for process in writers] == [0] * 8
    for process in writers:
        process.stdout.close()
    cache = EmbeddingCache(MODEL)
    assert len(hits(cache, list(range(140)))) == 140
    assert not cache.warnings
    assert not list(cache.folder.glob(".tmp-*"))


@pytest.mark.usefixtures("bench_home")
def test_killed_at_any_time(request: pytest.FixtureRequest) -> None:
    acknowledged = 0
    for delay in random.Random(0).choices(
        [0.0, 0.01, 0.03, 0.1, 0.2], k=40 if request.config.getoption("--slow") else 4
    ):
        process = writer(100_000)
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.kill()
        acknowledged = max([acknowledged, *(int(line) for line in process.communicate()[0].splitlines())])
        cache = EmbeddingCache(MODEL)
        assert len(hits(cache, list(range(acknowledged)))) == acknowledged
        assert not cache.warnings
    assert acknowledged


@pytest.mark.usefixtures("bench_home")
def test_leftovers_of_killed_writers_are_swept() -> None:
    cache = EmbeddingCache(MODEL)
    put(cache, ["a"])
    old, new = cache.folder / ".tmp-old", cache.folder / ".tmp-new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    for name in range(16):
        put(cache, [name])
    assert not old.exists()
    assert new.exists()


@pytest.mark.usefixtures("bench_home")
def test_the_folder_says_whose_it_is() -> None:
    cache = EmbeddingCache(MODEL)
    put(cache, ["a"])
    text = (cache.folder / "model.json").read_text()
    assert '"pooling": "mean"' in text
    assert cache.folder == files.home() / "embeddings" / MODEL.fingerprint[:16]


def test_clip_keys() -> None:
    contents = [key("a"), key("b")]
    base = clip_keys(contents, 5.0)
    policy = b'{"clip_seconds":5.0,"decoding":2,"segments":"first"}'
    assert base == [hashlib.sha256(policy + content).digest() for content in contents]
    assert clip_keys(contents, 5) == base
    others = [*base, *clip_keys(contents, 4.0), *clip_keys(contents, 5.0, "mean")]
    assert len(set(others)) == 6


def test_a_store_keeps_rows_of_any_width(tmp_path: Path) -> None:
    for width in (1, 32, 3_001):
        store = ShardStore(tmp_path / str(width), OWNER, width)
        rows = np.random.default_rng(width).integers(0, 256, (50, width), np.uint8)
        keys = [key(index) for index in range(50)]
        store.put(keys, rows)
        found, got = ShardStore(tmp_path / str(width), OWNER, width).get(keys[::-1])
        assert found.all()
        np.testing.assert_array_equal(got, rows[::-1])
