"""The embedding cache: content-addressed, per clip, of one model a folder; and the digests of files, read once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from uamix_bench import files
from uamix_bench.errors import BadInputError, BenchError, MachineError
from uamix_bench.progress import SILENT, Progress
from uamix_bench.shards import ShardStore
from uamix_bench.waiting import SLOW_S, in_threads

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

FILES_OWNER = files.digest("file digests 1")  # of the shards that hold digests of files

_DECODING = 1  # raised whenever audio.read gives other samples for the same file
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

    def contains(self, keys: Sequence[bytes]) -> Mask:
        """Looks up (m,) clip keys without reading their rows: (m,) which are here.

        A damaged row counts as here; :meth:`get` finds that it is not.
        """
        return self._store.contains(keys)

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


def kept_model(folder: Path) -> ModelKey | None:
    """The model whose embeddings a folder below ``UAMIX_BENCH_HOME/embeddings`` holds; None where it says no owner."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        key = ModelKey(**json.loads((folder / "model.json").read_bytes()))
        if key.fingerprint.startswith(folder.name):
            return key
    return None


def kept_models() -> list[ModelKey]:
    """The models with embeddings under ``UAMIX_BENCH_HOME/embeddings``."""
    folders = [path.parent for path in sorted((files.home() / "embeddings").glob("*/model.json"))]
    return [key for key in map(kept_model, folders) if key]


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
