"""Digests of sound files (each read once), weights and tensors. Digests of files need no torch."""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from uamix_bench.storage.shards import ShardStore
from uamix_bench.util import files
from uamix_bench.util.errors import BadInputError, BenchError
from uamix_bench.util.progress import SILENT, Progress
from uamix_bench.util.threads import SLOW_S, in_threads

if TYPE_CHECKING:
    from torch import nn

FILES_OWNER = files.digest("file digests 2")  # of the shards that hold digests of files

# A file changed less than this ago can change again without its times showing it: a tick of the kernel's clock and
# some, or two seconds on a file system that keeps whole ones.
_RACY_S, _COARSE_RACY_S = 0.1, 2.0
_REMEMBERED_BYTES = 16 * 2**20  # files from this size on take longer to digest than their digest takes to look up
_PASSED_OVER = frozenset({"__pycache__"})  # folders that running code fills; and hidden ones, such as .git


class FileDigests(NamedTuple):
    """Digests of n files, and the errors met.

    Attributes:
        digests: SHA-256 of each file, 32 bytes; zeros for a file that could not be read.
        failed: Error of each unreadable file, by the file's index.
        warnings: Faults of the folder that keeps digests, one line each.
        stamps: Digest of each file's place, size, times and inode, taken before it was read; see :func:`unchanged`.
    """

    digests: list[bytes]
    failed: dict[int, BenchError]
    warnings: list[str]
    stamps: list[bytes]


class Part(NamedTuple):
    """Bytes that a digest is taken over: a file or, with a name of its own in `part`, a part of one."""

    path: str
    part: str = ""


def file_digests(paths: Sequence[str], *, memo: bool = True) -> FileDigests:
    """Digests files. With `memo`, a file whose path, inode, size and times are unchanged is not read again.

    Args:
        paths: Paths of the n files.
        memo: True looks up and keeps digests under ``UAMIX_BENCH_HOME/embeddings/files/``.
    """
    return part_digests([Part(path) for path in paths], _sha256, memo=memo)


def part_digests(
    parts: Sequence[Part],
    sha256: Callable[[Part], bytes | BenchError],
    *,
    memo: bool = True,
    progress: Progress = SILENT,
) -> FileDigests:
    """Digests files or parts of files, as :func:`file_digests` does.

    Args:
        parts: The n files or parts.
        sha256: Function that reads a part and returns its SHA-256, or the error met.
        memo: True looks up and keeps digests.
        progress: Progress display of the parts that are read.
    """
    store = ShardStore(files.home() / "embeddings" / "files", FILES_OWNER, 32)
    digests = [bytes(32)] * len(parts)
    failed: dict[int, BenchError] = {}
    stamps: list[tuple[bytes, bool]] = []
    for index, part in enumerate(parts):
        try:
            stamps.append(_stamp(*part))
        except (OSError, BadInputError) as error:
            stamps.append((bytes(32), False))
            failed[index] = files.unreadable(Path(part.path), error) if isinstance(error, OSError) else error
    todo = [index for index in range(len(parts)) if index not in failed]

    def slow(part: Part) -> None:
        progress.say(f"{part.path}: still reading after {SLOW_S:g} s")

    if memo:
        found, rows = store.get([stamps[index][0] for index in todo])
        for index, known, row in zip(todo, found.tolist(), rows, strict=True):
            if known:
                digests[index] = row.tobytes()
        todo = [index for index, known in zip(todo, found.tolist(), strict=True) if not known]
    if todo:
        with progress.bar("reading files", len(todo), "files") as advance:
            for start in range(0, len(todo), 2_048):  # what a killed run loses
                block = todo[start : start + 2_048]
                sources = [parts[index] for index in block]
                outcomes = list(in_threads(sha256, sources, threads=4, ahead=len(block), slow=slow))
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
    return FileDigests(digests, failed, store.warnings, [stamp for stamp, _ in stamps])


def unchanged(part: Part, stamp: bytes) -> bool:
    """True if a file's place, size, times and inode are those of a stamp in `FileDigests`."""
    try:
        return _stamp(*part)[0] == stamp
    except (OSError, BadInputError):
        return False


def sounds_sha256(sound_digests: Sequence[bytes]) -> str:
    """SHA-256 (hex) over the digests of the clips' sounds, in the order of the clip table."""
    return files.digest([digest.hex() for digest in sound_digests])


def fingerprint(path: Path) -> str:
    """SHA-256 (hex) of a file. The digest of a large file is kept until the file changes.

    Raises:
        BenchError: The file cannot be read.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise files.unreadable(path, error) from error
    return files.file_sha256(path) if size < _REMEMBERED_BYTES else _remembered([path])[0].hex()


def weights_sha256(path: Path, beside: Sequence[str] = (), whole: bool = True) -> str:
    """SHA-256 (hex) of the weights that a model is loaded from.

    A file's digest is taken over its bytes. The digest of a folder, or of a file that is read with files beside it, is
    taken over the canonical JSON of the sorted pairs [name relative to the folder, SHA-256 of the file].

    Args:
        path: A file, or a folder with all files in it and below, except hidden folders and ``__pycache__``.
        beside: Paths, from a file's folder, of other files that are read with it if they exist.
        whole: True digests all of a folder, as a user's own class may read any of it. False digests its
            ``model.safetensors`` alone, which is all that the project's own adapters read.

    Raises:
        BenchError: A file cannot be read, or the folder holds no file.
    """
    if path.is_dir() and not whole:
        path = path / "model.safetensors"
    if path.is_dir():
        found = dict(files_below(path))
        if not found:
            raise BadInputError(path, "is an empty folder", "name the weights")
    else:
        others = {name: path.parent / name for name in beside}
        found = {name: other for name, other in others.items() if other.is_file() and other != path}
        if not found:
            return fingerprint(path)
        found[""] = path
    return named_sha256(found)


def named_sha256(found: Mapping[str, Path]) -> str:
    """SHA-256 (hex) over the canonical JSON of the sorted pairs [name, SHA-256 of the file].

    Raises:
        BenchError: A file cannot be read.
    """
    names = sorted(found)
    digests = _remembered([found[name] for name in names])
    return files.digest([[name, digest.hex()] for name, digest in zip(names, digests, strict=True)])


def state_sha256(module: nn.Module, quick: bool = False) -> str:
    """SHA-256 (hex) of a module's tensors, by name. `quick` takes their CRCs, which suffice to notice later changes."""
    import torch

    state = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        state.update(zlib.crc32(values).to_bytes(4, "little") if quick else values.data)
    return state.hexdigest()


def _stamp(path: str, part: str = "") -> tuple[bytes, bool]:
    """Digest of a file's path, size, times, inode and part, and True if the file is old enough to rely on it."""
    stat = os.stat(path)  # noqa: PTH116 - half the time of Path.stat, and there are 300,000
    if not S_ISREG(stat.st_mode):
        raise BadInputError(path, "is not a regular file", "give sound files")
    absolute = path if path.startswith(os.sep) else os.path.abspath(path)  # noqa: PTH100
    identity = f"{absolute}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0{stat.st_ino}" + (
        f"\0{part}" if part else ""
    )
    coarse = stat.st_mtime_ns % 1_000_000_000 == 0
    settled = time.time() - max(stat.st_mtime, stat.st_ctime) > (_COARSE_RACY_S if coarse else _RACY_S)
    return hashlib.blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=32).digest(), settled


def _sha256(file: Part) -> bytes | BenchError:
    try:
        return bytes.fromhex(files.file_sha256(Path(file.path)))
    except BenchError as error:
        return error


def _remembered(paths: Sequence[Path]) -> list[bytes]:
    """Digests of files. Only changed files are read."""
    done = file_digests([str(path) for path in paths])
    if done.failed:
        raise done.failed[min(done.failed)]
    return done.digests


def files_below(root: Path) -> Iterator[tuple[str, Path]]:
    """Files of a folder and below, with their names relative to it. Linked folders are entered, each once."""
    entered = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        entered.add(os.path.realpath(folder))
        folders[:] = [
            name
            for name in folders
            if name[0] != "." and name not in _PASSED_OVER and os.path.realpath(Path(folder, name)) not in entered
        ]
        below = Path(folder).relative_to(root).as_posix() + "/"
        for name in names:
            if os.path.isfile(f"{folder}{os.sep}{name}"):  # noqa: PTH113 - half the time of Path.is_file
                yield name if below == "./" else below + name, Path(folder, name)
