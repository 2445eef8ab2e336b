from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from uamix_bench.data.task import Task, load_task
from uamix_bench.plugins import registry
from uamix_bench.util.errors import BadInputError

TRAIN = """fname,label,manually_verified,freesound_id,license
00044347.wav,Hi-hat,0,28739,Attribution
001ca53d.wav,Saxophone,1,358827,Creative Commons 0
002d256b.wav,Hi-hat,1,10897,Attribution-NonCommercial
"""
TEST = """fname,label,usage,freesound_id,license
00326aa9.wav,Violin_or_fiddle,Private,355125,"Attribution, as given"
0038a046.wav,Saxophone,Public,90621,Creative Commons 0
"""
SPLITS = {
    "FSDKaggle2018.audio_train/00044347.wav": "train-unverified",
    "FSDKaggle2018.audio_train/001ca53d.wav": "train-verified",
    "FSDKaggle2018.audio_train/002d256b.wav": "train-verified",
    "FSDKaggle2018.audio_test/00326aa9.wav": "test",
    "FSDKaggle2018.audio_test/0038a046.wav": "test",
}
SCORING = "FSDKaggle2018.meta/test_post_competition_scoring_clips.csv"


@pytest.fixture
def reader() -> Task:
    task: Task = registry.find_task("fsdkaggle2018").load()()
    return task


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "fsdkaggle2018"
    for name in ("audio_train", "audio_test", "meta", "doc"):
        (root / f"FSDKaggle2018.{name}").mkdir(parents=True)
    (root / "FSDKaggle2018.meta" / "train_post_competition.csv").write_text(TRAIN)
    (root / SCORING).write_text(TEST)
    for clip in SPLITS:
        soundfile.write(root / clip, np.zeros(13_230), 44_100)
    (root / "MINIATURE").write_text("5 clips")
    return root


def test_lists_the_clips_of_both_lists(reader: Task, root: Path) -> None:
    table = reader.clips(root).to_pandas().set_index("clip")
    assert table["split"].to_dict() == SPLITS
    assert table["label"].tolist() == ["Hi-hat", "Saxophone", "Hi-hat", "Violin_or_fiddle", "Saxophone"]
    assert table["group"].tolist() == ["28739", "358827", "10897", "355125", "90621"]
    assert all(Path(path).is_file() for path in table["path"])
    assert reader.verify(root, deep=True) == []


def test_verified_clips_alone_are_two_splits(root: Path) -> None:
    verified = load_task("fsdkaggle2018", root, splits=("train-verified", "test"))
    assert set(verified.table["clip"]) == set(SPLITS) - {"FSDKaggle2018.audio_train/00044347.wav"}


def test_the_competition_s_empty_files_are_in_no_list(reader: Task, root: Path) -> None:
    for name in ("0b0427e2.wav", "6ea0099f.wav", "b39975f5.wav"):
        (root / "FSDKaggle2018.audio_test" / name).touch()
    assert set(reader.clips(root)["clip"]) == set(SPLITS)


def test_the_competition_s_ignored_clips_are_left_out(reader: Task, root: Path) -> None:
    (root / SCORING).write_text(TEST + "0b0427e2.wav,None,Ignored,,\n")
    assert "None" not in set(reader.clips(root)["label"])


@pytest.mark.parametrize("samples", [None, 0])
def test_a_listed_clip_that_is_empty_is_missing(reader: Task, root: Path, samples: int | None) -> None:
    clip = root / "FSDKaggle2018.audio_test" / "0038a046.wav"
    if samples is None:
        clip.write_bytes(b"")
    else:  # a header and no sound
        soundfile.write(clip, np.zeros(samples), 44_100)
    with pytest.raises(BadInputError, match=r"4 of 5 clips found \(missing: FSDKaggle2018\.audio_test/0038a046\.wav\)"):
        reader.clips(root)


def test_a_folder_not_yet_unpacked_is_counted_and_its_first_clips_named(reader: Task, root: Path) -> None:
    (root / "FSDKaggle2018.audio_train").rename(root / "elsewhere")
    with pytest.raises(BadInputError, match=r"2 of 5 clips found \(missing: FSDKaggle2018\.audio_train/00044347\.wav,"):
        reader.clips(root)


def test_a_missing_list_is_named(root: Path) -> None:
    (root / SCORING).unlink()
    with pytest.raises(BadInputError, match=r"test_post_competition_scoring_clips\.csv: no such file"):
        load_task("fsdkaggle2018", root)


def test_the_real_data_set_has_11_073_clips(reader: Task, root: Path) -> None:
    (root / "MINIATURE").unlink()
    with pytest.raises(BadInputError, match=r"5 of 11,073 clips found"):
        reader.clips(root)
    assert reader.card.clips == 9_473 + 1_600


def test_is_found_in_either_place(root: Path) -> None:
    by_name, itself = (load_task("fsdkaggle2018", place) for place in (root.parent, root))
    assert by_name.clips_sha256 == itself.clips_sha256
