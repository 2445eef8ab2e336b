"""Record of a few-shot evaluation (`Result`): one model x one task x one protocol. Free of torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from uamix_bench.plugins.card import ModelIdentity
from uamix_bench.plugins.overlap import Overlap
from uamix_bench.records import record
from uamix_bench.records.record import (
    Count,
    Fraction,
    HalfInterval,
    Part,
    Provenance,
    Seconds,
    Sha256,
    SoundsRecord,
    Status,
    TaskIdentity,
    Text,
    agrees,
)
from uamix_bench.scoring.health import Health
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.scoring.statistics import conventional_interval
from uamix_bench.util import files
from uamix_bench.util.arrays import Doubles
from uamix_bench.util.text import classes_drawn


class Episodes(Part):
    """Draw of the episodes and its outcome: correct queries of each episode, of n_way * n_query."""

    algorithm: Text
    digest: Sha256
    correct: tuple[Count, ...]
    classes_left_out: Count
    shared_group_share: Fraction | None


class Intervals(Part):
    """95% intervals of the mean accuracy, by population.

    Attributes:
        episodes: Conventional interval, for another draw from these clips: 1.96 x population standard deviation /
            sqrt(n).
        clips: Interval for new clips of these classes.
        classes: Interval for new classes.
    """

    episodes: HalfInterval
    clips: HalfInterval
    classes: HalfInterval


class Score(Part):
    """Mean accuracy over episodes and half-widths of its 95% intervals, all as fractions."""

    accuracy: Fraction
    intervals: Intervals

    @property
    def ci95(self) -> float | None:
        """Half-width of the conventional interval, which covers only the draw of episodes from these clips."""
        return self.intervals.episodes.half_width

    @property
    def ci95_clips(self) -> float | None:
        """Half-width of the interval for new clips of these classes."""
        return self.intervals.clips.half_width

    @property
    def ci95_classes(self) -> float | None:
        """Half-width of the interval for new classes."""
        return self.intervals.classes.half_width


class Pace(Part):
    """Embedding by earlier runs on one device, summed over all clips of the model in the cache.

    Attributes:
        device: Name of the processor or GPU.
        clips: Number of clips, one or more.
        seconds: Wall time of the embedding, decoding included, in seconds.
    """

    device: Text
    clips: Annotated[int, Field(gt=0)]
    seconds: Annotated[float, Field(gt=0)]


class Cost(Part):
    """Time and memory of a run. Results of one sweep share one embedding pass, and each states its whole cost.

    Attributes:
        embedded_clips: Number of clips that this run embedded; the others came from the cache.
        embed_s: Wall time of the embedding pass in seconds.
        episodes_s: Wall time of drawing and scoring the episodes in seconds.
        peak_memory_mb: Peak memory in 10^6 bytes; None if it is not known.
        earlier: Paces of earlier runs, by device, if a part of the embeddings or all came from the cache. Empty if none
            did, and if those runs left no record of it.
    """

    embedded_clips: Count
    embed_s: Seconds
    episodes_s: Seconds
    peak_memory_mb: Annotated[float, Field(ge=0)] | None
    earlier: tuple[Pace, ...] = ()

    def rate(self) -> float | None:
        """Clips embedded per second by this run; None if it embedded none."""
        return self.embedded_clips / self.embed_s if self.embedded_clips and self.embed_s > 0 else None


class Result(SoundsRecord):
    """Persisted record of a few-shot evaluation.

    Attributes:
        names: Class names by label, as a zero-shot evaluation put them into the protocol's template; empty for any
            other. `task` has their digest.
    """

    kind: Literal["fewshot"] = "fewshot"
    status: Status
    model: ModelIdentity
    task: TaskIdentity
    protocol: Protocol
    episodes: Episodes
    per_class: dict[Text, tuple[Count, Count]]
    score: Score
    health: Health
    cost: Cost
    provenance: Provenance
    overlap: Overlap | None = None
    names: dict[Text, Text] = Field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """Plain data of the evaluation and its outcome, from which mean and intervals follow."""
        return {
            "kind": self.kind,
            "model": self.model.model_dump(mode="json"),
            "task": self.task.model_dump(mode="json"),
            "protocol": self.protocol.model_dump(mode="json"),
            "episodes": self.episodes.model_dump(mode="json"),
            "per_class": {label: list(counts) for label, counts in self.per_class.items()},
            "skipped": [clip.model_dump(mode="json") for clip in self.status.skipped],
            **({} if self.status.complete else {"complete": False}),
        }

    def setting(self, *without: str) -> str:
        """Setting in words: ways, shots, the number of classes if some are left out, and what else is not the paper's.

        Args:
            without: Fields of the protocol that are said elsewhere.
        """
        left_out, dtype = self.episodes.classes_left_out, self.model.dtype
        words = [self.protocol.cell, *([f"{classes_drawn(self.task.classes, left_out)} classes"] if left_out else [])]
        words += [*self.protocol.differences("min_clips", *without), *([dtype] if dtype != "float32" else [])]
        return ", ".join(words)

    def place(self) -> str:
        """Place in a store: ``<task>@<version>/<model>/<n>w<k>s``."""
        return place(self.model, self.task, self.protocol)

    def unit(self) -> str | None:
        """Digest of model, clip table with sounds, protocol and draw; None if incomplete or without sounds' digest."""
        if not (self.status.complete and self.sounds_recorded):
            return None
        asked = (self.model, self.task, self.protocol)
        return files.digest([*(part.model_dump(mode="json") for part in asked), self.episodes.digest])

    def cell(self) -> str | None:
        """Digest that comparable results share, of clips, sounds, protocol, draw and precision.

        Results that left out the same broken clips share it with one another, but not with a complete result. It is
        None for a limited result and for one on an incomplete copy, which are never compared.
        """
        status = self.status
        if status.limited or status.partial or not (status.complete or status.skipped):
            return None
        parts = [part.model_dump(mode="json") for part in (self.task, self.protocol)]
        drawn = [self.episodes.algorithm, self.episodes.digest]
        return files.digest([*parts, *drawn, self.model.dtype, [one.clip for one in status.skipped]])

    def accuracies(self) -> Doubles:
        """Accuracy of each episode, (E,) float64."""
        return np.asarray(self.episodes.correct, np.float64) / (self.protocol.n_way * self.protocol.n_query)

    def answers(self, task: TaskIdentity, protocol: Protocol, digest: str) -> bool:
        """Test for a complete result of this clip table, protocol and draw; of any model, and of any sounds."""
        table = task.model_copy(update={"content_sha256": self.task.content_sha256})
        asked = (table, protocol, digest)
        return self.status.complete and asked == (self.task, self.protocol, self.episodes.digest)

    def check(self) -> None:
        """Recomputes mean and conventional interval, lengths and sums.

        Raises:
            ValueError: A stated value disagrees with the recomputed one.
        """
        super().check()
        protocol, correct = self.protocol, self.episodes.correct
        if self.task.names_sha256 != (files.digest(self.names) if protocol.k_shot == 0 else None):
            raise ValueError("task.names_sha256 is not that of the class names")
        if self.names and not self.per_class.keys() <= self.names.keys():
            raise ValueError("names: a class that was drawn has none")
        if len(correct) != protocol.episodes:
            raise ValueError(f"{protocol.episodes} episodes, but {len(correct)} numbers of correct queries")
        if max(correct) > protocol.n_way * protocol.n_query:
            raise ValueError(f"{max(correct)} correct of {protocol.n_way * protocol.n_query} queries")
        hits = [hit for hit, _ in self.per_class.values()]
        totals = [total for _, total in self.per_class.values()]
        if any(hit > total or total % protocol.n_query for hit, total in zip(hits, totals, strict=True)):
            raise ValueError("per_class: more correct than asked, or not a whole number of episodes")
        if sum(hits) != sum(correct) or sum(totals) != len(correct) * protocol.n_way * protocol.n_query:
            raise ValueError("per_class does not add up to the episodes")
        if len(totals) + self.episodes.classes_left_out > self.task.classes:
            raise ValueError(
                f"{len(totals)} classes drawn of {self.task.classes} with {self.episodes.classes_left_out} left out"
            )
        agrees("score.accuracy", self.score.accuracy, float(self.accuracies().mean()))
        agrees("score.intervals.episodes", self.score.ci95, conventional_interval(self.accuracies()).half_width)


class Speed(NamedTuple):
    """Embedding speed of a model: clips per second, the device, and True if an earlier run made cached embeddings."""

    clips_per_s: float
    device: str
    earlier: bool = False


def embedding_speed(results: Iterable[Result]) -> Speed | None:
    """Speed of the run that embedded most clips of a model, the latest of such; None if no result was timed."""
    speeds = []
    for one in results:
        cost, began = one.cost, one.provenance.started_at
        if rate := cost.rate():
            speeds.append((cost.embedded_clips, began, Speed(rate, one.provenance.device)))
        paces = [pace for pace in cost.earlier if pace.clips > cost.embedded_clips]
        speeds += [(pace.clips, began, Speed(pace.clips / pace.seconds, pace.device, earlier=True)) for pace in paces]
    return max(speeds)[2] if speeds else None


def place(model: ModelIdentity, task: TaskIdentity, protocol: Protocol) -> str:
    """Place of results in a store, by model, task, ways and shots: ``<task>@<version>/<model>/<n>w<k>s``."""
    return f"{task.name}@{task.version}/{model.name}/{protocol.n_way}w{protocol.k_shot}s"


def other_model(here: ModelIdentity, there: ModelIdentity) -> Iterator[tuple[str, object, object]]:
    """Differences between two models of one name that may explain their scores: a name each, and both values."""
    for what, field in _MODEL_FACTS.items():
        one, other = getattr(here, field), getattr(there, field)
        if one != other:
            yield what, *(value[:12] if field.endswith("sha256") and value else value for value in (one, other))


_MODEL_FACTS = {
    "weights": "weights_sha256",
    "code": "source_sha256",
    "metadata": "metadata_sha256",
    "recipe": "recipe_sha256",
    "adapter version": "adapter_version",
    "repository": "repository",
    "layer": "layer",
    "pooling": "pooling",
    "embedding dim": "embedding_dim",
}


def model_labels(models: Iterable[ModelIdentity]) -> dict[ModelIdentity, str]:
    """Labels of models: the name, and of several models of one name all that tells them apart."""
    by_name: dict[str, list[ModelIdentity]] = {}
    for model in dict.fromkeys(models):
        by_name.setdefault(model.name, []).append(model)
    labels: dict[ModelIdentity, str] = {}
    for same in by_name.values():
        telling = [name for name in _TELLING if len({getattr(one, name) for one in same}) > 1]
        labels |= {one: " ".join([one.shown, *(_told(one, name) for name in telling)]) for one in same}
    times = Counter(labels.values())
    return {
        model: f"{label} {files.digest(model.model_dump(mode='json'))[:6]}" if times[label] > 1 else label
        for model, label in labels.items()  # equal labels are of models that differ in what is no name
    }


_TELLING = (
    *("weights_sha256", "source_sha256", "metadata_sha256", "adapter_version", "input"),
    *("pooling", "layer", "dtype", "train_seed", "recipe_sha256"),
)


def _told(model: ModelIdentity, name: str) -> str:
    value, words = getattr(model, name), name.removesuffix("_sha256").replace("train_", "")
    if value is None:
        return f"no {words}"
    return f"{value}"[:6] if name.endswith("sha256") else f"{words} {value}" if name in _NAMED else f"{value}"


_NAMED = ("train_seed", "layer")  # numbers that say nothing alone


def load_result(path: Path) -> Result:
    """Reads a few-shot result's file by :func:`uamix_bench.records.record.load`; other kinds are refused."""
    return record.load(path, {"fewshot": Result})
