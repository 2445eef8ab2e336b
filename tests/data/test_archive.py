"""Unpacking hostile archives: the whole folder, or a named error and nothing left."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import signal
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from uamix_bench.data import archive
from uamix_bench.util.errors import BadInputError, MachineError

from .test_fetch import CONTENT, DISK, KILLED_AT, Counting, run_child, visible


def tar(path: Path, *members: tuple[str, Any], mode: str = "w", **options: Any) -> Path:
    """Writes a tar of (name, bytes | None for a folder | dict of TarInfo attributes)."""
    with tarfile.open(path, mode, **options) as packed:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, dict):
                for key, value in content.items():
                    setattr(info, key, value)
            else:
                info.size = len(content)
            packed.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def zipped(path: Path, *members: tuple[str, bytes | int]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members:
            info = zipfile.ZipInfo("x")
            info.filename = name  # as it stands, without zipfile's mending
            if isinstance(content, int):
                info.external_attr = content << 16
                content = b"/etc/passwd"
            info.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(info, content)
    return path


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All that is under a folder: mode and content; lock files aside."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
        if path.suffix != ".lock"
    }


GOOD = [("./top", None), ("./top/a.csv", b"x,y\n" * 9000), ("./top/deep/b.wav", CONTENT[:70_000]), ("./empty", b"")]


@pytest.mark.parametrize("kind", ["zip", "w", "w:gz", "ustar", "gnu"])
def test_unpacks_as_others_do(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "data"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in GOOD:
                packed.writestr(name[2:] + ("/" if content is None else ""), content or b"")
    elif kind in ("ustar", "gnu"):
        tar(path, *GOOD, format={"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT}[kind])
    else:
        tar(path, *GOOD, ("é" * 120, b"long"), mode=kind)
    shutil.unpack_archive(path, tmp_path / "theirs", "zip" if kind == "zip" else "gztar" if "gz" in kind else "tar")
    ours = archive.extract(path, tmp_path / "ours")
    theirs = {name: content for name, (_, content) in tree(tmp_path / "theirs").items()}
    assert {name: content for name, (_, content) in tree(ours).items() if name != ".complete"} == theirs
    assert archive.extracted(ours) == {"data": hashlib.sha256(path.read_bytes()).hexdigest()}
    before = tree(tmp_path)
    archive.extract(path, tmp_path / "ours")
    assert tree(tmp_path) == before


def escaping_chain(path: Path) -> Path:
    """The pattern of CVE-2025-4517: links so deep that realpath gives up, then one that leads out."""
    part = "d" * 247
    members: list[tuple[str, Any]] = []
    where = ""
    for step in "abcdefghijklmnop":
        members.append((where + part, {"type": tarfile.DIRTYPE, "mode": 0o755}))
        members.append((where + step, {"type": tarfile.SYMTYPE, "linkname": part}))
        where += part + "/"
    link = "/".join("abcdefghijklmnop") + "/" + "l" * 254
    members.append((link, {"type": tarfile.SYMTYPE, "linkname": "../" * 16}))
    members.append(("escape", {"type": tarfile.SYMTYPE, "linkname": link + "/.."}))
    members.append(("escape/escaped", b"out"))
    return tar(path, *members)


def link(kind: bytes, to: str) -> dict[str, Any]:
    return {"type": kind, "linkname": to}


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "parent": lambda p: tar(p, ("../escaped", b"x")),
    "parent inside": lambda p: tar(p, ("a/../../escaped", b"x")),
    "parent folder": lambda p: tar(p, ("../escaped", None)),
    "absolute": lambda p: tar(p, (str(p.parent / "escaped"), b"x")),
    "symlink out": lambda p: tar(p, ("out", link(tarfile.SYMTYPE, "..")), ("out/escaped", b"x")),
    "symlink absolute": lambda p: tar(p, ("out", link(tarfile.SYMTYPE, str(p.parent))), ("out/escaped", b"x")),
    "hardlink": lambda p: tar(p, ("hard", link(tarfile.LNKTYPE, "../victim"))),
    "fifo": lambda p: tar(p, ("pipe", {"type": tarfile.FIFOTYPE})),
    "device": lambda p: tar(p, ("null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})),
    "twice": lambda p: tar(p, ("a", b"1"), ("a", b"2")),
    "twice by another spelling": lambda p: tar(p, ("a", b"1"), ("./a", b"2")),
    "case": lambda p: tar(p, ("dir/A", b"1"), ("dir/a", b"2")),
    "case of a folder": lambda p: tar(p, ("Dir/A", b"1"), ("dir/b", b"2")),
    "normal forms": lambda p: tar(p, ("\u00e9", b"1"), ("e\u0301", b"2")),
    "file and folder": lambda p: tar(p, ("a", b"1"), ("a/b", b"2")),
    "newline": lambda p: tar(p, ("a\nb", b"x")),
    "right to left": lambda p: tar(p, ("a\u202egpj.exe", b"x")),
    "backslash": lambda p: tar(p, ("..\\escaped", b"x")),
    "drive": lambda p: tar(p, ("C:/escaped", b"x")),
    "long name": lambda p: tar(p, ("n" * 256, b"x")),
    "long path": lambda p: tar(p, ("n/" * 600 + "x", b"x")),
    "undecodable": lambda p: tar(p, ("a\udcff", b"x"), errors="surrogateescape", format=tarfile.GNU_FORMAT),
    "bomb": lambda p: tar(p, ("zeros", bytes(70 << 20)), mode="w:gz"),
    "sparse": lambda p: tar(p, ("s", {"type": tarfile.GNUTYPE_SPARSE, "size": 0})),
    "sparse by pax": lambda p: tar(
        p, ("s", {"pax_headers": {"GNU.sparse.map": "0,0", "GNU.sparse.size": "9000"}}), format=tarfile.PAX_FORMAT
    ),
    "zip without a name": lambda p: zipped(p, ("\0", b"x")),
    "own record": lambda p: tar(p, (".complete", b'{"archives": {}}')),
    "deep links": escaping_chain,
    "two archives": lambda p: p.write_bytes(tar(p, ("a", b"1")).read_bytes() * 2) and p,
    "no end": lambda p: p.write_bytes(tar(p, ("a", b"1"), ("b", b"2")).read_bytes()[:1024]) and p,
    "broken header": lambda p: p.write_bytes(tar(p, ("a", b"1")).read_bytes()[:1024] + b"?" * 1024) and p,
    "huge header": lambda p: tar(p, ("a", {"pax_headers": {"comment": "9" * 100_000}}), format=tarfile.PAX_FORMAT),
    "negative size": lambda p: negative_size(p),
    "nothing": lambda p: tar(p),
    "zip parent": lambda p: zipped(p, ("../escaped", b"x")),
    "zip absolute": lambda p: zipped(p, ("/tmp/escaped", b"x")),
    "zip backslash": lambda p: zipped(p, ("..\\escaped", b"x")),
    "zip symlink": lambda p: zipped(p, ("link", 0o120777)),
    "zip fifo": lambda p: zipped(p, ("pipe", 0o010644)),
    "zip twice": lambda p: zipped(p, ("a", b"1"), ("a", b"2")),
    "zip control": lambda p: zipped(p, ("a\x07", b"x")),
    "zip bomb": lambda p: zipped(p, ("zeros", bytes(70 << 20))),
    "zip nothing": lambda p: zipped(p),
    "page": lambda p: p.write_bytes(b"<html>" * 100) and p,
    "empty": lambda p: (p.write_bytes(b""), p)[1],
    "other archive": lambda p: tar(p, ("a", b"1"), mode="w:bz2"),
}


def negative_size(path: Path) -> Path:
    """The pattern of CVE-2025-8194: a size below zero sends tarfile back to where it was, for ever."""
    content = bytearray(tar(path, ("a", b""), ("b", b"")).read_bytes())
    content[124:136] = b"\xff" * 10 + b"\xfe\x00"  # base-256: -512
    content[148:156] = b" " * 8
    content[148:156] = f"{sum(content[:512]):06o}\0 ".encode()
    path.write_bytes(content)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_archives_leave_nothing(tmp_path: Path, what: str) -> None:
    (tmp_path / "victim").write_text("mine")
    path = HOSTILE[what](tmp_path / "bad.archive")
    before = tree(tmp_path)
    with pytest.raises(BadInputError, match=r"bad\.archive: "):
        archive.extract(path, tmp_path / "data" / "set")
    assert tree(tmp_path) == {**before, "data": tree(tmp_path)["data"]}
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("what", ["parent", "symlink out", "hardlink", "fifo", "deep links"])
def test_the_hostile_archives_bite(tmp_path: Path, what: str) -> None:
    """The corpus is no paper tiger: what Python does by default changes the tree with it."""
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "d").mkdir()
    path = HOSTILE[what](tmp_path / "bad.archive")
    with tarfile.open(path) as packed:
        packed.extractall(tmp_path / "d", filter="fully_trusted")
    hard = tmp_path / "d" / "hard"
    assert (
        (tmp_path / "escaped").exists()
        or (hard.exists() and hard.samefile(tmp_path / "victim"))
        or (tmp_path / "d" / "pipe").is_fifo()
    )


def test_modes_are_not_taken_over(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", ("run", {"mode": 0o6777, "size": 0}))
    assert (archive.extract(path, tmp_path / "out") / "run").stat().st_mode & 0o7111 == 0


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_MOST_MEMBERS", 3)
    path = tar(tmp_path / "a.tar", *((str(i), b"") for i in range(4)))
    with pytest.raises(BadInputError, match="more than 3 members"):
        archive.extract(path, tmp_path / "out")


def test_a_zip_that_lies_about_its_sizes(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("zeros", bytes(100_000)))
    path.write_bytes(path.read_bytes().replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(BadInputError, match="broken"):
        archive.extract(path, tmp_path / "out")


def test_merging(tmp_path: Path) -> None:
    """VoxCeleb1's two zips share wav/; nothing is lost, and nothing that differs is overwritten."""
    out = tmp_path / "voxceleb1"
    dev = zipped(tmp_path / "dev.zip", ("wav/id1/a.wav", b"1"), ("README", b"same"))
    test = zipped(tmp_path / "test.zip", ("wav/id2/b.wav", b"2"), ("README", b"same"))
    archive.extract(dev, out)
    archive.extract(test, out)
    files = {"wav/id1/a.wav": b"1", "wav/id2/b.wav": b"2", "README": b"same"}
    assert {name: (out / name).read_bytes() for name in files} == files
    assert set(archive.extracted(out)) == {"dev.zip", "test.zip"}
    before = tree(tmp_path)
    other = zipped(tmp_path / "other.zip", ("wav/id3/c.wav", b"3"), ("wav/id1/a.wav", b"changed"))
    with pytest.raises(BadInputError, match=r"a\.wav: differs"):
        archive.extract(other, out)
    other.unlink()
    assert tree(tmp_path) == before
    (out / "wav" / "id4").symlink_to(tmp_path)
    with pytest.raises(BadInputError, match="id4: differs"):
        archive.extract(zipped(tmp_path / "more.zip", ("wav/id4/escaped", b"")), out)
    assert not (tmp_path / "escaped").exists()


def test_a_merge_cut_short_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    archive.extract(zipped(tmp_path / "one.zip", ("one", b"1")), out)
    second = zipped(tmp_path / "two.zip", *((f"d{i}/f", bytes([i])) for i in range(4)))
    moves = iter(range(3))

    def interrupted(source: Path, target: Path) -> Path:
        if next(moves) == 2:
            raise KeyboardInterrupt
        os.replace(source, target)  # noqa: PTH105
        return target

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            archive.extract(second, out)
    assert len(list(out.glob("d*"))) == 2
    assert set(archive.extracted(out)) == {"one.zip"}
    archive.extract(second, out)
    assert len(list(out.glob("d*"))) == 4
    assert set(archive.extracted(out)) == {"one.zip", "two.zip"}
    assert visible(out) == {"one", "d0", "d1", "d2", "d3"}


@pytest.mark.parametrize("there", [False, True])
def test_sigkill_leaves_a_temporary_folder_that_the_next_run_sweeps(tmp_path: Path, there: bool) -> None:
    path = tar(tmp_path / "a.tar", ("a", CONTENT), ("b", CONTENT * 3))
    out = tmp_path / "out"
    if there:
        out.mkdir()
        (out / "mine").write_text("kept")
    before = tree(tmp_path)
    call = f"archive.extract(Path({str(path)!r}), Path({str(out)!r}), progress=Killed())"
    run_child(KILLED_AT.format("die()"), call, -signal.SIGKILL)
    left = {name for name in tree(tmp_path) if ".tmp-" not in name}
    assert left == set(before)
    assert set(tree(tmp_path)) > left
    assert archive.extracted(out) == {}
    archive.extract(path, out)
    assert visible(out) == {"a", "b"} | ({"mine"} if there else set())
    assert not list(tmp_path.rglob("*.tmp-*"))


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar(tmp_path / "a.tar", ("a", CONTENT), ("b", CONTENT))
    before = tree(tmp_path)
    opened = Path.open

    def full(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if self.name == "b" and mode == "xb":
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(MachineError, match="no space left"):
        archive.extract(path, tmp_path / "out")
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: DISK(10**9, 10**9, 1000))
    with pytest.raises(MachineError, match="100,000 bytes are needed and 1,000 free"):
        archive.extract(zipped(tmp_path / "a.zip", ("zeros", bytes(100_000))), tmp_path / "out")
    with pytest.raises(BadInputError, match="only a bomb does"):  # not: buy a larger disk
        archive.extract(zipped(tmp_path / "a.zip", ("a", bytes(40 << 20)), ("b", bytes(40 << 20))), tmp_path / "out")
    (tmp_path / "a.zip").unlink()
    assert tree(tmp_path) == before


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    progress = Counting()
    path = tar(tmp_path / "a.tgz", ("a", CONTENT), ("b", CONTENT * 4), mode="w:gz")
    archive.extract(path, tmp_path / "out", progress=progress)
    assert progress.counts == [[path.stat().st_size] * 2]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_archive_gives_a_named_error_or_stays_inside(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["zip", "w", "w:gz"]))
    members = [("a/b", b"12345" * 40), ("c", b"6")]
    good = zipped(tmp_path / "x", *members) if kind == "zip" else tar(tmp_path / "x", *members, mode=kind)
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 2048) - 1))] = data.draw(st.integers(0, 255))
    good.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) * 2 // 3]))])
    try:
        archive.extract(good, tmp_path / "out")
    except BadInputError:
        assert not (tmp_path / "out").exists()
    assert visible(tmp_path) <= {"x", "out"}
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
