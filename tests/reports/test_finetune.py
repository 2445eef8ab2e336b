"""The report of fine-tunings: scores, folds, shares of labels and classes are those of the records."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from uamix_bench.finetuning.recipe import FINETUNE
from uamix_bench.records.finetune_record import (
    FinetuneCost,
    FinetuneResult,
    FinetuneRun,
    FinetuneScore,
    FinetuneSetting,
    GroupIntervals,
    seeds_std,
)
from uamix_bench.records.provenance import collect
from uamix_bench.records.record import HalfInterval, Status
from uamix_bench.reports.finetune import report
from uamix_bench.scoring.metrics import clustered_interval
from uamix_bench.util import files
from uamix_bench.util.errors import UsageError

from .records import result

PROVENANCE = collect()


def tuned(rate: float = 0.7, *, model: str = "m", fraction: float | None = None, seeds: int = 1) -> FinetuneResult:
    """Two folds of 20 test clips each, in ten groups and four classes."""
    generator = np.random.default_rng(int(1_000 * rate))
    runs = []
    for seed in range(seeds):
        for fold in range(2):
            right = generator.random(20) < rate
            per_class = {f"class {c}": (int(right[c::4].sum()), 5) for c in range(4)}
            runs.append(
                FinetuneRun(
                    fold=f"fold{fold + 1}",
                    seed=seed,
                    train_clips=round(200 * (fraction or 1)),
                    batch=8,
                    test_sha256=f"{fold}" * 64,
                    groups=tuple((10 * fold + group, 2) for group in range(10)),
                    correct="".join("01"[int(hit)] for hit in right),
                    per_class=per_class,
                    history=({"step": 0.0, "loss": 2.0}, {"step": 9.0, "loss": 1.0}),
                )
            )
    recipe = FINETUNE["tiny"].model_dump(mode="json")
    parts = dict(result(model))
    return FinetuneResult.create(
        status=Status(complete=True),
        model=parts["model"],
        task=parts["task"],
        setting=FinetuneSetting(
            method="fine-tuning",
            recipe=recipe,
            recipe_sha256=files.digest(recipe),
            frozen_blocks=0,
            trained_parameters=1_000,
            frames=64,
            fraction=fraction,
            split="2 folds",
            metric="accuracy",
        ),
        runs=tuple(runs),
        score=FinetuneScore(
            value=float(np.mean([run.value() for run in runs])),
            intervals=GroupIntervals(groups=HalfInterval.of(clustered_interval([run.tested() for run in runs]))),
            method="t(G - 1) x cluster-robust standard error over G groups",
            seeds_std=seeds_std(runs),
        ),
        cost=FinetuneCost(seconds=12.0, peak_memory_mb=None),
        provenance=PROVENANCE,
    )


def test_scores_runs_and_classes_are_the_record_s() -> None:
    one = tuned(seeds=2)
    page = report([one, one])
    score = one.score
    assert f"{100 * score.value:.1f} ± {100 * (score.ci95 or 0):.1f}" in page.markdown
    assert f"| {100 * (score.seeds_std or 0):.2f} |" in page.markdown
    assert ", ".join(f"{100 * run.value():.1f}" for run in one.runs) in page.markdown
    for name in ("class 0", "class 3"):
        right = sum(run.per_class[name][0] for run in one.runs)
        assert f"| {name} | {100 * right / 20:.4g} |" in page.markdown
    assert "MAE-AST, patch" in page.markdown  # published on ESC-50
    assert "m, fine-tuning on esc50@1" in page.markdown


def test_shares_of_labels_become_a_curve() -> None:
    page = report([tuned(0.4, fraction=0.1), tuned(0.8), tuned(0.6, model="other")])
    curve = page.markdown.partition("esc50@1 with few labels")[2].partition("**Accuracy by class")[0]
    assert [row.split(" | ")[1] for row in curve.splitlines() if row.startswith("| m, fine-tuning")] == ["0.4", "4"]
    assert "other, fine-tuning |" not in curve
    assert "m, fine-tuning, 10% of labels" in page.markdown


def test_nothing_to_show_is_an_error() -> None:
    records: list[Any] = [result("a")]
    with pytest.raises(UsageError, match="no fine-tuning among the records"):
        report(records)


def test_two_models_of_one_name_are_two_lines_over_labels() -> None:
    found = []
    for weights, rates in (("a" * 64, (0.3, 0.5)), ("b" * 64, (0.6, 0.9))):
        for rate, fraction in zip(rates, (0.1, None), strict=True):
            one = tuned(rate, fraction=fraction)
            parts = {
                name: getattr(one, name) for name in type(one).model_fields if name not in ("id", "schema_version")
            }
            parts["model"] = one.model.model_copy(update={"weights_sha256": weights})
            found.append(FinetuneResult.create(**parts))
    text = report(found).markdown.split("esc50@1 with few labels")[1].split("Accuracy by class")[0]
    rows = [line for line in text.splitlines() if line.startswith("| m, fine-tuning (")]
    scores = [f"{100 * one.score.value:.3g}" for one in found]
    assert len({row.split("|")[1] for row in rows}) == 2
    assert all(score in text for score in scores)
