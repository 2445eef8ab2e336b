"""Records that release 0.1.0 wrote in schema version 1: read, with what they do not say left unsaid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from uamix_bench.comparison.compare import compare
from uamix_bench.records.finetune_record import FinetuneResult
from uamix_bench.records.record import record_text
from uamix_bench.records.results import Result
from uamix_bench.records.store import ResultStore, load_record
from uamix_bench.records.training_records import AblationRecord, TrainingRecord
from uamix_bench.util.errors import BadInputError

from ..sample_records import SOUNDS, few_shot

OLD = Path(__file__).parents[1] / "golden" / "schema_v1"
SCHEMA = Path(__file__).parents[2] / "reports" / "schema" / "result.v1.json"
KINDS = {"fewshot": Result, "limited": Result, "finetune": FinetuneResult, "training": TrainingRecord}
FILES = (*KINDS, "ablation")


def old(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((OLD / f"{name}.json").read_bytes())
    return document


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_of_the_schema_that_was_published(name: str) -> None:
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_bytes())).validate(old(name))


@pytest.mark.parametrize("name", FILES)
def test_they_are_read_and_round_trip_as_version_2(name: str, tmp_path: Path) -> None:
    record = load_record(OLD / f"{name}.json")
    assert (record.schema_version, type(record)) == (2, KINDS.get(name, AblationRecord))
    assert record.id == record.expected_id()
    (tmp_path / "new.json").write_text(record_text(record))
    assert load_record(tmp_path / "new.json") == record
    for part in ("model", "setting", "episodes", "per_class", "recipe", "history"):
        if part in old(name):
            now = json.loads(record_text(record))[part]
            assert {key: now[key] for key in old(name)[part]} == old(name)[part] if part != "history" else now


def test_what_notes_told_stands_in_fields() -> None:
    whole, limited = (load_record(OLD / f"{name}.json") for name in ("fewshot", "limited"))
    assert isinstance(whole, Result)
    assert isinstance(limited, Result)
    assert (whole.score.ci95, whole.score.ci95_clips) == (old("fewshot")["score"]["ci95"], None)
    assert (whole.score.intervals.clips.reason, whole.score.intervals.classes.reason) == ("too few", "too few")
    assert (whole.status.complete, whole.status.limited, whole.status.partial) == (True, False, "")
    unsaid = "sounds not recorded (schema version 1, id {})"
    assert whole.status.notes == (unsaid.format(old("fewshot")["id"][:12]),)
    assert (limited.status.limited, limited.status.partial) == (True, "30 of 40 clips")
    assert limited.status.notes == ("a remark", unsaid.format(old("limited")["id"][:12]))
    tuned = load_record(OLD / "finetune.json")
    assert isinstance(tuned, FinetuneResult)
    assert tuned.score.ci95 == old("finetune")["score"]["ci95"]
    assert tuned.score.method == old("finetune")["score"]["interval"]


@pytest.mark.parametrize("name", FILES)
def test_one_that_was_changed_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "changed.json"
    changes: list[dict[str, Any]] = [{"id": "0" * 64}, {"schema_version": 2}, {"extra": 1}, {"kind": "ablation"}]
    changes += [{"provenance": None}, {"model": None, "arms": None, "data": None}, {"status": [], "recipe": []}]
    for change in changes:
        if change == {"kind": name} or (name == "training" and change == {"schema_version": 2}):
            continue
        path.write_text(json.dumps(old(name) | change))
        with pytest.raises(BadInputError, match=r"changed\.json") as caught:
            load_record(path)
        assert "\n" not in str(caught.value)


def test_it_is_never_taken_for_the_same_evaluation(tmp_path: Path) -> None:
    """A store that holds one takes a new result beside it, of the same outcome or another."""
    result = load_record(OLD / "fewshot.json")
    assert isinstance(result, Result)
    assert not result.sounds_recorded
    assert result.unit() is None
    store = ResultStore(tmp_path)
    store.write(result)
    task = result.task.model_copy(update={"content_sha256": SOUNDS})
    now = few_shot((3, 4, 2), task=task)
    assert store.write(now) != store.path(result)
    again = few_shot(task=task)
    (pair,) = compare([result], [result]).pairs
    assert pair.notes == ("sounds not recorded in BASE and HEAD",)
    (pair,) = compare([result], [again]).pairs
    assert (pair.verdict, pair.notes) == ("no difference found", ("sounds not recorded in BASE",))
    (pair,) = compare([result, again], [again]).pairs[:1]
    assert pair.head is again
