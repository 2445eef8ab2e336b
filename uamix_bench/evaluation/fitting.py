"""Fitting of the classifier that was evaluated: to all clips of a task, a few of each class, or one episode."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np

from uamix_bench.data.task import TaskData
from uamix_bench.evaluation.classifier import Classifier, embedding_key, packed, probe_embedding
from uamix_bench.evaluation.plan import plan_task
from uamix_bench.plugins.card import Segments
from uamix_bench.records.classifier_file import NONE_OF_THESE, ClassifierFile, FittedEpisode
from uamix_bench.records.provenance import collect, scrub
from uamix_bench.records.record import Skipped, TaskIdentity
from uamix_bench.scoring import health
from uamix_bench.scoring.calibration import calibrate, first_by_name
from uamix_bench.scoring.classifiers import Fitted, fit as fit_supports
from uamix_bench.scoring.protocol import PAPER, Protocol
from uamix_bench.scoring.typical import Typical
from uamix_bench.storage.digests import sounds_sha256
from uamix_bench.util.arrays import Ints
from uamix_bench.util.errors import UsageError
from uamix_bench.util.progress import SILENT, Progress

if TYPE_CHECKING:
    from uamix_bench.embeddings.embedding import Embeddings
    from uamix_bench.models.model import AudioModel


class Options(TypedDict, total=False):
    """Options of the embedding pass.

    Attributes:
        batch_size: Maximum number of clips in a batch; default 16.
        cache: Whether embeddings are looked up and stored; default True.
        keep_going: Whether to skip broken clips; default False. An episode is never fitted without a clip.
        progress: Progress display; default silent.
    """

    batch_size: int
    cache: bool
    keep_going: bool
    progress: Progress


def fit(
    model: AudioModel,
    task: TaskData,
    *,
    classifier: str = "nearest-centroid",
    neighbors: int = 1,
    segments: Segments = "first",
    k: int | None = None,
    seed: int = 0,
    **options: Unpack[Options],
) -> Classifier:
    """Fits a classifier on a frozen encoder's embeddings of labelled clips.

    From 20 clips of each class on it is calibrated (:func:`uamix_bench.scoring.calibration.calibrate`): its scores are
    probabilities, and a sound may be none of the classes.

    Args:
        model: Encoder from :func:`uamix_bench.load_model`.
        task: Labelled clips from :func:`uamix_bench.load_task`.
        classifier: Name of the classifier, as in a protocol.
        neighbors: Number of clips that vote, for knn alone.
        segments: ``first`` hears the first segment of a longer clip, ``mean`` averages over all segments.
        k: Number of clips of each class, chosen by `seed`; None takes all.
        seed: Seed of that choice. A smaller `k` takes a part of the clips of a larger one.
        **options: Options of the embedding pass; see :class:`Options`.

    Raises:
        UsageError: There are fewer than two classes, or a class has fewer than `k` clips.
        BadInputError: Clips are broken, or their embeddings unhealthy.
    """
    # The protocol's own checks: the classifier's name, and its neighbors.
    Protocol(n_way=2**31 - 1, classifier=classifier, neighbors=neighbors)
    table = task.sorted_clips
    if len(table.class_names) < 2:
        raise UsageError(task.name, f"has {len(table.class_names)} class", "give clips of two classes or more")
    of_class = [np.flatnonzero(table.class_of == slot) for slot in range(len(table.class_names))]
    if k is not None:
        of_class = [np.array(first_by_name(rows.tolist(), table.ids, k, seed), np.int64) for rows in of_class]
    task = task.group_copies(options.get("progress", SILENT))
    rows = np.sort(np.concatenate(of_class))
    found = _embed(model, task, rows, segments, options)
    kept = rows[found.valid]
    slots = table.class_of[kept]
    counts = np.bincount(slots, minlength=len(of_class))
    if not counts.all():
        raise UsageError(
            task.name, f"no clip of {table.class_names[int(counts.argmin())]} is left", "repair the sounds"
        )
    vectors = found.vectors[found.valid]
    supports = [np.flatnonzero(slots == slot) for slot in range(len(of_class))]
    calibration = calibrate(classifier, vectors, slots, task.table["group"][kept].tolist(), neighbors)
    fitted = fit_supports(classifier, vectors, supports, neighbors)
    return _classifier(
        model,
        task,
        found,
        kept,
        fitted,
        None if isinstance(calibration, str) else Typical.of(fitted.space(vectors), slots),
        classes=dict(zip(table.class_names, counts.tolist(), strict=True)),
        classifier=classifier,
        neighbors=neighbors,
        segments=segments,
        k_shot=k,
        seed=seed,
        episode=None,
        calibration=None if isinstance(calibration, str) else calibration,
        uncalibrated=calibration if isinstance(calibration, str) else "",
    )


def fit_episode(
    model: AudioModel, task: TaskData, protocol: Protocol = PAPER, index: int = 0, **options: Unpack[Options]
) -> Classifier:
    """Fits a classifier to the supports of one episode, as the evaluation of that episode does.

    Its predictions on the episode's queries are those that the result of the same protocol counts. For that it takes
    the origin of the embeddings from the clips of all episodes, as the evaluation does.

    Args:
        model: Encoder from :func:`uamix_bench.load_model`.
        task: Labelled clips from :func:`uamix_bench.load_task`.
        protocol: Protocol by which episodes are drawn and scored.
        index: Number of the episode, from 0.
        **options: Options of the embedding pass; see :class:`Options`.

    Raises:
        UsageError: The protocol has no such episode, or too few classes or clips.
        BadInputError: Clips are broken, or their embeddings unhealthy.
    """
    if not 0 <= index < protocol.episodes:
        raise UsageError(f"--episode {index}", f"is none of {protocol.episodes:,} episodes", "they count from 0")
    plan = plan_task(task, [protocol], progress=options.get("progress", SILENT))
    task, (cell,), (episodes,) = plan.task, plan.protocols, plan.draws
    rows = episodes.clips
    found = _embed(model, task, rows, cell.segments, {**options, "keep_going": False})
    support, _ = episodes.compact()
    names = [episodes.class_names[slot] for slot in episodes.classes[index].tolist()]
    return _classifier(
        model,
        task,
        found,
        rows,
        fit_supports(cell.classifier, found.vectors, list(support[index]), cell.neighbors),
        None,
        classes=dict.fromkeys(names, cell.k_shot),
        classifier=cell.classifier,
        neighbors=cell.neighbors,
        segments=cell.segments,
        k_shot=cell.k_shot,
        seed=cell.seed,
        episode=FittedEpisode(
            protocol=cell,
            index=index,
            digest=episodes.digest,
            support=_ids(episodes.ids, episodes.support[index]),
            query=_ids(episodes.ids, episodes.query[index]),
        ),
        calibration=None,
        uncalibrated="one episode is fitted, and no further clips calibrate it",
    )


def _classifier(
    model: AudioModel,
    task: TaskData,
    found: Embeddings,
    rows: Ints,
    fitted: Fitted,
    typical: Typical | None,
    **facts: Any,
) -> Classifier:
    """Classifier with the facts on its encoder and on the clips of `rows`, which set its origin."""
    assert model.identity is not None
    probe = probe_embedding(model)
    sounds = sounds_sha256([digest for digest, good in zip(found.digests, found.valid, strict=True) if good])
    clips = replace(task, table=task.table.take(rows))
    broken = (Skipped(clip=scrub(one.clip), reason=scrub(one.reason)) for one in found.skipped)
    written = ClassifierFile(
        encoder=_name(model),
        model=model.identity,
        embedding=embedding_key(model),
        task=TaskIdentity.of(clips, sounds),
        unit=fitted.unit,
        unit_first=fitted.space.unit_first,
        unit_last=fitted.space.unit_last,
        skipped=(*Skipped.unread(task), *broken),
        notes=tuple(scrub(str(line)) for line in (*task.remarks, *model.remarks)),
        weights_sha256=hashlib.sha256(packed(fitted, probe, typical)).hexdigest(),
        provenance=collect(str(model.device)).model_copy(update={"content_sha256": sounds}),
        **facts,
    )
    return Classifier(model, written, fitted, probe, typical)


def _embed(model: AudioModel, task: TaskData, rows: Ints, segments: Segments, options: Options) -> Embeddings:
    """Embeds clips and refuses embeddings that mean nothing."""
    from uamix_bench.embeddings.embedding import embed

    if model.identity is None:
        raise ValueError("the model has no identity: load it with load_model")
    if NONE_OF_THESE in task.sorted_clips.class_names:
        reason = f"has a class '{NONE_OF_THESE}', which is what sounds unlike every class are labelled"
        raise UsageError(task.name, reason, "give it another name, or leave it out (--classes FILE)")
    found = embed(
        model,
        task,
        rows,
        batch_size=options.get("batch_size", 16),
        segments=segments,
        cache=options.get("cache", True),
        keep_going=options.get("keep_going", False),
        progress=options.get("progress", SILENT),
    )
    for line in found.warnings:
        warnings.warn(line, stacklevel=3)
    valid, clips = found.valid, task.table.take(rows[found.valid])
    keys = [key for key, good in zip(found.keys, valid, strict=True) if good]
    named = health.Clips(clips["clip"].tolist(), clips["label"].tolist())
    sanity = health.check(found.vectors[valid], keys, found.silent[valid], named)
    health.raise_if_red(sanity, f"{model.identity.name} on {task.name}")
    return found


def _name(model: AudioModel) -> str:
    """Name by which the encoder is found again; the code of one's own by the name of its file alone."""
    assert model.identity is not None
    if model.source is None:
        return model.identity.name
    code, separator, adapter = model.source.name.rpartition(".py:")
    return f"{code.replace(chr(92), '/').rpartition('/')[2]}.py:{adapter}" if separator else model.source.name


def _ids(ids: Sequence[str], rows: Ints) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(ids[row] for row in of_class) for of_class in rows.tolist())
