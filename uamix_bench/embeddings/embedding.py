"""Embeddings of a task's clips by a model: requested clips only, each content once, batched by length, resumable."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from uamix_bench.data.sound import SILENCE, Sound, check_unchanged, sound_digests, sounds
from uamix_bench.data.task import TaskData
from uamix_bench.embeddings import housekeeping
from uamix_bench.embeddings.batching import Batches
from uamix_bench.embeddings.cache import EmbeddingCache, ModelKey, clip_keys
from uamix_bench.embeddings.known import KnownModel
from uamix_bench.embeddings.pace import add_pace, kept_paces
from uamix_bench.plugins.card import Segments
from uamix_bench.records.provenance import device_name
from uamix_bench.records.results import Pace
from uamix_bench.storage.digests import FileDigests
from uamix_bench.util.arrays import Doubles, Floats, Ints, Mask
from uamix_bench.util.errors import BadInputError, BenchError, own_code
from uamix_bench.util.progress import SILENT, Progress
from uamix_bench.util.text import listed

if TYPE_CHECKING:  # clips from the cache need no torch
    from uamix_bench.embeddings.encoding import Batch
    from uamix_bench.models.model import AudioModel

_KEPT_EVERY = 512  # clips ...
_KEPT_EVERY_S = 10.0  # ... or seconds, whichever comes first: what a killed run loses


class Skipped(NamedTuple):
    """A clip that was skipped, with the reason."""

    clip: str
    reason: str


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of n clips, in the requested order.

    Attributes:
        vectors: Embeddings, (n, D) float32; zero for a skipped clip.
        valid: Mask of the embedded clips, (n,) bool; False for a skipped clip.
        silent: Mask of the silent clips, (n,) bool: samples span less than 1e-4 of full scale about their mean.
        digests: SHA-256 of the n clips' sounds, 32 bytes each; zeros for one that could not be read.
        keys: Digests of the n model inputs, 32 bytes each: equal for identical sounds, and only for them.
        skipped: Clips that were skipped under `keep_going`.
        embedded_clips: Number of distinct clips that the model embedded; the others came from the cache.
        seconds: Wall time of the whole call, in seconds.
        devices: Names of the processors and GPUs that made the embeddings, now or when they were kept.
        warnings: Faults of the cache, one line each. They do not affect the embeddings.
        earlier: Paces of earlier runs, if a part of the embeddings or all came from the cache.
    """

    vectors: Floats
    valid: Mask
    silent: Mask
    digests: tuple[bytes, ...]
    keys: tuple[bytes, ...]
    skipped: tuple[Skipped, ...]
    embedded_clips: int
    seconds: float
    devices: tuple[str, ...]
    warnings: tuple[str, ...]
    earlier: tuple[Pace, ...]


def embed(
    model: AudioModel | KnownModel,
    data: TaskData,
    rows: Ints,
    *,
    batch_size: int = 16,
    segments: Segments = "first",
    cache: bool = True,
    keep_going: bool = False,
    progress: Progress = SILENT,
) -> Embeddings:
    """Embeds clips of a task.

    A clip longer than the task's clip length is cut to it. With `segments` "mean", it is cut into segments of that
    length (by :func:`uamix_bench.data.audio.segments`, which also treats the remainder), whose embeddings are averaged.

    Clips are decoded ahead of the encoder in threads. Only clips of equal length in tokens share a batch, so that
    nothing is padded. A small encoder embeds a batch on each core (:mod:`~uamix_bench.embeddings.encoding`). New
    embeddings are stored in the cache every few hundred clips.

    Args:
        model: Model from :func:`uamix_bench.load_model`; or a known one, loaded if a clip is not in the cache.
        data: Data of the task.
        rows: Rows of the task's clip table, (n,) int64, in any order, repeated or not.
        batch_size: Number of clips or segments in a batch, at most. An embedding is the same in any batch, to about
            1e-5.
        segments: ``first`` embeds the first segment of a clip, ``mean`` averages over all segments.
        cache: True looks up embeddings under ``UAMIX_BENCH_HOME/embeddings`` and keeps new ones there.
        keep_going: True skips broken clips; otherwise one error lists them all.
        progress: Progress display.

    Raises:
        BadInputError: Clips are broken, or the model's embeddings have a shape that differs from its stated one.
        UsageError: The value of UAMIX_BENCH_CACHE_SIZE is no size.
    """
    started = time.perf_counter()
    table = data.table.take(rows)
    data.task.materialise(table, progress)
    clip_sounds = sounds(table)
    digested = sound_digests(clip_sounds, memo=cache, progress=progress)
    keys = clip_keys(digested.digests, data.card.clip_seconds, segments)
    given = None
    if not isinstance(model, KnownModel):
        from uamix_bench.embeddings.given import look_up

        given = look_up(model, data, rows, segments, digested, keep_going=keep_going, progress=progress)
    if given is not None:
        place = np.arange(len(keys))
        whole = _Embedded(place, given.done, given.rows, given.failures, 0, ("made elsewhere",), given.warnings)
    else:
        whole = _hear(model, data, clip_sounds, keys, digested, batch_size, segments, cache, keep_going, progress)
    place, failures = whole.place, whole.failures
    if failures and not keep_going:
        raise _all_broken([failures[index] for index in sorted(failures)], len(clip_sounds))
    valid = whole.done[place]
    valid[list(digested.failed)] = False
    clips = table["clip"].tolist()
    return Embeddings(
        vectors=whole.rows[place, :-1],
        valid=valid,
        silent=valid & (whole.rows[place, -1] < SILENCE),
        digests=tuple(digested.digests),
        keys=tuple(keys),
        skipped=tuple(Skipped(clips[index], failures[index].reason) for index in sorted(failures)),
        embedded_clips=whole.embedded,
        seconds=time.perf_counter() - started,
        devices=whole.devices,
        warnings=(*digested.warnings, *whole.warnings),
        earlier=whole.earlier,
    )


class _Embedded(NamedTuple):
    """Rows of distinct clips, the row of each of n clips, and the errors of those that are broken, by their places."""

    place: Ints
    done: Mask
    rows: Floats
    failures: dict[int, BenchError]
    embedded: int
    devices: tuple[str, ...]
    warnings: tuple[str, ...]
    earlier: tuple[Pace, ...] = ()


def _hear(
    model: AudioModel | KnownModel,
    data: TaskData,
    clip_sounds: Sequence[Sound],
    keys: Sequence[bytes],
    digested: FileDigests,
    batch_size: int,
    segments: Segments,
    cache: bool,
    keep_going: bool,
    progress: Progress,
) -> _Embedded:
    """Embeds clips by a model that hears them, each content once, as far as the cache lacks them."""
    row_of: dict[bytes, int] = {}  # where each distinct clip's row stands; unreadable files share an unused key
    place = np.array([row_of.setdefault(key, len(row_of)) for key in keys], np.int64)
    distinct = np.zeros(len(row_of), np.int64)
    distinct[place[::-1]] = np.arange(len(keys))[::-1]  # the first clip of each content

    warnings: list[str] = []
    key = _cache_key(model, warnings) if cache else None
    limit = housekeeping.size_limit() if key else None
    run = _Run(model, list(row_of), batch_size, EmbeddingCache(key) if key else None, limit)
    devices = set(run.cache.devices) if run.cache and run.done.any() else set()
    earlier = kept_paces(run.cache.folder) if run.cache and run.done.any() else ()
    broken: dict[int, BenchError] = {}
    todo = [row for row in np.flatnonzero(~run.done).tolist() if distinct[row] not in digested.failed]
    if todo:
        from uamix_bench.embeddings.decoding import decode

        places = distinct[todo].tolist()
        sources = [clip_sounds[index] for index in places]
        known = {clip_sounds[index]: (digested.digests[index], digested.stamps[index]) for index in places}

        def check(sound: Sound) -> None:
            check_unchanged(sound, *known[sound])

        give_up = bool(digested.failed) and not keep_going
        heard = decode(sources, run.model.sample_rate, data.card.clip_seconds, segments, progress, check)
        begun = time.perf_counter()
        broken = _embed_all(run, todo, heard, data.card.clip_seconds, keep_going, give_up, progress)
        devices |= {run.device} if run.embedded else set()
        if run.cache and run.embedded:
            add_pace(run.cache.folder, run.device, run.embedded, time.perf_counter() - begun)
    failures = dict(digested.failed)
    if broken:
        failures |= {index: broken[row] for index, row in enumerate(place.tolist()) if row in broken}
    told = (*warnings, *(run.cache.warnings if run.cache else ()))
    return _Embedded(place, run.done, run.rows, failures, run.embedded, tuple(sorted(devices)), told, earlier)


def _cache_key(model: AudioModel | KnownModel, warnings: list[str]) -> ModelKey | None:
    """Cache key of a model; None, and a warning, for a model whose code may change unnoticed."""
    if isinstance(model, KnownModel):
        return model.key
    from uamix_bench.embeddings.model_key import is_known, model_key

    if is_known(model):
        return model_key(model)
    warnings.append(f"{model.card.name}: its code is not in a file, so its embeddings are not kept")
    return None


def embed_sounds(
    model: AudioModel,
    clip_sounds: Sequence[Sound],
    clip_seconds: float,
    *,
    segments: Segments = "first",
    batch_size: int = 16,
    progress: Progress = SILENT,
) -> tuple[Mask, Floats]:
    """Embeds sounds as :func:`embed` does, without a task and without the cache.

    Args:
        model: Model from :func:`uamix_bench.load_model`.
        clip_sounds: The n sounds.
        clip_seconds: Crop length in seconds.
        segments: ``first`` embeds the first segment of a sound, ``mean`` averages over all segments.
        batch_size: Number of clips or segments in a batch, at most.
        progress: Progress display.

    Returns:
        Mask of the decoded sounds, (n,), and rows (n, D + 1) float32 as the cache keeps them, zero for the others.
    """
    from uamix_bench.embeddings.decoding import decode

    run = _Run(model, [b""] * len(clip_sounds), batch_size, None)
    heard = decode(clip_sounds, model.sample_rate, clip_seconds, segments, progress)
    _embed_all(run, range(len(clip_sounds)), heard, clip_seconds, True, False, progress)
    return run.done, run.rows


@dataclass
class _Clip:
    """State of a clip in progress: the sum of its segments' embeddings, (D,) float64, and their largest swing."""

    total: Doubles | float = 0.0
    swing: float = 0.0
    segments: int = 0
    waiting: int = 0
    ended: bool = False

    @property
    def whole(self) -> bool:
        return self.ended and not self.waiting

    def take(self, vector: Floats, swing: float) -> None:
        self.total = self.total + vector.astype(np.float64)
        self.swing = max(self.swing, swing)
        self.segments += 1
        self.waiting -= 1


class _Run:
    """Rows of one call: from the cache, from the model, and those that wait for a batch or for the cache."""

    def __init__(
        self,
        model: AudioModel | KnownModel,
        keys: list[bytes],
        batch_size: int,
        cache: EmbeddingCache | None,
        limit: int | None = None,
    ) -> None:
        self._model = model
        self.keys = keys
        self.cache = cache
        self.limit = limit
        self.batch_size = batch_size
        self.embedded = 0
        if cache:
            self.done, self.rows = cache.get(keys)
        else:
            self.done = np.zeros(len(keys), np.bool_)
            self.rows = np.zeros((len(keys), model.embedding_dim + 1), np.float32)
        self._clips: defaultdict[int, _Clip] = defaultdict(_Clip)  # begun, and not done
        self._batches: Batches[tuple[int, Floats]] = Batches(batch_size)
        self._unkept: list[int] = []
        self._kept_at = time.monotonic()

    @cached_property
    def model(self) -> AudioModel:
        """Model that embeds, loaded now if it is only known."""
        return self._model.load() if isinstance(self._model, KnownModel) else self._model

    @cached_property
    def device(self) -> str:
        """Name of the processor or GPU that embeds."""
        return device_name(str(self.model.device))

    def add(self, row: int, wave: Floats) -> Batch:
        """Adds a segment of a clip and returns the batch that is due now, or none."""
        self._clips[row].waiting += 1
        with own_code("token_columns", type(self.model)):
            columns = self.model.token_columns(len(wave))
        return self._batches.add((row, wave), len(wave), columns)

    def rest(self) -> Iterator[Batch]:
        """Batches of the segments that still wait."""
        return self._batches.rest()

    def end(self, row: int) -> int:
        """Marks the end of a clip's segments and returns the number of clips that this completed, 0 or 1."""
        self._clips[row].ended = True
        return self._settle([row])

    def drop(self, row: int) -> None:
        """Drops a clip, with its embedded and waiting segments."""
        self._clips.pop(row, None)

    def close(self) -> None:
        """Stores the remaining embeddings in the cache, also after an interrupt."""
        if self.cache and self._unkept:
            keys = [self.keys[row] for row in self._unkept]
            housekeeping.keep(self.cache, keys, self.rows[self._unkept], self.device, self.limit)
        self._unkept = []
        self._kept_at = time.monotonic()

    def take(self, batch: Batch, vectors: Floats) -> int:
        """Takes the embeddings of a batch and returns the number of clips that this completed."""
        for (row, wave), vector in zip(batch, vectors, strict=True):
            if row in self._clips:
                self._clips[row].take(vector, float(np.ptp(wave)) / 2)
        return self._settle(dict.fromkeys(row for row, _ in batch))

    def _settle(self, rows: Iterable[int]) -> int:
        """Fills the rows of clips whose segments are all embedded and returns the number of these clips."""
        done = [row for row in rows if row in self._clips and self._clips[row].whole]
        for row in done:
            clip = self._clips.pop(row)
            self.rows[row, :-1] = clip.total / clip.segments
            self.rows[row, -1] = clip.swing
        self.done[done] = True
        self.embedded += len(done)
        self._unkept += done
        if len(self._unkept) >= _KEPT_EVERY or time.monotonic() - self._kept_at > _KEPT_EVERY_S:
            self.close()
        return len(done)


def _embed_all(
    run: _Run,
    rows: Sequence[int],
    clips_heard: Generator[Iterable[Floats | BenchError], None, None],
    clip_seconds: float,
    keep_going: bool,
    give_up: bool,
    progress: Progress,
) -> dict[int, BenchError]:
    """Embeds the decoded clips of `rows`, cut to `clip_seconds`, and returns the error of each broken clip.

    With `give_up`, or without `keep_going` after the first broken clip, clips are only decoded to find broken ones.
    """
    from uamix_bench.embeddings.encoding import encode

    broken: dict[int, BenchError] = {}

    def batches() -> Iterator[Batch]:
        nonlocal give_up
        for row, heard in zip(rows, clips_heard, strict=True):
            for wave in heard:
                if isinstance(wave, BenchError):
                    broken[row] = wave
                    run.drop(row)
                    advance(1, "")
                    give_up = not keep_going  # and list the other broken ones
                    break
                if not give_up and (due := run.add(row, wave)):
                    yield due
            if not give_up and row not in broken:
                advance(run.end(row), "")
        if not give_up:
            yield from run.rest()

    with (
        progress.bar("embedding", len(rows)) as advance,
        closing(clips_heard),
        closing(run),
        closing(encode(run.model, batches(), run.batch_size, clip_seconds)) as encoded,
    ):
        for batch, vectors in encoded:
            advance(run.take(batch, vectors), "")
    return broken


def _all_broken(errors: Sequence[BenchError], asked: int) -> BadInputError:
    remedy = "repair them, or leave them out with --keep-going"
    if len(errors) == 1:
        return BadInputError(errors[0].subject, errors[0].reason, remedy.replace("them", "it"))
    shown = listed((f"{error.subject}: {error.reason}" for error in errors), 3, "; ")
    return BadInputError(f"{len(errors)} of {asked} clips", f"broken ({shown})", remedy)
