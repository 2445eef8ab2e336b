"""Embedding cache, addressed by the content of clips, with one folder a model."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from uamix_bench.storage.shards import ShardStore
from uamix_bench.util import files
from uamix_bench.util.arrays import Floats, Mask
from uamix_bench.util.errors import MachineError

_DECODING = 2  # raised whenever audio.read gives other samples for the same file


@dataclass(frozen=True)
class ModelKey:
    """Cache key of a model: all that may change an embedding, and nothing else (no name of the model).

    `state_sha256` covers the present tensors, from any file. The author of an adapter that is not the project's own may
    forget to raise `adapter_version`. For such an adapter `source_sha256` covers the code, `metadata_sha256` the
    settings beside the tensors, and `packages` holds the versions of the imported packages. For the project's own
    adapters `packages` holds the versions of packages that compute embeddings for them. `layer` is the pooled layer.
    `arguments` holds the model's own arguments, one a line.
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
    metadata_sha256: str | None = None
    packages: str | None = None
    layer: str | None = None
    arguments: str | None = None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over all fields, except those of few models if they are None."""
        stated = asdict(self)
        absent = [name for name in ("metadata_sha256", "packages", "layer", "arguments") if stated[name] is None]
        return files.digest({name: value for name, value in stated.items() if name not in absent})


def clip_keys(sound_digests: Sequence[bytes], clip_seconds: float, segments: str = "first") -> list[bytes]:
    """Returns the 32-byte keys of the model's input from sounds: content, crop length, crop rule.

    Args:
        sound_digests: SHA-256 of the sounds (:func:`uamix_bench.data.sound.sound_digests`), 32 bytes each.
        clip_seconds: Crop length in seconds.
        segments: Crop rule for longer sounds: ``first`` or ``mean`` of the segments.
    """
    rule = {"clip_seconds": float(clip_seconds), "segments": segments, "decoding": _DECODING}
    state = hashlib.sha256(files.canonical_json(rule))
    keys = []
    for digest in sound_digests:
        one = state.copy()
        one.update(digest)
        keys.append(one.digest())
    return keys


class EmbeddingCache:
    """Cached embeddings of one model, under ``UAMIX_BENCH_HOME/embeddings/<16 hex digits of its fingerprint>/``.

    A row is an embedding and one number more, the clip's swing (half the range of its samples). By the swing silent
    clips are recognised without decoding them again.
    """

    def __init__(self, model: ModelKey) -> None:
        self.model = model
        self.folder = files.home() / "embeddings" / model.fingerprint[:16]
        self._store = ShardStore(self.folder, model.fingerprint, 4 * (model.embedding_dim + 1))

    @property
    def warnings(self) -> list[str]:
        """Faults of the cache so far, one line each."""
        return self._store.warnings

    def get(self, keys: Sequence[bytes]) -> tuple[Mask, Floats]:
        """Looks up clip keys (m,): a mask (m,) of the keys found, and float32 rows (m, D + 1), zero for the others."""
        found, raw = self._store.get(keys)
        rows = raw.view("<f4").astype(np.float32, copy=False)
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():  # never put, so not ours
            self.warnings.append(f"{self.folder}: {int((~finite).sum())} rows are not finite; computed again")
            rows[~finite] = 0
        return found & finite, rows

    def contains(self, keys: Sequence[bytes]) -> Mask:
        """Looks up clip keys (m,) without reading their rows: a mask (m,) of the keys found.

        A damaged row counts as found here; :meth:`get` reads it and treats it as missing.
        """
        return self._store.contains(keys)

    def put(self, keys: Sequence[bytes], rows: Floats) -> bool:
        """Adds float32 `rows` (n, D + 1) under clip keys (n,). Rows that are not finite are not kept.

        Returns:
            True if the folder can be written, so that the finite rows are kept.
        """
        finite = np.isfinite(rows).all(axis=1)
        if not finite.any():
            return True
        self._describe()
        kept = np.ascontiguousarray(rows[finite], "<f4")
        return self._store.put([keys[index] for index in np.flatnonzero(finite).tolist()], kept.view(np.uint8))

    def _describe(self) -> None:
        """Writes ``model.json`` beside the shards, which names their model for a person."""
        path = self.folder / "model.json"
        if not path.exists():
            with contextlib.suppress(MachineError):  # `put` meets the same trouble and tells it
                files.write_json(path, asdict(self.model))


def kept_model(folder: Path) -> ModelKey | None:
    """Model of the embeddings in a folder below ``UAMIX_BENCH_HOME/embeddings``; None if the folder names none."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        key = ModelKey(**json.loads((folder / "model.json").read_bytes()))
        if key.fingerprint.startswith(folder.name):
            return key
    return None


def kept_models() -> list[ModelKey]:
    """Models with embeddings under ``UAMIX_BENCH_HOME/embeddings``."""
    folders = [path.parent for path in sorted((files.home() / "embeddings").glob("*/model.json"))]
    return [key for key in map(kept_model, folders) if key]
