"""The few-shot pipeline: draw episodes, embed the clips they draw, check the embeddings, classify, score, record."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypedDict, Unpack

import numpy as np

from uamix_bench.data.copies import first_of_equals
from uamix_bench.data.task import TaskData
from uamix_bench.embeddings.known import KnownModel
from uamix_bench.evaluation.earlier import draw_tables
from uamix_bench.evaluation.plan import draw_episodes, limited
from uamix_bench.evaluation.zero_shot import check_text_side, zero_shot_texts
from uamix_bench.plugins.card import Segments
from uamix_bench.plugins.overlap import overlap
from uamix_bench.records.provenance import collect, peak_memory_mb, scrub
from uamix_bench.records.record import HalfInterval, Provenance, Skipped, Status, TaskIdentity
from uamix_bench.records.results import Cost, Episodes, Intervals, Pace, Result, Score
from uamix_bench.scoring import health
from uamix_bench.scoring.classifiers import class_names, classify
from uamix_bench.scoring.episodes import ALGORITHM, EpisodeSet
from uamix_bench.scoring.protocol import PAPER, Protocol
from uamix_bench.scoring.remarks import remarks
from uamix_bench.scoring.statistics import ci95_classes, ci95_clips, conventional_interval
from uamix_bench.scoring.sweep import sweep
from uamix_bench.storage.digests import sounds_sha256
from uamix_bench.util.arrays import Doubles, Floats, Ints
from uamix_bench.util.progress import SILENT, Progress
from uamix_bench.util.text import fit

if TYPE_CHECKING:  # a command checks names, episodes and folders before torch is imported
    from uamix_bench.models.model import AudioModel


class Ahead(NamedTuple):
    """Embeddings that an engine's workers added to the cache for an evaluation before it began.

    Attributes:
        clips: Number of distinct clips.
        seconds: Embedding time in seconds, summed over the workers.
        devices: Names of the processors or GPUs that embedded.
    """

    clips: int
    seconds: float
    devices: tuple[str, ...]


class Options(TypedDict, total=False):
    """Options of an evaluation.

    Attributes:
        batch_size: Maximum number of clips in a batch; default 16.
        cache: Whether embeddings are looked up and stored under ``UAMIX_BENCH_HOME/embeddings``; default True.
        keep_going: Whether to skip broken clips; default False. Episodes are then drawn from the table without the
            broken clips that the first draw met. So digest and table differ from those of a full result, and the two
            are never paired.
        limit: Number of clips of each class to keep, the first ones, for a quick look; default None, all.
        allow_unhealthy: Whether to score even if the embedding health check fails; default False.
        ahead: Embeddings made elsewhere for this evaluation, for the record; default None, no such embeddings.
        progress: Progress display; default silent.
    """

    batch_size: int
    cache: bool
    keep_going: bool
    limit: int | None
    allow_unhealthy: bool
    ahead: Ahead | None
    progress: Progress


def fewshot(model: AudioModel, task: TaskData, protocol: Protocol = PAPER, **options: Unpack[Options]) -> Result:
    """Evaluates a model on a task under one protocol.

    Args:
        model: Model from :func:`uamix_bench.load_model`.
        task: Task from :func:`uamix_bench.load_task`.
        protocol: Protocol by which episodes are drawn and scored; default the paper's.
        **options: Options of the evaluation; see :class:`Options`.

    Returns:
        Result; `status.complete` is False if clips were skipped, `limit` is given, or the copy is partial.

    Raises:
        UsageError: Too few classes or clips for the protocol.
        BadInputError: Broken clips, or unhealthy embeddings.
    """
    return fewshot_grid(model, task, [protocol], **options)[0]


def fewshot_grid(
    model: AudioModel | KnownModel, task: TaskData, protocols: Sequence[Protocol], **options: Unpack[Options]
) -> list[Result]:
    """Evaluates several protocols; those with the same segment rule share one embedding pass.

    Protocols of several shots draw from the same classes (:func:`uamix_bench.scoring.sweep.sweep`). Each result has the
    id that :func:`fewshot` gives its own protocol alone.
    """
    if model.identity is None:
        raise ValueError("the model has no identity: load it with load_model")
    check_text_side(model, protocols)
    provenance = collect()
    task = limited(task, options.get("limit"))
    protocols = sweep(protocols, task.sorted_clips)
    tables = draw_tables(task, protocols, options.get("progress", SILENT))
    cells = [_Cell(table, protocol) for table, protocol in zip(tables, protocols, strict=True)]
    results: dict[int, Result] = {}
    for segments in dict.fromkeys(protocol.segments for protocol in protocols):
        sharing = {at: cell for at, cell in enumerate(cells) if cell.protocol.segments == segments}
        pool = _Pool(model, task, segments, options)
        while pool.embed(np.concatenate([cell.rows for cell in sharing.values()])):
            for cell in sharing.values():
                cell.leave_out(pool.broken)
        sanity = pool.check(f"{model.identity.name} on {task.name}", options.get("allow_unhealthy", False))
        results |= {at: cell.result(pool, sanity, provenance) for at, cell in sharing.items()}
    return [results[at] for at in range(len(cells))]


class _Pool:
    """Embeddings that the protocols of a grid share, by row of the full clip table."""

    def __init__(self, model: AudioModel | KnownModel, task: TaskData, segments: Segments, options: Options) -> None:
        assert model.identity is not None  # or `fewshot_grid` has refused it
        self.identity = model.identity
        self.model, self.task, self.segments, self.options = model, task, segments, options
        self.broken: dict[int, Skipped] = {}
        ahead = options.get("ahead")
        self.earlier: tuple[Pace, ...] = ()
        self.embedded, self.seconds = (ahead.clips, ahead.seconds) if ahead else (0, 0.0)
        self.devices = set(ahead.devices) if ahead else set()
        self._place = np.full(len(task.table), -1)  # where a row's embedding stands
        self._vectors = np.zeros((0, model.embedding_dim), np.float32)
        self._keys: list[bytes] = []
        self._digests: dict[int, bytes] = {}  # of the files, by row
        self._silent = np.zeros(0, np.bool_)

    def embed(self, rows: Ints) -> bool:
        """Embeds the new ones of `rows`; returns True if one of them is broken."""
        from uamix_bench.embeddings.embedding import embed

        new = np.unique(rows[self._place[rows] < 0])
        if not len(new):
            return False
        progress = self.options.get("progress", SILENT)
        self.task.task.materialise(self.task.table.take(new), progress)  # here, so that embed_s is that of embedding
        found = embed(
            self.model,
            self.task,
            new,
            batch_size=self.options.get("batch_size", 16),
            segments=self.segments,
            cache=self.options.get("cache", True),
            keep_going=self.options.get("keep_going", False),
            progress=progress,
        )
        for line in found.warnings:
            warnings.warn(line, stacklevel=2)
        reasons = dict(found.skipped)
        clips = self.task.table["clip"]
        for row in new[~found.valid].tolist():
            self.broken[row] = Skipped(clip=scrub(clips[row]), reason=scrub(reasons[clips[row]]))
        self._place[new[found.valid]] = len(self._vectors) + np.arange(np.count_nonzero(found.valid))
        self._vectors = np.concatenate([self._vectors, found.vectors[found.valid]])
        self._silent = np.concatenate([self._silent, found.silent[found.valid]])
        self._digests |= zip(new.tolist(), found.digests, strict=True)
        self._keys += [key for key, good in zip(found.keys, found.valid, strict=True) if good]
        if not self.options.get("ahead"):  # else they came into the cache by this run
            self.earlier = self.earlier or found.earlier
        self.embedded += found.embedded_clips
        self.seconds += found.seconds
        self.devices |= set(found.devices)
        return not found.valid.all()

    def check(self, subject: str, allow_unhealthy: bool) -> health.Health:
        """Runs the health check on all embeddings; non-finite ones that it lets pass become zeros."""
        rows = np.argsort(np.where(self._place < 0, len(self._place), self._place))[: len(self._vectors)]
        clips = self.task.table.take(rows)
        named = health.Clips(clips["clip"].tolist(), clips["label"].tolist())
        sanity = health.check(self._vectors, self._keys, self._silent, named)
        sanity = sanity.model_copy(update={"notes": tuple(map(scrub, sanity.notes))})
        health.raise_if_red(sanity, subject, allow=allow_unhealthy)
        if sanity.non_finite:
            self._vectors[~np.isfinite(self._vectors).all(axis=1)] = 0
        return sanity

    def texts(self, texts: Sequence[str]) -> Floats:
        """Embeddings of texts by the model's text side, (C, D) float32."""
        model = self.model.load() if isinstance(self.model, KnownModel) else self.model
        return model.embed_texts(texts)

    def digests(self, rows: Ints) -> list[bytes]:
        """Digests of the files of rows of the full table."""
        return [self._digests[row] for row in rows.tolist()]

    def vectors(self, rows: Ints) -> Floats:
        """Embeddings of rows of the full table: (n, D) float32."""
        chosen: Floats = self._vectors[self._place[rows]]
        return chosen


class _Cell:
    """One protocol of a grid, with the clips that it may draw from and its episodes."""

    def __init__(self, task: TaskData, protocol: Protocol) -> None:
        self.protocol = protocol
        self.full = self.task = task
        self.kept = np.arange(len(task.table))
        self.skipped: tuple[int, ...] = ()
        self._draw()

    @property
    def rows(self) -> Ints:
        """Rows of the full table that the episodes draw."""
        return self.kept[self.episodes.clips]

    def leave_out(self, broken: dict[int, Skipped]) -> None:
        """Draws again without the broken clips among the drawn ones."""
        met = [row for row in self.rows.tolist() if row in broken]
        if met:
            self.skipped = tuple(sorted((*self.skipped, *met)))
            self.kept = np.setdiff1d(self.kept, met)
            self.task = replace(self.full, table=self.full.table.take(self.kept))
            self._draw()

    def result(self, pool: _Pool, sanity: health.Health, provenance: Provenance) -> Result:
        """Classifies the queries and makes the result."""
        started = time.perf_counter()
        protocol, episodes = self.protocol, self.episodes
        vectors, indices = pool.vectors(self.rows), episodes.compact()
        if zero_shot := protocol.k_shot == 0:
            texts = pool.texts(zero_shot_texts(self.task, protocol, episodes.class_names))
            correct, hits, _ = class_names(vectors, texts, episodes.classes, indices[1])
        else:
            correct, hits, _ = classify(protocol.classifier, vectors, *indices, protocol.neighbors)
        episodes_s = self.draw_s + time.perf_counter() - started

        accuracies = correct / (protocol.n_way * protocol.n_query)
        content_sha256 = sounds_sha256(pool.digests(self.rows))
        limited = pool.options.get("limit") is not None
        told = (*self.full.remarks, *remarks([protocol], [episodes], self._copies(pool)))
        said = [scrub(line) for line in (*map(str, told), *pool.model.remarks)]
        skipped = (*Skipped.unread(self.full), *(pool.broken[row] for row in self.skipped))
        return Result.create(
            status=Status(
                complete=not (limited or skipped or self.full.partial),
                limited=limited,
                partial=scrub(self.full.partial),
                skipped=skipped,
                notes=(*said, *sanity.notes),
            ),
            model=pool.identity,
            task=TaskIdentity.of(self.task, content_sha256, named=zero_shot),
            protocol=protocol,
            episodes=Episodes(
                algorithm=ALGORITHM,
                digest=episodes.digest,
                correct=tuple(correct.tolist()),
                classes_left_out=episodes.classes_left_out,
                shared_group_share=episodes.shared_group_share,
            ),
            per_class=_per_class(episodes, hits, protocol.n_query),
            score=Score(accuracy=float(accuracies.mean()), intervals=_intervals(accuracies, episodes)),
            health=sanity,
            cost=Cost(
                embedded_clips=pool.embedded,
                embed_s=pool.seconds,
                episodes_s=episodes_s,
                peak_memory_mb=peak_memory_mb(str(pool.model.device)),
                earlier=pool.earlier,
            ),
            provenance=provenance.model_copy(
                update={"content_sha256": content_sha256, "device": fit(", ".join(sorted(pool.devices)))}
            ),
            overlap=overlap(pool.identity.pretrained_on, self.task.name, self.task.card.data),
            names=self.task.class_names if zero_shot else {},
        )

    def _copies(self, pool: _Pool) -> Ints | None:
        """First clip of equal content for each clip of the table; only drawn clips are compared."""
        if self.full.version_tells_sounds:
            return None
        first, drawn = np.arange(len(self.task.table)), self.episodes.clips
        first[drawn] = drawn[first_of_equals(pool.digests(self.rows))]
        return first

    def _draw(self) -> None:
        started = time.perf_counter()
        self.episodes = draw_episodes(self.task, self.protocol)
        self.draw_s = time.perf_counter() - started


def _intervals(accuracies: Doubles, episodes: EpisodeSet) -> Intervals:
    table = (episodes.class_of, episodes.group_of)
    return Intervals(
        episodes=HalfInterval.of(conventional_interval(accuracies)),
        clips=HalfInterval.of(ci95_clips(accuracies, episodes.classes, episodes.drawn, *table)),
        classes=HalfInterval.of(ci95_classes(accuracies, episodes.classes, *table)),
    )


def _per_class(episodes: EpisodeSet, hits: Ints, n_query: int) -> dict[str, tuple[int, int]]:
    """Number of correct queries, and of all queries, of each drawn class."""
    classes = episodes.classes.ravel()
    times = np.bincount(classes, minlength=len(episodes.class_names)).tolist()
    right = np.bincount(classes, hits.ravel(), minlength=len(episodes.class_names)).tolist()
    rows = zip(episodes.class_names, right, times, strict=True)
    return {name: (int(hit), drawn * n_query) for name, hit, drawn in rows if drawn}
