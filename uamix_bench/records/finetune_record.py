"""Record of a fine-tuning or a linear probe, from which score and interval follow. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, JsonValue, SerializerFunctionWrapHandler, model_serializer

from uamix_bench.plugins.card import ModelIdentity
from uamix_bench.plugins.overlap import Overlap
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
    """Settings of a fine-tuning.

    Attributes:
        method: ``fine-tuning`` of the encoder with the head, or ``linear-probe``, logistic regression on its
            embeddings.
        recipe: Every hyper-parameter. Seed and batch are those of the first run; each run has its own.
        recipe_sha256: SHA-256 of the canonical JSON of the recipe.
        frozen_blocks: Number of frozen lower blocks; None if all were frozen.
        trained_parameters: Number of trained parameters of encoder and head, in one run.
        frames: Number of frames of the input that clips were cut or padded to; None for embeddings.
        fraction: Share of the training clips that was used; None for all.
        shots: Number of training clips of each class that was used instead of a share; absent if it is not set.
        split: Origin of training and test clips, in words.
        metric: ``accuracy``, the mean over runs of the share of correct clips, or ``mAP``, the mean over runs of mean
            average precision. The latter is the mean over classes with a positive test clip.
    """

    method: Literal["fine-tuning", "linear-probe"]
    recipe: dict[str, JsonValue]
    recipe_sha256: Sha256
    frozen_blocks: Count | None
    trained_parameters: Count
    frames: Count | None
    fraction: Annotated[float, Field(gt=0, le=1)] | None
    shots: Annotated[int, Field(ge=1)] | None = None
    split: Text
    metric: Literal["accuracy", "mAP"]

    @model_serializer(mode="wrap")
    def _without_unset(self, given: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = given(self)
        return {name: value for name, value in fields.items() if name != "shots" or value is not None}


class FinetuneRun(Part):
    """One training and its test, on one fold with one seed.

    Attributes:
        fold: Name of the tested split.
        seed: Seed of the training, and of the choice of clips under a fraction.
        train_clips: Number of clips trained on.
        batch: Number of clips in a batch; None for a probe.
        strength: Chosen C of scikit-learn; None for a fine-tuning.
        test_sha256: SHA-256 of the test clips' ids, in the order of `groups`. Runs with equal ones pair clip by clip.
        groups: Groups of test clips as [number, clips], in order; numbers are the same in all runs of the record.
        correct: Correctness as one digit a test clip, in the order of `groups` and in a group by id; empty under mAP.
        per_class: Test clips of each class as [correct, all]; under mAP as [0, positive clips].
        average_precision: Average precision of each class with a positive test clip, under mAP.
        history: Selected entries of the training's history.
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
        """Test clips with their groups and correctness."""
        numbers, counts = np.array(self.groups, np.int64).reshape(-1, 2).T
        return Scored(np.repeat(numbers, counts), np.frombuffer(self.correct.encode(), np.uint8) - np.float64(ord("0")))

    def value(self) -> float:
        """Accuracy, or mAP if average precisions are stored."""
        if self.average_precision:
            return float(np.mean(list(self.average_precision.values())))
        return self.correct.count("1") / max(1, len(self.correct))


class GroupIntervals(Part):
    """95% intervals of the score by population: new groups (recordings, speakers, videos) under the same training."""

    groups: HalfInterval


class FinetuneScore(Part):
    """Mean over runs, a fraction, and half-width of its 95% interval.

    Attributes:
        value: Mean of the setting's metric.
        intervals: Intervals of the mean. Accuracy's is recomputed from the runs. mAP's needs the scores of every clip,
            which only the training's folder keeps.
        method: Formula of the interval.
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
    """Time and memory of all runs together."""

    seconds: Seconds
    peak_memory_mb: Annotated[float, Field(ge=0)] | None


class FinetuneResult(SoundsRecord):
    """A fine-tuning or linear probe of one encoder on one task, tested after the last epoch on clips never trained on.

    Attributes:
        model: Identity of the encoder before training.
        task: Clip table, with the labels and groups that were used.
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
    overlap: Overlap | None = None

    @property
    def labels(self) -> str:
        """Part of the training clips that was used; see :func:`labels_used`."""
        return labels_used(self.setting.fraction, self.setting.shots)

    @property
    def clips_a_class(self) -> float:
        """Mean number of training clips of a class, over classes and runs."""
        return float(np.mean([run.train_clips for run in self.runs])) / max(self.task.classes, 1)

    def place(self) -> str:
        """Place in a store: ``<task>@<version>/<model>/finetune`` or ``probe``."""
        method = "probe" if self.setting.method == "linear-probe" else "finetune"
        return f"{self.task.name}@{self.task.version}/{self.model.name}/{method}"

    def check(self) -> None:
        """Recomputes digests, counts, the score and, for accuracy, its interval.

        Raises:
            ValueError: A stated value disagrees with the recomputed one.
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


def labels_used(fraction: float | None, shots: int | None) -> str:
    """Part of the training clips that is used, in a few words: ``10%``, ``5 a class``; empty for all."""
    return f"{shots} a class" if shots is not None else "" if fraction is None else f"{100 * fraction:g}%"


def seeds_std(runs: Sequence[FinetuneRun]) -> float | None:
    """Standard deviation (n - 1) over seeds of the mean over folds; None for one seed."""
    seeds = sorted({run.seed for run in runs})
    means = [np.mean([run.value() for run in runs if run.seed == seed]) for seed in seeds]
    return float(np.std(means, ddof=1)) if len(seeds) > 1 else None
