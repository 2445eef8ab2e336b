"""The report of trainings: its curves are the histories, its table what the recipes differ in."""

from __future__ import annotations

from typing import Any

import pytest

from uamix_bench.records.provenance import collect
from uamix_bench.records.record import Skipped
from uamix_bench.records.training_records import DataIdentity, TrainingRecord
from uamix_bench.reports.training import report
from uamix_bench.tuning.recipe import TUNE
from uamix_bench.util.errors import UsageError

PROVENANCE = collect()


def training(mix: str = "t-cutmix", **changes: Any) -> TrainingRecord:
    """Two stages of five and four steps, logged every other step."""
    recipe = TUNE["tiny"].model_copy(update={"mix": mix})
    stages = [(0, step) for step in (0, 2, 4)] + [(1, step) for step in (0, 3)]
    parts: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_sha256": recipe.sha256,
        "data": DataIdentity(name="local/a", version="1", sha256="5" * 64),
        "parent_sha256": "6" * 64,
        "weights_sha256": "7" * 64,
        "train_seed": recipe.seed,
        "history": tuple(
            {"stage": float(stage), "step": float(step), "loss": 5.0 - stage - step / 8, "lr": 0.5, "rank": 20.0 + step}
            for stage, step in stages
        ),
        "skipped": (Skipped(clip="<i>.wav", reason="no samples"),),
        "provenance": PROVENANCE,
    }
    return TrainingRecord.create(**(parts | changes))


def test_steps_are_counted_on_from_stage_to_stage() -> None:
    page = report([training(data=DataIdentity(name="d", version="1", sha256="5" * 64))])
    loss = page.markdown.partition("**Loss**")[2].partition("**Learning rate**")[0]
    rows = [row.split(" | ") for row in loss.splitlines() if row.startswith("| tune tiny")]
    assert [(row[1], row[2].removesuffix(" |")) for row in rows] == [
        ("0", "5"),
        ("2", "4.75"),
        ("4", "4.5"),
        ("5", "4"),
        ("8", "3.625"),
    ]
    assert "Effective rank of the embeddings" in page.html
    assert "Cosine" not in page.html


def test_trainings_side_by_side_tell_what_differs() -> None:
    page = report([training(), training("none"), training()])
    assert "(mix)" in page.markdown
    assert "**none**" in page.markdown
    assert page.title == "Trainings"


def test_a_training_without_history_and_hostile_names_are_shown() -> None:
    page = report([training(history=())])
    assert "<i>" not in page.html
    assert "Loss" not in page.html
    with pytest.raises(UsageError, match="no training among the records"):
        report([])
