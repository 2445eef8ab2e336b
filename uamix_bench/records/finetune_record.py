"""The record of a fine-tuning or a linear probe, from which score and interval follow. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, JsonValue

from uamix_bench.plugins.card import ModelIdentity
from uamix_bench.records.record import (
    Count,
    Fraction,
    HalfInterval,
    HalfWidth,
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
from uamix_bench.scoring.metrics import Scored, clustered_interval
from uamix_bench.util import files


class FinetuneSetting(Part):
    """What a fine-tuning was asked to do.

    Attributes:
        method: Whether the encoder was trained with the head, or logistic regression on its embeddings.
        recipe: Every hyper-parameter; seed and batch are those of the first run, and each run has its own.
        recipe_sha256: Its digest.
        frozen_blocks: Lower blocks that stayed as they were; None where all did.
        trained_parameters: Of encoder and head, in one run.
        frames: Of the input that clips were cut or padded to; None for embeddings.
        fraction: Share of the training clips; None for all.
        split: How training and test clips came about.
        metric: Mean over runs of the share of clips that are right, or of mAP: the mean over classes with a positive
            test clip of average precision.
    """

    method: Literal["fine-tuning", "linear-probe"]
    recipe: dict[str, JsonValue]
    recipe_sha256: Sha256
    frozen_blocks: Count | None
    trained_parameters: Count
    frames: Count | None
    fraction: Annotated[float, Field(gt=0, le=1)] | None
    split: Text
    metric: Literal["accuracy", "mAP"]


class FinetuneRun(Part):
    """One training and its test, on one fold with one seed.

    Attributes:
        fold: The split that was tested.
        seed: Of the training, and of the choice of clips under a fraction.
        train_clips: That were trained on.
        batch: Clips in a batch; None for a probe.
        strength: scikit-learn's C, as chosen; None for a fine-tuning.
        test_sha256: Of the test clips' ids, in the order of `groups`: runs where it is the same pair clip by clip.
        groups: [number, clips] of each group of test clips, in order; numbers are the same in all runs of the record.
        correct: One digit a test clip, in the order of `groups` and in a group by id; empty under mAP.
        per_class: [right, all] test clips of each class; under mAP [0, positive clips].
        average_precision: Under mAP, of each class that has a positive test clip.
        history: Some entries of the training's.
    """

    fold: Text
    seed: Count
    train_clips: Count
    batch: Count | None = None
    strength: Annotated[float, Field(gt=0)] | None = None
    test_sha256: Sha256
    groups: tuple[tuple[Count, Count], ...]
    correct: Annotated[str, Field(pattern=r"^[01]*$")] = ""
    per_class: dict[str, tuple[Count, Count]]
    average_precision: dict[str, Fraction] = Field(default_factory=dict)
    history: tuple[dict[str, float], ...] = ()

    def tested(self) -> Scored:
        """The test clips: their groups, and which are right."""
        numbers, counts = np.array(self.groups, np.int64).reshape(-1, 2).T
        return Scored(np.repeat(numbers, counts), np.frombuffer(self.correct.encode(), np.uint8) - np.float64(ord("0")))

    def value(self) -> float:
        """Accuracy, or mAP."""
        if self.average_precision:
            return float(np.mean(list(self.average_precision.values())))
        return self.correct.count("1") / max(1, len(self.correct))


class GroupIntervals(Part):
    """95% intervals of the score, by what they speak of: new groups (recordings, speakers, videos), trained alike."""

    groups: HalfInterval


class FinetuneScore(Part):
    """The mean over runs, a fraction, and half the width of its 95% interval.

    Attributes:
        value: Of the setting's metric.
        intervals: Accuracy's is recomputed from the runs; mAP's cannot be without the scores of every clip, which the
            training's folder keeps.
        method: How the interval is computed.
        seeds_std: Standard deviation (n - 1) over seeds of the mean over folds; None for one seed.
    """

    value: Fraction
    intervals: GroupIntervals
    method: Literal[
        "t(G - 1) x cluster-robust standard error over G groups",
        "1.96 x standard deviation over 1,000 bootstrap samples of groups",
    ]
    seeds_std: HalfWidth | None

    @property
    def ci95(self) -> float | None:
        """Half-width of the interval for new groups."""
        return self.intervals.groups.half_width


class FinetuneCost(Part):
    """What all runs took."""

    seconds: Seconds
    peak_memory_mb: Annotated[float, Field(ge=0)] | None


class FinetuneResult(SoundsRecord):
    """A fine-tuning or linear probe of one encoder on one task: the last epoch of every run, on clips it never saw.

    Attributes:
        model: The encoder that it starts from.
        task: The clip table, with the labels and groups that were used.
    """

    kind: Literal["finetune"] = "finetune"
    status: Status
    model: ModelIdentity
    task: TaskIdentity
    setting: FinetuneSetting
    runs: tuple[FinetuneRun, ...]
    score: FinetuneScore
    cost: FinetuneCost
    provenance: Provenance

    def place(self) -> str:
        """``<task>@<version>/<model>/finetune`` or ``probe``."""
        method = "probe" if self.setting.method == "linear-probe" else "finetune"
        return f"{self.task.name}@{self.task.version}/{self.model.name}/{method}"

    def check(self) -> None:
        """Recomputes digests, counts, the score and, for accuracy, its interval.

        Raises:
            ValueError: They disagree with what is stated.
        """
        super().check()
        setting, runs = self.setting, self.runs
        if files.digest(setting.recipe) != setting.recipe_sha256:
            raise ValueError("recipe_sha256 is not that of the recipe")
        if not runs:
            raise ValueError("there is no run")
        names = {(run.fold, run.seed) for run in runs}
        folds, seeds = {run.fold for run in runs}, {run.seed for run in runs}
        if len(names) != len(runs) or len(names) != len(folds) * len(seeds):
            raise ValueError("runs: not every fold once under every seed")
        for run in runs:
            self._check_run(run)
        agrees("score.value", self.score.value, float(np.mean([run.value() for run in runs])))
        agrees("score.seeds_std", self.score.seeds_std, seeds_std(runs))
        if setting.metric == "accuracy":
            agrees(
                "score.intervals.groups", self.score.ci95, clustered_interval([run.tested() for run in runs]).half_width
            )

    def _check_run(self, run: FinetuneRun) -> None:
        name = f"run {run.fold}, seed {run.seed}"
        clips = sum(count for _, count in run.groups)
        right, total = (sum(counts[i] for counts in run.per_class.values()) for i in (0, 1))
        if any(hits > count for hits, count in run.per_class.values()):
            raise ValueError(f"{name}: more clips of a class right than there are")
        if self.setting.metric == "mAP":
            positive = {label for label, (_, count) in run.per_class.items() if count}
            if run.correct or not positive or positive != set(run.average_precision):
                raise ValueError(f"{name}: average_precision is not that of the classes with a positive clip")
        elif run.average_precision or not clips or len(run.correct) != clips or total != clips:
            raise ValueError(f"{name}: {clips} clips in groups, {total} in classes, {len(run.correct)} right or wrong")
        elif right != run.correct.count("1"):
            raise ValueError(f"{name}: {run.correct.count('1')} clips right, but {right} in the classes")


def seeds_std(runs: Sequence[FinetuneRun]) -> float | None:
    """The spread over seeds of the mean over folds; None for one seed."""
    seeds = sorted({run.seed for run in runs})
    means = [np.mean([run.value() for run in runs if run.seed == seed]) for seed in seeds]
    return float(np.std(means, ddof=1)) if len(seeds) > 1 else None
