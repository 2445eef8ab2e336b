"""Whole fine-tunings and probes on four classes of tones, in seconds: records, resume, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uamix_bench import finetune
from uamix_bench.data.task import load_task
from uamix_bench.embeddings.embedding import embed
from uamix_bench.finetuning.finetune import Finetuning
from uamix_bench.finetuning.forecast import estimate
from uamix_bench.finetuning.recipe import FINETUNE, PROBE
from uamix_bench.models.checkpoint import write_safetensors
from uamix_bench.models.loading import load_model
from uamix_bench.models.model import AudioModel
from uamix_bench.models.vit import ViTShape, initialise, sincos_table
from uamix_bench.plugins import registry
from uamix_bench.records.finetune_record import FinetuneResult
from uamix_bench.records.store import ResultStore, load_record
from uamix_bench.util.errors import BadInputError, Stopped, UsageError

pytestmark = pytest.mark.usefixtures("bench_home")

RATE = 16_000
PITCHES_HZ = {"low": 220.0, "mid": 500.0, "high": 1_100.0, "top": 2_400.0}
TINY = FINETUNE["tiny"].model_copy(
    update={"batch": 16, "epochs": 6, "checkpoint_every": 3, "mask_mel": 8, "mask_frames": 8, "base_learning_rate": 0.1}
)


def write_tones(folder: Path, names: list[tuple[str, tuple[str, ...]]]) -> None:
    generator = np.random.default_rng(7)
    time = np.arange(RATE // 3) / RATE
    for name, labels in names:
        tone = 0.02 * generator.standard_normal(len(time))
        for label in labels:
            tone += 0.2 * np.sin(2 * np.pi * PITCHES_HZ[label] * generator.uniform(0.9, 1.1) * time)
        soundfile.write(folder / name, tone, RATE)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 96 clips: four classes, six speakers."""
    folder = tmp_path_factory.mktemp("tones")
    rows = [(f"{label}-{index:02d}.wav", label, f"speaker{index % 6}") for label in PITCHES_HZ for index in range(24)]
    write_tones(folder, [(name, (label,)) for name, label, _ in rows])
    lines = ["path,label,group", *(",".join(row) for row in rows)]
    (folder / "tones.csv").write_text("\n".join(lines) + "\n")
    return folder / "tones.csv"


@pytest.fixture(scope="module")
def chords(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 80 clips of one to three classes, in training and test."""
    folder = tmp_path_factory.mktemp("chords")
    generator = np.random.default_rng(3)
    names = []
    for index in range(80):
        labels = tuple(np.array(list(PITCHES_HZ))[generator.permutation(4)[: 1 + index % 3]].tolist())
        names.append((f"{index:02d}.wav", labels))
    write_tones(folder, names)
    rows = [f"{name},{'; '.join(labels)},{'test' if int(name[:2]) % 4 == 3 else 'train'}" for name, labels in names]
    (folder / "chords.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    return folder / "chords.csv"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> AudioModel:
    """An encoder of two blocks at its initial weights."""
    shape = ViTShape(64, 2, 1)
    fresh = registry.find_model("audiomae")[0].load()(shape)
    initialise(fresh, torch.Generator().manual_seed(3))
    fresh.encoder.stem.pos_embed.copy_(sincos_table(64, shape.columns, shape.rows))
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    write_safetensors(path, fresh.state_dict(), {"format": "uamix-bench/1"})
    return load_model(f"audiomae={path}", device="cpu")


def work(model: AudioModel, csv: Path, recipe: Any = TINY, **options: Any) -> Finetuning:
    return Finetuning(model, load_task(str(csv)), recipe, **options)


def after(count: int) -> Callable[[], bool]:
    asked = {"times": 0}

    def stop() -> bool:
        asked["times"] += 1
        return asked["times"] > count

    return stop


@pytest.fixture(scope="module")
def tuned(model: AudioModel, tones: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[FinetuneResult, Path]:
    folder = tmp_path_factory.mktemp("tuned")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    result = work(model, tones, folds=2, folder=folder).result()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    return result, folder


def test_it_learns_and_says_how_well(tuned: tuple[FinetuneResult, Path]) -> None:
    result, folder = tuned
    assert result.score.value > 0.5
    assert result.score.ci95 is not None
    assert 0 < result.score.ci95 < 0.5
    assert [(run.fold, run.train_clips, len(run.correct)) for run in result.runs] == [
        (f"fold{number}", 48, 48) for number in (1, 2)
    ]
    assert all(count == 16 for run in result.runs for _, count in run.groups)  # three speakers a fold
    assert sorted(number for run in result.runs for number, _ in run.groups) == list(range(6))
    assert (result.setting.metric, result.setting.frames, result.setting.frozen_blocks) == ("accuracy", 32, 0)
    assert result.model.pooling == "prenorm-mean"
    assert result.runs[0].history[0]["loss"] > result.runs[0].history[-1]["loss"]
    assert not list(folder.rglob("*.pt"))  # checkpoints of whole runs are of no use
    assert sorted(path.name for path in folder.glob("[!.]*")) == [f"fold{number}-seed0.npz" for number in (1, 2)]


def test_the_same_call_reads_what_is_done(tuned: tuple[FinetuneResult, Path], model: AudioModel, tones: Path) -> None:
    result, folder = tuned

    def never() -> bool:
        raise AssertionError("a run began")

    again = work(model, tones, folds=2, folder=folder, stop=never).result()
    assert again.id == result.id


def test_runs_of_other_code_are_told(
    tuned: tuple[FinetuneResult, Path], model: AudioModel, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in tuned[1].glob("*.npz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "fold2-seed0.npz").unlink()
    before = tuned[0].provenance
    now = before.model_copy(update={"git_revision": "f" * 40})
    monkeypatch.setattr("uamix_bench.finetuning.finetune.collect", lambda device: now)
    result = work(model, tones, folds=2, folder=tmp_path).result()
    told = f"1 of 2 runs were made earlier by other code: version {before.package}, revision {before.revision}"
    assert told in result.status.notes
    assert before.revision != now.revision == "f" * 12 + " with changes" * bool(now.git_dirty)


@pytest.mark.parametrize("steps", [1, 10, 20])
def test_a_stopped_fine_tuning_continues_to_the_same_record(
    steps: int, tuned: tuple[FinetuneResult, Path], model: AudioModel, tones: Path, tmp_path: Path
) -> None:
    with pytest.raises(Stopped, match="repeat the command to resume"):
        work(model, tones, folds=2, folder=tmp_path, stop=after(steps)).result()
    assert work(model, tones, folds=2, folder=tmp_path).result().id == tuned[0].id
    for path in tuned[1].glob("*.npz"):
        with np.load(path) as whole, np.load(tmp_path / path.name) as resumed:
            assert np.array_equal(whole["scores"], resumed["scores"])  # bit for bit


def test_another_training_in_the_folder_is_refused(
    tuned: tuple[FinetuneResult, Path], model: AudioModel, tones: Path
) -> None:
    other = TINY.model_copy(update={"layer_decay": 0.5})
    with pytest.raises(UsageError, match=r"differs in recipe \(layer_decay was 0.75, is 0.5\)"):
        work(model, tones, other, folds=2, folder=tuned[1]).result()
    with pytest.raises(UsageError, match="differs in freezing"):
        work(model, tones, folds=2, folder=tuned[1], freeze=1).result()


def test_a_damaged_outcome_is_run_again(
    tuned: tuple[FinetuneResult, Path], model: AudioModel, tones: Path, tmp_path: Path
) -> None:
    for path in tuned[1].glob("*.npz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damaged = tmp_path / "fold2-seed0.npz"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert work(model, tones, folds=2, folder=tmp_path).result().id == tuned[0].id


def test_the_record_round_trips_and_every_number_is_held(tuned: tuple[FinetuneResult, Path], tmp_path: Path) -> None:
    result = tuned[0]
    store = ResultStore(tmp_path)
    path = store.write(result)
    assert path.relative_to(tmp_path).parts[-2:] == (result.model.name, f"finetune-{result.id[:12]}.json")
    assert load_record(path) == result
    document = json.loads(path.read_text())

    def flip(digits: str) -> str:
        return str(1 - int(digits[0])) + digits[1:]

    def tamper(change: Callable[[Any], None]) -> None:
        forged = json.loads(json.dumps(document))
        change(forged)
        path.write_text(json.dumps(forged))
        with pytest.raises(BadInputError):
            load_record(path)

    tamper(lambda d: d["score"].update(value=d["score"]["value"] + 0.01))
    tamper(lambda d: d["score"]["intervals"]["groups"].update(half_width=result.score.ci95 / 2))
    tamper(lambda d: d["score"]["intervals"]["groups"].update(half_width=None))
    tamper(lambda d: d["score"]["intervals"]["groups"].update(half_width=None, reason="too few"))
    tamper(lambda d: d["runs"][0].update(correct=flip(d["runs"][0]["correct"])))
    tamper(lambda d: d["runs"][0]["groups"][0].__setitem__(1, 3))
    tamper(lambda d: d["runs"][0]["per_class"].update(low=[99, 99]))
    tamper(lambda d: d["runs"].pop())
    tamper(lambda d: d["runs"].append(d["runs"][0]))
    tamper(lambda d: d["setting"]["recipe"].update(epochs=500))
    tamper(lambda d: d["setting"].update(fraction=0.1))


def test_a_probe_is_scikit_learns(model: AudioModel, tones: Path) -> None:
    recipe = PROBE.model_copy(update={"strengths": (0.01,)})
    job = work(model, tones, recipe, freeze="all", folds=2)
    result = job.result()
    data = load_task(str(tones))
    vectors = embed(model, data, np.arange(len(data.table))).vectors
    label = data.table["label"].astype(str)
    for run, fold in zip(result.runs, job.plan.folds, strict=True):
        oracle = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1_000))
        oracle.fit(vectors[fold.train], label[fold.train])
        right = oracle.predict(vectors[fold.test]) == label[fold.test]
        assert run.value() == pytest.approx(right.mean(), abs=1 / len(right))
    assert result.setting.frozen_blocks is None
    assert result.place().endswith("/probe")


def test_the_strength_is_chosen_without_the_test_clips(model: AudioModel, tones: Path) -> None:
    job = work(model, tones, PROBE, freeze="all", folds=2)
    before = [run.strength for run in job.result().runs]
    assert set(before) <= set(PROBE.strengths)
    targets = job.plan.labels.targets
    targets[job.plan.folds[0].test] = np.roll(targets[job.plan.folds[0].test], 1, axis=1)
    job.folder = job.place.with_name("other")
    after_change = job.result().runs
    assert after_change[0].strength == before[0]  # the labels of its test clips play no part
    assert after_change[0].value() < 0.5


def test_shares_of_the_labels(model: AudioModel, tones: Path) -> None:
    result = work(model, tones, PROBE, freeze="all", folds=2, seeds=3, fraction=0.1).result()
    assert [(run.fold, run.seed) for run in result.runs] == [(f, s) for f in ("fold1", "fold2") for s in range(3)]
    assert {run.train_clips for run in result.runs} == {5}
    assert result.score.seeds_std is not None
    means = [np.mean([run.value() for run in result.runs if run.seed == seed]) for seed in range(3)]
    assert result.score.seeds_std == pytest.approx(np.std(means, ddof=1))


def test_a_share_below_the_batch_trains(model: AudioModel, tones: Path) -> None:
    recipe = TINY.model_copy(update={"epochs": 2})
    result = work(model, tones, recipe, folds=2, fraction=0.01).result()
    assert {(run.train_clips, run.batch) for run in result.runs} == {(4, 4)}


@pytest.mark.parametrize("freeze", [0, "all"])
def test_several_classes_are_scored_by_map(freeze: Any, model: AudioModel, chords: Path) -> None:
    recipe = TINY.model_copy(update={"epochs": 8}) if freeze == 0 else PROBE
    job = work(model, chords, recipe, separator=";", freeze=freeze)
    result = job.result()
    (run,) = result.runs
    assert (result.setting.metric, result.task.classes, run.correct) == ("mAP", 4, "")
    if freeze == 0:
        assert (result.setting.recipe["loss"], result.setting.recipe["smoothing"]) == ("binary", 0.0)
    with np.load(job.place / "test-seed0.npz") as kept:
        targets = job.plan.labels.targets[kept["test"]]
        expected = average_precision_score(targets, kept["scores"], average="macro")
    assert result.score.value == pytest.approx(expected)
    assert result.score.value > targets.mean() + 0.1
    assert result.score.ci95 is not None
    forged = result.model_copy(update={"score": result.score.model_copy(update={"value": 0.99})})
    with pytest.raises(ValueError, match=r"score\.value"):
        forged.check()


def test_broken_clips_are_named_or_set_aside(model: AudioModel, tones: Path, tmp_path: Path) -> None:
    for path in tones.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "low-03.wav").write_bytes(b"no sound")
    csv = tmp_path / "tones.csv"
    recipe = TINY.model_copy(update={"epochs": 1})
    for method, freeze in ((recipe, 0), (PROBE, "all")):
        with pytest.raises(BadInputError, match=r"low-03\.wav.*--keep-going"):
            work(model, csv, method, folds=2, freeze=freeze).result()
        result = work(model, csv, method, folds=2, freeze=freeze, keep_going=True).result()
        assert not result.status.complete
        assert [clip.clip for clip in result.status.skipped] == ["low-03.wav"]
        assert sum(len(run.correct) for run in result.runs) == 95


def test_leaks_are_told(model: AudioModel, tones: Path, tmp_path: Path) -> None:
    lines = tones.read_text().splitlines()
    split = [f"{line},{('train', 'test')[index // 2 % 2]}" for index, line in enumerate(lines[1:])]
    (tmp_path / "split.csv").write_text("\n".join([f"{lines[0]},split", *split]) + "\n")
    data = load_task(str(tmp_path / "split.csv"), audio_root=tones.parent)
    result = finetune(model, data, PROBE.model_copy(update={"strengths": (0.01,)}))
    shared = [note for note in result.status.notes if "share a group" in note]
    groups = data.table["group"][data.table["split"] == "train"]
    expected = np.isin(data.table["group"][data.table["split"] == "test"], groups).sum()
    assert expected == 48
    assert shared == ["48 of 48 test clips share a group with a training clip of their fold"]


def test_an_estimate_counts_steps(model: AudioModel, tones: Path) -> None:
    steps, seconds = estimate(work(model, tones, folds=2))
    assert steps == 2 * 6 * (48 // 16)
    assert seconds is not None
    assert seconds > 0


def test_changed_sounds_are_refused(model: AudioModel, tones: Path, tmp_path: Path) -> None:
    for path in tones.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    recipe = TINY.model_copy(update={"epochs": 1})
    work(model, tmp_path / "tones.csv", recipe, folds=2, folder=tmp_path / "out").result()
    soundfile.write(tmp_path / "low-03.wav", np.zeros(RATE // 3), RATE)
    with pytest.raises(UsageError, match="differs in sounds"):
        work(model, tmp_path / "tones.csv", recipe, folds=2, folder=tmp_path / "out").result()
