"""Size, verification and pruning of the caches under UAMIX_BENCH_HOME.

Two folders grow with use. ``embeddings/`` holds a folder of shards for each model and one for the digests of files.
``frames/`` holds a folder for each set of training sounds. All of it can be computed again. A piece is a shard or a
folder of frames; pieces are removed whole, the least recently used first. Nothing else in these folders is ever
touched. Other processes may run: a reader whose shard is gone computes again, and frames that are being made stay.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from uamix_bench.embeddings.cache import EmbeddingCache, ModelKey, kept_model
from uamix_bench.storage.digests import FILES_OWNER
from uamix_bench.storage.shards import SUFFIX, count_rows, find_damage
from uamix_bench.util import files
from uamix_bench.util.arrays import Floats
from uamix_bench.util.errors import MachineError, UsageError
from uamix_bench.util.progress import SILENT, Progress

LIMIT = "UAMIX_BENCH_CACHE_SIZE"

_DIGESTS = "files"
_MODEL = re.compile(r"[0-9a-f]{16}")
_FRAMES = re.compile(r"[0-9a-f]{32}")
_SIZE = re.compile(r"(?P<number>[0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(?P<prefix>[kmgt]?)(?P<binary>i?)b?", re.IGNORECASE)


class Piece(NamedTuple):
    """A shard or a folder of frames: its size in bytes, and its last use (seconds since 1970, to the hour)."""

    path: Path
    size: int
    used: float


@dataclass(frozen=True)
class Holding:
    """Pieces of one cache: of one model, of the digests of files, or of one set of training sounds.

    Attributes:
        kind: Kind of the cache.
        folder: Folder of the pieces.
        pieces: Pieces of the cache, at least one.
        model: Model of the embeddings; None for other kinds and if the folder names none, or not credibly.
    """

    kind: Literal["embeddings", "digests", "frames"]
    folder: Path
    pieces: tuple[Piece, ...]
    model: ModelKey | None = None

    @property
    def key(self) -> str:
        """Name of the folder; for embeddings the beginning of the model's fingerprint."""
        return self.folder.name

    @property
    def name(self) -> str:
        """Name of the model, without the version of its adapter; the kind for a cache of no model."""
        if self.kind != "embeddings":
            return self.kind
        return self.model.adapter_version.rpartition("/")[0] if self.model else "unknown"

    @property
    def size(self) -> int:
        """Total size of the pieces in bytes."""
        return sum(piece.size for piece in self.pieces)

    @property
    def used(self) -> float:
        """Time of the last use of any piece, in seconds since 1970."""
        return max(piece.used for piece in self.pieces)

    def count(self) -> int | None:
        """Number of entries by the shards' headers; None for frames."""
        if self.kind == "frames":
            return None
        total = 0
        for piece in self.pieces:
            with contextlib.suppress(OSError):  # merged meanwhile
                total += count_rows(piece.path)
        return total


def holdings() -> list[Holding]:
    """Caches on the disk, the largest first. Folders without a piece are left out."""
    found = []
    for folder in _folders(files.home() / "embeddings"):
        if folder.name == _DIGESTS or _MODEL.fullmatch(folder.name):
            pieces = tuple(_shards(folder))
            kind: Literal["embeddings", "digests"] = "digests" if folder.name == _DIGESTS else "embeddings"
            found.append(Holding(kind, folder, pieces, None if kind == "digests" else kept_model(folder)))
    for folder in _folders(files.home() / "frames"):
        if _FRAMES.fullmatch(folder.name):
            found.append(Holding("frames", folder, tuple(_whole(folder))))
    return sorted((holding for holding in found if holding.pieces), key=lambda holding: (-holding.size, holding.key))


def verify(chosen: Iterable[Holding], progress: Progress = SILENT) -> Iterator[tuple[Path, str]]:
    """Reads every shard and yields the damaged ones with the reason. Nothing is changed.

    Frames are skipped, as their reader checks all of them first.
    """
    shards = [
        (piece.path, FILES_OWNER if holding.kind == "digests" else holding.key)
        for holding in chosen
        if holding.kind != "frames"
        for piece in holding.pieces
    ]
    with progress.bar("checking", len(shards), "shards") as advance:
        for path, owner in shards:
            try:
                reason = find_damage(path, owner)
            except FileNotFoundError:  # merged meanwhile
                reason = None
            except OSError as error:
                reason = f"cannot be read ({error.strerror or error})"
            if reason:
                yield path, reason
            advance(1, "")


def prune(
    chosen: Sequence[Holding],
    *,
    max_bytes: int | None = None,
    unused_s: float | None = None,
    dry_run: bool = False,
) -> list[Piece]:
    """Removes pieces, the least recently used first.

    Args:
        chosen: Caches to prune.
        max_bytes: Size in bytes that the caches may keep together.
        unused_s: Age in seconds since the last use, beyond which pieces are removed. Without `max_bytes` and `unused_s`
            all pieces are removed.
        dry_run: True removes nothing and only lists the pieces.

    Returns:
        The pieces that were, or would be, removed.

    Raises:
        MachineError: A piece cannot be removed.
    """
    if not dry_run:
        for holding in chosen:
            files.sweep(holding.folder)
    left, now = sum(holding.size for holding in chosen), time.time()
    everything = max_bytes is None and unused_s is None
    removed = []
    pieces = [(piece, holding) for holding in chosen for piece in holding.pieces]
    for piece, holding in sorted(pieces, key=lambda both: (both[0].used, both[0].path)):
        too_much = max_bytes is not None and left > max_bytes
        too_old = unused_s is not None and now - piece.used > unused_s
        if (everything or too_much or too_old) and (dry_run or _remove(piece, holding)):
            removed.append(piece)
            left -= piece.size
    return removed


def size_limit() -> int | None:
    """Limit in bytes of all caches together, from UAMIX_BENCH_CACHE_SIZE; None if it is unset.

    Raises:
        UsageError: The value is no size.
    """
    text = os.environ.get(LIMIT)
    return parse_size(text, LIMIT) if text else None


def keep(cache: EmbeddingCache, keys: Sequence[bytes], rows: Floats, max_bytes: int | None) -> bool:
    """Adds rows to a cache and, if there is a limit, prunes all caches to it.

    Args:
        cache: Embedding cache of a model. A failure of pruning becomes one of its warnings.
        keys: Keys of the n clips, 32 bytes each.
        rows: Rows of the clips, (n, D + 1) float32; see :meth:`EmbeddingCache.put`.
        max_bytes: Limit in bytes from :func:`size_limit`; None for no limit.

    Returns:
        True if the folder can be written, so that the finite rows are kept.
    """
    if not cache.put(keys, rows):
        return False
    failure = None if max_bytes is None else keep_to(max_bytes)
    if failure and failure not in cache.warnings:
        cache.warnings.append(failure)
    return True


def keep_to(max_bytes: int) -> str | None:
    """Prunes all caches to a size. Returns the reason of a failure as a line for the user, or None."""
    try:
        prune(holdings(), max_bytes=max_bytes)
    except (MachineError, OSError) as error:
        return f"{LIMIT} is exceeded: {error}"
    return None


def parse_size(text: str, subject: str) -> int:
    """Reads a size in bytes such as ``10GB``, ``1.5 GiB``, ``200M`` or ``0``.

    Raises:
        UsageError: The text is no size; `subject` names its origin in the line.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise UsageError(subject, f"'{text}' is not a size", "give a number of bytes or one with a unit, such as 10GB")
    power = " kmgt".index(found["prefix"].lower() or " ")
    return int(float(found["number"]) * (1024 if found["binary"] else 1000) ** power)


def _folders(parent: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(parent) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    return []


def _shards(folder: Path) -> Iterator[Piece]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # merged meanwhile
                if entry.name.endswith(SUFFIX) and entry.is_file(follow_symlinks=False):
                    stat = entry.stat(follow_symlinks=False)
                    yield Piece(Path(entry.path), stat.st_size, stat.st_mtime)


def _whole(folder: Path) -> Iterator[Piece]:
    """The single piece of a folder of frames. Its last use is that of its newest file."""
    stats = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            stats.append(path.lstat())
    if stats:
        yield Piece(folder, sum(stat.st_size for stat in stats), max(stat.st_mtime for stat in stats))


def _remove(piece: Piece, holding: Holding) -> bool:
    """Removes a piece. Returns False if another process has removed it or is using it."""
    try:
        if holding.kind == "frames":
            return _remove_frames(piece.path)
        piece.path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        reason = f"cannot be removed ({error.strerror or error})"
        raise MachineError(piece.path, reason, "check the permissions of its folder") from error
    with contextlib.suppress(OSError):
        if not any(holding.folder.glob(f"*{SUFFIX}")):
            (holding.folder / "model.json").unlink(missing_ok=True)
            holding.folder.rmdir()  # only when empty
    return True


def _remove_frames(folder: Path) -> bool:
    import filelock

    lock = filelock.FileLock(folder / "lock")
    try:
        with lock.acquire(blocking=False):
            shutil.rmtree(folder)
    except filelock.Timeout:
        return False
    return True
