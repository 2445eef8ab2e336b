"""What is kept to save work: its count, its checks, and its pruning while others are at work."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest

from uamix_bench.embeddings import housekeeping
from uamix_bench.embeddings.cache import EmbeddingCache
from uamix_bench.storage.digests import file_digests
from uamix_bench.util.errors import MachineError, UsageError

from ..storage.test_digests import sounds
from .test_cache import MODEL, flip, hits, killed_at, put, shards

OTHER = dataclasses.replace(MODEL, adapter_version="other/7")


def grow(model: object = MODEL, count: int = 6) -> EmbeddingCache:
    """Fills a cache with shards of two names each, every one a day older than the next."""
    cache = EmbeddingCache(model)  # type: ignore[arg-type]
    before = set(shards(cache))
    for number in range(count):
        put(cache, [2 * number, 2 * number + 1])
        (made,) = set(shards(cache)) - before
        before.add(made)
        age(made, count - number)
    return cache


def age(path: Path, days: float) -> None:
    os.utime(path, (time.time() - 86_400 * days,) * 2)


def frames(home: Path, name: str = "ab" * 16, days: float = 0.5) -> Path:
    folder = home / "frames" / name
    folder.mkdir(parents=True)
    for file, size in (("values", 5_000), ("journal", 300), ("lock", 0)):
        (folder / file).write_bytes(bytes(size))
        age(folder / file, days)
    return folder


def everything(home: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}


def test_nothing_is_kept_where_nothing_is(bench_home: Path) -> None:
    assert housekeeping.holdings() == []
    assert not bench_home.exists()
    bench_home.mkdir()
    (bench_home / "embeddings").write_text("a file")
    assert housekeeping.holdings() == []


def test_holdings_are_what_is_there(bench_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uamix_bench.storage.digests._RACY_S", -60.0)
    mine, other = grow(), grow(OTHER, 3)
    file_digests(sounds(tmp_path, 5))
    decoded = frames(bench_home)
    (mine.folder / "note.txt").write_text("no shard")
    (mine.folder / "folder.shard").mkdir()
    (mine.folder / "link.shard").symlink_to(shards(mine)[0])
    (bench_home / "embeddings" / "backup").mkdir()
    held = {holding.folder: holding for holding in housekeeping.holdings()}
    assert [holding.size for holding in held.values()] == sorted((h.size for h in held.values()), reverse=True)
    assert set(held) == {mine.folder, other.folder, bench_home / "embeddings" / "files", decoded}
    for cache, entries, name in ((mine, 12, "tiny"), (other, 6, "other")):
        holding = held[cache.folder]
        assert (holding.kind, holding.name, holding.model) == ("embeddings", name, cache.model)
        assert holding.count() == entries
        assert holding.size == sum(
            path.stat().st_size for path in shards(cache) if not path.is_symlink() if path.is_file()
        )
        assert abs(time.time() - holding.used - 86_400) < 60
    assert held[bench_home / "embeddings" / "files"].count() == 5
    assert (held[decoded].kind, held[decoded].size, held[decoded].count()) == ("frames", 5_300, None)


@pytest.mark.usefixtures("bench_home")
def test_a_folder_that_lies_about_its_owner_is_unknown() -> None:
    cache = grow()
    text = (cache.folder / "model.json").read_text()
    for forged in (text.replace("tiny/1", "famous/1"), text[:-9], "[]", '{"adapter": 1}'):
        (cache.folder / "model.json").write_text(forged)
        (holding,) = housekeeping.holdings()
        assert (holding.name, holding.model, holding.count()) == ("unknown", None, 12)


@pytest.mark.usefixtures("bench_home")
def test_the_least_recently_used_goes_first_and_no_more_than_must() -> None:
    generator = random.Random(3)
    for round_ in range(12):
        grow(dataclasses.replace(MODEL, pooling=f"p{round_}"), 5)
        for holding in housekeeping.holdings():
            for piece in holding.pieces:
                age(piece.path, generator.uniform(0, 50))
        before = [piece for holding in housekeeping.holdings() for piece in holding.pieces]
        total = sum(piece.size for piece in before)
        limit = generator.choice([0, total - 1, total, total // 2, total // 3, 2 * total])
        removed = housekeeping.prune(housekeeping.holdings(), max_bytes=limit)
        after = {piece for holding in housekeeping.holdings() for piece in holding.pieces}
        assert set(before) - after == set(removed)
        assert sum(piece.size for piece in after) <= limit
        if removed:
            assert sum(piece.size for piece in after) + removed[-1].size > limit
            assert max(piece.used for piece in removed) <= min([piece.used for piece in after], default=time.time())


@pytest.mark.usefixtures("bench_home")
def test_what_was_not_used_for_long_goes() -> None:
    cache = grow(count=6)  # of 6, 5, 4, 3, 2, 1 days
    put(EmbeddingCache(OTHER), ["a"])
    assert hits(cache, [0]) == [0]  # of use now
    removed = housekeeping.prune(housekeeping.holdings(), unused_s=2.5 * 86_400)
    assert len(removed) == 3
    assert hits(EmbeddingCache(MODEL), list(range(12))) == [0, 1, 8, 9, 10, 11]
    assert not EmbeddingCache(MODEL).warnings


def test_a_dry_run_changes_nothing_and_says_the_same(bench_home: Path) -> None:
    grow()
    frames(bench_home)
    (bench_home / "embeddings" / MODEL.fingerprint[:16] / ".tmp-old").write_bytes(b"half")
    age(bench_home / "embeddings" / MODEL.fingerprint[:16] / ".tmp-old", 9)
    before = everything(bench_home)
    said = housekeeping.prune(housekeeping.holdings(), max_bytes=400, dry_run=True)
    assert everything(bench_home) == before
    assert housekeeping.prune(housekeeping.holdings(), max_bytes=400) == said
    assert not list(bench_home.rglob(".tmp-*"))


def test_only_what_is_ours_is_removed(bench_home: Path, tmp_path: Path) -> None:
    cache = grow()
    precious = tmp_path / "precious.shard"
    precious.write_text("mine")
    (cache.folder / "link.shard").symlink_to(precious)
    (cache.folder / "note.txt").write_text("mine")
    frames(bench_home)
    frames(bench_home, "my-own-frames")
    (bench_home / "frames" / ("cd" * 16)).symlink_to(tmp_path, target_is_directory=True)
    for place in ("results/a.json", "data/a.wav", "checkpoints/a.pth", "embeddings/mine/a.shard"):
        (bench_home / place).parent.mkdir(parents=True, exist_ok=True)
        (bench_home / place).write_text("mine")
    assert len(housekeeping.prune(housekeeping.holdings())) == 7
    assert housekeeping.holdings() == []
    assert precious.read_text() == "mine"
    left = {str(path.relative_to(bench_home)) for path in bench_home.rglob("*") if path.is_file()}
    assert {path for path in left if "frames/ab" in path or (path.endswith(".shard") and "mine" not in path)} == {
        f"embeddings/{cache.folder.name}/link.shard"
    }
    assert {"results/a.json", "data/a.wav", "checkpoints/a.pth", "embeddings/mine/a.shard"} <= left


@pytest.mark.usefixtures("bench_home")
def test_a_writer_goes_on_after_its_folder_was_pruned_away() -> None:
    cache = grow()
    housekeeping.prune(housekeeping.holdings())
    assert not cache.folder.exists()
    assert not hits(cache, [0, 1])
    put(cache, ["new"])
    assert hits(cache, [0, "new"]) == ["new"]
    assert not cache.warnings
    assert housekeeping.holdings()[0].name == "tiny"


@pytest.mark.usefixtures("bench_home")
def test_a_folder_that_vanishes_while_a_file_is_made_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, real, times = EmbeddingCache(MODEL), Path.open, itertools.count()

    def pruned(path: Path, mode: str = "r", *arguments: object, **options: object) -> object:
        if mode == "xb" and next(times) == 1:  # the first is model.json
            (path.parent / "model.json").unlink()
            path.parent.rmdir()
        return real(path, mode, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", pruned)
    put(cache, ["a"])
    assert hits(cache, ["a"]) == ["a"]
    assert not cache.warnings


def test_frames_that_are_being_made_stay(bench_home: Path) -> None:
    folder = frames(bench_home, days=90)
    with filelock.FileLock(folder / "lock"):
        assert housekeeping.prune(housekeeping.holdings()) == []
        assert (folder / "values").stat().st_size == 5_000
    assert [piece.path for piece in housekeeping.prune(housekeeping.holdings())] == [folder]
    assert not folder.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
@pytest.mark.usefixtures("bench_home")
def test_what_cannot_be_removed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = grow(count=1)

    def refused(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refused)  # root may remove anything
    with pytest.raises(MachineError, match=r"\.shard: cannot be removed \(Permission denied\)"):
        housekeeping.prune(housekeeping.holdings())
    line = housekeeping.keep_to(0)
    assert line is not None
    assert line.startswith("UAMIX_BENCH_CACHE_SIZE is exceeded: ")
    assert len(shards(cache)) == 1


@pytest.mark.usefixtures("bench_home")
def test_verify_names_every_bad_shard_and_changes_nothing(bench_home: Path) -> None:
    cache, other = grow(), grow(OTHER, 1)
    frames(bench_home)
    assert list(housekeeping.verify(housekeeping.holdings())) == []
    good, cut, row, index, stale, planted = shards(cache)
    os.truncate(cut, cut.stat().st_size - 1)
    flip(row, row.stat().st_size - 1)
    flip(index, 90)
    stale.write_bytes(shards(other)[0].read_bytes())
    planted.write_bytes(pickle.dumps([1]))
    before = everything(bench_home)
    assert dict(housekeeping.verify(housekeeping.holdings())) == {
        cut: "is truncated",
        row: "1 of 2 entries are damaged",
        index: "has a damaged index",
        stale: "is another model's",
        planted: "is not a shard",
    }
    assert everything(bench_home) == before
    assert len(hits(EmbeddingCache(MODEL), list(range(12)))) == 3  # a run leaves the damage out
    assert list(housekeeping.verify(housekeeping.holdings())) == []
    assert good.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.over_3s
def test_killed_at_every_call_of_a_pruning(bench_home: Path) -> None:
    for fatal in itertools.count(1):
        grow(count=3)
        frames(bench_home, f"{fatal:032x}", days=fatal)
        calls = ((os, "unlink"), (Path, "unlink"), (Path, "rmdir"), (os, "rmdir"), (os, "scandir"))
        killed = killed_at(fatal, lambda: housekeeping.prune(housekeeping.holdings(), max_bytes=100), calls)
        cache = EmbeddingCache(MODEL)
        here = hits(cache, list(range(6)))
        assert here == list(range(6))[len(range(6)) - len(here) :], fatal  # the newest are left
        assert not cache.warnings
        assert list(housekeeping.verify(housekeeping.holdings())) == []
        housekeeping.prune(housekeeping.holdings())
        assert housekeeping.holdings() == []
        if not killed:
            break
    assert fatal > 8


WORKER = """
import sys
sys.path.insert(0, {tests!r})
import random, time
import test_cache as t
from uamix_bench.embeddings import housekeeping
end, found = time.monotonic() + 1, 0
while time.monotonic() < end:
    cache = t.EmbeddingCache(t.MODEL)
    names = random.sample(range(200), 9)
    t.put(cache, names)
    found += len(t.hits(cache, names))
    assert not cache.warnings, cache.warnings
    if {prunes}:
        housekeeping.prune(housekeeping.holdings(), max_bytes=random.choice([0, 500, 2_000]))
        assert not [one for one in housekeeping.verify(housekeeping.holdings())]
assert found
"""


@pytest.mark.usefixtures("bench_home")
@pytest.mark.over_3s
def test_eight_processes_while_two_of_them_prune() -> None:
    scripts = [WORKER.format(tests=str(Path(__file__).parent), prunes=number < 2) for number in range(8)]
    workers = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) for script in scripts]
    outcomes = [(worker.communicate(timeout=120)[1].decode(), worker.returncode) for worker in workers]
    assert outcomes == [("", 0)] * 8
    assert list(housekeeping.verify(housekeeping.holdings())) == []


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("17", 17),
        ("10GB", 10**10),
        ("1.5 GiB", 3 * 2**29),
        ("200m", 2 * 10**8),
        ("3kB", 3_000),
        ("2T", 2 * 10**12),
    ],
)
def test_sizes(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert housekeeping.parse_size(text, "--max-size") == size
    monkeypatch.setenv(housekeeping.LIMIT, text)
    assert housekeeping.size_limit() == size


@pytest.mark.parametrize("text", ["ten", "-1", "1e9", "10 GB GB", "GB", "9" * 400, "NaN", "1.", "10PB"])
def test_what_is_no_size_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(housekeeping.LIMIT, text)
    with pytest.raises(UsageError, match=r"UAMIX_BENCH_CACHE_SIZE: .* is not a size"):
        housekeeping.size_limit()


def test_without_a_limit_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(housekeeping.LIMIT, raising=False)
    assert housekeeping.size_limit() is None
