"""Digests of files, read once: SHA-256 kept by path, size and times."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

import numpy as np

from uamix_bench.storage.shards import ShardStore
from uamix_bench.util import files
from uamix_bench.util.errors import BadInputError, BenchError
from uamix_bench.util.progress import SILENT, Progress
from uamix_bench.util.threads import SLOW_S, in_threads

FILES_OWNER = files.digest("file digests 1")  # of the shards that hold digests of files

# A file changed less than this ago can change again without its times showing it: a tick of the kernel's clock and
# some, or two seconds on a file system that keeps whole ones.
_RACY_S, _COARSE_RACY_S = 0.1, 2.0


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
