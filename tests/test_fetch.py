"""Fetching against a hostile server, and unpacking hostile archives: the whole file or folder, or a named error."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from uamix_bench import archive as archives
from uamix_bench import fetch
from uamix_bench.card import RemoteFile
from uamix_bench.errors import BadInputError, MachineError, UsageError
from uamix_bench.progress import Progress

CONTENT = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(20_000))  # 640,000 bytes, no period
SHA256 = hashlib.sha256(CONTENT).hexdigest()
DISK = namedtuple("DISK", "total used free")


class Server(ThreadingHTTPServer):
    """Serves one file, as well or as badly as its attributes say."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.headers: dict[str, str] = {"ETag": '"one"'}
        self.status = 200
        self.ranges = True
        self.honours_if_range = True
        self.breaks_after: list[int] = []  # bytes of each response until it breaks off, oldest first
        self.length: int | None = None  # what Content-Length says, if not the truth
        self.requests: list[dict[str, str]] = []
        self.gate: threading.Event | None = None

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no news."""

    def file(self, **facts: Any) -> RemoteFile:
        return RemoteFile(**{"name": "model.pth", "url": f"http://127.0.0.1:{self.server_port}/a/model.pth", **facts})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(dict(self.headers.items()))
        self.close_connection = True
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/a/model.pth?signature=SECRET")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body, start = server.content, 0
        wanted = self.headers.get("Range")
        same = not server.honours_if_range or self.headers.get("If-Range") in (None, *server.headers.values())
        ranged = bool(wanted and server.ranges and same and server.status == 200)
        if ranged:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(server.status)
        for key, value in server.headers.items():
            self.send_header(key, value)
        if server.length != -1:
            self.send_header("Content-Length", str(len(body) - start if server.length is None else server.length))
        self.end_headers()
        body = body[start:]
        if server.breaks_after:
            body = body[: server.breaks_after.pop(0)]
        self.wfile.write(body[:1000])
        self.wfile.flush()
        if server.gate is not None:
            server.gate.wait(20)
        self.wfile.write(body[1000:])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.time, "sleep", lambda _: None)


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def pinned(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "checksums.json").read_text())


# --- downloading


def test_importing_is_light() -> None:
    heavy = "{'torch', 'timm', 'requests', 'pooch', 'filelock', 'numpy', 'pandas'}"
    run_child("import sys", f"sys.exit(len({heavy} & set(sys.modules)))", 0)


def test_a_whole_file(server: Server, tmp_path: Path) -> None:
    path = fetch.download(server.file(sha256=SHA256.upper(), bytes=len(CONTENT)), tmp_path / "new")
    assert path.read_bytes() == CONTENT
    assert visible(path.parent) == {"model.pth", "checksums.json"}
    assert pinned(path.parent) == {"model.pth": {"sha256": SHA256}}
    assert fetch.download(server.file(sha256=SHA256), path.parent) == path
    assert len(server.requests) == 1, "a file that is there is checked, not fetched"


def test_resumes_after_the_connection_breaks_off(server: Server, tmp_path: Path) -> None:
    server.breaks_after = [250_000, 100_000]
    path = fetch.download(server.file(), tmp_path)
    assert path.read_bytes() == CONTENT
    assert [request.get("Range") for request in server.requests] == [None, "bytes=250000-", "bytes=350000-"]
    assert {request.get("If-Range") for request in server.requests[1:]} == {'"one"'}
    assert visible(tmp_path) == {"model.pth", "checksums.json"}


def test_a_later_call_resumes(server: Server, tmp_path: Path) -> None:
    server.breaks_after = [250_000]
    with pytest.raises(MachineError, match=r"broke off.*continue after 250,000 bytes"):
        fetch.download(server.file(), tmp_path, attempts=1)
    assert not (tmp_path / "model.pth").exists()
    assert (tmp_path / "model.pth.part").stat().st_size == 250_000
    fetch.download(server.file(), tmp_path, attempts=1)
    assert (tmp_path / "model.pth").read_bytes() == CONTENT
    assert server.requests[1]["Range"] == "bytes=250000-"


def test_resumes_after_sigkill(server: Server, tmp_path: Path) -> None:
    call = f"fetch.download({server.file()!r}, Path({str(tmp_path)!r}), progress=Killed())"
    run_child(KILLED_AT.format("n >= 65536 and die()"), call, -signal.SIGKILL)
    assert 0 < (tmp_path / "model.pth.part").stat().st_size < len(CONTENT)
    assert not (tmp_path / "model.pth").exists()
    assert fetch.download(server.file(), tmp_path).read_bytes() == CONTENT
    assert "Range" in server.requests[-1]


def test_finishes_a_part_that_was_whole_when_killed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model.pth.part").write_bytes(CONTENT)
    (tmp_path / "model.pth.part.json").write_text(json.dumps({"validator": '"one"', "total": len(CONTENT)}))
    assert fetch.download(server.file(), tmp_path).read_bytes() == CONTENT
    assert not server.requests


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"weak"'}], ids=["no validator", "weak validator"])
def test_starts_over_where_nothing_proves_the_file_the_same(
    server: Server, tmp_path: Path, headers: dict[str, str]
) -> None:
    server.headers, server.breaks_after = headers, [1000]
    assert fetch.download(server.file(), tmp_path).read_bytes() == CONTENT
    assert all("Range" not in request for request in server.requests)


def test_starts_over_on_a_server_without_ranges(server: Server, tmp_path: Path) -> None:
    server.ranges, server.breaks_after = False, [300_000]
    assert fetch.download(server.file(), tmp_path).read_bytes() == CONTENT
    assert "Range" in server.requests[1]


def test_resumes_by_date(server: Server, tmp_path: Path) -> None:
    server.headers = {"Last-Modified": "Wed, 01 Jan 2020 00:00:00 GMT"}
    server.breaks_after = [1000]
    assert fetch.download(server.file(), tmp_path).read_bytes() == CONTENT
    assert server.requests[1]["If-Range"] == server.headers["Last-Modified"]


@pytest.mark.parametrize("honours", [True, False], ids=["If-Range honoured", "If-Range ignored"])
@pytest.mark.parametrize("changed", [CONTENT[::-1], CONTENT[:100_000]], ids=["same length", "shorter"])
def test_a_file_that_changes_meanwhile_is_never_a_mixture(
    server: Server, tmp_path: Path, honours: bool, changed: bytes
) -> None:
    server.breaks_after = [250_000]
    with pytest.raises(MachineError):
        fetch.download(server.file(), tmp_path, attempts=1)
    server.content, server.headers, server.honours_if_range = changed, {"ETag": '"two"'}, honours
    assert fetch.download(server.file(), tmp_path).read_bytes() == changed


def test_a_mixture_that_no_header_shows_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model.pth.part").write_bytes(b"x" * 1000)
    (tmp_path / "model.pth.part.json").write_text(json.dumps({"validator": '"one"', "total": len(CONTENT)}))
    assert fetch.download(server.file(sha256=SHA256), tmp_path).read_bytes() == CONTENT
    assert [request.get("Range") for request in server.requests] == ["bytes=1000-", None]


def test_a_length_that_promises_too_much(server: Server, tmp_path: Path) -> None:
    server.length, server.ranges = len(CONTENT) + 7, False
    with pytest.raises(MachineError, match=r"broke off|connection"):
        fetch.download(server.file(), tmp_path)
    assert len(server.requests) == 3
    assert not (tmp_path / "model.pth").exists()


def test_a_cut_that_the_http_library_does_not_notice(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib3.HTTPResponse.stream", lambda *_, **__: iter([CONTENT[:1000]]))  # as urllib3 1 does
    with pytest.raises(MachineError, match="broke off after 1,000 of 640,000 bytes"):
        fetch.download(server.file(), tmp_path, attempts=1)


@pytest.mark.parametrize("facts", [{"sha256": SHA256}, {"bytes": len(CONTENT)}], ids=["checksum", "size"])
def test_a_length_that_promises_too_little(server: Server, tmp_path: Path, facts: dict[str, Any]) -> None:
    server.length = len(CONTENT) - 7
    with pytest.raises(BadInputError, match="published"):
        fetch.download(server.file(**facts), tmp_path)
    assert visible(tmp_path) == set()


def test_no_length_needs_something_else_to_tell_the_end(server: Server, tmp_path: Path) -> None:
    server.length = -1
    with pytest.raises(BadInputError, match="does not say how long"):
        fetch.download(server.file(), tmp_path)
    assert fetch.download(server.file(sha256=SHA256), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_file(server: Server, tmp_path: Path, kind: str) -> None:
    other = b"another" + CONTENT[7:]
    server.content = other
    wanted, got = hashlib.new(kind, CONTENT).hexdigest(), hashlib.new(kind, other).hexdigest()
    with pytest.raises(BadInputError, match=f"{got}.*{wanted}"):
        fetch.download(server.file(**{kind: wanted}), tmp_path)
    assert visible(tmp_path) == set()


@pytest.mark.parametrize("said", [{"Content-Type": "text/html; charset=utf-8"}, {}], ids=["said", "unsaid"])
def test_a_web_page(server: Server, tmp_path: Path, said: dict[str, str]) -> None:
    server.content, server.headers = b"\n<!DOCTYPE html><title>Sign in</title>", said
    with pytest.raises(BadInputError, match=r"a web page.*https://authors.example/files"):
        fetch.download(server.file(page="https://authors.example/files"), tmp_path)
    assert visible(tmp_path) == set()


def test_a_web_page_in_between_costs_nothing(server: Server, tmp_path: Path) -> None:
    """The sign-in page of a hotel's network."""
    server.breaks_after = [250_000]
    with pytest.raises(MachineError):
        fetch.download(server.file(), tmp_path, attempts=1)
    server.content, server.headers = b"<html>", {"Content-Type": "text/html"}
    with pytest.raises(BadInputError, match="a web page"):
        fetch.download(server.file(), tmp_path)
    server.content, server.headers = CONTENT, {"ETag": '"one"'}
    assert fetch.download(server.file(), tmp_path).read_bytes() == CONTENT
    assert server.requests[-1]["Range"] == "bytes=250000-"


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, 3), (429, 3)])
def test_a_refusing_server(server: Server, tmp_path: Path, status: int, requests: int) -> None:
    server.status = status
    with pytest.raises(MachineError, match=f"status {status}"):
        fetch.download(server.file(), tmp_path)
    assert len(server.requests) == requests
    assert visible(tmp_path) == set()


def test_no_server(tmp_path: Path) -> None:
    with Server() as stopped:
        file = stopped.file()
    with pytest.raises(MachineError, match=r"connection to 127\.0\.0\.1 failed"):
        fetch.download(file, tmp_path)


def test_a_silent_server(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_TIMEOUT_S", (1.0, 0.2))
    server.gate = threading.Event()
    with pytest.raises(MachineError, match=r"in time|broke off"):
        fetch.download(server.file(), tmp_path, attempts=2)
    server.gate.set()


def test_the_first_use_pins(server: Server, tmp_path: Path) -> None:
    path = fetch.download(server.file(), tmp_path)
    path.unlink()
    server.content = other = CONTENT[::-1]
    with pytest.raises(BadInputError, match=f"{hashlib.sha256(other).hexdigest()}.*{SHA256}.*checksums.json"):
        fetch.download(server.file(), tmp_path)
    assert visible(tmp_path) == {"checksums.json"}
    assert pinned(tmp_path) == {"model.pth": {"sha256": SHA256}}
    new = hashlib.sha256(other).hexdigest()
    fetch.download(server.file(sha256=new), tmp_path)  # what the authors publish stands above a pin
    assert fetch.verify(path) == new


def test_verify_finds_every_flipped_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(CONTENT[:5000])
    before = fetch.verify(path)
    assert before == hashlib.sha256(CONTENT[:5000]).hexdigest()
    for position in range(0, 5000, 501):
        flipped = bytearray(CONTENT[:5000])
        flipped[position] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(BadInputError, match=before):
            fetch.verify(path)


def test_pins_are_merged(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
        fetch.verify(tmp_path / name)
    assert set(pinned(tmp_path)) == {"a", "b"}
    (tmp_path / "checksums.json").write_text("[")
    with pytest.raises(BadInputError, match=r"checksums\.json"):
        fetch.verify(tmp_path / "a")


def test_a_file_that_a_person_must_fetch(tmp_path: Path) -> None:
    file = RemoteFile(
        name="big.zip", page="https://me:secret@authors.example/form?key=secret", note="fill in the form."
    )
    with pytest.raises(BadInputError) as caught:
        fetch.download(file, tmp_path)
    line = str(caught.value)
    assert f"{tmp_path / 'big.zip'}: is not here" in line
    assert "get big.zip from https://authors.example/form (fill in the form) and put it there" in line
    assert "secret" not in line
    (tmp_path / "big.zip").write_bytes(CONTENT)
    assert fetch.download(file, tmp_path) == tmp_path / "big.zip"
    assert pinned(tmp_path)["big.zip"]["sha256"] == SHA256
    (tmp_path / "big.zip").write_bytes(b"<html>sign in")
    with pytest.raises(BadInputError, match="a web page"):
        fetch.download(file, tmp_path)


def test_offline(server: Server, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"offline; get model.pth from http://127.*/a/model.pth and put it there"):
        fetch.download(server.file(), tmp_path, offline=True)
    assert not server.requests
    (tmp_path / "model.pth").write_bytes(CONTENT)
    assert fetch.download(server.file(sha256=SHA256), tmp_path, offline=True).read_bytes() == CONTENT


def test_nothing_secret_is_written_or_said(server: Server, tmp_path: Path) -> None:
    url = f"http://me:SECRET@127.0.0.1:{server.server_port}/redirect?token=SECRET"
    server.breaks_after = [1000]
    for attempts in (1, 2):
        server.status = 200 if attempts == 1 else 403
        with pytest.raises(MachineError) as caught:
            fetch.download(server.file(url=url), tmp_path, attempts=attempts)
        assert "SECRET" not in str(caught.value)
    server.status = 200
    fetch.download(server.file(url=url), tmp_path)
    for path in tmp_path.iterdir():
        assert b"SECRET" not in path.read_bytes()


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "", ".", "..", ".hidden"])
def test_only_plain_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        fetch.download(RemoteFile(name=name, url="http://127.0.0.1:1/x"), tmp_path)


def test_disk_space_is_asked_first(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: DISK(10**9, 10**9, 1000))
    with pytest.raises(MachineError, match="640,000 bytes are needed and 1,000 free"):
        fetch.download(server.file(), tmp_path)
    assert visible(tmp_path) == set()


def test_a_disk_that_fills_up_keeps_what_came(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(fetch.os, "fsync", full)
        with pytest.raises(MachineError, match="no space left"):
            fetch.download(server.file(), tmp_path)
    assert not (tmp_path / "model.pth").exists()
    assert fetch.download(server.file(), tmp_path).read_bytes() == CONTENT


def test_two_processes_at_once(server: Server, tmp_path: Path) -> None:
    server.gate = threading.Event()
    call = f"fetch.download({server.file()!r}, Path({str(tmp_path)!r}), progress=Loud())"
    loud = "class Loud(Progress):\n    def say(self, line):\n        print(line, flush=True)"
    children = [start_child(loud, call) for _ in range(2)]
    try:
        said = [threading.Thread(target=lambda c=child: (c.stdout.readline(), server.gate.set())) for child in children]
        for thread in said:  # one of them says that it waits; only then the server goes on
            thread.start()
        assert [child.wait(60) for child in children] == [0, 0]
    finally:
        for child in children:
            child.kill()
    assert (tmp_path / "model.pth").read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert visible(tmp_path) == {"model.pth", "checksums.json"}


PRELUDE = """
import os, signal
from contextlib import contextmanager
from pathlib import Path
from uamix_bench import fetch
from uamix_bench.card import RemoteFile
from uamix_bench.progress import Progress
def die(): os.kill(os.getpid(), signal.SIGKILL)
"""

KILLED_AT = """
class Killed(Progress):
    @contextmanager
    def bar(self, *_):
        yield lambda n, _: {}
"""


def start_child(setup: str, call: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", f"{PRELUDE}\n{setup}\n{call}"], stdout=subprocess.PIPE, text=True)


def run_child(setup: str, call: str, code: int) -> None:
    with start_child(setup, call) as child:
        assert child.wait(60) == code


# --- unpacking


def tar(path: Path, *members: tuple[str, Any], mode: str = "w", **options: Any) -> Path:
    """Writes a tar of (name, bytes | None for a folder | dict of TarInfo attributes)."""
    with tarfile.open(path, mode, **options) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, dict):
                for key, value in content.items():
                    setattr(info, key, value)
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def zipped(path: Path, *members: tuple[str, bytes | int]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo("x")
            info.filename = name  # as it stands, without zipfile's mending
            if isinstance(content, int):
                info.external_attr = content << 16
                content = b"/etc/passwd"
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
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
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in GOOD:
                archive.writestr(name[2:] + ("/" if content is None else ""), content or b"")
    elif kind in ("ustar", "gnu"):
        tar(path, *GOOD, format={"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT}[kind])
    else:
        tar(path, *GOOD, ("é" * 120, b"long"), mode=kind)
    shutil.unpack_archive(path, tmp_path / "theirs", "zip" if kind == "zip" else "gztar" if "gz" in kind else "tar")
    ours = fetch.extract(path, tmp_path / "ours", expected=["top"])
    theirs = {name: content for name, (_, content) in tree(tmp_path / "theirs").items()}
    assert {name: content for name, (_, content) in tree(ours).items() if name != ".complete"} == theirs
    assert fetch.extracted(ours) == {"data": hashlib.sha256(path.read_bytes()).hexdigest()}
    before = tree(tmp_path)
    fetch.extract(path, tmp_path / "ours")
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
    for merge in (False, True):
        with pytest.raises(BadInputError, match=r"bad\.archive: "):
            fetch.extract(path, tmp_path / "data" / "set", merge=merge)
        assert tree(tmp_path) == {**before, "data": tree(tmp_path)["data"]}
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("what", ["parent", "symlink out", "hardlink", "fifo", "deep links"])
def test_the_hostile_archives_bite(tmp_path: Path, what: str) -> None:
    """The corpus is no paper tiger: what Python does by default changes the tree with it."""
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "d").mkdir()
    path = HOSTILE[what](tmp_path / "bad.archive")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / "d", filter="fully_trusted")
    hard = tmp_path / "d" / "hard"
    assert (
        (tmp_path / "escaped").exists()
        or (hard.exists() and hard.samefile(tmp_path / "victim"))
        or (tmp_path / "d" / "pipe").is_fifo()
    )


def test_modes_are_not_taken_over(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", ("run", {"mode": 0o6777, "size": 0}))
    assert (fetch.extract(path, tmp_path / "out") / "run").stat().st_mode & 0o7111 == 0


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_MOST_MEMBERS", 3)
    path = tar(tmp_path / "a.tar", *((str(i), b"") for i in range(4)))
    with pytest.raises(BadInputError, match="more than 3 members"):
        fetch.extract(path, tmp_path / "out")


def test_a_zip_that_lies_about_its_sizes(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("zeros", bytes(100_000)))
    path.write_bytes(path.read_bytes().replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(BadInputError, match="broken"):
        fetch.extract(path, tmp_path / "out")


def test_the_expected_archive(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", ("nsynth-test/x", b""))
    with pytest.raises(BadInputError, match="holds no nsynth-train"):
        fetch.extract(path, tmp_path / "out", expected=["nsynth-train"])
    assert not (tmp_path / "out").exists()


def test_merging(tmp_path: Path) -> None:
    """VoxCeleb1's two zips share wav/; nothing is lost, and nothing that differs is overwritten."""
    out = tmp_path / "voxceleb1"
    dev = zipped(tmp_path / "dev.zip", ("wav/id1/a.wav", b"1"), ("README", b"same"))
    test = zipped(tmp_path / "test.zip", ("wav/id2/b.wav", b"2"), ("README", b"same"))
    fetch.extract(dev, out)
    with pytest.raises(BadInputError, match=r"holds files already, and not .* test\.zip"):
        fetch.extract(test, out)
    fetch.extract(test, out, merge=True)
    files = {"wav/id1/a.wav": b"1", "wav/id2/b.wav": b"2", "README": b"same"}
    assert {name: (out / name).read_bytes() for name in files} == files
    assert set(fetch.extracted(out)) == {"dev.zip", "test.zip"}
    before = tree(tmp_path)
    other = zipped(tmp_path / "other.zip", ("wav/id3/c.wav", b"3"), ("wav/id1/a.wav", b"changed"))
    with pytest.raises(BadInputError, match=r"a\.wav: differs"):
        fetch.extract(other, out, merge=True)
    other.unlink()
    assert tree(tmp_path) == before
    (out / "wav" / "id4").symlink_to(tmp_path)
    with pytest.raises(BadInputError, match="id4: differs"):
        fetch.extract(zipped(tmp_path / "more.zip", ("wav/id4/escaped", b"")), out, merge=True)
    assert not (tmp_path / "escaped").exists()


def test_a_merge_cut_short_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    fetch.extract(zipped(tmp_path / "one.zip", ("one", b"1")), out)
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
            fetch.extract(second, out, merge=True)
    assert len(list(out.glob("d*"))) == 2
    assert set(fetch.extracted(out)) == {"one.zip"}
    fetch.extract(second, out, merge=True)
    assert len(list(out.glob("d*"))) == 4
    assert set(fetch.extracted(out)) == {"one.zip", "two.zip"}
    assert visible(out) == {"one", "d0", "d1", "d2", "d3"}


@pytest.mark.parametrize("merge", [False, True])
def test_sigkill_leaves_a_temporary_folder_that_the_next_run_sweeps(tmp_path: Path, merge: bool) -> None:
    path = tar(tmp_path / "a.tar", ("a", CONTENT), ("b", CONTENT * 3))
    out = tmp_path / "out"
    if merge:
        out.mkdir()
        (out / "mine").write_text("kept")
    before = tree(tmp_path)
    call = f"fetch.extract(Path({str(path)!r}), Path({str(out)!r}), merge={merge}, progress=Killed())"
    run_child(KILLED_AT.format("die()"), call, -signal.SIGKILL)
    left = {name for name in tree(tmp_path) if ".tmp-" not in name}
    assert left == set(before)
    assert set(tree(tmp_path)) > left
    assert fetch.extracted(out) == {}
    fetch.extract(path, out, merge=merge)
    assert visible(out) == {"a", "b"} | ({"mine"} if merge else set())
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
        fetch.extract(path, tmp_path / "out")
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: DISK(10**9, 10**9, 1000))
    with pytest.raises(MachineError, match="100,000 bytes are needed and 1,000 free"):
        fetch.extract(zipped(tmp_path / "a.zip", ("zeros", bytes(100_000))), tmp_path / "out")
    with pytest.raises(BadInputError, match="only a bomb does"):  # not: buy a larger disk
        fetch.extract(zipped(tmp_path / "a.zip", ("a", bytes(40 << 20)), ("b", bytes(40 << 20))), tmp_path / "out")
    (tmp_path / "a.zip").unlink()
    assert tree(tmp_path) == before


def test_join(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "whole.zip", ("wav/id1/a.wav", CONTENT[:300_000])).read_bytes()
    parts = [tmp_path / f"dev_part{letters}" for letters in ("aa", "ab", "ac")]
    for i, part in enumerate(parts[:2]):
        part.write_bytes(whole[i * 100_000 : (i + 1) * 100_000])
    with pytest.raises(BadInputError, match="lacks the parts dev_partac"):
        fetch.join(parts, tmp_path / "joined.zip")
    parts[2].write_bytes(whole[200_000:])
    assert fetch.join(parts, tmp_path / "joined.zip").read_bytes() == whole
    assert (fetch.extract(tmp_path / "joined.zip", tmp_path / "out") / "wav/id1/a.wav").stat().st_size == 300_000


def test_progress_reaches_the_end(server: Server, tmp_path: Path) -> None:
    from contextlib import contextmanager

    totals: list[list[int]] = []

    class Counting(Progress):
        @contextmanager
        def bar(self, what: str, total: int, unit: str = "clips") -> Iterator[Callable[[int, str], None]]:
            counts = [total, 0]
            totals.append(counts)
            yield lambda count, _: counts.__setitem__(1, counts[1] + count)

    path = fetch.download(server.file(), tmp_path, progress=Counting())
    fetch.extract(
        tar(tmp_path / "a.tgz", ("a", CONTENT), ("b", CONTENT * 4), mode="w:gz"), path.parent / "o", progress=Counting()
    )
    assert len(totals) == 3
    assert all(total == done > 0 for total, done in totals)


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
        fetch.extract(good, tmp_path / "out")
    except BadInputError:
        assert not (tmp_path / "out").exists()
    assert visible(tmp_path) <= {"x", "out"}
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
