"""The folder of records: many writers, kill -9, merging by copying, and the published schema."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from uamix_bench.records import store as store_module
from uamix_bench.records.record import Status
from uamix_bench.records.results import Cost
from uamix_bench.records.store import ResultStore, load_record, schema
from uamix_bench.util.errors import BadInputError

from ..sample_records import few_shot, finetuned, training

SCHEMA = Path(__file__).parents[2] / "reports" / "schema" / "result.v2.json"


def test_a_result_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    path = store.write(few_shot())
    content = path.read_bytes()
    again = few_shot(cost=Cost(embedded_clips=0, embed_s=0.0, episodes_s=0.0, peak_memory_mb=None))
    assert store.write(again) == path
    assert path.read_bytes() == content
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_another_outcome_of_the_same_evaluation_is_an_alarm(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    path = store.write(few_shot())
    with pytest.raises(BadInputError, match="now comes out differently"):
        store.write(few_shot((3, 4, 2)))
    assert [found for found, _ in store] == [path]
    store.write(few_shot((3, 4, 2), status=few_shot().status.model_copy(update={"complete": False})))
    path.write_text("{")
    store.write(few_shot((3, 4, 2)))  # a damaged neighbour is no reason to lose it


def test_names_with_slashes_stay_inside_the_store(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    task = few_shot().task.model_copy(update={"name": "local/my data"})
    path = store.write(few_shot(task=task))
    assert path.parent == tmp_path / "local" / "my data@1" / "m"
    assert [found for found, _ in store] == [path]


def test_find_asks_for_everything_that_matters(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    result = few_shot()
    asked = (result.model, result.task, result.protocol, result.episodes.digest)
    assert not list(store.find(*asked))
    store.write(few_shot(status=Status(complete=False, notes=result.status.notes)))
    assert not list(store.find(*asked))
    store = ResultStore(tmp_path / "other")
    path = store.write(result)
    assert list(store.find(*asked)) == [(path, result)]
    assert not list(store.find(result.model.model_copy(update={"name": "other"}), *asked[1:]))
    assert not list(store.find(*asked[:3], "4" * 64))
    assert not list(store.find(*asked[:2], result.protocol.model_copy(update={"seed": 1}), asked[3]))


def test_reading_results_needs_no_torch() -> None:
    rooms = "uamix_bench.records.store, uamix_bench.records.provenance"
    code = f"import sys, {rooms}; print({{'torch', 'pandas'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


_ENDLESS_WRITER = """
import sys
from pathlib import Path
from typing import Any
from uamix_bench.records.results import load_result
from uamix_bench.records.store import ResultStore
template, target, writer = load_result(Path(sys.argv[1])), ResultStore(Path(sys.argv[2])), int(sys.argv[3])
parts = {name: getattr(template, name) for name in type(template).model_fields if name != "id"}
for number in range(100_000):
    seed = number if number % 2 else 100_000 * writer + number  # every second one is the same in all processes
    task = template.task.model_copy(update={"version": str(number // 20)})
    protocol = template.protocol.model_copy(update={"seed": seed})
    result = template.create(**parts | {"protocol": protocol, "task": task})
    target.write(result)
    print(result.id, flush=True)
"""


def test_eight_writers_killed_lose_and_break_nothing(tmp_path: Path) -> None:
    template = ResultStore(tmp_path / "template").write(few_shot())
    command = [sys.executable, "-c", _ENDLESS_WRITER, str(template), str(tmp_path / "store")]
    writers, told = [], []
    for number in range(8):
        told.append(tmp_path / f"{number}.txt")
        with told[-1].open("wb") as file:
            writers.append(subprocess.Popen([*command, str(number)], stdout=file))
    deadline = time.monotonic() + 60
    for number, writer in enumerate(writers):  # one after the other, each in the midst of its writing
        while len(told[number].read_bytes()) < 65 * 12 and time.monotonic() < deadline:
            time.sleep(0.01)
        writer.kill()
        assert writer.wait(60) == -signal.SIGKILL
    acknowledged = [line for path in told for line in path.read_text().split("\n")[:-1]]
    there = [record.id for _, record in ResultStore(tmp_path / "store")]  # which reads and checks every file
    assert len(acknowledged) >= 8 * 12
    assert len(set(acknowledged)) < len(acknowledged)
    assert len(set(there)) == len(there)
    assert set(acknowledged) <= set(there)
    assert len(set(there) - set(acknowledged)) <= 8


def test_what_interrupted_and_killed_writers_leave_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ResultStore(tmp_path)
    real = store_module.files.write_atomic

    def interrupted(*arguments: Any) -> Path:
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store_module.files, "write_atomic", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.write(few_shot())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    killed = store.path(few_shot()).with_name(".tmp-of-a-killed-process")
    killed.touch()
    os.utime(killed, (time.time() - 90_000,) * 2)
    path = store.write(few_shot())
    assert [path] == [path for path in tmp_path.rglob("*") if path.is_file()]


def test_stores_are_merged_by_copying(tmp_path: Path) -> None:
    ours, theirs = ResultStore(tmp_path / "ours"), ResultStore(tmp_path / "theirs")
    shared, own = few_shot(), few_shot((4, 4, 0), protocol=few_shot().protocol.model_copy(update={"seed": 1}))
    ours.write(shared)
    for record in (shared, own, training()):
        theirs.write(record)
    shutil.copytree(theirs.folder, ours.folder, dirs_exist_ok=True)
    assert {record.id for _, record in ours} == {shared.id, own.id, training().id}
    assert {path.relative_to(ours.folder) for path, _ in ours} == {
        path.relative_to(theirs.folder) for path, _ in theirs
    }


def test_the_published_schema_is_that_of_the_models() -> None:
    words = "run: uamix-bench results schema > reports/schema/result.v2.json"
    assert json.loads(SCHEMA.read_text()) == schema(), words
    jsonschema.Draft202012Validator.check_schema(schema())


def test_another_reader_agrees_with_the_schema(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    for record in (few_shot(), training(), finetuned()):
        document = json.loads(store.write(record).read_bytes())
        validator.validate(document)
        for change in ({"extra": 1}, {"id": "x"}, {"schema_version": 3}, {"kind": "other"}, {"provenance": None}):
            assert not validator.is_valid(document | change)
            path = tmp_path / "changed.json"
            path.write_text(json.dumps(document | change))
            with pytest.raises(BadInputError):
                load_record(path)
