"""Download of published files with resume and checksums, for checkpoints and data sets.

A file has its final name only when it is whole and verified. `requests` transfers, and `filelock` lets one process at a
time work on a name (the lock of a dead process is released). Resume and pinned checksums are written here, as pooch has
neither.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from uamix_bench.data.archive import need_space
from uamix_bench.plugins.card import RemoteFile
from uamix_bench.util.errors import BadInputError, MachineError, UsageError
from uamix_bench.util.files import (
    locked,
    machine_error,
    make_folder,
    read_json,
    sweep,
    unreadable,
    write_atomic,
    write_json,
)
from uamix_bench.util.progress import SILENT, Progress
from uamix_bench.util.text import visible

CHECKSUMS = "checksums.json"

_CHUNK = 1 << 16
_TIMEOUT_S = (10.0, 60.0)  # to connect, between two pieces


def download(
    file: RemoteFile,
    folder: Path,
    *,
    progress: Progress = SILENT,
    offline: bool = False,
    attempts: int = 3,
) -> Path:
    """Downloads a published file into a folder, or verifies the one that exists there.

    The bytes go to ``<name>.part``. A later call resumes it if the server proves (If-Range) that the file is unchanged.
    The file gets its name when size and checksums match; see `verify` for their source.

    Args:
        file: Published file to download.
        folder: Target folder; created.
        progress: Progress display, in bytes.
        offline: True never uses the network.
        attempts: Number of attempts in all; each resumes the one before.

    Returns:
        Path of the file.

    Raises:
        BadInputError: A person must fetch the file (the line names its source and its place), or the downloaded or
            existing file differs from the published or pinned one.
        MachineError: The network, the server or the disk failed; the bytes received so far are kept.
        UsageError: The file's name is not a plain file name.
    """
    if Path(file.name).name != file.name or file.name.startswith(".") or not file.name:
        raise UsageError(file.name, "is not a plain file name", "correct the card")
    target = folder / file.name
    if not target.exists():
        if file.url is None or offline:
            reason = "is not here, and cannot be downloaded " + ("offline" if file.url else "by a program")
            raise BadInputError(target, reason, _by_hand(file))
        make_folder(folder)
        with locked(folder / f".{file.name}.lock", progress.say):
            if not target.exists():  # another process may have brought it while this one waited
                _bring(file, target, progress, attempts)
                return target
    verify(target, file, progress=progress)
    return target


def verify(path: Path, file: RemoteFile | None = None, *, progress: Progress = SILENT) -> str:
    """Verifies a file by its published size and checksums, else by ``checksums.json`` beside it.

    ``checksums.json`` pins the SHA-256 of every file on its first use, so that a later change is noticed.

    Args:
        path: Path of the file.
        file: Published size and checksums of the file; None if nothing was published.
        progress: Progress display, in bytes.

    Returns:
        SHA-256 (hex) of the file.

    Raises:
        BadInputError: The file is missing, is a web page or a Git LFS pointer, or differs; the line names both digests.
        MachineError: The file cannot be read.
    """
    remedy = f"move it away; {_by_hand(file)}" if file else "move it away and fetch it again"
    sha256 = _check(path, path, file, remedy, progress)
    try:
        _pin(path, sha256, progress)
    except MachineError as error:  # a shared, read-only folder
        progress.say(f"{error} (so {path.name} is not pinned)")
    return sha256


def join(parts: Sequence[Path], target: Path, *, progress: Progress = SILENT) -> Path:
    """Concatenates the published parts of a large archive (VoxCeleb1's ``vox1_dev_wav_partaa`` to ``ad``).

    Args:
        parts: Paths of the parts, in order.
        target: Path of the whole archive. It exists only when it is complete, and is not written again.
        progress: Progress display, in bytes.

    Returns:
        `target`.

    Raises:
        BadInputError: A part is missing.
        MachineError: The disk is full or `target` cannot be written.
    """
    if missing := [part.name for part in parts if not part.is_file()]:
        raise BadInputError(target, f"lacks the parts {', '.join(missing)}", f"put them into {parts[0].parent}")
    total = sum(part.stat().st_size for part in parts)
    if target.is_file() and target.stat().st_size == total:
        return target
    make_folder(target.parent)
    sweep(target.parent)
    need_space(target.parent, total)

    def concatenate(whole: BinaryIO) -> None:
        with progress.bar(f"joining {target.name}", total, "B") as advance:
            for part in parts:
                with part.open("rb") as piece:
                    while chunk := piece.read(_CHUNK):
                        whole.write(chunk)
                        advance(len(chunk), part.name)

    return write_atomic(target, concatenate)


# --- downloading


class _BrokeOffError(Exception):
    """Failure of an attempt that a further attempt may mend."""


def _bring(file: RemoteFile, target: Path, progress: Progress, attempts: int) -> None:
    """Downloads, verifies, pins and names a file, under its lock."""
    part = target.with_name(f"{target.name}.part")
    problem = "was not tried"
    for attempt in range(1, attempts + 1):
        try:
            resumed = _transfer(file, target, part, progress)
        except _BrokeOffError as broken:
            problem = str(broken)
            if attempt < attempts:
                progress.say(f"{file.name}: {problem}; trying again")
                time.sleep(2.0 ** (attempt - 1))
            continue
        try:
            sha256 = _check(part, target, file, f"it was not kept; {_by_hand(file)}", progress)
        except BadInputError:
            _discard(part)
            if resumed and attempt < attempts:
                continue  # perhaps pieces of two versions: once more from the start
            raise
        _pin(target, sha256, progress)
        part.replace(target)
        _discard(part)
        return
    kept = part.stat().st_size if part.exists() else 0
    remedy = f"run it again to continue after {kept:,} bytes" if kept else f"try again later, or {_by_hand(file)}"
    raise MachineError(target, problem, remedy)


def _transfer(file: RemoteFile, target: Path, part: Path, progress: Progress) -> bool:
    """Completes `part` in one request and returns True if it resumed earlier bytes."""
    import requests
    import urllib3

    assert file.url is not None
    server = urlsplit(file.url).hostname
    notes = part.with_name(f"{part.name}.json")
    earlier = read_json(notes)
    have = part.stat().st_size if part.exists() else 0
    if have and have == earlier.get("total"):
        return True  # killed between the last byte and the name
    headers = {"Accept-Encoding": "identity"}
    if have and earlier.get("validator"):
        headers |= {"Range": f"bytes={have}-", "If-Range": earlier["validator"]}
    try:
        with requests.get(file.url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
            validator, total = _validator(response.headers), _length(response.headers.get("Content-Length"))
            resumed = response.status_code == 206
            if resumed:
                piece = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
                total = int(piece[2]) if piece else None
                same = validator in (None, earlier.get("validator")) and earlier.get("total") in (None, total)
                if not piece or int(piece[1]) != have or not same:
                    _discard(part)
                    raise _BrokeOffError(f"{server} has another version of the file by now")
            elif response.status_code == 416:  # it is shorter than what we have
                _discard(part)
            _refuse(response.status_code, response.headers, total, file, target)
            if not resumed:
                _discard(part)
                have = 0
            need_space(target.parent, (total or file.bytes or 0) - have)
            write_json(notes, {"validator": validator or earlier.get("validator"), "total": total})
            most = file.bytes if total is None else total  # they are equal where both are known
            have = _receive(response.raw, part, have, most, target.name, progress)
            if most is not None and have > most:
                _discard(part)
                reason = f"{server} sends more than the {'published' if file.bytes else 'announced'} {most:,} bytes"
                raise BadInputError(target, reason, _by_hand(file))
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise _BrokeOffError(f"{server} does not answer in time") from error
    except requests.exceptions.SSLError as error:
        raise MachineError(target, f"the certificate of {server} is not trusted", "check clock and proxy") from error
    except (requests.ConnectionError, urllib3.exceptions.HTTPError) as error:
        raise _BrokeOffError(f"the connection to {server} failed or broke off") from error
    except requests.RequestException as error:  # its text may hold secrets of a redirect
        raise MachineError(target, f"{server}: {type(error).__name__}", _by_hand(file)) from error
    except ValueError as error:  # of an address that is none, from whichever of the libraries meets it first
        raise MachineError(target, f"{server} redirects to what is no address", _by_hand(file)) from error
    if total is not None and have < total:
        raise _BrokeOffError(f"{server} broke off after {have:,} of {total:,} bytes")
    return resumed


def _receive(raw: Any, part: Path, have: int, total: int | None, name: str, progress: Progress) -> int:
    """Writes a response's body behind the first `have` bytes of `part` and returns the number of bytes there.

    If `total` is known, writing stops before the first byte beyond it.
    """
    try:
        with progress.bar(f"downloading {name}", total or 0, "B") as advance, part.open("r+b" if have else "wb") as out:
            out.seek(have)
            advance(have, "")
            for chunk in raw.stream(_CHUNK, decode_content=False):
                if total is not None and have + len(chunk) > total:
                    return have + len(chunk)
                out.write(chunk)
                have += len(chunk)
                advance(len(chunk), "")
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise machine_error(part, error) from error
    return have


def _refuse(status: int, headers: Mapping[str, str], total: int | None, file: RemoteFile, target: Path) -> None:
    """Raises an error unless the answer can be the file or a piece of it."""
    server = urlsplit(file.url or "").hostname
    if status in (408, 416, 429) or status >= 500:
        raise _BrokeOffError(f"{server} answers with status {status}")
    if status not in (200, 206):
        raise MachineError(target, f"{server} answers with status {status}", _by_hand(file))
    encoding = headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise BadInputError(target, f"{server} sends the file encoded ({visible(encoding)[:20]})", _by_hand(file))
    if headers.get("Content-Type", "").startswith("text/html") and "htm" not in target.suffix:
        raise BadInputError(target, f"{server} sends a web page instead of the file", _by_hand(file))
    chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
    if total is None and not chunked and not (file.bytes or file.sha256 or file.md5):
        raise BadInputError(target, f"{server} does not say how long the file is", _by_hand(file))
    if file.bytes is not None and total not in (None, file.bytes):
        reason = f"{server} offers {total:,} bytes, published are {file.bytes:,}"
        raise BadInputError(target, reason, _by_hand(file))


def _validator(headers: Mapping[str, str]) -> str | None:
    """Returns the validator for If-Range: a strong ETag, else the date."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _length(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}.json").unlink(missing_ok=True)


def _by_hand(file: RemoteFile) -> str:
    """Remedy for a person: the address to open, without a user name, password or token."""
    note = f" ({file.note.rstrip('.')})" if file.note else ""
    address = urlsplit(file.page or file.url or "")
    place = f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}" if address.netloc else "its authors"
    return f"get {file.name} from {place}{note} and put it there"


# --- checking


def _check(content: Path, target: Path, file: RemoteFile | None, remedy: str, progress: Progress) -> str:
    """Compares bytes with the published, else the pinned, checksums of `target` and returns their SHA-256 (hex)."""
    file = file or RemoteFile(name=target.name)
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    size, head = 0, b""
    try:
        with content.open("rb") as stream, progress.bar(f"checking {target.name}", content.stat().st_size, "B") as step:
            while chunk := stream.read(_CHUNK):
                head = head or chunk[:512].lstrip().lower()
                size += len(chunk)
                sha256.update(chunk)
                if file.md5:
                    md5.update(chunk)
                step(len(chunk), "")
    except OSError as error:
        raise unreadable(target, error) from error
    found = sha256.hexdigest()
    pinned = None if file.sha256 else _pins(target.parent).get(target.name)
    differences = [
        f"{kind} {got} is not the {source} {wanted}"
        for kind, got, source, wanted in (
            ("size", size, "published", file.bytes),
            ("SHA-256", found, "published", file.sha256 and file.sha256.lower()),
            ("MD5", md5.hexdigest(), "published", file.md5 and file.md5.lower()),
            ("SHA-256", found, f"one pinned in {CHECKSUMS} on first use", pinned),
        )
        if wanted is not None and got != wanted
    ]
    disguise = _disguise(size, head)
    if disguise and (differences or not (file.sha256 or file.md5)):
        raise BadInputError(target, f"is {disguise}, not the file", remedy)
    if differences:
        if len(differences) == 1 and pinned not in (None, found):
            remedy += f", or remove its line from {CHECKSUMS} if the new one is right"
        raise BadInputError(target, "its " + "; its ".join(differences), remedy)
    return found


def _disguise(size: int, head: bytes) -> str:
    """Name of a file's usual stand-in (a web page, a pointer), from its first bytes in lower case; else empty."""
    if size == 0:
        return "empty"
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    return "a Git LFS pointer" if head.startswith(b"version https://git-lfs") else ""


def _pins(folder: Path) -> dict[str, Any]:
    pins = read_json(folder / CHECKSUMS)
    return {name: entry["sha256"] for name, entry in pins.items() if isinstance(entry, dict) and "sha256" in entry}


def _pin(target: Path, sha256: str, progress: Progress) -> None:
    """Adds a file's digest to ``checksums.json``, under its lock."""
    path = target.with_name(CHECKSUMS)
    if _pins(target.parent).get(target.name) == sha256:
        return
    with locked(target.with_name(f".{CHECKSUMS}.lock"), progress.say):
        write_json(path, read_json(path) | {target.name: {"sha256": sha256}})
