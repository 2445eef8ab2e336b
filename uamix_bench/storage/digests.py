"""Digests of what a result is of: sound files (each read once), weights, tensors. Files need no torch."""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
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
    """Digests files. With `memo`, one whose path, inode, size and times are those of an earlier run is not read again.

    Args:
        paths: The n files.
        memo: Whether to look up and keep digests under ``UAMIX_BENCH_HOME/embeddings/files/``.
        progress: Shows the files that are read.
    """
    store = ShardStore(files.home() / "embeddings" / "files", FILES_OWNER, 32)
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

    def slow(path: str) -> None:
        progress.say(f"{path}: still reading after {SLOW_S:g} s")

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
                sources = [paths[index] for index in block]
                outcomes = list(in_threads(_sha256, sources, threads=4, ahead=len(block), slow=slow))
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


def sounds_sha256(file_digests: Sequence[bytes]) -> str:
    """SHA-256 (hex) over the digests of the clips' files, in the order of the clip table."""
    return files.digest([digest.hex() for digest in file_digests])


def fingerprint(path: Path) -> str:
    """SHA-256 (hex) of a file; that of a large one is remembered, as for sound files, until it changes.

    Raises:
        BenchError: The file cannot be read.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise files.unreadable(path, error) from error
    return files.file_sha256(path) if size < _REMEMBERED_BYTES else _remembered([path])[0].hex()


def weights_sha256(path: Path, beside: Sequence[str] = (), whole: bool = True) -> str:
    """SHA-256 (hex) of what a model is loaded from.

    That of a file is that of its bytes. That of a folder, or of a file with others beside it that are read with it, is
    over the canonical JSON of the sorted pairs [name relative to the folder, SHA-256 of the file].

    Args:
        path: A file, or a folder: all files in it and below, but for hidden folders and ``__pycache__``.
        beside: Names of files beside a file that are read with it where they exist.
        whole: Whether all of a folder counts, as a stranger's class may read any of it; else its ``model.safetensors``,
            which is all that the project's own adapters read.

    Raises:
        BenchError: A file cannot be read, or the folder holds none.
    """
    if path.is_dir() and not whole:
        path = path / "model.safetensors"
    if path.is_dir():
        found = dict(_below(path))
        if not found:
            raise BadInputError(path, "is an empty folder", "name the weights")
    else:
        found = {name: other for name in beside if (other := path.with_name(name)).is_file()}
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
    """SHA-256 (hex) of a module's tensors, by name; `quick` takes CRCs of them, enough to notice later changes."""
    import torch

    state = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        state.update(zlib.crc32(values).to_bytes(4, "little") if quick else values.data)
    return state.hexdigest()


def _stamp(path: str) -> tuple[bytes, bool]:
    """What tells a file from its later states, digested, and whether it is old enough to be trusted to."""
    stat = os.stat(path)  # noqa: PTH116 - half the time of Path.stat, and there are 300,000
    if not S_ISREG(stat.st_mode):
        raise BadInputError(path, "is not a regular file", "give sound files")
    absolute = path if path.startswith(os.sep) else os.path.abspath(path)  # noqa: PTH100
    identity = f"{absolute}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0{stat.st_ino}"
    coarse = stat.st_mtime_ns % 1_000_000_000 == 0
    settled = time.time() - max(stat.st_mtime, stat.st_ctime) > (_COARSE_RACY_S if coarse else _RACY_S)
    return hashlib.blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=32).digest(), settled


def _sha256(path: str) -> bytes | BenchError:
    try:
        return bytes.fromhex(files.file_sha256(Path(path)))
    except BenchError as error:
        return error


def _remembered(paths: Sequence[Path]) -> list[bytes]:
    """The digests of files, of which only those that changed are read."""
    done = file_digests([str(path) for path in paths])
    if done.failed:
        raise done.failed[min(done.failed)]
    return done.digests


def _below(root: Path) -> Iterator[tuple[str, Path]]:
    """The files of a folder and those below, by their names relative to it; linked folders are entered, each once."""
    entered = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        entered.add(os.path.realpath(folder))
        folders[:] = [
            name
            for name in folders
            if name[0] != "." and name not in _PASSED_OVER and os.path.realpath(Path(folder, name)) not in entered
        ]
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                yield path.relative_to(root).as_posix(), path
