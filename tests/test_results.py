from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from uamix_bench.card import ModelIdentity
from uamix_bench.episodes import Protocol
from uamix_bench.errors import BadInputError
from uamix_bench.health import Health
from uamix_bench.provenance import collect, command, git_state, scrub
from uamix_bench.record import Cost, Status, TaskIdentity
from uamix_bench.results import Episodes, Result, Score, load_result
from uamix_bench.store import ResultStore


def make(correct: tuple[int, ...] = (3, 4, 1), **changes: Any) -> Result:
    """A result of 2-way 1-shot episodes with 2 queries a class; `correct` of 4 each."""
    accuracies = [count / 4 for count in correct]
    total = 2 * len(correct)
    first = min(sum(correct), total)
    parts: dict[str, Any] = {
        "status": Status(complete=True, notes=("ci95_clips: too few", "ci95_classes: too few")),
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
        "score": Score(
            accuracy=statistics.fmean(accuracies),
            ci95=1.96 * statistics.pstdev(accuracies) / len(correct) ** 0.5,
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
        "provenance": collect(),
    }
    return Result.create(**(parts | changes))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return ResultStore(tmp_path).write(make())


def test_it_round_trips_through_its_file(stored: Path) -> None:
    assert load_result(stored) == make(provenance=load_result(stored).provenance)
    assert stored.relative_to(stored.parents[2]).as_posix() == f"t@1/m/2w1s-{make().id[:12]}.json"


def test_the_record_is_that_of_the_design() -> None:
    document = make().model_dump(mode="json")
    assert {part: list(value) for part, value in document.items() if isinstance(value, dict) and part != "health"} == {
        "status": ["complete", "skipped", "notes"],
        "model": [
            "name", "adapter_version", "weights_sha256", "parameters", "embedding_dim", "input", "pooling", "dtype",
            "recipe_sha256", "parent_sha256", "train_seed", "pretrained_on", "licence",
        ],
        "task": ["name", "version", "clips_sha256", "classes", "clips", "clip_seconds"],
        "protocol": [
            "name", "n_way", "k_shot", "n_query", "episodes", "seed", "classifier", "group_disjoint", "segments",
        ],
        "episodes": ["algorithm", "digest", "correct", "classes_left_out", "shared_group_share"],
        "per_class": ["a", "b"],
        "score": ["accuracy", "ci95", "interval", "ci95_clips", "ci95_classes"],
        "cost": ["embedded_clips", "embed_s", "episodes_s", "peak_memory_mb"],
        "provenance": [
            "package", "git_revision", "git_dirty", "packages", "python", "device", "platform", "started_at", "command",
        ],
    }  # fmt: skip
    assert list(document)[:5] == ["schema_version", "kind", "id", "status", "model"]


def test_the_id_is_the_hash_of_content_without_cost_and_provenance() -> None:
    result = make()
    content = result.model_dump(mode="json")
    signed = {part: content[part] for part in ("kind", "model", "task", "protocol", "episodes", "per_class")}
    text = json.dumps(signed | {"skipped": []}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert result.id == hashlib.sha256(text.encode()).hexdigest()
    other = Cost(embedded_clips=0, embed_s=9.0, episodes_s=9.0, peak_memory_mb=None)
    assert make(cost=other, provenance=collect().model_copy(update={"started_at": "then"})).id == result.id
    assert make((3, 4, 2)).id != result.id
    assert make(protocol=result.protocol.model_copy(update={"seed": 1})).id != result.id


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
        ("schema_version", 2),
        ("score.accuracy", 0.7),
        ("score.accuracy", True),
        ("score.ci95", 0.1),
        ("score.ci95", None),
        ("score.interval", "some other"),
        ("score.ci95_clips", -1.0),
        ("status.notes", []),
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
        make().score.accuracy = 1.0  # type: ignore[misc]


def test_one_episode_has_no_interval() -> None:
    with pytest.raises(ValidationError, match="no note says why"):
        make((3,), score=Score(accuracy=0.75, ci95=None))
    notes = ("ci95: one", "ci95_clips: one", "ci95_classes: one")
    assert (
        make((3,), score=Score(accuracy=0.75, ci95=None), status=Status(complete=True, notes=notes)).score.ci95 is None
    )


def test_a_result_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    path = store.write(make())
    content = path.read_bytes()
    again = make(cost=Cost(embedded_clips=0, embed_s=0.0, episodes_s=0.0, peak_memory_mb=None))
    assert store.write(again) == path
    assert path.read_bytes() == content
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_another_outcome_of_the_same_evaluation_is_an_alarm(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    path = store.write(make())
    with pytest.raises(BadInputError, match="now comes out differently"):
        store.write(make((3, 4, 2)))
    assert [found for found, _ in store] == [path]
    store.write(make((3, 4, 2), status=make().status.model_copy(update={"complete": False})))
    path.write_text("{")
    store.write(make((3, 4, 2)))  # a damaged neighbour is no reason to lose it


def test_names_with_slashes_stay_inside_the_store(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    task = make().task.model_copy(update={"name": "local/my data"})
    path = store.write(make(task=task))
    assert path.parent == tmp_path / "local" / "my data@1" / "m"
    assert [found for found, _ in store] == [path]


def test_find_asks_for_everything_that_matters(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    result = make()
    asked = (result.model, result.task, result.protocol, result.episodes.digest)
    assert not list(store.find(*asked))
    store.write(make(status=Status(complete=False, notes=result.status.notes)))
    assert not list(store.find(*asked))
    store = ResultStore(tmp_path / "other")
    path = store.write(result)
    assert list(store.find(*asked)) == [(path, result)]
    assert not list(store.find(result.model.model_copy(update={"weights_sha256": None}), *asked[1:]))
    assert not list(store.find(*asked[:3], "4" * 64))
    assert not list(store.find(*asked[:2], result.protocol.model_copy(update={"seed": 1}), asked[3]))


_WRITER = """
import sys
from pathlib import Path
from uamix_bench.store import ResultStore
source, target, first = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
results = [result for _, result in ResultStore(source)]
sys.stdin.read()
for result in results[first:] + results[:first]:  # each process in another order, all of the same
    ResultStore(target).write(result)
"""


def test_eight_processes_at_once_lose_and_break_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for number in range(20):
        protocol = make().protocol.model_copy(update={"seed": number})
        ResultStore(source).write(make((number % 5, number // 5, 2), protocol=protocol))
    command = [sys.executable, "-c", _WRITER, str(source), str(target)]
    workers = [subprocess.Popen([*command, str(2 * first)], stdin=subprocess.PIPE) for first in range(8)]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()  # the sign to begin
    assert [worker.wait(120) for worker in workers] == [0] * 8
    assert {path.relative_to(target): result.id for path, result in ResultStore(target)} == {
        path.relative_to(source): result.id for path, result in ResultStore(source)
    }
    assert len(list(ResultStore(target))) == 20
    assert not [path for path in target.rglob("*") if path.name.startswith(".tmp")]


def test_reading_results_needs_no_torch() -> None:
    code = "import sys, uamix_bench.store, uamix_bench.provenance; print({'torch', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


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
    ],
)
def test_paths_are_scrubbed(given: str, kept: str) -> None:
    assert scrub(given) == kept


def test_paths_below_the_working_folder_become_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert scrub(f"--task={tmp_path}/data/a.csv") == "--task=data/a.csv"
    assert command(["/usr/bin/uamix-bench", "fewshot", "--name", "my model"]) == "uamix-bench fewshot --name 'my model'"


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
