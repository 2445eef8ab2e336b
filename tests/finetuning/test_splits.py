"""Folds of the five data sets' miniatures and of a user's own data, and shares of the labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given, settings, strategies as st
from sklearn.linear_model import LogisticRegression

from uamix_bench.data.clip_table import ClipTable
from uamix_bench.data.task import Task, TaskData, load_task
from uamix_bench.finetuning.splits import joined, plan, subset, supervised
from uamix_bench.plugins import registry
from uamix_bench.plugins.card import TaskCard
from uamix_bench.util.errors import BadInputError, UsageError

TASKS = ("esc50", "fsdkaggle2018", "nsynth", "speech-commands", "voxceleb1")
Miniature = Callable[[str], TaskData]


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    made: dict[str, TaskData] = {}

    def make(name: str) -> TaskData:
        if name not in made:
            folder = tmp_path_factory.mktemp(name) / name
            registry.find_task(name).load()().miniature(folder, clips_per_class=10, classes=12, seconds=0.02)
            made[name] = supervised(load_task(name, folder))
        return made[name]

    return make


def own(rows: list[tuple[str, str, str]]) -> TaskData:
    """A clip table of (label, group, split)."""
    names = [f"{index:04d}.wav" for index in range(len(rows))]
    table = ClipTable.of_rows((name, name, *row) for name, row in zip(names, rows, strict=True))
    card = TaskCard(name="local/x", title="x", licence="", version="1", clip_seconds=1.0, label="", group="")
    return TaskData(Task(), card, Path("x"), table)


@pytest.mark.parametrize("name", TASKS)
def test_no_clip_is_both_trained_and_tested(name: str, miniature: Miniature) -> None:
    made = plan(miniature(name))
    for fold in made.folds:
        parts = [set(part.tolist()) for part in fold[1:]]
        assert parts[0]
        assert parts[2]
        assert sum(map(len, parts)) == len(set.union(*parts))
    assert (made.labels.targets.sum(axis=1) == 1).all()


def test_esc50_tests_each_official_fold_by_the_other_four(miniature: Miniature) -> None:
    data = miniature("esc50")
    made = plan(data)
    meta = pd.read_csv(data.root / "ESC-50-master/meta/esc50.csv").set_index("filename")
    fold_of = meta.loc[[clip.rpartition("/")[2] for clip in data.table["clip"]], "fold"].to_numpy()
    assert [fold.name for fold in made.folds] == [f"fold{number}" for number in range(1, 6)]
    for number, fold in enumerate(made.folds, start=1):
        assert fold.test.tolist() == np.flatnonzero(fold_of == number).tolist()
        assert fold.train.tolist() == np.flatnonzero(fold_of != number).tolist()


def test_speech_commands_follow_the_two_lists(miniature: Miniature) -> None:
    data = miniature("speech-commands")
    (fold,) = plan(data).folds
    for rows, listed in ((fold.validation, "validation_list.txt"), (fold.test, "testing_list.txt")):
        assert set(data.table["clip"][rows]) == set((data.root / listed).read_text().split())
    assert len(fold.train) + len(fold.validation) + len(fold.test) == len(data.table)


def test_voxceleb1_follows_the_identification_list(miniature: Miniature) -> None:
    data = miniature("voxceleb1")
    (fold,) = plan(data).folds
    lines = [line.split(" ") for line in (data.root / "iden_split.txt").read_text().splitlines()]
    for code, rows in zip("123", fold[1:], strict=True):
        assert set(data.table["clip"][rows]) == {f"wav/{clip}" for number, clip in lines if number == code}


def test_fsdkaggle2018_trains_on_the_train_folder(miniature: Miniature) -> None:
    data = miniature("fsdkaggle2018")
    (fold,) = plan(data).folds
    folders = np.array([clip.partition("/")[0] for clip in data.table["clip"]])
    assert set(folders[fold.train]) == {"FSDKaggle2018.audio_train"}
    assert set(folders[fold.test]) == {"FSDKaggle2018.audio_test"}
    assert not len(fold.validation)


def test_nsynth_predicts_families_of_instruments_that_training_has_not(miniature: Miniature) -> None:
    data = miniature("nsynth")
    made = plan(data)
    (fold,) = made.folds
    assert "synth_lead" in made.labels.classes
    assert len(made.labels.classes) == 11
    import json

    notes = {
        f"nsynth-{split}/audio/{name}.wav": note
        for split in ("train", "valid", "test")
        for name, note in json.loads((data.root / f"nsynth-{split}/examples.json").read_text()).items()
    }
    expected = [notes[clip]["instrument_family_str"] for clip in data.table["clip"]]
    assert data.table["label"].tolist() == expected
    assert data.table["group"].tolist() == [notes[clip]["instrument_str"] for clip in data.table["clip"]]
    groups = data.table["group"]
    assert not set(groups[fold.train]) & set(groups[fold.test])


def test_families_are_heard_in_nsynth_s_miniature(tmp_path: Path) -> None:
    """By a linear classifier of their spectra, from the instruments of training to others at other pitches."""
    registry.find_task("nsynth").load()().miniature(tmp_path / "nsynth")
    data = supervised(load_task("nsynth", tmp_path))
    made = plan(data)
    sounds = np.stack([soundfile.read(path)[0] for path in data.table["path"]])
    bands = np.log(np.abs(np.fft.rfft(sounds))[:, 1:].reshape(len(sounds), 200, -1).max(axis=2))
    family = made.labels.targets.argmax(axis=1)
    (fold,) = made.folds
    probe = LogisticRegression(max_iter=500).fit(bands[fold.train], family[fold.train])
    assert probe.score(bands[fold.test], family[fold.test]) > 0.7  # chance is 1 in 11


def test_a_missing_list_of_splits_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "vox"
    registry.find_task("voxceleb1").load()().miniature(folder, clips_per_class=6, classes=3, seconds=0.02)
    (folder / "iden_split.txt").unlink()
    with pytest.raises(BadInputError, match="no clip is in the split train"):
        plan(supervised(load_task("voxceleb1", folder)))


@pytest.mark.parametrize("speakers", [2, 4, 30])
def test_own_folds_keep_groups_whole_and_test_every_clip_once(speakers: int) -> None:
    rows = [(str(clip % 7), f"speaker{clip // 7 % speakers}", "") for clip in range(420)]
    data = own(rows)
    made = plan(data, folds=5, seed=3)
    groups = data.table["group"]
    assert len(made.folds) == min(5, speakers)
    assert sorted(np.concatenate([fold.test for fold in made.folds]).tolist()) == list(range(420))
    for fold in made.folds:
        assert not set(groups[fold.train]) & set(groups[fold.test])
        assert len(fold.train) + len(fold.test) == 420


def test_a_split_column_is_understood() -> None:
    made = plan(own([("a", "1", "train"), ("b", "2", "train"), ("a", "3", "dev"), ("b", "4", "test"), ("a", "5", "")]))
    assert [part.tolist() for part in made.folds[0][1:]] == [[0, 1], [2], [3]]
    folds = plan(own([("a", "1", "fold1"), ("b", "2", "fold2"), ("a", "3", "fold2"), ("b", "4", "fold3")])).folds
    assert [fold.test.tolist() for fold in folds] == [[0], [1, 2], [3]]


def test_one_list_trains_and_another_is_tested() -> None:
    train, test = own([("a", "1", ""), ("b", "2", "x")]), own([("a", "1", "train"), ("b", "4", "")])
    both = joined(train, test)
    assert both.table["clip"].tolist() == ["test/0000.wav", "test/0001.wav", "train/0000.wav", "train/0001.wav"]
    assert [part.tolist() for part in plan(both).folds[0][1:]] == [[2, 3], [], [0, 1]]
    assert both.card.version == both.clips_sha256[:12] != joined(train, train).card.version


def test_several_classes_of_a_clip() -> None:
    labels = plan(own([("a; b", "1", ""), ("c", "2", ""), ("b;c;", "3", "")]), folds=3, separator=";").labels
    assert labels.classes == ("a", "b", "c")
    assert labels.targets.astype(int).tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 1]]


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(UsageError, match="has 1 class"):
        plan(own([("a", "1", ""), ("a", "2", "")]))
    with pytest.raises(UsageError, match="one group"):
        plan(own([("a", "1", ""), ("b", "1", "")]))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(10, 80), st.booleans(), st.integers(0, 2**32))
def test_shares_are_nested_and_hold_every_class(classes: int, clips: int, several: bool, seed: int) -> None:
    generator = np.random.default_rng(seed)
    targets = np.eye(classes, dtype=np.bool_)[generator.integers(0, classes, clips)]
    if several:
        targets |= generator.random((clips, classes)) < 0.2
    train = np.sort(generator.permutation(clips)[: clips // 2 + 1])
    before: set[int] = set()
    for fraction in (0.01, 0.1, 0.3, 0.7, 1.0):
        rows = subset(train, targets, fraction, seed=seed % 5)
        assert before <= set(rows.tolist()) <= set(train.tolist())
        assert (targets[rows].any(axis=0) == targets[train].any(axis=0)).all()
        assert len(rows) >= int(fraction * len(train) + 0.5)
        before = set(rows.tolist())
    assert before == set(train.tolist())


@given(st.integers(2, 5), st.integers(3, 12), st.integers(0, 2**32))
def test_numbers_of_each_class_are_nested_and_exact(classes: int, clips: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    targets = np.eye(classes, dtype=np.bool_)[generator.permutation(np.repeat(np.arange(classes), clips))]
    train = np.arange(classes * clips)
    before: set[int] = set()
    for shots in range(1, clips + 1):
        rows = subset(train, targets, None, seed=seed % 5, shots=shots)
        assert targets[rows].sum(axis=0).tolist() == [shots] * classes
        assert before <= set(rows.tolist())
        before = set(rows.tolist())
    with pytest.raises(UsageError, match=f"--k {clips + 1}: a class has {clips} training clips"):
        subset(train, targets, None, seed=0, shots=clips + 1)


def test_a_share_takes_classes_in_step() -> None:
    targets = np.eye(4, dtype=np.bool_)[np.repeat(np.arange(4), [40, 40, 80, 160])]
    rows = subset(np.arange(320), targets, 0.1, seed=1)
    assert targets[rows].sum(axis=0).tolist() == [4, 4, 8, 16]
    assert rows.tolist() != subset(np.arange(320), targets, 0.1, seed=2).tolist()
