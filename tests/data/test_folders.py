"""Own folders: formats that are not read, links, splits above the classes, labels that look alike."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings, strategies as st

from uamix_bench.data.folders import AUDIO_SUFFIXES, SOUND_SUFFIXES, doubtful_labels, walk
from uamix_bench.data.task import TaskData, load_task
from uamix_bench.evaluation.earlier import find_earlier
from uamix_bench.evaluation.fewshot import fewshot
from uamix_bench.evaluation.grid import evaluate
from uamix_bench.evaluation.plan import draw_episodes
from uamix_bench.finetuning.splits import plan
from uamix_bench.models.loading import load_model
from uamix_bench.records.store import ResultStore
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.scoring.remarks import remarks
from uamix_bench.tuning.sounds import find_data
from uamix_bench.util.errors import BadInputError

SMALL = Protocol(n_way=2, n_query=2, episodes=10)


def touch(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def tones(root: Path, names: Iterable[str]) -> Path:
    """Short sounds, each of its own pitch."""
    for index, name in enumerate(touch(root, names).rglob("*.wav")):
        soundfile.write(name, 0.1 * np.sin(np.arange(1_600) * (0.1 + 0.01 * index)), 16_000)
    return root


def said(data: TaskData) -> list[str]:
    return [str(remark) for remark in data.remarks]


# --- formats


def test_every_other_format_is_counted_by_its_ending_and_a_class_that_vanishes_is_named(tmp_path: Path) -> None:
    other = sorted(SOUND_SUFFIXES - AUDIO_SUFFIXES)
    assert {".m4a", ".wma", ".aac", ".amr", ".caf", ".mp4", ".webm"} <= set(other)
    names = [f"horn/{index}{ending.upper()}" for index, ending in enumerate(other)]
    root = touch(tmp_path / "own", ["oboe/a.wav", "oboe/b.wav", "oboe/c.m4a", "oboe/notes.txt", *names])
    with pytest.raises(BadInputError) as caught:
        load_task(str(root))
    line = str(caught.value)
    assert caught.value.exit_code == 3
    assert f"{len(other) + 1} sounds are not read" in line
    assert "2 .m4a" in line
    assert all(f"1 {ending}" in line for ending in other if ending != ".m4a")
    assert "no clip of horn is left" in line
    assert "--keep-going" in line
    data = load_task(str(root), keep_going=True)
    assert data.table["clip"].tolist() == ["oboe/a.wav", "oboe/b.wav"]
    assert {one.clip for one in data.unread} == {"oboe/c.m4a", *names}
    assert len(said(data)) == 1
    assert said(data)[0].startswith("unread: ")
    assert find_data(str(root)).unread == data.unread  # a training goes on with what there is, and says so


def test_nothing_is_said_of_a_folder_whose_sounds_are_all_read(tmp_path: Path) -> None:
    names = [f"{label}/{index}{ending}" for label in "ab" for index, ending in enumerate(sorted(AUDIO_SUFFIXES))]
    data = load_task(str(touch(tmp_path, [*names, "a/notes.txt", "a/cover.jpg", "README", ".x.m4a", ".y/z.m4a"])))
    assert (data.remarks, data.unread, len(data.table)) == ((), (), 2 * len(AUDIO_SUFFIXES))


def test_a_folder_of_other_formats_alone_is_refused_even_where_broken_clips_are_set_aside(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"2 sounds are not read \(2 \.m4a\), and no clip of a, b is left"):
        load_task(str(touch(tmp_path, ["a/x.m4a", "b/y.m4a"])), keep_going=True)


def test_what_is_not_read_leaves_a_partial_result_that_names_it(tmp_path: Path, bench_home: Path) -> None:
    root = tones(tmp_path / "own", [f"{label}/{index}.wav" for label in "ab" for index in range(4)])
    model, store = load_model("logmel"), ResultStore(tmp_path / "results")
    whole = load_task(str(root))
    kept = next(evaluate([model], [whole], [SMALL], store=store)).result
    assert kept.status.complete
    touch(root, ["a/x.m4a", "c/y.wma"])
    data = load_task(str(root), keep_going=True)
    result = fewshot(model, data, SMALL)
    assert not result.status.complete
    assert [(one.clip, one.reason) for one in result.status.skipped] == [
        ("a/x.m4a", ".m4a is not read"),
        ("c/y.wma", ".wma is not read"),
    ]
    assert "unread: 2 sounds are not read (1 .m4a, 1 .wma), and no clip of c is left" in result.status.notes
    assert result.episodes == kept.episodes  # of the same clips, and yet another record
    assert result.id != kept.id
    assert [one.same for one in find_earlier(store, model, data, [SMALL], "missing", None)] == [[]]


def test_a_copy_in_another_format_beside_a_sound_and_a_sound_in_no_class_are_said(tmp_path: Path) -> None:
    root = touch(tmp_path, ["a/x.wav", "a/x.m4a", "a/deep/x.wav", "b/y.wav", "loose.wav", "more.m4a"])
    data = load_task(str(root))
    assert data.table["clip"].tolist() == ["a/deep/x.wav", "a/x.wav", "b/y.wav"]
    assert said(data) == [
        "folders: 1 sound is not read and taken for a copy of the one of the same name beside it",
        "folders: 2 sounds are in no class folder and left out",
    ]


# --- links


def test_links_to_folders_are_followed_at_every_depth(tmp_path: Path) -> None:
    """As os.walk lists them, which follows links when asked to."""
    store = touch(tmp_path / "store", ["1.wav", "deep/2.wav"])
    touch(tmp_path / "further", ["3.wav"])
    (store / "deep" / "again").symlink_to(tmp_path / "further")
    root = touch(tmp_path / "own", ["a/x.wav", "b/er/y.wav"])
    (root / "a" / "batch").symlink_to("../../store")
    (root / "b" / "er" / "batch").symlink_to(store)  # the same folder twice is no loop
    (root / "c").symlink_to(store)
    listed = {
        Path(folder, name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root, followlinks=True)
        for name in names
    }
    assert set(load_task(str(root)).table["clip"]) == listed
    assert len(listed) == 11
    outer = tmp_path / "link"
    outer.symlink_to(root)
    assert set(load_task(str(outer)).table["clip"]) == listed


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "b", "../a"])
def test_a_link_in_a_circle_is_refused_in_one_line(tmp_path: Path, target: str) -> None:
    root = touch(tmp_path / "up" / "own", ["a/x.wav", "b/y.wav"])
    (root / "b" / "back").symlink_to("../a")
    (root / "a" / "on").symlink_to("../b" if target == "b" else target)
    with pytest.raises(BadInputError, match=r"is a link to a folder that holds it; remove the link") as caught:
        load_task(str(root))
    assert "\n" not in str(caught.value)


def test_a_link_to_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    root = touch(tmp_path, ["a/x.wav", "b/y.wav"])
    (root / "a" / "batch2").symlink_to("nowhere")
    (root / "a" / "notes.txt").symlink_to("nowhere")
    with pytest.raises(BadInputError, match=r"1 sound is not read \(1 link to nothing\)"):
        load_task(str(root))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["a", "b.d", "é", "x.wav", "y.mp3"]), min_size=1, max_size=5), max_size=12))
def test_a_walk_lists_what_os_walk_lists(tmp_path_factory: pytest.TempPathFactory, paths: list[list[str]]) -> None:
    root = tmp_path_factory.mktemp("walk")
    for path in paths:
        file = root.joinpath(*path)
        if not any(place.is_file() for place in (file, *file.parents)):
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                file.touch()
    listed = {Path(folder, name).relative_to(root) for folder, _, names in os.walk(root) for name in names}
    found = [Path(*parts) for parts in walk(root)]
    assert len(found) == len(listed)
    assert set(found) == listed


# --- splits


@pytest.mark.parametrize(
    "splits",
    [
        ("train", "valid", "test"),
        ("Training", "Validation", "Testing"),
        ("train_set", "test_set"),
        ("audio-train", "audio-test"),
        ("train-clean-100", "dev-clean"),
        ("trainset", "evalset"),
        ("fold1", "fold2", "fold10"),
        ("Fold_1", "Fold_2"),
        ("split-1", "split-2"),
    ],
)
def test_split_folders_above_the_classes_become_the_split_column(tmp_path: Path, splits: tuple[str, ...]) -> None:
    names = [f"{split}/{label}/{split}{index}.wav" for split in splits for label in ("cat", "dog") for index in (1, 2)]
    data = load_task(str(touch(tmp_path / "own", [*names[:-2], "meta/list.csv"])))  # the last split lacks a class
    found = set(data.table.to_pandas()[["clip", "label", "split"]].itertuples(index=False, name=None))
    assert found == {(name, name.split("/")[1], name.split("/")[0]) for name in names[:-2]}
    assert len(said(data)) == 1
    assert "are read as splits" in said(data)[0]
    assert all(split in said(data)[0] for split in splits)


def test_splits_of_folders_are_what_finetuning_goes_by(tmp_path: Path) -> None:
    names = [f"{split}/{label}/{index}.wav" for split in ("train", "test") for label in "ab" for index in (1, 2)]
    made = plan(load_task(str(touch(tmp_path / "own", names))))
    (fold,) = made.folds
    assert made.scheme == "train and test split of the data set"
    assert made.labels.classes == ("a", "b")
    assert (len(fold.train), len(fold.test)) == (4, 4)


@pytest.mark.parametrize(
    "names",
    [
        ["train/1.wav", "test/2.wav"],
        ["fold1/1.wav", "fold2/2.wav"],
        ["train/dog/1.wav", "test/cat/1.wav"],
        ["train/dog/1.wav", "test/dog/1.wav"],  # of one class
        ["train/dog/1.wav", "train/cat/1.wav", "test/dog/1.wav", "test/cat/1.wav", "test/3.wav"],
    ],
)
def test_folders_named_like_splits_that_hold_no_like_classes_are_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(BadInputError, match=r"named like splits \((.*train.*|fold1, fold2)\).*path,label,split"):
        load_task(str(touch(tmp_path, names)))


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["train/1.wav", "dog/2.wav"], None),  # a train among other sounds
        (["dog/wav/1.wav", "cat/wav/2.wav"], None),
        (["dog/a/1.wav", "cat/b/2.wav", "cat/a/2.wav"], None),
        (["tester/1.wav", "trainer/2.wav", "folder1/2.wav"], None),
        (["train/a/1.wav", "test/a/2.wav", "extra/a/3.wav"], "test, train are named like splits and are taken for"),
        (["1/a/x.wav", "1/b/x.wav", "2/a/x.wav", "2/b/x.wav"], r"not used \(a, b\); the classes are 1, 2"),
        (["dog/train/1.wav", "dog/test/1.wav", "cat/train/1.wav", "cat/test/1.wav"], r"not used \(test, train\)"),
    ],
)
def test_other_folders_stay_classes_and_doubts_are_said(tmp_path: Path, names: list[str], wanted: str | None) -> None:
    data = load_task(str(touch(tmp_path, names)))
    assert data.table["label"].tolist() == sorted(name.split("/")[0] for name in names)
    assert set(data.table["split"]) == {""}
    assert len(said(data)) == (wanted is not None)
    assert wanted is None or re.search(wanted, said(data)[0])


def test_a_class_that_holds_no_sound_is_named(tmp_path: Path) -> None:
    names = ["cat/1.wav", "dog/1.wav", "fish/1", "fowl/1.wav.gz", "meta/x.csv", "meta/x.png", "__MACOSX/cat/._1.wav"]
    (tmp_path / "own/frog").mkdir(parents=True)
    data = load_task(str(touch(tmp_path / "own", names)))
    assert said(data) == ["folders: fish, fowl, frog hold no sound and are no classes"]
    assert set(data.table["label"]) == {"cat", "dog"}
    splits = [f"{split}/{label}/1.wav" for split in ("train", "test") for label in ("cat", "dog")]
    (tmp_path / "splits/valid").mkdir(parents=True)
    data = load_task(str(touch(tmp_path / "splits", [*splits, "test/fish/1.bak", "meta/x.csv"])))
    assert said(data)[0] == "folders: test/fish, valid hold no sound and are no classes"


@pytest.mark.parametrize("top", ["audio", "train", "my sounds"])
def test_one_folder_around_the_classes_is_named(tmp_path: Path, top: str) -> None:
    root = touch(tmp_path, [f"{top}/dog/1.wav", f"{top}/cat/1.wav", "meta/list.csv"])
    with pytest.raises(
        BadInputError, match=rf"holds folders \(cat, dog\); if those are the classes, give {root / top}$"
    ):
        load_task(str(root))
    assert set(load_task(str(root / top)).table["label"]) == {"cat", "dog"}


def test_folders_of_one_name_in_two_unicode_forms_say_so(tmp_path: Path) -> None:
    names = [f"{form}/1.wav" for form in ("caf\u00e9", "cafe\u0301")]
    with pytest.raises(BadInputError, match=r"'caf\\xe9/1\.wav' twice; .*Unicode form"):
        load_task(str(touch(tmp_path, names)))


# --- labels and groups


def test_labels_that_look_alike_are_named(tmp_path: Path) -> None:
    labels = ["Dog", "dog", "sea waves", "seawaves", "\ufb01re", "fire", "cat", "1", "1.0", "10"]
    (line,) = map(str, doubtful_labels(labels))
    assert line.startswith("labels: '1' and '1.0', ")
    for pair in ("'Dog' and 'dog'", "'sea waves' and 'seawaves'", "'fire' and '\ufb01re'"):
        assert pair in line
    assert not [word for word in ("cat", "'10'") if word in line]
    assert doubtful_labels(["dog", "dogs", "do", ""]) == []
    root = touch(tmp_path, ["Dog/1.wav", "dog/2.wav", "cat/3.wav"])
    text = "are scored as different classes: they differ in case, blanks, Unicode form or a final .0 only"
    assert said(load_task(str(root))) == [f"labels: 'Dog' and 'dog' {text}"]
    lines = (f'{{"path": "{path}", "label": {label}}}' for path, label in (("Dog/1.wav", "1"), ("dog/2.wav", "1.0")))
    (root / "list.jsonl").write_text("\n".join(lines))
    assert said(load_task(str(root / "list.jsonl"))) == [f"labels: '1' and '1.0' {text}"]


def test_labels_that_may_name_several_classes_are_named() -> None:
    (line,) = map(str, doubtful_labels(["rain", "dog;rain", "cat;dog"]))
    assert line.startswith("separators: 'cat;dog', 'dog;rain' hold ';': each is one class")


def test_group_disjoint_episodes_of_data_without_groups_are_said(tmp_path: Path) -> None:
    names = [f"{label}/{number}.wav" for label in "ab" for number in range(12)]
    root = touch(tmp_path / "own", names)
    for name in names:
        (root / name).write_text(name)  # no two alike
    data = load_task(str(root))
    plain = Protocol(n_way=2, n_query=1, episodes=4)
    disjoint = plain.model_copy(update={"group_disjoint": True})

    def codes(data: TaskData, protocol: Protocol) -> list[str]:
        return [one.code for one in remarks([protocol], [draw_episodes(data, protocol)])]

    assert codes(data, plain) == []
    assert codes(data, disjoint) == ["groups"]
    rows = "".join(f"own/{name},{name[0]},{name[0]}{number // 2}\n" for number, name in enumerate(names))
    (tmp_path / "list.csv").write_text(f"path,label,group\n{rows}")
    assert codes(load_task(str(tmp_path / "list.csv")), disjoint) == []
