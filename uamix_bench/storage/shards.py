"""Store of byte rows by key, in a folder of shards: checksummed, without pickle or locks between processes.

A folder holds shards. A shard is written once, atomically, under a name made of its content::

    header | index (n, 8), ascending | entries (n, 36 + w)
    header = magic, owner (32 bytes), n, w, SHA-256 over all of this and the index
    entry = CRC-32 of what follows, key (32 bytes), row (w bytes)

Keys are digests. Their first 8 bytes are the index, which gives the position of an entry (two keys that share them cost
one of them a miss). Opening a shard reads header and index; only requested entries are read. Every byte has a checksum.
A truncated, changed or foreign entry is a miss and a warning, and the shard is rewritten without it. Small shards are
merged when there are many; a reader whose shard was merged away looks again. A shard's modification time is the time of
its last use, to the hour.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import struct
import zlib
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from uamix_bench.util import files
from uamix_bench.util.arrays import Bytes, Keys, Mask, Words
from uamix_bench.util.errors import MachineError

SUFFIX = ".shard"

_MAGIC = b"uamix-s2"
_HEADER = struct.Struct("<8s32sQQ32s")
_ENTRY = 36  # bytes of an entry before its row
_FAN = 16  # shards of a size that are merged at once, and the ratio of one size to the next
_LARGEST = 64 << 20  # bytes that a merge may make: what it holds in memory, and what pruning takes at once


class _Damaged(Exception):
    """A shard, or part of one, that differs from what was written."""


class _Shard(NamedTuple):
    path: Path
    size: int
    owner: bytes
    width: int
    prefixes: Words

    def read(self, at: npt.NDArray[np.intp]) -> tuple[Keys, Bytes, Mask]:
        """Reads the entries `at` (k,), ascending: keys (k,), rows (k, w), and a mask (k,) of the intact ones."""
        entries = np.zeros((len(at), size := _ENTRY + self.width), np.uint8)
        starts = np.flatnonzero(np.diff(at, prepend=-2) != 1)  # runs of neighbours are read in one go
        places = (_HEADER.size + self.prefixes.nbytes + at[starts] * size).tolist()  # in the file, and in `entries`
        bounds, data = [*(starts * size).tolist(), entries.nbytes], entries.reshape(-1).data
        with self.path.open("rb", buffering=0) as file:
            for place, start, stop in zip(places, bounds, bounds[1:], strict=False):
                file.seek(place)
                got = file.readinto(data[start:stop])
                if got != stop - start:
                    _fill(file, data[start + (got or 0) : stop])
        keys = np.ascontiguousarray(entries[:, 4:_ENTRY]).view("S32").reshape(-1)
        whole = np.ascontiguousarray(entries[:, :4]).view("<u4").reshape(-1) == _checks(entries[:, 4:])
        return keys, entries[:, _ENTRY:], whole


class ShardStore:
    """Store of rows of a fixed number of bytes by 32-byte key, in one folder of shards.

    A folder that cannot be used raises no error. The fault becomes one of `warnings`, and reads find nothing. After a
    failed write nothing more is written.

    Attributes:
        warnings: One line for each damaged shard found, and one for a folder that cannot be written.
    """

    def __init__(self, folder: Path, owner: str, row_bytes: int) -> None:
        self.folder = folder
        self.warnings: list[str] = []
        self._owner = bytes.fromhex(owner)
        self._width = row_bytes
        self._shards: dict[str, _Shard] = {}
        self._writable = True

    def get(self, keys: Sequence[bytes]) -> tuple[Mask, Bytes]:
        """Looks up 32-byte `keys` (m,): a mask (m,) of the keys found, and uint8 rows (m, w), zero for the others."""
        wanted = np.asarray(keys, "S32")
        found = np.zeros(len(wanted), np.bool_)
        rows = np.zeros((len(wanted), self._width), np.uint8)
        pending = np.argsort(_prefixes(wanted))  # in the shards' own order, so that searches and reads go forward
        for _ in range(10):
            vanished = False
            for shard in self._open_all():
                if not len(pending):
                    return found, rows
                hits, at = _match(shard.prefixes, _prefixes(wanted[pending]))
                if not len(at):
                    continue
                try:
                    theirs, read, whole = shard.read(at)
                except FileNotFoundError:  # merged by another process: what it held is in a newer shard
                    vanished = True
                    continue
                except OSError as error:
                    self._damaged(shard.path, error.strerror or str(error))
                    continue
                files.note_use(shard.path)
                good = whole & (theirs == wanted[pending[hits]])
                targets = pending[hits][good]
                found[targets] = True
                rows[targets] = read[good]
                pending = pending[~found[pending]]
                if not whole.all():
                    self._rewrite([shard])
            if not vanished:
                break
        return found, rows

    def contains(self, keys: Sequence[bytes]) -> Mask:
        """Looks up 32-byte `keys` (m,) in the indexes alone: a mask (m,) of keys found, damaged entries included."""
        prefixes = _prefixes(np.asarray(keys, "S32"))
        found = np.zeros(len(keys), np.bool_)
        pending = np.argsort(prefixes)
        for shard in self._open_all():
            hits, _ = _match(shard.prefixes, prefixes[pending])
            if hits.any():
                files.note_use(shard.path)
                found[pending[hits]] = True
                pending = pending[~hits]
        return found

    def put(self, keys: Sequence[bytes], rows: Bytes) -> bool:
        """Adds uint8 `rows` (n, w) under 32-byte `keys` (n,). A row that is already stored under a key stays.

        Returns:
            True if the folder can be written, so that the rows are kept.
        """
        if len(keys) and self._writable:
            self._write(np.asarray(keys, "S32"), rows)
            self._merge()
        return self._writable

    def _open_all(self) -> list[_Shard]:
        """Shards that exist now, largest first. Shards that were opened before are not read again."""
        try:
            with os.scandir(self.folder) as entries:
                names = {entry.name for entry in entries if entry.name.endswith(SUFFIX) and entry.is_file()}
        except OSError:
            names = set()
        self._shards = {name: shard for name, shard in self._shards.items() if name in names}
        for name in sorted(names - set(self._shards)):
            path = self.folder / name
            try:
                shard = _open(path)
                if (shard.owner, shard.width) != (self._owner, self._width):
                    raise _Damaged("is another model's")
                self._shards[name] = shard
            except FileNotFoundError:  # merged since it was listed
                return self._open_all()
            except OSError as error:
                self._damaged(path, error.strerror or str(error))
            except _Damaged as error:
                self._damaged(path, str(error))
                with contextlib.suppress(OSError):
                    path.unlink()
        return sorted(self._shards.values(), key=lambda shard: (-shard.size, shard.path))

    def _write(self, keys: Keys, rows: Bytes) -> str | None:
        """Writes one shard and returns its name, or None if the folder cannot be written."""
        keys, first = np.unique(keys, return_index=True)
        entries = np.empty((len(keys), _ENTRY + self._width), np.uint8)
        entries[:, 4:_ENTRY] = keys.view(np.uint8).reshape(-1, 32)
        entries[:, _ENTRY:] = rows[first]
        entries[:, :4] = _checks(entries[:, 4:]).view(np.uint8).reshape(-1, 4)
        index = _prefixes(keys).astype(">u8").tobytes()
        head = _HEADER.pack(_MAGIC, self._owner, len(keys), self._width, bytes(32))[:-32]
        seal = hashlib.sha256(head + index).digest()
        name = seal.hex()[:32] + SUFFIX
        parts: list[bytes | memoryview] = [head, seal, index, entries.data]
        for retry in (True, False):
            try:
                files.write_atomic(self.folder / name, lambda file: file.writelines(parts))
                return name
            except MachineError as error:
                if retry and isinstance(error.__cause__, FileNotFoundError):
                    continue  # pruned to the last shard, folder and all, between making the folder and the file
                self._writable = False
                room = _room(self.folder, _HEADER.size + len(index) + entries.nbytes)
                self.warnings.append(f"{error}; the run goes on without keeping embeddings{room}")
                break
        return None

    def _merge(self) -> None:
        """Merges every _FAN shards of similar size into one. That keeps shards few and moves a row few times."""
        sizes: dict[int, list[_Shard]] = {}
        for shard in reversed(self._open_all()):
            if shard.size < _LARGEST // 2:
                sizes.setdefault(shard.size.bit_length() // 4, []).append(shard)
        for shards in sizes.values():
            if len(shards) >= _FAN:
                fitting = int(np.searchsorted(np.cumsum([shard.size for shard in shards]), _LARGEST, "right"))
                files.sweep(self.folder)
                self._rewrite(shards[:fitting])

    def _rewrite(self, shards: list[_Shard]) -> None:
        """Replaces shards by one with their intact rows. A kill in between stores rows twice, which is harmless."""
        try:
            read = [shard.read(np.arange(len(shard.prefixes))) for shard in shards]
        except OSError:
            return  # another process is at it
        for shard, (_, _, whole) in zip(shards, read, strict=True):
            if not whole.all():
                self._damaged(shard.path, _loss(int((~whole).sum()), len(whole)))
        keys = np.concatenate([keys[whole] for keys, _, whole in read])
        written = self._write(keys, np.concatenate([rows[whole] for _, rows, whole in read])) if len(keys) else ""
        for shard in shards:
            if written is not None and shard.path.name != written:
                with contextlib.suppress(OSError):
                    shard.path.unlink()

    def _damaged(self, path: Path, reason: str) -> None:
        line = f"{path}: {reason}; left out of the cache and computed again"
        if line not in self.warnings:
            self.warnings.append(line)


def count_rows(path: Path) -> int:
    """Number of rows by a shard's header, which alone is read; 0 if the file is not a shard.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        head = file.read(_HEADER.size)
    return int(_HEADER.unpack(head)[2]) if len(head) == _HEADER.size and head.startswith(_MAGIC) else 0


def find_damage(path: Path, owner: str) -> str | None:
    """Reads a whole shard and returns the damage found as a text, or None.

    Args:
        path: Path of the shard.
        owner: Required beginning of the shard's owner, in hex digits.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        shard = _open(path)
    except _Damaged as error:
        return str(error)
    if not shard.owner.hex().startswith(owner):
        return "is another model's"
    count = len(shard.prefixes)
    step = max(1, _LARGEST // (_ENTRY + shard.width))
    bad = sum(int((~shard.read(np.arange(at, min(at + step, count)))[2]).sum()) for at in range(0, count, step))
    return _loss(bad, count) if bad else None


def _loss(bad: int, count: int) -> str:
    return f"{bad} of {count} entries are damaged"


def _open(path: Path) -> _Shard:
    """Reads and checks a shard's header and index."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or head[:8] != _MAGIC:
            raise _Damaged("is not a shard")
        _, owner, count, width, seal = _HEADER.unpack(head)
        if size != _HEADER.size + count * (8 + _ENTRY + width):
            raise _Damaged("is truncated")
        index = file.read(8 * count)
    if hashlib.sha256(head[:-32] + index).digest() != seal:
        raise _Damaged("has a damaged index")
    return _Shard(path, size, owner, width, np.frombuffer(index, ">u8", count).astype(np.uint64))


def _room(folder: Path, needed: int) -> str:
    """Free and needed disk space in bytes, as a text for the warning."""
    try:
        return f" ({needed:,} bytes needed, {shutil.disk_usage(folder).free:,} free)"
    except OSError:
        return ""


def _prefixes(keys: Keys) -> Words:
    """First 8 bytes of the keys (n,), as numbers (n,) that sort like the keys."""
    return np.ascontiguousarray(keys).view(">u8").reshape(-1, 4)[:, 0].astype(np.uint64)


def _match(known: Words, wanted: Words) -> tuple[Mask, npt.NDArray[np.intp]]:
    """Mask (m,) of the `wanted` (m,) that are in `known` (n,), and their positions there. Both inputs are ascending."""
    if not len(known):
        return np.zeros(len(wanted), np.bool_), np.zeros(0, np.intp)
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    hits = known[at] == wanted
    return hits, at[hits]


def _checks(rows: Bytes) -> npt.NDArray[np.uint32]:
    """CRC-32 of each of (n, w) `rows`; (n,) uint32, little-endian."""
    return np.fromiter(map(zlib.crc32, rows), "<u4", len(rows))


def _fill(file: FileIO, buffer: memoryview) -> None:
    """Reads until `buffer` is full or the file ends."""
    at = 0
    while at < len(buffer):
        got = file.readinto(buffer[at:])
        if not got:
            return
        at += got
