"""The embedding cache: content-addressed, per clip, checksummed, no pickle; several processes need no lock.

A folder holds shards. A shard is written once, atomically, under a name made of its content::

    header | keys (n, 32), ascending | checks (n, 4) | rows (n, w)
    header = magic, owner (32 bytes), n, w, SHA-256 over all of this, the keys and the checks

Opening a shard reads header, keys and checks; rows that are not asked for are never read. A check is the CRC-32
of its row. So every byte is covered: what is truncated, flipped or foreign is a miss and a warning, and the
shard is written anew without it. Small shards are merged as they gather; a reader whose shard was merged away
looks again. A shard's modification time tells, to the hour, when it was last of use.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from uamix_bench import files
from uamix_bench.errors import BadInputError, BenchError, MachineError
from uamix_bench.progress import SILENT, Progress

Bytes = npt.NDArray[np.uint8]
Keys = npt.NDArray[np.bytes_]  # (n,) S32: 32-byte digests
Checks = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_DECODING = 1  # raised whenever audio.read gives other samples for the same file
_MAGIC = b"uamix-s1"
_HEADER = struct.Struct("<8s32sQQ32s")
_INDEX = 36  # bytes in a key and its check
_SUFFIX = ".shard"
_FAN = 16  # shards of a size that are merged at once, and the ratio of one size to the next
_LARGEST = 64 << 20  # bytes that a merge may make: what it holds in memory, and what pruning takes at once
_USE_S = 3_600.0  # resolution of the time of last use
# A file changed less than this ago can change again without its times showing it: a tick of the kernel's clock and
# some, or two seconds on a file system that keeps whole ones.
_RACY_S, _COARSE_RACY_S = 0.1, 2.0


@dataclass(frozen=True)
class ModelKey:
    """All that may change an embedding, and nothing that may not (a model's name).

    `state_sha256` covers the tensors as they are now, whatever file they came from; `source_sha256` the code of
    an adapter that is not the project's own, whose author may forget to raise `adapter_version`.
    """

    adapter: str
    adapter_version: str
    weights_sha256: str | None
    state_sha256: str
    source_sha256: str | None
    input: str
    pooling: str
    dtype: str
    sample_rate: int
    embedding_dim: int

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over all fields."""
        return files.digest(asdict(self))


def clip_keys(file_digests: Sequence[bytes], clip_seconds: float, segments: str = "first") -> list[bytes]:
    """Returns the 32-byte keys of what a model hears of sound files: content, crop length, crop rule.

    Args:
        file_digests: SHA-256 of the files' bytes, 32 bytes each.
        clip_seconds: The crop length.
        segments: Which part of a longer file.
    """
    rule = {"clip_seconds": float(clip_seconds), "segments": segments, "decoding": _DECODING}
    state = hashlib.sha256(files.canonical_json(rule))
    keys = []
    for digest in file_digests:
        one = state.copy()
        one.update(digest)
        keys.append(one.digest())
    return keys


class _Damaged(Exception):
    """A shard, or part of one, that is not what was written."""


class _Shard(NamedTuple):
    path: Path
    size: int
    width: int
    keys: Keys
    checks: Checks

    def rows(self, at: npt.NDArray[np.intp]) -> tuple[Bytes, Mask]:
        """Reads the rows `at` (k,), ascending: (k, w) uint8, and (k,) which of them agree with their checks."""
        rows = np.zeros((len(at), self.width), np.uint8)
        starts = np.flatnonzero(np.diff(at, prepend=-2) != 1)  # runs of neighbours are read in one go
        origin = _HEADER.size + _INDEX * len(self.keys)
        with self.path.open("rb", buffering=0) as file:
            for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(at)], strict=True):
                file.seek(origin + int(at[start]) * self.width)
                _fill(file, rows[start:stop].reshape(-1).data)
        return rows, _checks(rows) == self.checks[at]


class ShardStore:
    """Rows of a fixed number of bytes by 32-byte key, in one folder of shards.

    Nothing here raises because the folder cannot be used: what fails becomes one of `warnings`, reads miss, and
    after a failed write nothing more is written.

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
        """Looks up (m,) 32-byte `keys`: (m,) which are here, and (m, w) uint8 rows, zero where not."""
        wanted = np.asarray(keys, "S32")
        found = np.zeros(len(wanted), np.bool_)
        rows = np.zeros((len(wanted), self._width), np.uint8)
        pending = np.argsort(wanted)  # in the shards' own order, so that searches and reads go forward
        for _ in range(10):
            vanished = False
            for shard in self._open_all():
                if not len(pending):
                    return found, rows
                hits, at = _match(shard.keys, wanted[pending])
                if not len(at):
                    continue
                try:
                    read, good = shard.rows(at)
                except FileNotFoundError:  # merged by another process: what it held is in a newer shard
                    vanished = True
                    continue
                except OSError as error:
                    self._damaged(shard.path, error.strerror or str(error))
                    continue
                self._used(shard.path)
                targets = pending[hits][good]
                found[targets] = True
                rows[targets] = read[good]
                pending = pending[~found[pending]]
                if not good.all():
                    self._rewrite([shard])
            if not vanished:
                break
        return found, rows

    def put(self, keys: Sequence[bytes], rows: Bytes) -> bool:
        """Adds (n, w) uint8 `rows` under (n,) 32-byte `keys`; what is here already under a key stays.

        Returns:
            Whether the folder can be written, so that they are kept.
        """
        if len(keys) and self._writable:
            self._write(np.asarray(keys, "S32"), rows)
            self._merge()
        return self._writable

    def _open_all(self) -> list[_Shard]:
        """The shards there are now, largest first; those seen before are not read again."""
        try:
            with os.scandir(self.folder) as entries:
                names = {entry.name for entry in entries if entry.name.endswith(_SUFFIX) and entry.is_file()}
        except OSError:
            names = set()
        self._shards = {name: shard for name, shard in self._shards.items() if name in names}
        for name in sorted(names - set(self._shards)):
            path = self.folder / name
            try:
                self._shards[name] = _open(path, self._owner, self._width)
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
        """Writes one shard and returns its name, or None where the folder cannot be written."""
        keys, first = np.unique(keys, return_index=True)
        rows = np.ascontiguousarray(rows[first])
        index = keys.tobytes() + _checks(rows).tobytes()
        head = _HEADER.pack(_MAGIC, self._owner, len(keys), self._width, bytes(32))[:-32]
        seal = hashlib.sha256(head + index).digest()
        name = seal.hex()[:32] + _SUFFIX
        try:
            files.write_atomic(self.folder / name, lambda file: file.writelines([head, seal, index, rows.data]))
        except MachineError as error:
            self._writable = False
            self.warnings.append(f"{error}; the run goes on without keeping embeddings")
            return None
        return name

    def _merge(self) -> None:
        """Makes one shard of every _FAN of about a size: few shards, and a row is moved few times."""
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
        """Replaces shards by one of their good rows. A kill in between leaves rows twice, which does no harm."""
        try:
            read = [(shard.keys, *shard.rows(np.arange(len(shard.keys)))) for shard in shards]
        except OSError:
            return  # another process is at it
        for shard, (_, _, good) in zip(shards, read, strict=True):
            if not good.all():
                self._damaged(shard.path, f"{int((~good).sum())} of {len(good)} rows are damaged")
        keys = np.concatenate([keys[good] for keys, _, good in read])
        written = self._write(keys, np.concatenate([rows[good] for _, rows, good in read])) if len(keys) else ""
        for shard in shards:
            if written is not None and shard.path.name != written:
                with contextlib.suppress(OSError):
                    shard.path.unlink()

    def _damaged(self, path: Path, reason: str) -> None:
        line = f"{path}: {reason}; left out of the cache and computed again"
        if line not in self.warnings:
            self.warnings.append(line)

    def _used(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            if abs(time.time() - path.stat().st_mtime) > _USE_S:
                os.utime(path)


class EmbeddingCache:
    """The embeddings of one model, under ``UAMIX_BENCH_HOME/embeddings/<16 hex digits of its fingerprint>/``.

    A row is an embedding and one number more, the swing of what was heard (half the range of its samples), by
    which silent clips are known without decoding them again.
    """

    def __init__(self, model: ModelKey) -> None:
        self.model = model
        self.folder = files.home() / "embeddings" / model.fingerprint[:16]
        self._store = ShardStore(self.folder, model.fingerprint, 4 * (model.embedding_dim + 1))

    @property
    def warnings(self) -> list[str]:
        """What went wrong with the cache so far, one line each."""
        return self._store.warnings

    def get(self, keys: Sequence[bytes]) -> tuple[Mask, Floats]:
        """Looks up (m,) clip keys: (m,) which are here, and (m, D + 1) float32 rows, zero where not."""
        found, raw = self._store.get(keys)
        rows = raw.view("<f4").astype(np.float32, copy=False)
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():  # never put, so not ours
            self.warnings.append(f"{self.folder}: {int((~finite).sum())} rows are not finite; computed again")
            rows[~finite] = 0
        return found & finite, rows

    def put(self, keys: Sequence[bytes], rows: Floats) -> bool:
        """Adds (n, D + 1) float32 `rows` under (n,) clip keys; rows that are not finite are not kept.

        Returns:
            Whether the folder can be written, so that the others are kept.
        """
        finite = np.isfinite(rows).all(axis=1)
        if not finite.any():
            return True
        self._describe()
        kept = np.ascontiguousarray(rows[finite], "<f4")
        return self._store.put([keys[index] for index in np.flatnonzero(finite).tolist()], kept.view(np.uint8))

    def _describe(self) -> None:
        """Says beside the shards, for a person, whose they are."""
        path = self.folder / "model.json"
        if not path.exists():
            with contextlib.suppress(MachineError):  # `put` meets the same trouble and tells it
                files.write_json(path, asdict(self.model))


class FileDigests(NamedTuple):
    """What was found of n files.

    Attributes:
        digests: SHA-256, 32 bytes each; zeros where a file could not be read.
        failed: By index, why one could not.
        warnings: What went wrong with keeping digests, one line each.
    """

    digests: list[bytes]
    failed: dict[int, BenchError]
    warnings: list[str]


def file_digests(paths: Sequence[str], *, memo: bool = True, progress: Progress = SILENT) -> FileDigests:
    """Digests files. With `memo`, one whose path, size and times are those of an earlier run is not read again.

    Args:
        paths: The n files.
        memo: Whether to look up and keep digests under ``UAMIX_BENCH_HOME/embeddings/files/``.
        progress: Shows the files that are read.
    """
    store = ShardStore(files.home() / "embeddings" / "files", files.digest("file digests 1"), 32)
    digests = [bytes(32)] * len(paths)
    failed: dict[int, BenchError] = {}
    stamps: list[tuple[bytes, bool]] = []
    for index, path in enumerate(paths):
        try:
            stamps.append(_stamp(path))
        except (OSError, BadInputError) as error:
            stamps.append((bytes(32), False))
            failed[index] = files.unreadable(Path(path), error) if isinstance(error, OSError) else error
    todo = [index for index in range(len(paths)) if index not in failed]
    if memo:
        found, rows = store.get([stamps[index][0] for index in todo])
        for index, known, row in zip(todo, found.tolist(), rows, strict=True):
            if known:
                digests[index] = row.tobytes()
        todo = [index for index, known in zip(todo, found.tolist(), strict=True) if not known]
    if todo:
        with progress.bar("reading files", len(todo), "files") as advance, ThreadPoolExecutor(4) as pool:
            for start in range(0, len(todo), 2_048):  # what a killed run loses
                block = todo[start : start + 2_048]
                outcomes = list(pool.map(_sha256, [paths[index] for index in block]))
                settled = []
                for index, outcome in zip(block, outcomes, strict=True):
                    if isinstance(outcome, BenchError):
                        failed[index] = outcome
                        continue
                    digests[index] = outcome
                    if stamps[index][1]:
                        settled.append(index)
                if memo and settled:
                    rows = np.frombuffer(b"".join(digests[index] for index in settled), np.uint8).reshape(-1, 32)
                    store.put([stamps[index][0] for index in settled], rows)
                advance(len(block), "")
    return FileDigests(digests, failed, store.warnings)


def _stamp(path: str) -> tuple[bytes, bool]:
    """What tells a file from its later states, digested, and whether it is old enough to be trusted to."""
    stat = os.stat(path)  # noqa: PTH116 - half the time of Path.stat, and there are 300,000
    if not S_ISREG(stat.st_mode):
        raise BadInputError(path, "is not a regular file", "give sound files")
    absolute = path if path.startswith(os.sep) else os.path.abspath(path)  # noqa: PTH100
    identity = f"{absolute}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"
    coarse = stat.st_mtime_ns % 1_000_000_000 == 0
    settled = time.time() - max(stat.st_mtime, stat.st_ctime) > (_COARSE_RACY_S if coarse else _RACY_S)
    return hashlib.blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=32).digest(), settled


def _sha256(path: str) -> bytes | BenchError:
    try:
        return bytes.fromhex(files.file_sha256(Path(path)))
    except BenchError as error:
        return error


def _open(path: Path, owner: bytes, width: int) -> _Shard:
    """Reads and checks a shard's header, keys and checks."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or head[:8] != _MAGIC:
            raise _Damaged("is not a shard")
        _, whose, count, row_bytes, seal = _HEADER.unpack(head)
        if whose != owner or row_bytes != width:
            raise _Damaged("is another model's")
        if size != _HEADER.size + count * (_INDEX + width):
            raise _Damaged("is truncated")
        index = file.read(_INDEX * count)
    if hashlib.sha256(head[:-32] + index).digest() != seal:
        raise _Damaged("has a damaged index")
    keys = np.frombuffer(index, "S32", count)
    return _Shard(path, size, width, keys, np.frombuffer(index, "<u4", count, 32 * count))


def _match(known: Keys, wanted: Keys) -> tuple[Mask, npt.NDArray[np.intp]]:
    """Which of `wanted` (m,), ascending, are in `known` (n,), ascending; and where, for those that are."""
    if not len(known):
        return np.zeros(len(wanted), np.bool_), np.zeros(0, np.intp)
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    hits = known[at] == wanted
    return hits, at[hits]


def _checks(rows: Bytes) -> Checks:
    """CRC-32 of each of (n, w) `rows`; (n,) uint32."""
    return np.fromiter((zlib.crc32(row) for row in rows), "<u4", len(rows))


def _fill(file: FileIO, buffer: memoryview) -> None:
    """Reads until `buffer` is full or the file ends."""
    at = 0
    while at < len(buffer):
        got = file.readinto(buffer[at:])
        if not got:
            return
        at += got
