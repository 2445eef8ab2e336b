"""Digests of files against hashlib, and when a file is read again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from uamix_bench.storage import digests
from uamix_bench.storage.digests import file_digests
from uamix_bench.util import files


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a test has just written count as old."""
    monkeypatch.setattr(digests, "_RACY_S", -60.0)


def sounds(folder: Path, count: int) -> list[str]:
    for index in range(count):
        (folder / f"é{index}.wav").write_bytes(b"sound %d" % index)
    return [str(folder / f"é{index}.wav") for index in range(count)]


def expected(paths: list[str]) -> list[bytes]:
    return [hashlib.sha256(Path(path).read_bytes()).digest() for path in paths]


@pytest.mark.usefixtures("bench_home", "settled")
def test_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sounds(tmp_path, 30)
    assert file_digests(paths).digests == expected(paths)
    read = []
    real = files.file_sha256
    monkeypatch.setattr(files, "file_sha256", lambda path: read.append(str(path)) or real(path))
    assert file_digests(paths[::-1]).digests == expected(paths[::-1])
    assert not read
    before = Path(paths[3]).stat()
    Path(paths[3]).write_bytes(b"SOUND 3")  # as long as before, and put back to its old time
    os.utime(paths[3], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_digests(paths).digests == expected(paths)
    assert read == [paths[3]]


@pytest.mark.usefixtures("bench_home")
@pytest.mark.parametrize("whole_seconds", [False, True])
def test_a_file_that_has_just_changed_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_seconds: bool
) -> None:
    """Nor is one that changed a second ago, where the file system keeps whole seconds."""
    monkeypatch.setattr(digests, "_RACY_S", -60.0 if whole_seconds else 60.0)
    monkeypatch.setattr(digests, "_COARSE_RACY_S", 60.0)
    paths = sounds(tmp_path, 1)
    for content in (b"before", b"behind"):  # of one length, within one tick of the clock
        Path(paths[0]).write_bytes(content)
        if whole_seconds:
            os.utime(paths[0], (1_000, 1_000))
        assert file_digests(paths).digests == expected(paths)
    assert not list((files.home() / "embeddings").rglob("*.shard"))


@pytest.mark.usefixtures("settled")
def test_without_memo_nothing_is_written(tmp_path: Path, bench_home: Path) -> None:
    paths = sounds(tmp_path, 3)
    assert file_digests(paths, memo=False).digests == expected(paths)
    assert not bench_home.exists()


@pytest.mark.usefixtures("bench_home")
def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    paths = [*sounds(tmp_path, 1), str(tmp_path / "none.wav"), str(tmp_path), "/dev/zero"]
    done = file_digests(paths)
    assert done.digests[0] == expected(paths[:1])[0]
    assert sorted(done.failed) == [1, 2, 3]
    assert "no such file" in str(done.failed[1])
    assert all(str(path) in str(done.failed[index]) for index, path in enumerate(paths) if index)
