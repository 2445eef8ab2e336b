from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from uamix_bench.records.provenance import collect
from uamix_bench.records.store import ResultStore, load_record
from uamix_bench.util.errors import BadInputError

from ..sample_records import training


def test_it_round_trips_through_a_store(tmp_path: Path) -> None:
    record = training()
    path = ResultStore(tmp_path).write(record)
    name = f"{record.recipe_sha256[:12]}-{record.id[:12]}.json"
    assert path.relative_to(tmp_path).as_posix() == f"training/local/my sounds@1/{name}"
    assert load_record(path) == record
    assert list(ResultStore(tmp_path)) == [(path, record)]


def test_the_id_leaves_out_where_it_ran() -> None:
    there = collect().model_copy(update={"device": "cuda: another"})
    assert training(provenance=there).id == training().id
    assert training(history=()).id != training().id != training(weights_sha256="8" * 64).id


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_seed": 4}, "train_seed is 4"),
        ({"recipe_sha256": "0" * 64}, "recipe_sha256 is not that of the recipe"),
        ({"weights_sha256": "0" * 64}, "the id is not that of the content"),
        ({"history": [{"loss": "low"}]}, "history.0.loss"),
        ({"data": {"name": "../up", "version": "1", "sha256": "5" * 64}}, "data.name"),
    ],
)
def test_parts_that_disagree_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = ResultStore(tmp_path).write(training())
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    with pytest.raises(BadInputError, match=words):
        load_record(path)
