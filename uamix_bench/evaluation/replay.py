"""Replay of a result's episodes on cached embeddings: chosen classes and the confusion matrix. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from uamix_bench.data.sound import sound_digests, sounds
from uamix_bench.data.task import TaskData
from uamix_bench.embeddings.cache import EmbeddingCache, clip_keys, kept_models
from uamix_bench.evaluation.redraw import Redraw
from uamix_bench.plugins.card import ModelIdentity
from uamix_bench.records.results import Result
from uamix_bench.scoring.classifiers import classify
from uamix_bench.scoring.episodes import EpisodeSet
from uamix_bench.util.arrays import Floats, Ints, Mask
from uamix_bench.util.errors import BadInputError

_DTYPES = {"bfloat16": "bf16"}  # torch's name, and that of --dtype


@dataclass(frozen=True, eq=False)
class Replay:
    """Episodes of a result, drawn and classified again with the same outcome.

    Attributes:
        data: Clip table that the episodes were drawn from.
        episodes: Episodes of the draw.
        chosen: (E, N, Q) class slot given to each query.
        cache: Cache of the model's embeddings.
    """

    data: TaskData
    episodes: EpisodeSet
    chosen: npt.NDArray[Any]
    cache: EmbeddingCache

    def confusion(self) -> tuple[Ints, Ints]:
        """Confusion matrix.

        Returns:
            (C, C) int64 number of queries of the row's class that were given the column's class; and (C, C) int64
            number of queries of the row's class in episodes that had the column's class. C is the length of
            `class_names`.
        """
        size, classes = len(self.episodes.class_names), self.episodes.classes
        true = np.broadcast_to(classes[:, :, None], self.chosen.shape)
        given = np.take_along_axis(classes[:, None, :], self.chosen.astype(np.int64), axis=2)
        counts = np.bincount((true * size + given).ravel(), minlength=size * size)
        met = np.bincount((classes[:, :, None] * size + classes[:, None, :]).ravel(), minlength=size * size)
        return counts.reshape(size, size), met.reshape(size, size) * self.chosen.shape[2]

    def embeddings(self, rows: Ints) -> tuple[Mask, Floats]:
        """Looks up clips in the cache: (n,) True if found, and (n, D) float32, zero if not found."""
        return _kept(self.cache, self.data, rows)


def replay(result: Result, redraw: Redraw) -> Replay:
    """Draws a result's episodes again and classifies them on cached embeddings.

    Args:
        result: Complete result.
        redraw: Source of the clip table that the result was drawn from.

    Raises:
        BadInputError: The data is missing, the draw or the outcome differs, or the embeddings are not in the cache.
    """
    subject = f"{result.model.name} on {result.task.name}"
    if not result.protocol.k_shot:
        raise BadInputError(subject, "is zero-shot, and embeddings of class names are not kept")
    data, episodes = redraw.table(result), redraw(result)
    if isinstance(data, str) or isinstance(episodes, str):
        raise BadInputError(subject, str(episodes))
    if episodes.digest != result.episodes.digest:
        raise BadInputError(subject, "its episodes are not those that the protocol draws from this clip table")
    if result.task.clip_seconds != data.card.clip_seconds:
        data = replace(data, card=data.card.model_copy(update={"clip_seconds": result.task.clip_seconds}))
    differs = False
    for cache in _caches(result.model):
        found, vectors = _kept(cache, data, episodes.clips)
        if found.all():
            protocol = result.protocol
            score = classify(protocol.classifier, vectors, *episodes.compact(), protocol.neighbors)
            if tuple(score.correct.tolist()) == result.episodes.correct:
                return Replay(data, episodes, score.chosen, cache)
            differs = True
    why = "give another outcome" if differs else "are not in the cache"
    remedy = "'uamix-bench fewshot --overwrite always' embeds and compares again"
    raise BadInputError(subject, f"its embeddings {why}", remedy)


def _caches(model: ModelIdentity) -> Iterator[EmbeddingCache]:
    """Caches that may hold this model's embeddings; a result does not record enough to tell them apart further."""
    wanted = model.model_dump(include={"adapter_version", "weights_sha256", "input", "pooling", "embedding_dim"})
    wanted["layer"] = model.layer
    for key in kept_models():
        same = all(getattr(key, field) == value for field, value in wanted.items())
        if same and _DTYPES.get(key.dtype, key.dtype) == model.dtype:
            yield EmbeddingCache(key)


def _kept(cache: EmbeddingCache, data: TaskData, rows: Ints) -> tuple[Mask, Floats]:
    digested = sound_digests(sounds(data.table.take(rows)))
    found, kept = cache.get(clip_keys(digested.digests, data.card.clip_seconds))
    found[list(digested.failed)] = False
    return found, np.ascontiguousarray(kept[:, :-1])
