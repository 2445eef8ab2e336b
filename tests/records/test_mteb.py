"""MTEB's form of results: what its reader asks for, and the reader itself where it is installed."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from uamix_bench.records.mteb import META, to_mteb
from uamix_bench.records.results import Result

from ..sample_records import few_shot

REVISION = "0" * 40
# The fields without a default of mteb 2.26's `ModelMeta`, and those of its `TaskResult`.
MODEL_FIELDS = {
    *("loader", "name", "revision", "release_date", "languages", "n_parameters", "memory_usage_mb", "max_tokens"),
    *("embed_dim", "license", "open_weights", "public_training_code", "public_training_data", "framework"),
    *("similarity_fn_name", "use_instructions", "training_datasets"),
}
TASK_FIELDS = {"dataset_revision", "task_name", "mteb_version", "scores", "evaluation_time", "kg_co2_emissions"}


def of(part: str, **changes: Any) -> Result:
    return few_shot(**{part: getattr(few_shot(), part).model_copy(update=changes)})


@pytest.fixture
def results() -> list[Result]:
    return [
        few_shot((3, 4, 1)),
        few_shot((4, 4, 4), protocol=few_shot().protocol.model_copy(update={"k_shot": 5})),
        of("task", name="local/own"),
        of("model", name="a/b", weights_sha256=None, pretrained_on=("none",)),
    ]


def test_every_setting_is_a_document_and_every_model_has_its_metadata(results: list[Result]) -> None:
    documents = to_mteb(results)
    ours, theirs = f"results/uamix-bench__m/{REVISION}", "results/a__b/no_revision_available"
    assert sorted(documents) == sorted(
        [
            *(
                f"{ours}/{name}.json"
                for name in (
                    "t-2-way-1-shot-2-queries-3-episodes",
                    "t-2-way-5-shot-2-queries-3-episodes",
                    "local__own-2-way-1-shot-2-queries-3-episodes",
                )
            ),
            f"{theirs}/t-2-way-1-shot-2-queries-3-episodes.json",
            *(f"{folder}/{META}" for folder in (ours, theirs)),
        ]
    )
    for path, text in documents.items():
        document = json.loads(text)
        if path.endswith(META):
            assert document.keys() >= MODEL_FIELDS
            assert "/" in document["name"]
            continue
        assert set(document) == TASK_FIELDS
        (scores,) = document["scores"]["test"]  # several would be averaged
        assert scores["languages"]  # without one there is no mean
        assert document["task_name"] == Path(path).stem
        assert scores["overlap"]["level"] == ("none" if path.startswith(theirs) else "unknown")
    fives = json.loads(documents[f"{ours}/t-2-way-5-shot-2-queries-3-episodes.json"])
    assert fives["scores"]["test"][0]["main_score"] == 1.0
    assert json.loads(documents[f"{theirs}/{META}"])["training_datasets"] == []
    assert json.loads(documents[f"{ours}/{META}"])["training_datasets"] is None


def test_mteb_itself_lists_the_models_and_shows_the_scores(results: list[Result], tmp_path: Path) -> None:
    mteb = pytest.importorskip("mteb", reason="mteb is not installed")
    documents = to_mteb(results)
    for name, text in documents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        if name.endswith(META):
            importlib.import_module("mteb.models").ModelMeta(**json.loads(text))
    cache = mteb.ResultCache(tmp_path)
    assert set(cache.get_models()) == {("uamix-bench__m", REVISION), ("a__b", "no_revision_available")}
    shown = {(one.model_name, task.task_name): task.get_score() for one in cache.load_results() for task in one}
    assert shown["uamix-bench/m", "t-2-way-1-shot-2-queries-3-episodes"] == pytest.approx(8 / 12)
    assert shown["uamix-bench/m", "t-2-way-5-shot-2-queries-3-episodes"] == 1.0
    assert len(shown) == 4
