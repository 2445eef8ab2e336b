"""Result, the record of one model x one task x one protocol. Free of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from uamix_bench.plugins.card import ModelIdentity
from uamix_bench.records import record
from uamix_bench.records.record import (
    Cost,
    Count,
    Fraction,
    HalfWidth,
    Part,
    Provenance,
    Record,
    Sha256,
    Status,
    TaskIdentity,
    Text,
    agrees,
)
from uamix_bench.scoring.episodes import Protocol
from uamix_bench.scoring.health import Health
from uamix_bench.scoring.statistics import conventional_interval
from uamix_bench.util import files


class Episodes(Part):
    """The draw, and its outcome: correct queries of each episode, of n_way * n_query."""

    algorithm: Text
    digest: Sha256
    correct: tuple[Count, ...]
    classes_left_out: Count
    shared_group_share: Fraction | None


class Score(Part):
    """Mean accuracy over episodes, and half-widths of its 95% intervals; all fractions.

    `ci95` speaks of these clips only; `ci95_clips` of new clips of these classes, `ci95_classes` of new classes too.
    One that cannot be given is null, and a note of the status says why.
    """

    accuracy: Fraction
    ci95: HalfWidth | None
    interval: Literal["1.96 x population std / sqrt(n)"] = "1.96 x population std / sqrt(n)"
    ci95_clips: HalfWidth | None = None
    ci95_classes: HalfWidth | None = None


class Result(Record):
    """The persisted record of a few-shot evaluation."""

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

    def content(self) -> dict[str, Any]:
        """What was evaluated and what came out of it; mean and intervals follow from these."""
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

    def place(self) -> str:
        """``<task>@<version>/<model>/<n>w<k>s``."""
        return place(self.model, self.task, self.protocol)

    def unit(self) -> str | None:
        """Model, clip table, protocol and draw of a complete result."""
        if not self.status.complete:
            return None
        asked = (self.model, self.task, self.protocol)
        return files.digest([*(part.model_dump(mode="json") for part in asked), self.episodes.digest])

    def accuracies(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """(E,) float64 accuracy of each episode."""
        return np.asarray(self.episodes.correct, np.float64) / (self.protocol.n_way * self.protocol.n_query)

    def evaluates(self, model: ModelIdentity, task: TaskIdentity, protocol: Protocol, digest: str) -> bool:
        """Whether this is the complete result of exactly this model, clip table, protocol and draw."""
        asked = (model, task, protocol, digest)
        return self.status.complete and asked == (self.model, self.task, self.protocol, self.episodes.digest)

    def check(self) -> None:
        """Recomputes mean and conventional interval, lengths and sums.

        Raises:
            ValueError: They disagree with what is stated.
        """
        protocol, correct = self.protocol, self.episodes.correct
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
        if self.status.complete and self.status.skipped:
            raise ValueError("complete, yet clips were skipped")
        for interval in ("ci95", "ci95_clips", "ci95_classes"):
            reason = any(note.startswith(f"{interval}: ") for note in self.status.notes)
            if getattr(self.score, interval) is None and not reason:
                raise ValueError(f"score.{interval} is null, and no note says why")
        agrees("score.accuracy", self.score.accuracy, float(self.accuracies().mean()))
        agrees("score.ci95", self.score.ci95, conventional_interval(self.accuracies()).half_width)


def place(model: ModelIdentity, task: TaskIdentity, protocol: Protocol) -> str:
    """Where a store keeps the results of a cell: ``<task>@<version>/<model>/<n>w<k>s``."""
    return f"{task.name}@{task.version}/{model.name}/{protocol.n_way}w{protocol.k_shot}s"


def load_result(path: Path) -> Result:
    """Reads a few-shot result's file: :func:`uamix_bench.records.record.load` of this kind alone."""
    return record.load(path, {"fewshot": Result})
