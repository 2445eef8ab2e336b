"""Archives as the authors publish them, made from miniatures and served here: fetched, unpacked, counted."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from uamix_bench.data import fetch
from uamix_bench.data.prepare import archive_folder, look, prepare
from uamix_bench.data.task import MINIATURE, Task, load_task
from uamix_bench.plugins import registry
from uamix_bench.tasks.miniature import make
from uamix_bench.util.errors import BadInputError, MachineError

PER_CLASS, CLASSES = 8, 4
Offered = Callable[[str], tuple[Task, dict[str, bytes]]]


class Server(ThreadingHTTPServer):
    """Serves files from memory, ranges too; breaks off responses where it is told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []  # name, Range
        self.breaks_after: int | None = None  # bytes of every response

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name, wanted = self.path.partition("?")[0].rpartition("/")[2], self.headers.get("Range")
        self.server.requests.append((name, wanted))
        body = self.server.files[name]
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:][: self.server.breaks_after])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def zipped(root: Path, keep: Callable[[str], bool], extra: tuple[str, ...] = ()) -> bytes:
    """A zip with entries for its folders, as most are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if keep(name):
                archive.write(path, name)
        for name in extra:
            archive.writestr(name, "x")
    return buffer.getvalue()


def tarred(root: Path, keep: Callable[[str], bool], prefix: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if keep(name):
                archive.add(path, prefix + name, recursive=False)
    return buffer.getvalue()


def below(*tops: str) -> Callable[[str], bool]:
    return lambda name: name == MINIATURE or name.split("/")[0] in tops


def published(name: str, root: Path) -> dict[str, bytes]:
    """What the authors publish, by the name of the file, of the miniature in `root`."""
    if name == "esc50":
        more = ("ESC-50-master/README.md", "ESC-50-master/LICENSE", "ESC-50-master/meta/esc50-human.xlsx")
        return {"ESC-50-master.zip": zipped(root, below("ESC-50-master"), more)}
    if name == "nsynth":
        return {f"nsynth-{s}.jsonwav.tar.gz": tarred(root, below(f"nsynth-{s}")) for s in ("train", "valid", "test")}
    if name == "speech-commands":
        return {"speech_commands_v0.02.tar.gz": tarred(root, lambda _: True, "./")}
    if name == "fsdkaggle2018":
        parts = ("audio_train", "audio_test", "meta")
        return {f"FSDKaggle2018.{p}.zip": zipped(root, below(f"FSDKaggle2018.{p}")) for p in parts}
    speakers = sorted(path.name for path in (root / "wav").iterdir())
    dev = zipped(root, lambda name: name in ("wav", MINIATURE) or name[4:11] in speakers[:3])
    cut = [len(dev) * part // 4 for part in range(5)]
    parts = {f"vox1_dev_wav_parta{letter}": dev[cut[i] : cut[i + 1]] for i, letter in enumerate("abcd")}
    test = zipped(root, lambda name: name == "wav" or name[4:11] in speakers[3:])
    return {**parts, "vox1_test_wav.zip": test, "iden_split.txt": (root / "iden_split.txt").read_bytes()}


@pytest.fixture
def offered(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Offered:
    """Serves a data set and gives its card, with its own names, the addresses and the checksums of what is served."""

    def offer(name: str) -> tuple[Task, dict[str, bytes]]:
        root = make(name, tmp_path / "mini", classes=CLASSES, clips_per_class=PER_CLASS, seconds=0.05)
        contents = published(name, root)
        task: Task = registry.find_task(name).load()()
        files = []
        for file in task.card.files:
            content = b"".join(contents[part] for part in file.parts or (file.name,))
            here = f"http://127.0.0.1:{server.server_port}/{file.name}?download=1"
            md5 = hashlib.md5(content).hexdigest() if file.md5 else None
            sha256 = hashlib.sha256(content).hexdigest() if file.sha256 else None
            facts: dict[str, Any] = {"url": here if file.url else None, "md5": md5, "sha256": sha256, "bytes": None}
            files.append(file.model_copy(update=facts))
        server.files = contents
        monkeypatch.setattr(type(task), "card", task.card.model_copy(update={"files": tuple(files)}))
        return task, contents

    return offer


@pytest.mark.parametrize("name", ["esc50", "nsynth", "speech-commands", "fsdkaggle2018"])
def test_real_archives_are_fetched_unpacked_and_counted_and_an_interruption_loses_nothing(
    name: str, offered: Offered, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, contents = offered(name)
    data = tmp_path / "data"
    monkeypatch.setattr(fetch.time, "sleep", lambda _: None)
    server.breaks_after = min(map(len, contents.values())) // 8  # more than the attempts of one run make good
    with pytest.raises(MachineError):
        prepare(task, data)
    assert look(task.card, data).state == "absent"
    assert look(task.card, data).archives[0].endswith(".part")
    server.breaks_after, server.requests = None, []
    root = prepare(task, data)
    assert server.requests[0][1] is not None  # it went on where it was
    assert server.requests[0][1] != "bytes=0-"
    assert {request for request, _ in server.requests} == set(contents)
    assert root == data / name
    assert task.verify(root, deep=True) == []
    found = load_task(name, data)
    assert len(found.table) == PER_CLASS * CLASSES
    assert found.clips_sha256 == load_task(name, tmp_path / "mini").clips_sha256
    server.requests = []
    assert prepare(task, data) == root
    assert server.requests == []
    assert {path.name for path in archive_folder(task.card, data).iterdir()} >= set(contents)


def test_voxceleb_is_joined_from_its_parts_and_both_archives_unpack_into_one_folder(
    offered: Offered, server: Server, tmp_path: Path
) -> None:
    task, contents = offered("voxceleb1")
    data = tmp_path / "data"
    with pytest.raises(BadInputError, match=r"5 files must be requested from https://mm\.kaist\.ac\.kr"):
        prepare(task, data)
    assert server.requests == []
    folder = archive_folder(task.card, data)
    folder.mkdir(parents=True)
    for name in [name for name in contents if name != "iden_split.txt"]:
        (folder / name).write_bytes(contents[name])
    spoilt = folder / "vox1_dev_wav_partac"
    spoilt.write_bytes(spoilt.read_bytes()[:-1] + b"\0")
    with pytest.raises(BadInputError, match=r"vox1_dev_wav_partac"):
        prepare(task, data)
    spoilt.write_bytes(contents[spoilt.name])
    root = prepare(task, data)
    assert [name for name, _ in server.requests] == ["iden_split.txt"]
    assert task.verify(root, deep=True) == []
    assert sorted(path.name for path in (root / "wav").iterdir()) == ["id10001", "id10002", "id10003", "id10004"]
    assert load_task("voxceleb1", data).clips_sha256 == load_task("voxceleb1", tmp_path / "mini").clips_sha256
