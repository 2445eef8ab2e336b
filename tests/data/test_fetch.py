"""Fetching against a hostile server: the whole file, or a named error."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import signal
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from uamix_bench.data import archive, fetch
from uamix_bench.plugins.card import RemoteFile
from uamix_bench.util.errors import BadInputError, MachineError, UsageError
from uamix_bench.util.progress import Progress

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
        self.location = "/a/model.pth?signature=SECRET"

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
            self.send_header("Location", server.location)
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


@pytest.mark.parametrize("surplus", [1, 10_000_000])
def test_a_body_that_goes_on_past_the_published_size_is_left(server: Server, tmp_path: Path, surplus: int) -> None:
    """Without a length, or in pieces; what is written never passes the size."""
    server.length, server.content = -1, CONTENT + bytes(surplus)
    seen: list[int] = []

    class Watching(Progress):
        @contextmanager
        def bar(self, *_: Any, **__: Any) -> Iterator[Callable[[int, str], None]]:
            yield lambda count, _: seen.append(count)

    with pytest.raises(BadInputError, match="sends more than the published 640,000 bytes"):
        fetch.download(server.file(bytes=len(CONTENT)), tmp_path, progress=Watching())
    assert sum(seen) <= len(CONTENT)
    assert visible(tmp_path) == set()
    server.headers["Transfer-Encoding"], server.length = "chunked", len(CONTENT)
    server.content = b"%x\r\n%s\r\n0\r\n\r\n" % (len(CONTENT) + surplus, CONTENT + bytes(surplus))
    with pytest.raises(BadInputError, match="sends more than the announced 640,000 bytes"):
        fetch.download(server.file(), tmp_path)
    assert visible(tmp_path) == set()


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "x\x1b[2J"])
def test_a_body_that_is_encoded_though_that_was_not_asked_is_refused(
    server: Server, tmp_path: Path, encoding: str
) -> None:
    server.content, server.headers = gzip.compress(CONTENT), {"Content-Encoding": encoding}
    with pytest.raises(BadInputError, match=r"127\.0\.0\.1 sends the file encoded \(") as caught:
        fetch.download(server.file(), tmp_path)
    assert "\x1b" not in str(caught.value)
    assert visible(tmp_path) == set()
    server.content, server.headers = CONTENT, {"Content-Encoding": "identity"}
    assert fetch.download(server.file(), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "location",
    ["http://[::1", "http://", "//[", "http://a b/", "http://127.0.0.1:99999/", "file:///etc/passwd", "\xff\xfe://",
     "http://.", "http://xn--\xff/", "http://%zz/", "https://user:SECRET@/", "/redirect"],
)  # fmt: skip
def test_a_malformed_redirect_is_one_line(server: Server, tmp_path: Path, location: str) -> None:
    server.location = location
    file = server.file(url=f"http://127.0.0.1:{server.server_port}/redirect")
    with pytest.raises(MachineError) as caught:
        fetch.download(file, tmp_path)
    assert "\n" not in str(caught.value)
    assert "SECRET" not in str(caught.value)
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
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: DISK(10**9, 10**9, 1000))
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


def test_join(tmp_path: Path) -> None:
    parts = [tmp_path / f"dev_part{letters}" for letters in ("aa", "ab", "ac")]
    for i, part in enumerate(parts[:2]):
        part.write_bytes(CONTENT[i * 100_000 : (i + 1) * 100_000])
    with pytest.raises(BadInputError, match="lacks the parts dev_partac"):
        fetch.join(parts, tmp_path / "joined.zip")
    parts[2].write_bytes(CONTENT[200_000:])
    assert fetch.join(parts, tmp_path / "joined.zip").read_bytes() == CONTENT


def test_progress_reaches_the_end(server: Server, tmp_path: Path) -> None:
    progress = Counting()
    fetch.download(server.file(), tmp_path, progress=progress)
    assert progress.counts == [[len(CONTENT)] * 2] * 2  # downloaded, checked


class Counting(Progress):
    """Keeps the total and the sum of the steps of each bar."""

    def __init__(self) -> None:
        self.counts: list[list[int]] = []

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "clips") -> Iterator[Callable[[int, str], None]]:
        counts = [total, 0]
        self.counts.append(counts)
        yield lambda count, _: counts.__setitem__(1, counts[1] + count)


PRELUDE = """
import os, signal
from contextlib import contextmanager
from pathlib import Path
from uamix_bench.data import archive
from uamix_bench.data import fetch
from uamix_bench.plugins.card import RemoteFile
from uamix_bench.util.progress import Progress
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
