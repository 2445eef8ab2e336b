from __future__ import annotations

import hashlib
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from uamix_bench.records.provenance import collect, command, git_state, scrub
from uamix_bench.records.results import Cost, load_result
from uamix_bench.records.store import ResultStore
from uamix_bench.util.errors import BadInputError

from ..sample_records import few_shot, score


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return ResultStore(tmp_path).write(few_shot())


def test_it_round_trips_through_its_file(stored: Path) -> None:
    assert load_result(stored) == few_shot(provenance=load_result(stored).provenance)
    assert stored.relative_to(stored.parents[2]).as_posix() == f"t@1/m/2w1s-{few_shot().id[:12]}.json"


def test_the_record_is_that_of_the_design() -> None:
    document = few_shot().model_dump(mode="json")
    assert {part: list(value) for part, value in document.items() if isinstance(value, dict) and part != "health"} == {
        "status": ["complete", "limited", "partial", "skipped", "notes"],
        "model": [
            "name", "adapter_version", "weights_sha256", "parameters", "embedding_dim", "input", "pooling", "dtype",
            "source_sha256", "metadata_sha256", "recipe_sha256", "parent_sha256", "train_seed", "pretrained_on",
            "licence",
        ],
        "task": ["name", "version", "clips_sha256", "content_sha256", "classes", "clips", "clip_seconds"],
        "protocol": [
            "name", "n_way", "k_shot", "n_query", "episodes", "seed", "classifier", "group_disjoint", "min_clips",
            "segments",
        ],
        "episodes": ["algorithm", "digest", "correct", "classes_left_out", "shared_group_share"],
        "per_class": ["a", "b"],
        "names": [],
        "score": ["accuracy", "intervals"],
        "cost": ["embedded_clips", "embed_s", "episodes_s", "peak_memory_mb", "earlier"],
        "provenance": [
            "package", "git_revision", "git_dirty", "packages", "python", "device", "platform", "started_at", "command",
            "content_sha256",
        ],
    }  # fmt: skip
    assert list(document)[:5] == ["schema_version", "kind", "id", "status", "model"]


def test_the_id_is_the_hash_of_content_without_cost_and_provenance() -> None:
    result = few_shot()
    content = result.model_dump(mode="json")
    signed = {part: content[part] for part in ("kind", "model", "task", "protocol", "episodes", "per_class")}
    text = json.dumps(signed | {"skipped": []}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert result.id == hashlib.sha256(text.encode()).hexdigest()
    other = Cost(embedded_clips=0, embed_s=9.0, episodes_s=9.0, peak_memory_mb=None)
    assert few_shot(cost=other, provenance=collect().model_copy(update={"started_at": "then"})).id == result.id
    assert few_shot((3, 4, 2)).id != result.id
    assert few_shot(protocol=result.protocol.model_copy(update={"seed": 1})).id != result.id


def _tamper(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split(".")
    place: Any = document
    for name in parents:
        place = place[name]
    place[int(last) if isinstance(place, list) else last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("id", "3" * 64),
        ("id", "../../etc"),
        ("schema_version", 1),
        ("schema_version", 3),
        ("score.accuracy", 0.7),
        ("score.accuracy", True),
        ("score.intervals.episodes.half_width", 0.1),
        ("score.intervals.episodes.half_width", None),
        ("score.intervals.episodes.reason", "too few"),
        ("score.intervals.clips.reason", ""),
        ("score.intervals.others", {"half_width": 1.0}),
        ("score.intervals.clips.half_width", -1.0),
        ("task.content_sha256", "4" * 64),
        ("status.limited", True),
        ("status.partial", "lacks clips"),
        ("status.complete", 1),
        ("status.skipped", [{"clip": "x", "reason": "y"}]),
        ("model.name", "other"),
        ("model.name", "../up"),
        ("model.name", ""),
        ("model.name", "a/../b"),
        ("model.name", "x" * 81),
        ("model.name", "<script>"),
        ("model.parameters", "10"),
        ("model.extra", 1),
        ("task.name", "other"),
        ("task.version", "/1"),
        ("task.classes", 1),
        ("task.clip_seconds", 0),
        ("protocol.episodes", 4),
        ("protocol.n_way", 1),
        ("protocol.classifier", "oracle"),
        ("episodes.correct", [3, 4]),
        ("episodes.correct", [3, 5, 0]),
        ("episodes.correct", [3, 4, -1]),
        ("episodes.correct", [3.0, 4, 1]),
        ("episodes.correct.0", 2),
        ("episodes.classes_left_out", 2),
        ("episodes.shared_group_share", 1.5),
        ("per_class", {"a": [8, 12]}),
        ("per_class", {"a": [7, 6], "b": [1, 6]}),
        ("per_class", {"a": [6, 7], "b": [2, 5]}),
        ("cost.embed_s", -1),
        ("cost.embedded_clips", 10**4000),
        ("provenance.command", 5),
        ("health.verdict", "fine"),
        ("model.parameters", 10**400),
        ("model.weights_sha256", "<script>"),
        ("model.licence", "free\u202egnp.exe"),
        ("protocol.name", "pa\u200bper"),
        ("protocol.seed", 10**30),
        ("provenance.device", "cpu\x1b[2J"),
        ("extra", 1),
    ],
)
def test_what_was_tampered_with_is_refused_by_name(stored: Path, path: str, value: Any) -> None:
    document = _tamper(json.loads(stored.read_bytes()), path, value)
    stored.write_text(json.dumps(document))
    with pytest.raises(BadInputError) as caught:
        load_result(stored)
    assert stored.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


@pytest.mark.parametrize("repeated", ["first", "last"])
def test_a_repeated_key_is_found_in_linear_time(repeated: str, tmp_path: Path) -> None:
    """Four times the keys take about four times as long, with room for a machine that is busy."""

    def seconds(keys: int) -> float:
        members = [f'"{index:x}":0' for index in range(keys)]
        at = "0" if repeated == "first" else f"{keys - 1:x}"
        (tmp_path / "r.json").write_text("{" + ",".join([*members, f'"{at}":0']) + "}")
        started = time.process_time()
        with pytest.raises(BadInputError, match=f"the key '{at}' is repeated"):
            load_result(tmp_path / "r.json")
        return time.process_time() - started

    seconds(10_000)
    shorter, longer = (min(seconds(keys) for _ in range(3)) for keys in (50_000, 200_000))
    assert longer < 12 * shorter


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:-100], "not strict JSON"),
        (lambda text: "", "not strict JSON"),
        (lambda text: text.replace('"embed_s": 1.5', '"embed_s": NaN'), "NaN is not a number"),
        (lambda text: text.replace('"embed_s": 1.5', '"embed_s": Infinity'), "Infinity is not a number"),
        (lambda text: text.replace('"embed_s": 1.5', '"embed_s": 1e999'), "1e999"),
        (lambda text: text.replace('"embed_s": 1.5', '"embed_s": 1.5, "embed_s": 2.5'), "'embed_s' is repeated"),
        (lambda text: text.replace('"embed_s": 1.5', '"embed_s": ' + "9" * 5_000), "not strict JSON"),
        (lambda text: "[" * 200_000, "nested too deeply"),
        (lambda text: "[]", "not a JSON object"),
        (lambda text: text.replace('"fewshot"', '"future"'), "of the kind 'future'"),
        (lambda text: text + " " * 2**23, "larger than 8 MB"),
        (lambda text: text.replace('"schema_version": 2', '"schema_version": 3'), "install a newer uamix-bench"),
    ],
)
def test_what_is_not_strict_json_is_refused(stored: Path, change: Any, words: str) -> None:
    stored.write_text(change(stored.read_text()))
    with pytest.raises(BadInputError, match=words):
        load_result(stored)


def test_an_untouched_copy_is_accepted_anywhere(stored: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere.json"
    copy.write_bytes(stored.read_bytes())
    assert load_result(copy) == load_result(stored)


def test_results_are_frozen() -> None:
    with pytest.raises(ValidationError):
        few_shot().score.accuracy = 1.0  # type: ignore[misc]


def test_one_episode_has_no_interval() -> None:
    with pytest.raises(ValidationError, match="either a half-width or the reason"):
        few_shot((3,), score=score(0.75, ""))
    assert few_shot((3,), score=score(0.75, "one episode has no spread")).score.ci95 is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("--task=/data/alice/digits.csv", "--task=digits.csv"),
        ("audiomae=/data/a.pth,uamix=/x/b.safetensors", "audiomae=a.pth,uamix=b.safetensors"),
        ("~/sounds", "sounds"),
        ("../../alice/list.csv", "list.csv"),
        ("C:\\Users\\alice\\m.pth", "m.pth"),
        ("mine/list.csv", "mine/list.csv"),
        ("./mine/list.csv", "./mine/list.csv"),
        ("uamix-tiny", "uamix-tiny"),
        ("3/4", "3/4"),
        ("/opt/m.py:Class", "m.py:Class"),
        ("truncated: /data/alice/a.wav has 3 samples", "truncated: a.wav has 3 samples"),
        ("/data/alice/", "alice"),
        ("/", "."),
        ("a\nb\u202ec", "a\\nb\\u202ec"),
    ],
)
def test_paths_are_scrubbed(given: str, kept: str) -> None:
    assert scrub(given) == kept


def test_paths_below_the_working_folder_become_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert scrub(f"--task={tmp_path}/data/a.csv") == "--task=data/a.csv"
    assert command(["/usr/bin/uamix-bench", "fewshot", "--name", "my model"]) == "uamix-bench fewshot --name 'my model'"
    for given, kept in (("10.0.0.1:6379", "HOST:PORT"), ("ray://node-7:10001", "HOST:PORT"), ("local", "local")):
        assert command(["uamix-bench", "ablate", "--engine-address", given]).endswith(f" --engine-address {kept}")
        assert command(["uamix-bench", "ablate", f"--engine-address={given}"]).endswith(f" --engine-address={kept}")


def test_git_state_is_that_of_the_folder_or_none(tmp_path: Path) -> None:
    assert git_state(tmp_path) == (None, None)

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "first")
    assert git_state(tmp_path) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "file").write_text("2")
    assert git_state(tmp_path) == (git("rev-parse", "HEAD"), True)
