"""Safe unpacking of untrusted archives: plain files and folders, all of them or nothing.

Only checked names and counted bytes of an archive reach the disk. This module creates every file itself, so links,
devices, owners and modes are never taken over. Stock `tarfile`, filter='data' included, let a file escape on Python
3.11.7 (CVE-2025-4517), holds any extended header in memory, and takes a broken header for the end.
"""

from __future__ import annotations

import errno
import filecmp
import gzip
import lzma
import os
import shutil
import stat
import struct
import tarfile
import unicodedata
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from uamix_bench.util.errors import BadInputError, MachineError
from uamix_bench.util.files import file_sha256, locked, machine_error, make_folder, read_json, unreadable, write_json
from uamix_bench.util.progress import SILENT, Progress

COMPLETE = ".complete"

# What an archive may hold. The largest official one (NSynth's training split) has 289,206 members; sounds and metadata
# deflate 2 to 20 times, a bomb up to 1,000 times.
_MOST_MEMBERS = 1_000_000
_MOST_GROWTH = 100
_SMALL = 64 << 20  # bytes that any archive may unpack to
_LONGEST_NAME = 255  # bytes
_LONGEST_PATH = 1024  # bytes

# The most that is read at once. tarfile reads an extended header whole, and its regular expressions need time
# quadratic in it (CVE-2024-6232); an honest one has a few hundred bytes.
_CHUNK = 16 << 10

_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    EOFError,
    ValueError,
    OverflowError,
    RecursionError,
    NotImplementedError,  # a compression that zipfile does not know
)


class _Member(NamedTuple):
    """One entry of an archive; `content` is None for a folder."""

    name: str
    size: int
    content: IO[bytes] | None


class UnsafeArchiveError(Exception):
    """Refusal of an archive that breaks a rule; the text names the rule and the member."""


def extract(archive: Path, target: Path, *, progress: Progress = SILENT) -> Path:
    """Unpacks a zip, tar or tar.gz of plain files and folders, all of it or nothing.

    It unpacks into ``<target>.tmp-<uuid>`` and renames. The next run removes leftovers of a killed one. The file
    ``.complete`` lists the archives that are wholly in the folder; an archive listed there is not unpacked again.
    Refused are links, devices, names that lead out of the folder, control characters, names that differ in case only,
    and more members or bytes than an honest archive has. Owners, modes and times are not taken over.

    Args:
        archive: Path of the archive; its content decides its kind.
        target: Folder that receives the archive's files. One that exists in both must be identical, byte by byte.
        progress: Progress display, in bytes of the archive.

    Returns:
        `target`.

    Raises:
        BadInputError: The archive is missing, broken or unsafe, or `target` holds another file of a name in it.
        MachineError: The disk is full or cannot be written; nothing is left behind.
    """
    sha256 = file_sha256(archive)
    target = target.resolve()
    make_folder(target.parent)
    with locked(target.parent / f".{target.name}.lock", progress.say):
        for leftover in (*target.parent.glob(f"{target.name}.tmp-*"), *target.glob(f"{target.name}.tmp-*")):
            shutil.rmtree(leftover, ignore_errors=True)  # its owner is dead: we hold the lock
        done = extracted(target)
        if done.get(archive.name) == sha256:
            return target
        exists = target.exists()
        # Inside a folder that exists, as that may be a mount point: a rename stays on one file system.
        temporary = (target if exists else target.parent) / f"{target.name}.tmp-{uuid.uuid4().hex}"
        record = {"archives": done | {archive.name: sha256}}
        try:
            temporary.mkdir()
            _unpack(archive, temporary, progress)
            if (temporary / COMPLETE).exists():
                raise BadInputError(archive, f"holds a file named {COMPLETE}", "get it again from its authors")
            if clash := next(_clashes(temporary, target), None):
                raise BadInputError(clash, f"differs from what {archive.name} holds", "move it away and try again")
            if hasattr(os, "sync"):
                os.sync()  # once, before the record, instead of once for each of 300,000 files
            if not exists:
                write_json(temporary / COMPLETE, record)
            _move_over(temporary, target)
            if exists:
                write_json(target / COMPLETE, record)
        except OSError as error:
            raise machine_error(target, error) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def extracted(target: Path) -> dict[str, str]:
    """Returns the archives that are wholly unpacked in a folder, as file name -> SHA-256 (hex)."""
    return {str(name): str(digest) for name, digest in read_json(target / COMPLETE).get("archives", {}).items()}


def _unpack(archive: Path, folder: Path, progress: Progress = SILENT) -> None:
    """Writes the files and folders of a zip, tar or tar.gz into an empty folder.

    Args:
        archive: Path of the archive; its content decides its kind.
        folder: Empty target folder; the caller should remove it after an error.
        progress: Progress display, in bytes of the archive.

    Raises:
        BadInputError: The archive is missing, broken or no archive; or it holds links, devices, names that lead out of
            the folder, control characters, names twice or different in case only, or too much for an honest one.
        MachineError: The disk is full or cannot be written.
    """
    try:
        length = archive.stat().st_size
        file = archive.open("rb")
    except OSError as error:
        raise unreadable(archive, error) from error
    with file, progress.bar(f"unpacking {archive.name}", length, "B") as advance:
        shown = 0
        try:
            guard = _Guard(max(_SMALL, _MOST_GROWTH * length))
            for member in _members(file, guard, folder):
                path = folder.joinpath(*guard.admit(member))
                if member.content is None:
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as out:
                    while chunk := member.content.read(_CHUNK):
                        out.write(chunk)
                        if (position := file.tell()) - shown > 1 << 20:
                            advance(position - shown, "")
                            shown = position
                    if out.tell() != member.size:
                        raise UnsafeArchiveError(f"{member.name!r} holds {out.tell():,} of {member.size:,} bytes")
        except UnsafeArchiveError as error:
            raise BadInputError(archive, f"is refused: {error}", "get it again from its authors") from error
        except _BROKEN as error:
            reason = f"is broken or cut off ({type(error).__name__}: {str(error)[:120]})"
            raise BadInputError(archive, reason, "download it again") from error
        except OSError as error:
            if error.errno == errno.EINVAL:  # zipfile seeks to where a broken header says
                raise BadInputError(archive, "is broken or cut off", "download it again") from error
            raise machine_error(folder, error) from error
        if not guard.members:
            raise BadInputError(archive, "holds no files", "download it again")
        advance(length - shown, "")


def _clashes(source: Path, target: Path) -> Iterator[Path]:
    """Yields the paths that block a move of `source` over `target`: other content, a file for a folder, a link."""
    if not os.path.lexists(target):
        return
    link = target.is_symlink()
    if source.is_dir() and target.is_dir() and not link:
        for child in source.iterdir():
            yield from _clashes(child, target / child.name)
    elif link or not (source.is_file() and target.is_file() and filecmp.cmp(source, target, shallow=False)):
        yield target


def _move_over(source: Path, target: Path) -> None:
    """Renames `source` to `target` and enters folders that exist in both. After a kill it can be repeated."""
    if source.is_dir() and target.is_dir():
        for child in list(source.iterdir()):
            _move_over(child, target / child.name)
    else:
        source.replace(target)


class _Guard:
    """Check of members one by one: safe names, each once, and limits on their number and bytes."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self.members = 0
        self._seen: dict[str, str] = {}  # folded path -> the path as written, with a slash behind a folder's

    def admit(self, member: _Member) -> tuple[str, ...]:
        """Returns the parts of the member's path under the target, or raises UnsafeArchiveError."""
        self.members += 1
        if self.members > _MOST_MEMBERS:
            raise UnsafeArchiveError(f"more than {_MOST_MEMBERS:,} members")
        self.bytes += member.size
        self.afford(self.bytes)
        parts = safe_parts(member.name)
        if not parts and member.content is not None:
            raise UnsafeArchiveError(f"{member.name!r} is a file without a name")
        for end in range(1, len(parts) + 1):
            file = end == len(parts) and member.content is not None
            path = "/".join(parts[:end]) + ("" if file else "/")
            folded = unicodedata.normalize("NFC", path.rstrip("/")).casefold()
            if (known := self._seen.get(folded)) is None:
                self._seen[folded] = path
            elif known != path or file:
                raise UnsafeArchiveError(f"{member.name!r} stands there twice, or collides with {known!r}")
        return parts

    def afford(self, total: int) -> None:
        """Raises UnsafeArchiveError if an archive of this length cannot honestly unpack to `total` bytes."""
        if total > self.most_bytes:
            raise UnsafeArchiveError(f"it unpacks to over {self.most_bytes:,} bytes, as only a bomb does")


def safe_parts(name: str) -> tuple[str, ...]:
    """Splits a member's name into folder and file names that are safe on every system.

    Raises:
        UnsafeArchiveError: The name is absolute, leads upwards, or holds characters that no data set's names hold.
    """
    if name.startswith("/"):
        raise UnsafeArchiveError(f"{name!r} is absolute")
    if not name.isprintable() or "\\" in name or ":" in name:
        raise UnsafeArchiveError(f"{name!r} holds a control character, a backslash or a colon")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise UnsafeArchiveError(f"{name!r} leads out of the folder")
    if len(name.encode()) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in parts):
        raise UnsafeArchiveError(f"{name[:40]!r}... is too long")
    return parts


def _members(file: IO[bytes], guard: _Guard, folder: Path) -> Iterator[_Member]:
    """Yields the members of an archive in order. Read each before asking for the next."""
    head = file.read(262)
    file.seek(0)
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        yield from _zip_members(file, guard, folder)
    elif head.startswith(b"\x1f\x8b"):
        with gzip.open(file) as content:
            yield from _tar_members(cast(IO[bytes], content))
    elif head[257:] == b"ustar":
        yield from _tar_members(file)
    else:
        raise UnsafeArchiveError("it is no zip, tar or tar.gz")


def _zip_members(file: IO[bytes], guard: _Guard, folder: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        total = sum(info.file_size for info in archive.infolist())
        guard.afford(total)  # a zip says so before; a tar only as it goes
        need_space(folder, total)
        for info in archive.infolist():
            name = info.orig_filename  # the other one ends at the first NUL
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR and not name.endswith("/")):
                raise UnsafeArchiveError(f"{name!r} is a link or a device")
            if info.flag_bits & 1:
                raise UnsafeArchiveError(f"{name!r} is encrypted")
            if name.endswith("/"):
                yield _Member(name, 0, None)
            else:
                with archive.open(info) as content:
                    yield _Member(name, info.file_size, content)


def _tar_members(file: IO[bytes]) -> Iterator[_Member]:
    stream = _Forward(file)
    # Second opinion on names, where this Python has it (3.11.4).
    second_opinion = getattr(tarfile, "data_filter", lambda member, _: member)
    with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:") as archive:
        while (member := archive.next()) is not None:
            cast(Any, archive).members = []  # of 290,000 members tarfile would keep every header
            if not (member.isdir() or member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)) or member.issparse():
                raise UnsafeArchiveError(f"{member.name!r} is a link, a device or a sparse file")
            safe_parts(member.name)
            second_opinion(member, "/nowhere")
            if member.isdir():
                yield _Member(member.name, 0, None)
            else:
                yield _Member(member.name, member.size, archive.extractfile(member))
    # tarfile takes the end of the file, or a broken header, for the end of the archive: that is two blocks of zeros.
    padding = stream.last + file.read(1 << 20)
    if len(padding) < tarfile.BLOCKSIZE or padding.strip(b"\0") or file.read(1):
        raise UnsafeArchiveError("it does not end as a tar does: it is cut off or broken, or something follows it")


class _Forward:
    """Reader of a tar in small pieces, so that no header makes tarfile fill the memory. `last` is the latest piece."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.last = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _CHUNK:
            raise UnsafeArchiveError(f"a header claims {size:,} bytes")
        self.last = self._file.read(size)
        return self.last

    def seek(self, position: int) -> None:
        self._file.seek(position)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def need_space(folder: Path, needed: int) -> None:
    """Makes sure that the disk has room for `needed` bytes.

    Raises:
        MachineError: The disk has less room; the line names both numbers.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise MachineError(
            folder, f"{needed:,} bytes are needed and {free:,} free", "free some or choose another folder"
        )
