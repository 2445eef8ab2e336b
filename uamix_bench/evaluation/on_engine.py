"""Embedding of an evaluation grid by the workers of an engine, before the grid is evaluated on this machine.

Workers load a model by its name, read the sounds under the same paths as here, and send embeddings back. The embeddings
go into this machine's cache. The evaluation that follows is the local one and finds them there, so an engine changes
the time of a result and nothing else. A worker with other code, weights or sounds is refused, as its embeddings would
differ.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from uamix_bench.data.sound import Sound, sound_digests, sounds
from uamix_bench.data.task import TaskData
from uamix_bench.embeddings import housekeeping
from uamix_bench.embeddings.batching import Batches
from uamix_bench.embeddings.cache import EmbeddingCache, ModelKey, clip_keys
from uamix_bench.embeddings.pace import add_pace
from uamix_bench.engines.engine import Engine, Stop, host, never
from uamix_bench.engines.same_code import Versions, check_versions, differ, refuse_other, versions
from uamix_bench.evaluation.earlier import Overwrite, find_earlier
from uamix_bench.evaluation.fewshot import Ahead
from uamix_bench.evaluation.plan import TaskPlan, draw_episodes
from uamix_bench.plugins.card import Segments
from uamix_bench.records.provenance import device_name
from uamix_bench.records.store import ResultStore
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.util import files
from uamix_bench.util.arrays import Floats, Mask
from uamix_bench.util.errors import BenchError, MachineError, UsageError
from uamix_bench.util.progress import SILENT, Progress

if TYPE_CHECKING:  # torch is imported where a model is
    from uamix_bench.models.model import AudioModel, Source


_CLIPS = 128  # of a job: seconds on a processor with ViT-B, and few enough to be lost


class Wanted(NamedTuple):
    """Model that a worker must load, and the versions of all that its embeddings may depend on."""

    source: Source
    device: str
    key: ModelKey
    versions: Versions


class Shard(NamedTuple):
    """Embedding job: sounds, with their keys in this machine's cache."""

    label: str
    model: Wanted
    sounds: tuple[Sound, ...]
    keys: tuple[bytes, ...]
    clip_seconds: float
    segments: Segments
    batch_size: int


class Rows(NamedTuple):
    """Outcome of an embedding job of n sounds: (n,) True if decoded, and (n, D + 1) rows as the cache stores them."""

    done: Mask
    rows: Floats
    seconds: float
    device: str


def embed_ahead(
    engine: Engine,
    models: Iterable[tuple[int, AudioModel]],
    plans: Sequence[TaskPlan],
    stores: Sequence[ResultStore],
    overwrite: Overwrite = "missing",
    *,
    batch_size: int = 16,
    progress: Progress = SILENT,
) -> dict[tuple[int, int], Ahead]:
    """Embeds with an engine the clips that the evaluation of a grid needs, and adds them to the cache.

    All evaluations share one list of jobs, so that no worker waits for the end of another evaluation. Broken sounds are
    left to the evaluation, which reports them. So are the clips that do not fit into UAMIX_BENCH_CACHE_SIZE.

    Args:
        engine: Engine whose workers embed.
        models: Models from :func:`uamix_bench.load_model`, loaded by name, each with its place in the grid. One model
            at a time is in memory.
        plans: Tasks with their protocols.
        stores: Store of the results of each place. Evaluations whose results exist need no embeddings.
        overwrite: Treatment of existing results, as in :func:`uamix_bench.evaluation.grid.evaluate`.
        batch_size: Maximum number of clips in a batch.
        progress: Progress display.

    Returns:
        Number of clips and time of the embedding, by the places of model and task in the grid.

    Raises:
        UsageError: A model was not loaded by name; a result exists and `overwrite` is ``never``; or
            UAMIX_BENCH_CACHE_SIZE is not a size.
        MachineError: The cache cannot be written, workers were lost, or a worker has other versions, weights or sounds.
    """
    files.check_writable(files.home() / "embeddings")
    limit_bytes = housekeeping.size_limit()
    jobs: list[Shard] = []
    cell_of: list[tuple[int, int]] = []
    caches: dict[ModelKey, EmbeddingCache] = {}
    for row, model in models:
        if model.identity is not None and model.identity.given:
            continue
        wanted = _wanted(model, engine.device)
        cache = caches.setdefault(wanted.key, EmbeddingCache(wanted.key))
        for column, plan in enumerate(plans):
            protocols = plan.protocols
            there = find_earlier(stores[row], model, plan.task, protocols, overwrite, plan.limit, progress=progress)
            cells = [
                cell for cell, found in zip(protocols, there, strict=True) if overwrite == "always" or not found.same
            ]
            shards = list(_shards(model, wanted, cache, plan.table, cells, batch_size, progress))
            jobs += shards
            cell_of += [(row, column)] * len(shards)

    ahead: dict[tuple[int, int], Ahead] = {}
    with (
        progress.bar("embedding", sum(len(job.sounds) for job in jobs)) as advance,
        closing(engine.map(embed_shard, jobs, progress)) as embedded,
    ):
        for index, found in embedded:
            job = jobs[index]
            cache = caches[job.model.key]
            keys = [key for key, done in zip(job.keys, found.done, strict=True) if done]
            if not housekeeping.keep(cache, keys, found.rows[found.done], found.device, limit_bytes):
                raise MachineError(cache.folder, cache.warnings[-1], "free space, or choose another UAMIX_BENCH_HOME")
            add_pace(cache.folder, found.device, len(keys), found.seconds)
            before = ahead.get(cell_of[index], Ahead(0, 0.0, ()))
            devices = tuple(sorted({*before.devices, found.device}))
            ahead[cell_of[index]] = Ahead(before.clips + len(keys), before.seconds + found.seconds, devices)
            advance(len(job.sounds), job.label)
    for line in dict.fromkeys(line for cache in caches.values() for line in cache.warnings):
        warnings.warn(line, stacklevel=2)
    return ahead


def embed_shard(job: Shard, progress: Progress, _: Stop = never) -> Rows:
    """Does an embedding job, of seconds, on a worker.

    Raises:
        MachineError: The worker has other versions, weights or sounds than the caller, or lacks them; or it cannot load
            the model.
    """
    from uamix_bench.embeddings.embedding import embed_sounds

    model = _load(job.model)
    started = time.perf_counter()
    digested = sound_digests(job.sounds, memo=False, progress=progress)
    keys = clip_keys(digested.digests, job.clip_seconds, job.segments)
    for index, (sound, here, there) in enumerate(zip(job.sounds, keys, job.keys, strict=True)):
        if here != there:
            failed = digested.failed.get(index)
            reason = (
                failed.reason if failed else f"is another sound than the caller's ({differ(here.hex(), there.hex())})"
            )
            raise MachineError(
                f"{sound} on {host()}", reason, "give every machine the same sounds under the same paths"
            )
    done, rows = embed_sounds(
        model, job.sounds, job.clip_seconds, segments=job.segments, batch_size=job.batch_size, progress=progress
    )
    return Rows(done, rows, time.perf_counter() - started, device_name(str(model.device)))


def _wanted(model: AudioModel, device: str) -> Wanted:
    from uamix_bench.embeddings.model_key import model_key

    if model.source is None:
        raise UsageError(model.card.name, "is a class of this process alone", "give an engine FILE.py:CLASS")
    return Wanted(model.source, device, model_key(model), versions())


def _shards(
    model: AudioModel,
    wanted: Wanted,
    cache: EmbeddingCache,
    data: TaskData,
    protocols: Sequence[Protocol],
    batch_size: int,
    progress: Progress,
) -> Iterator[Shard]:
    """Divides the clips missing from the cache into jobs; every clip has the same batch as without an engine.

    In a batch of another size a sum may be rounded otherwise. Clips heard in segments are divided in order.
    """
    for segments in dict.fromkeys(protocol.segments for protocol in protocols):
        sharing = [protocol for protocol in protocols if protocol.segments == segments]
        rows = np.unique(np.concatenate([draw_episodes(data, protocol).clips for protocol in sharing]))
        table = data.table.take(rows)
        data.task.materialise(table, progress)
        found = sounds(table)
        digested = sound_digests(found, progress=progress)
        sound_of: dict[bytes, Sound] = {}
        for index, key in enumerate(clip_keys(digested.digests, data.card.clip_seconds, segments)):
            if index not in digested.failed:
                sound_of.setdefault(key, found[index].absolute)
        done = cache.contains(list(sound_of))
        todo = [key for key, known in zip(sound_of, done.tolist(), strict=True) if not known]
        columns = _columns(model, [sound_of[key] for key in todo], data.card.clip_seconds, segments)
        for number, keys in enumerate(_gathered(todo, columns, batch_size), 1):
            chosen = tuple(sound_of[key] for key in keys)
            label = f"{wanted.source.name} on {data.name}, part {number}"
            yield Shard(label, wanted, chosen, tuple(keys), data.card.clip_seconds, segments, batch_size)


def _columns(
    model: AudioModel, chosen: Sequence[Sound], clip_seconds: float, segments: Segments
) -> Iterator[tuple[int, int] | None]:
    """Sort keys of batches, from the headers: samples and columns of tokens; None for a broken sound."""
    from uamix_bench.data import audio

    for sound in chosen:
        if segments == "mean":
            yield 0, 0
            continue
        try:
            info = audio.probe(sound, max_seconds=clip_seconds)
            samples = audio.samples_read(info, model.sample_rate, clip_seconds)
        except BenchError:
            yield None
        else:
            yield samples, model.token_columns(samples)


def _gathered(
    keys: Sequence[bytes], lengths: Iterable[tuple[int, int] | None], batch_size: int
) -> Iterator[list[bytes]]:
    """Gathers whole batches into jobs; a worker that takes the clips in this order forms the same batches."""
    batches: Batches[bytes] = Batches(batch_size)
    shard: list[bytes] = []
    for key, length in zip(keys, lengths, strict=True):
        due = batches.add(key, *length) if length else []
        shard += due
        if len(shard) >= _CLIPS or 0 < len(due) < batch_size:  # after one that is not full, others of its length
            yield shard
            shard = []
    for due in batches.rest():
        shard += due
        if len(shard) >= _CLIPS:
            yield shard
            shard = []
    if shard:
        yield shard


@lru_cache(maxsize=1)
def _load(wanted: Wanted) -> AudioModel:
    """Loads the caller's model on a worker; kept in memory for its next job."""
    check_versions(wanted.versions)

    from uamix_bench.embeddings.model_key import model_key
    from uamix_bench.models.loading import load_model

    source = wanted.source
    try:
        model = load_model(
            source.name,
            source.checkpoint,
            device=wanted.device,
            input=source.input,
            pooling=source.pooling,
            dtype=source.dtype,
            layer=source.layer,
            trust_remote_code=source.trust_remote_code,
            arguments=dict(source.arguments),
        )
    except BenchError as error:
        raise MachineError(f"{error.subject} on {host()}", error.reason, error.remedy) from error
    remedy = "give every machine the same weights and code"
    refuse_other(source.name, asdict(model_key(model)), asdict(wanted.key), remedy)
    return model
