"""Records to test with."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from uamix_bench.data.clip_table import sort_clips
from uamix_bench.finetuning.recipe import PROBE
from uamix_bench.plugins.card import ModelIdentity
from uamix_bench.records.finetune_record import (
    FinetuneCost,
    FinetuneResult,
    FinetuneRun,
    FinetuneScore,
    FinetuneSetting,
    GroupIntervals,
)
from uamix_bench.records.provenance import collect
from uamix_bench.records.record import HalfInterval, Skipped, Status, TaskIdentity
from uamix_bench.records.results import Cost, Episodes, Intervals, Result, Score
from uamix_bench.records.training_records import DataIdentity, TrainingRecord
from uamix_bench.scoring.episodes import EpisodeSet, draw_sorted
from uamix_bench.scoring.health import Health
from uamix_bench.scoring.metrics import clustered_interval
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.tuning.recipe import TUNE
from uamix_bench.util.arrays import Ints

SOUNDS = "3" * 64
collected = functools.cache(collect)  # once: it asks git, and tests make records while they are collected


def score(
    accuracy: float, ci95: float | str, clips: float | str = "too few", classes: float | str = "too few"
) -> Score:
    """A score with half-widths or, as texts, the reasons why there are none."""

    def part(given: float | str) -> HalfInterval:
        return HalfInterval(half_width=None, reason=given) if isinstance(given, str) else HalfInterval(half_width=given)

    return Score(accuracy=accuracy, intervals=Intervals(episodes=part(ci95), clips=part(clips), classes=part(classes)))


def few_shot(correct: tuple[int, ...] = (3, 4, 1), **changes: Any) -> Result:
    """A result of 2-way 1-shot episodes with 2 queries a class; `correct` of 4 each."""
    accuracies = [count / 4 for count in correct]
    total = 2 * len(correct)
    first = min(sum(correct), total)
    parts: dict[str, Any] = {
        "status": Status(complete=True),
        "model": ModelIdentity(
            name="m",
            adapter_version="m/1",
            weights_sha256="0" * 64,
            parameters=10,
            embedding_dim=4,
            input="native",
            pooling="mean",
            dtype="float32",
        ),
        "task": TaskIdentity(name="t", version="1", clips_sha256="1" * 64, classes=3, clips=30, clip_seconds=2.0),
        "protocol": Protocol(n_way=2, k_shot=1, n_query=2, episodes=len(correct)),
        "episodes": Episodes(
            algorithm="philox-1", digest="2" * 64, correct=correct, classes_left_out=0, shared_group_share=None
        ),
        "per_class": {"a": (first, total), "b": (sum(correct) - first, total)},
        "score": score(
            statistics.fmean(accuracies),
            1.96 * statistics.pstdev(accuracies) / len(correct) ** 0.5,
        ),
        "health": Health(
            verdict="green",
            clips=30,
            non_finite=0,
            silent=0,
            duplicate_share=0.0,
            effective_rank=9.0,
            norms=(1.0, 2.0, 3.0),
        ),
        "cost": Cost(embedded_clips=30, embed_s=1.5, episodes_s=0.1, peak_memory_mb=100.0),
        "provenance": collected().model_copy(update={"content_sha256": SOUNDS}),
    }
    return Result.create(**(parts | changes))


def training(**changes: Any) -> TrainingRecord:
    """A tuning on one's own sounds."""
    recipe = TUNE["tiny"]
    parts: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_sha256": recipe.sha256,
        "data": DataIdentity(name="local/my sounds", version="1", sha256="5" * 64),
        "parent_sha256": "6" * 64,
        "weights_sha256": "7" * 64,
        "train_seed": recipe.seed,
        "history": ({"stage": 0.0, "step": 1.0, "loss": 2.5, "lr": 1e-4},),
        "skipped": (Skipped(clip="a/b.wav", reason="no samples"),),
        "provenance": collected(),
    }
    return TrainingRecord.create(**(parts | changes))


def finetuned(**changes: Any) -> FinetuneResult:
    """A linear probe of two folds: three groups of two clips in each."""
    runs = tuple(
        FinetuneRun(
            fold=f"fold{number}",
            seed=0,
            train_clips=6,
            strength=0.01,
            test_sha256=str(number) * 64,
            groups=tuple((3 * number + group, 2) for group in range(3)),
            correct=correct,
            per_class={"a": (correct[:3].count("1"), 3), "b": (correct[3:].count("1"), 3)},
        )
        for number, correct in enumerate(("110100", "111101"))
    )
    ours = few_shot()
    parts: dict[str, Any] = {
        "status": Status(complete=True),
        "model": ours.model,
        "task": ours.task,
        "setting": FinetuneSetting(
            method="linear-probe",
            recipe=PROBE.model_dump(mode="json"),
            recipe_sha256=PROBE.sha256,
            frozen_blocks=None,
            trained_parameters=10,
            frames=None,
            fraction=None,
            split="2 folds",
            metric="accuracy",
        ),
        "runs": runs,
        "score": FinetuneScore(
            value=(3 / 6 + 5 / 6) / 2,
            intervals=GroupIntervals(groups=HalfInterval.of(clustered_interval([run.tested() for run in runs]))),
            method="t(G - 1) x cluster-robust standard error over G groups",
            seeds_std=None,
        ),
        "cost": FinetuneCost(seconds=1.5, peak_memory_mb=None),
        "provenance": collected(),
    }
    return FinetuneResult.create(**(parts | changes))


def draw(
    protocol: Protocol,
    *,
    task: str,
    version: str,
    clips: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[str] | None = None,
    first: int = 0,
    episodes: int | None = None,
) -> EpisodeSet:
    """Episodes of a clip table that is not sorted yet."""
    table = sort_clips(clips, labels, groups)
    return draw_sorted(protocol, table, task=task, version=version, first=first, episodes=episodes)


def scored(protocol: Protocol, episodes: EpisodeSet, correct: Ints, hits: Ints, **changes: Any) -> Result:
    """The result of a classifier's (E,) correct and (E, N) hits on drawn episodes."""
    accuracies = correct / (protocol.n_way * protocol.n_query)
    times = np.bincount(episodes.classes.ravel()).tolist()
    right = np.bincount(episodes.classes.ravel(), hits.ravel()).astype(int).tolist()
    rows = zip(episodes.class_names, right, times, strict=True)
    ci95 = float(1.96 * accuracies.std() / len(accuracies) ** 0.5)
    task = few_shot().task.model_copy(update={"classes": len(times) + episodes.classes_left_out})
    parts: dict[str, Any] = {
        "protocol": protocol,
        "task": task,
        "episodes": Episodes(
            algorithm="philox-1",
            digest=episodes.digest,
            correct=tuple(correct.tolist()),
            classes_left_out=episodes.classes_left_out,
            shared_group_share=episodes.shared_group_share,
        ),
        "per_class": {name: (hit, drawn * protocol.n_query) for name, hit, drawn in rows},
        "score": score(float(accuracies.mean()), ci95),
    }
    return few_shot(**(parts | changes))
