from __future__ import annotations

import csv
import io
import json
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import yaml

from uamix_bench.records.results import Result
from uamix_bench.records.store import ResultStore, schema
from uamix_bench.util.text import UNFIT

from ..sample_records import few_shot, finetuned, training
from .conftest import SMALL, Bench


def of(part: str, **changes: Any) -> Result:
    return few_shot(**{part: getattr(few_shot(), part).model_copy(update=changes)})


@pytest.fixture
def folder(bench_home: Path) -> Path:
    """The default results folder, with three results and a training."""
    store = ResultStore()
    for record in (few_shot(), of("model", name="other"), of("protocol", k_shot=5), training()):
        store.write(record)
    return store.folder


def names(bench: Bench, *arguments: object) -> list[tuple[str, int]]:
    results = bench("results", "ls", "--json", *arguments).envelope["results"]
    return [(one["model"]["name"], one["protocol"]["k_shot"]) for one in results if one["kind"] == "fewshot"]


def test_ls_lists_and_filters(bench: Bench, folder: Path) -> None:
    assert names(bench) == names(bench, folder) == [("m", 1), ("other", 1), ("m", 5)]
    assert names(bench, "-m", "o*,x") == [("other", 1)]
    assert names(bench, "--task", "t", "--k", "5") == [("m", 5)]
    assert names(bench, "--n", "3") == []
    assert names(bench, "--k", "2-5") == [("m", 5)]
    done = bench("results", "ls")
    assert few_shot().id[:12] in done.out


def test_ls_lists_every_kind(bench: Bench, folder: Path) -> None:
    probe = finetuned()
    ResultStore(folder).write(probe)

    def kinds(*arguments: object) -> list[str]:
        return [record["kind"] for record in bench("results", "ls", "--json", *arguments).envelope["results"]]

    assert kinds() == ["fewshot"] * 3 + ["finetune", "training"]
    assert kinds("-m", "m") == ["fewshot"] * 2 + ["finetune"]
    assert kinds("-t", "local/*") == ["training"]
    assert kinds("--k", "1") == ["fewshot"] * 2
    done = bench("results", "ls")
    assert done.err == ""
    for title in ("few-shot results", "fine-tunings and linear probes", "trainings"):
        assert title in done.out.splitlines()
    assert "66.67 ± " in next(line for line in done.out.splitlines() if probe.id[:12] in line)
    assert "2.500" in next(line for line in done.out.splitlines() if training().id[:12] in line)
    assert "few-shot results" not in bench("results", "ls", "--k", "1").out


def test_a_damaged_file_is_named_and_passed_over(bench: Bench, folder: Path) -> None:
    (folder / "damaged.json").write_text("{")
    done = bench("results", "ls")
    assert done.code == 0
    assert "warning" in done.err
    assert "damaged.json" in done.err
    assert few_shot().id[:12] in done.out
    assert bench("results", "export").code == 3


def test_a_choice_is_by_the_content_of_a_file_and_not_by_its_name_or_form(bench: Bench, folder: Path) -> None:
    path = ResultStore(folder).path(of("model", name="other"))
    elsewhere = path.rename(folder / "renamed.json")
    assert names(bench, "-m", "other") == [("other", 1)]
    elsewhere.write_text(json.dumps(json.loads(elsewhere.read_bytes()), indent=2))  # no line holds a whole part
    assert names(bench, "-m", "other") == [("other", 1)]
    text = elsewhere.read_text().replace('"accuracy": 0.6', '"accuracy": 0.7')
    elsewhere.write_text(text)
    done = bench("results", "ls", "-m", "other")
    assert "renamed.json: score.accuracy is 0.7" in done.err
    assert "no results" in done.out or of("model", name="other").id[:12] not in done.out
    elsewhere.unlink()
    assert names(bench, "-m", "other") == []


def test_what_is_not_chosen_is_not_parsed(bench: Bench, folder: Path) -> None:
    path = ResultStore(folder).path(few_shot())
    path.write_text(path.read_text().replace('"correct": [3, 4, 1]', '"correct": [3, 4, ]'))
    assert bench("results", "ls", "-m", "other").err == ""
    assert path.name in bench("results", "ls", "-m", "m").err
    path.write_text(path.read_text().replace('"model": {', '"model": [{'))  # says nothing of itself any more
    assert path.name in bench("results", "ls", "-m", "other").err


def test_show_takes_a_file_or_the_beginning_of_an_id(bench: Bench, folder: Path) -> None:
    path = ResultStore(folder).path(few_shot())
    for name in (path, few_shot().id[:8]):
        done = bench("results", "show", name)
        assert done.code == 0
        assert few_shot().id in done.out
        assert "accuracy: 66.67%" in done.out
    assert bench("results", "show", training().id[:12], "--json").envelope["results"][0]["kind"] == "training"
    assert "history         1 entries" in bench("results", "show", training().id[:12]).out
    assert bench("results", "show", "ffffffffffff").code == 2
    assert bench("results", "show", "f").code == 2
    assert bench("results", "show", "absent.json").code == 3


def test_verify_lists_every_bad_file(bench: Bench, folder: Path) -> None:
    assert bench("results", "verify").out == "4 files verified\n"
    document = json.loads(ResultStore(folder).path(few_shot()).read_bytes())
    (folder / "mean.json").write_text(json.dumps(document | {"score": document["score"] | {"accuracy": 0.99}}))
    (folder / "broken.json").write_text("{")
    other = few_shot((3, 4, 2))
    ResultStore(folder / "elsewhere").write(other)  # as a copied file would be
    done = bench("results", "verify")
    assert done.code == 3
    assert "3 of 7 files: do not verify" in done.error
    assert "score.accuracy is 0.99" in done.out
    assert "broken.json: is not strict JSON" in done.out
    assert "has another outcome of the same evaluation than" in done.out
    items = bench("results", "verify", "--json").envelope["items"]
    assert [bool(item["problems"]) for item in items].count(True) == 3


def test_verify_of_nothing_is_no_success(bench: Bench, tmp_path: Path) -> None:
    assert bench("results", "verify", tmp_path).code == 3
    assert bench("results", "verify", tmp_path / "absent").code == 3
    assert bench("results", "verify").code == 3


def test_names_of_files_are_shown_harmless(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "x\x1b[2J\u202e.json").write_text("{")
    for command in (("ls",), ("verify",), ("export",)):
        done = bench("results", *command, tmp_path)
        assert not UNFIT.search((done.out + done.err).replace("\n", ""))


def test_verify_draws_the_episodes_again(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    assert bench("fewshot", "-m", "logmel", "--task", sounds, *SMALL, "-o", tmp_path / "r", "--quiet").code == 0
    (path,) = (tmp_path / "r").rglob("*.json")
    done = bench("results", "verify", path, "--task", sounds)
    assert (done.code, done.err) == (0, "")
    assert "someone's own data" in bench("results", "verify", path, "--data-dir", tmp_path).err

    genuine = json.loads(path.read_bytes())
    for part, field, value, words in (
        ("episodes", "digest", "0" * 64, "episodes.digest is 000000000000, but the clip table gives"),
        ("task", "clips", 31, "task.clips is 31, but the clip table gives 32"),
        ("score", "intervals.classes", {"half_width": 0.001, "reason": ""}, "score.intervals.classes is 0.001"),
        ("episodes", "shared_group_share", 0.5, "episodes.shared_group_share is 0.5"),
    ):
        forged = json.loads(json.dumps(genuine))
        *above, last = [part, *field.split(".")]
        reduce(getitem, above, forged)[last] = value
        path.write_text(json.dumps(_signed(forged)))
        assert bench("results", "verify", path).code == 0  # its own parts agree
        done = bench("results", "verify", path, "--task", sounds)
        assert done.code == 3
        assert words in done.out


def _signed(document: dict[str, Any]) -> dict[str, Any]:
    """A forger's file: its id is that of its content."""
    from uamix_bench.util.files import digest

    parts = {name: document[name] for name in ("kind", "model", "task", "protocol", "episodes", "per_class")}
    return document | {"id": digest(parts | {"skipped": []})}


def test_export_writes_every_form(bench: Bench, folder: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(bench("results", "export").out)))
    assert [(row["model"], row["k_shot"]) for row in rows] == [("m", "1"), ("other", "1"), ("m", "5")]
    assert "\\toprule" in bench("results", "export", "--format", "latex").out
    hub = ("-m", "m", "--hub-dataset", "t=owner/benchmark")
    assert len(yaml.safe_load(bench("results", "export", "--format", "eval-results", *hub).out)) == 2
    index = tmp_path / "index.yaml"
    assert bench("results", "export", "--format", "model-index", *hub, "-o", index).code == 0
    assert yaml.safe_load(index.read_text())["model-index"][0]["name"] == "m"
    assert bench("results", "export", "--format", "mteb", "-o", tmp_path / "mteb").code == 0
    assert len(list((tmp_path / "mteb").rglob("t-*.json"))) == 3
    for arguments, words in (
        (("--format", "mteb"), "writes a folder"),
        (("--format", "model-index"), "several models"),
        (("--format", "eval-results", "-m", "m"), "--hub-dataset t=OWNER/NAME"),
        (("--format", "eval-results", "--hub-dataset", "t"), "TASK=OWNER/NAME"),
        (("-m", "absent"), "none is chosen"),
    ):
        done = bench("results", "export", *arguments)
        assert done.code == 2
        assert words in done.error


def test_the_schema_is_printed(bench: Bench) -> None:
    assert json.loads(bench("results", "schema").out) == schema()
