"""`ablate` as a user runs it: a whole grid on a toy encoder, killed, continued, wrong, and what it writes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from uamix_bench.comparison.deltas import deltas
from uamix_bench.records.record import load, record_text
from uamix_bench.records.store import load_record
from uamix_bench.records.training_records import AblationRecord, TrainingRecord
from uamix_bench.studies.ablation import Ablation, plan
from uamix_bench.tuning.recipe import TUNE
from uamix_bench.util.errors import BadInputError
from uamix_bench.util.files import file_sha256
from uamix_bench.util.threads import computing_with

from .conftest import Bench, weights


def test_a_whole_ablation(bench: Bench, bench_home: Path, arguments: list[str], tmp_path: Path) -> None:
    grid = ("--mix", "none,mixup", "--vary", "alpha=0.5,1", "--seeds", "2", "--n", "2,3", "--jobs", "1")
    done = bench(*arguments, *grid)
    assert done.code == 0, done.err
    assert "arms: tuning takes about" in done.err.splitlines()[0]
    assert "a few steps measured here" in done.err.splitlines()[0]
    record = load_record(tmp_path / "report" / "ablation.json")
    assert isinstance(record, AblationRecord)
    labels = ["t-cutmix alpha=1.0", "none", "mixup alpha=0.5", "mixup alpha=1.0"]
    assert [(arm.label, arm.training.train_seed) for arm in record.arms] == [(x, s) for s in (0, 1) for x in labels]
    assert record.assumed
    assert "/" not in record.init

    # by hand, from the counts of correct queries alone
    raw = json.loads((tmp_path / "report" / "ablation.json").read_bytes())
    right = np.array([[cell["episodes"]["correct"] for cell in arm["results"]] for arm in raw["arms"]])
    right = right.reshape(2, 4, 2, 30) / np.array([2, 3])[:, None] / 3  # seeds, arms, cells, episodes
    untuned = {
        result["protocol"]["n_way"]: np.array(result["episodes"]["correct"]) / result["protocol"]["n_way"] / 3
        for result in raw["beside"]
        if result["protocol"]["classifier"] == "nearest-centroid"
        and (result["model"]["weights_sha256"], result["model"]["pooling"])
        == (raw["arms"][0]["training"]["parent_sha256"], "stacked-mean-max")
    }
    assert set(untuned) == {2, 3}
    for delta in deltas(record):
        if delta.label == "untuned":
            difference = untuned[delta.n_way] - right[:, 0, delta.n_way - 2].mean(0)
            assert (delta.seeds, delta.over_untuned) == (0, None)
            assert delta.accuracy == pytest.approx(untuned[delta.n_way].mean())
            assert delta.difference is not None
            assert delta.difference.mean == pytest.approx(difference.mean())
            assert delta.difference.half == pytest.approx(stats.t.ppf(0.975, 29) * stats.sem(difference))
            continue
        arm, cell = labels.index(delta.label), delta.n_way - 2
        assert delta.over_untuned is not None
        assert delta.over_untuned.mean == pytest.approx((right[:, arm, cell] - untuned[delta.n_way]).mean())
        assert delta.accuracy == pytest.approx(right[:, arm, cell].mean())
        assert delta.seed_spread == pytest.approx(np.std(right[:, arm, cell].mean(1), ddof=1))
        if not delta.reference:
            difference = right[:, arm, cell] - right[:, 0, cell]
            assert delta.difference is not None
            assert delta.difference.mean == pytest.approx(difference.mean())
            assert delta.difference.spread == pytest.approx(np.std(difference.mean(1), ddof=1))
            by_t = stats.t.ppf(0.975, 1) * stats.sem(difference.mean(1))
            assert delta.difference.seeds_half == pytest.approx(by_t)
        assert (delta.p is None) == (delta.reference or delta.n_way == 3)

    kept = weights(bench_home)
    assert len(kept) == 8 + 2  # and the two heads
    again = bench(*arguments, *grid, "--json")
    assert "8 arms: all are tuned" in again.err
    assert weights(bench_home) == kept
    rows = again.envelope["items"]
    assert [row["label"] for row in rows] == [labels[0], "untuned", *labels[1:]] * 2
    repeated = load_record(tmp_path / "report" / "ablation.json")
    assert repeated.id == record.id

    page, markdown = ((tmp_path / "report" / name).read_text() for name in ("report.html", "report.md"))
    for words in (
        "this grid is assumed",
        "Over seeds",
        "Table 3",
        "66.3",
        "Stage 2 of the first seed",
        "Holm",
        "over untuned",
    ):
        assert words in page
        assert words in markdown
    assert str(tmp_path) not in page + markdown + json.dumps(raw)


@pytest.mark.over_3s
def test_an_arm_is_what_tune_makes_of_its_recipe(bench: Bench, arguments: list[str], tmp_path: Path) -> None:
    done = bench(*arguments, "--jobs", "1", "--mix", "mixup")
    assert done.code == 0, done.err
    tune = [
        "tune",
        *arguments[1:5],
        *arguments[9:-10],
        "--mix",
        "mixup",
        "--device",
        "cpu",
        "--out",
        tmp_path / "alone",
    ]
    alone = bench(*tune)
    assert alone.code == 0, alone.err
    record = load_record(tmp_path / "report" / "ablation.json")
    assert isinstance(record, AblationRecord)
    sha256 = record.arms[1].training.weights_sha256
    assert file_sha256(tmp_path / "alone" / "model.safetensors") == sha256
    assert load_record(tmp_path / "alone" / "training.json").history == record.arms[1].training.history


def test_an_arm_is_kept_where_tune_keeps_it(bench: Bench) -> None:
    tiny = TUNE["tiny"]
    job = Ablation(plan(tiny, ["mixup"]), "audiomae-tiny", tiny.data).job(plan(tiny, ["mixup"])[1])
    found = bench("tune", "--mix", "mixup", "--dry-run", "--json").envelope["items"][0]
    assert (found["out"], found["recipe_sha256"]) == (str(job.folder), job.recipe.sha256)


def test_a_dry_run_lists_the_arms_and_writes_nothing(bench: Bench, bench_home: Path, arguments: list[str]) -> None:
    done = bench(*arguments, "--vary", "topk=1,2", "--dry-run", "--json")
    assert done.code == 0, done.err
    items = done.envelope["items"]
    arms = ["t-cutmix top_k=3", "t-cutmix top_k=1", "t-cutmix top_k=2"]
    assert [item["label"] for item in items] == ["stage 1, seed 0"] * 3 + arms  # neighbours matter in stage 1 too
    assert all(item["seconds"] > 0 and item["steps_left"] > 0 for item in items)
    assert done.envelope["forecast"]["seconds"] > 0
    assert not (bench_home / "training").exists()
    assert not Path(arguments[arguments.index("--out") + 1]).exists()


@pytest.mark.over_3s
def test_where_earlier_runs_tell_the_time_a_dry_run_imports_no_torch(
    bench: Bench, bench_home: Path, arguments: list[str]
) -> None:
    assert bench(*arguments, "--mix", "t-cutmix", "--jobs", "1").code == 0
    wanted = [*arguments, "--mix", "tf-cutmix", "--jobs", "1", "--dry-run", "--json"]
    code = f"import sys; from uamix_bench.cli import main; main({wanted!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    envelope, loaded = done.stdout.splitlines()
    assert loaded == "False"
    document = json.loads(envelope)
    assert document["forecast"]["source"] == "earlier runs"
    assert {item["label"]: item["finished"] for item in document["items"]}["t-cutmix"]
    assert document["forecast"]["seconds"] > 0


def start(arguments: list[str], *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "uamix_bench", *arguments, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(pattern: str, folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not any(folder.glob(pattern)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert any(folder.glob(pattern))


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.over_3s
def test_a_killed_grid_continues_to_the_same_weights(
    bench: Bench, bench_home: Path, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # sums of several threads come in another order
    arguments += ["--mix", "mixup", "--set", "epochs=6", "--set", "checkpoint_every=2"]
    process = start([*arguments, "--jobs", "2"])
    wait_for("training/tune-tiny-*/checkpoints/1-*.pt", bench_home)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(weights(bench_home)) < 3
    time.sleep(1)  # orphaned arms notice, and stop after their step
    with computing_with(1):
        assert bench(*arguments, "--jobs", "1").code == 0
        continued = weights(bench_home)
        monkeypatch.setenv("UAMIX_BENCH_HOME", str(tmp_path / "other"))
        assert bench(*arguments, "--jobs", "1").code == 0
    assert weights(tmp_path / "other") == continued
    assert len(continued) == 3


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.over_3s
def test_sigterm_saves_every_arm_and_says_how_to_go_on(bench_home: Path, arguments: list[str], jobs: str) -> None:
    process = start([*arguments, "--set", "epochs=2000", "--set", "checkpoint_every=100000", "--jobs", jobs])
    wait_for("training/tune-head-*/model.safetensors", bench_home)
    time.sleep(0.5)
    process.terminate()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert "repeat the command to resume" in errors
    assert "Traceback" not in errors


def test_an_arm_that_fails_is_set_aside_only_where_that_is_asked(
    bench: Bench, arguments: list[str], tmp_path: Path
) -> None:
    grid = ("--vary", "lr=1e30", "--jobs", "1")
    failed = bench(*arguments, *grid)
    assert failed.code in (3, 4), failed.err
    assert not (tmp_path / "report").exists() or not any((tmp_path / "report").iterdir())
    done = bench(*arguments, *grid, "--keep-going")
    assert done.code == 6, done.err
    record = load_record(tmp_path / "report" / "ablation.json")
    assert isinstance(record, AblationRecord)
    assert [arm.label for arm in record.set_aside] == ["t-cutmix learning_rate=1e+30"]
    assert "set aside: t-cutmix learning_rate=1e+30" in done.out
    assert "Failed arms" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--vary", "alfa=1"], 2, "did you mean 'alpha'?"),
        (["--vary", "topk"], 2, "as in topk=1,5,20"),
        (["--vary", "topk=a"], 2, "valid integer"),
        (["--set", "alpha=Infinity"], 2, "alpha"),
        (["--mix", "cutmix"], 2, "'cutmix' is not one of"),
        (["--recipe", "tony"], 2, "did you mean 'tiny'?"),
        (["--task", "esc5"], 2, "did you mean 'esc50'?"),
        (["--n", "9"], 2, "--n 4"),
        (["--init", "logmel"], 2, "cannot be tuned"),
        (["--init", "audiomae=missing.pth"], 3, "missing.pth"),
        (["--data", "nowhere/"], 3, "nowhere"),
        (["--set", "batch=64"], 2, "batch"),
        (["--device", "abacus", "--jobs", "1"], 2, "--device abacus"),
    ],
)
def test_mistakes_are_one_line(bench: Bench, arguments: list[str], more: list[str], code: int, words: str) -> None:
    done = bench(*arguments, *more, "--quiet")
    assert done.code == code
    assert words in done.error


@pytest.fixture
def record(bench: Bench, arguments: list[str], tmp_path: Path) -> dict[str, Any]:
    assert bench(*arguments, "--jobs", "1", "--quiet").code == 0
    document: dict[str, Any] = json.loads((tmp_path / "report" / "ablation.json").read_bytes())
    return document


@pytest.mark.over_3s
def test_a_record_whose_parts_disagree_is_refused(record: dict[str, Any], tmp_path: Path) -> None:
    def change(document: dict[str, Any], *path: Any, value: Any) -> dict[str, Any]:
        copy: dict[str, Any] = json.loads(json.dumps(document))
        place: Any = copy
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value
        return copy

    cases = [
        (change(record, "arms", 1, "reference", value=True), "one reference"),
        (change(record, "arms", value=record["arms"][1:]), "one reference"),
        (change(record, "arms", value=[]), "no arms"),
        (change(record, "arms", 1, value=record["arms"][0]), "twice"),
        (change(record, "arms", 1, "varied", value={}), "differs from the reference in mix"),
        (change(record, "arms", 1, "varied", "mix", value="none"), "not what its recipe has"),
        (change(record, "arms", 1, "results", value=[]), "other episodes"),
        (change(record, "arms", 1, "results", value=record["arms"][0]["results"]), "not of its weights"),
        (change(record, "init", value="another"), "the id is not that"),
    ]
    for document, words in cases:
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(document))
        with pytest.raises(BadInputError, match=words):
            load_record(path)


@pytest.mark.over_3s
def test_hostile_text_is_harmless_in_the_report(record: dict[str, Any]) -> None:
    from uamix_bench.plugins.registry import find_report

    told = AblationRecord.model_validate(record)
    hostile = "<script>alert(1)</script> | **x** [y](javascript:z)"
    arms = tuple(arm.model_copy(update={"label": f"{hostile} {arm.label}"}) for arm in told.arms)
    forged = AblationRecord.create(init=hostile, assumed=False, arms=arms, provenance=told.provenance)
    page = find_report("ablation")([forged])
    assert "<script>alert" not in page.html
    assert "<script>alert" not in page.markdown
    assert "[y](javascript" not in page.markdown


@pytest.mark.over_3s
def test_arms_tuned_on_other_sounds_of_the_same_names_are_not_taken(
    bench: Bench, arguments: list[str], sounds: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(sounds, tmp_path / "own"))
    command = [str(own) if word == str(sounds) else word for word in arguments]
    done = bench(*command, "--mix", "none", "--jobs", "1")
    assert done.code == 0, done.err
    record = load_record(tmp_path / "report" / "ablation.json")
    assert isinstance(record, AblationRecord)
    listed = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(own.rglob("*.wav"))]
    expected = hashlib.sha256(json.dumps(listed, separators=(",", ":")).encode()).hexdigest()
    assert {arm.training.data.content_sha256 for arm in record.arms} == {expected}
    written = {path: path.read_text() for path in (tmp_path / "home").rglob("training.json")}
    for path in written:  # as an earlier release left them
        made = load(path, {"training": TrainingRecord})
        fields = {name: getattr(made, name) for name in TrainingRecord.model_fields if name not in ("id", "data")}
        data = made.data.model_copy(update={"content_sha256": None})
        path.write_text(record_text(TrainingRecord.create(data=data, **fields)))
    done = bench(*command, "--mix", "none", "--jobs", "1")
    assert done.code == 0, done.err
    assert "(its sounds are not recorded)" in done.err
    for path, text in written.items():
        path.write_text(text)
    for path in own.rglob("*.wav"):
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)
    done = bench(*command, "--mix", "none", "--jobs", "1")
    assert done.code == 2
    assert "tuned from other weights or on other sounds" in done.err
