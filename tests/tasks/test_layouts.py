"""Published data sets in the layouts of other sources: the same clips, wherever they lie, or a line that helps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from uamix_bench.data.prepare import look
from uamix_bench.data.task import load_task
from uamix_bench.plugins import registry
from uamix_bench.tasks.miniature import make
from uamix_bench.util.errors import BadInputError

AUDIO = "ESC-50-master/audio"
META = "FSDKaggle2018.meta"
WORDS = ("backward", "bed", "bird", "validation_list.txt", "testing_list.txt", "_background_noise_")
KAGGLE18 = {
    f"{META}/train_post_competition.csv": "train_post_competition.csv",
    f"{META}/test_post_competition_scoring_clips.csv": "test_post_competition.csv",
    "FSDKaggle2018.audio_train": "audio_train",
    "FSDKaggle2018.audio_test": "audio_test",
}
# By data set: what the archives have, and where another source has it.
LAYOUTS = [
    ("esc50", {"ESC-50-master": "ESC-50"}),
    ("esc50", {"ESC-50-master": "esc50-clone"}),
    ("esc50", {"ESC-50-master": "ESC-50-master/ESC-50-master"}),
    ("esc50", {AUDIO: "audio", "ESC-50-master/meta": "meta"}),
    ("esc50", {AUDIO: "audio/audio/44100", "ESC-50-master/meta/esc50.csv": "esc50.csv"}),
    ("esc50", {AUDIO: "esc/audio/audio", "ESC-50-master/meta/esc50.csv": "esc/esc50.csv"}),
    ("esc50", {AUDIO: "flat", "ESC-50-master/meta/esc50.csv": "flat/esc50.csv"}),
    ("speech-commands", {name: f"SpeechCommands/speech_commands_v0.02/{name}" for name in WORDS}),
    ("speech-commands", {name: f"speech_commands_v0.02/{name}" for name in WORDS}),
    ("speech-commands", {name: f"archive/{name}" for name in WORDS}),
    ("speech-commands", {name: f"train/{name}" if "." in name else f"train/audio/{name}" for name in WORDS}),
    ("fsdkaggle2018", KAGGLE18),
    ("fsdkaggle2018", {name: f"freesound-audio-tagging/{place}" for name, place in KAGGLE18.items()}),
    ("fsdkaggle2018", KAGGLE18 | {"FSDKaggle2018.audio_train": "audio_train/audio_train"}),
    ("fsdkaggle2018", KAGGLE18 | {f"{META}/train_post_competition.csv": "train.csv"}),
    ("fsdkaggle2018", {META: "meta"}),
    ("voxceleb1", {"wav/id10001": "dev/wav/id10001", "wav/id10002": "dev/wav/id10002", "wav": "test/wav"}),
    ("voxceleb1", {"wav/id10001": "vox1_dev_wav/wav/id10001", "wav": "vox1_test_wav/wav"}),
    ("voxceleb1", {"wav/id10001": "dev/id10001", "wav": "test"}),
    ("voxceleb1", {"wav/id10001": "VoxCeleb1/dev/wav/id10001", "wav": "VoxCeleb1/test/wav"}),
]


def moved(name: str, folder: Path, places: dict[str, str]) -> Path:
    """A miniature whose parts lie elsewhere."""
    made = make(name, folder.parent / "made", classes=3, clips_per_class=4, seconds=0.02)
    folder.mkdir(parents=True)
    for old, new in places.items():
        (folder / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made / old, folder / new)
    for rest in made.iterdir():
        shutil.move(rest, folder / rest.name)
    return folder


@pytest.mark.parametrize(("name", "places"), LAYOUTS)
@pytest.mark.parametrize("below", ["{name}", "."])
def test_the_clips_are_those_of_the_archives(name: str, places: dict[str, str], below: str, tmp_path: Path) -> None:
    wanted = load_task(name, make(name, tmp_path / "official", classes=3, clips_per_class=4, seconds=0.02))
    root = moved(name, tmp_path / "data" / below.format(name=name), places)
    data = load_task(name, tmp_path / "data")
    assert data.clips_sha256 == wanted.clips_sha256
    assert data.root == root
    for clip, path, same in zip(data.table["clip"], data.table["path"], wanted.table["path"], strict=True):
        assert Path(path).read_bytes() == Path(same).read_bytes(), clip
    assert look(registry.find_task(name).card, tmp_path / "data").state == "miniature"
    (root / "MINIATURE").unlink()
    assert look(registry.find_task(name).card, tmp_path / "data").state == "here"


def test_two_copies_are_refused_by_their_names(tmp_path: Path) -> None:
    for name in ("ESC-50", "ESC-50-louder"):
        moved("esc50", tmp_path / name / "x", {"ESC-50-master": name})
        shutil.move(tmp_path / name / "x" / name, tmp_path / "data" / name)
    with pytest.raises(BadInputError, match=r"several copies \(ESC-50/meta/esc50\.csv, ESC-50-louder/.*--data-dir"):
        load_task("esc50", tmp_path / "data")


def test_an_archive_that_is_being_unpacked_is_no_copy(tmp_path: Path) -> None:
    moved("esc50", tmp_path / "esc50", {"ESC-50-master": ".tmp-x/ESC-50-master"})
    with pytest.raises(BadInputError, match=r"esc50: no ESC-50-master/meta/esc50\.csv in"):
        load_task("esc50", tmp_path)


def test_kaggle_s_train_csv_alone_says_what_to_put_beside_it(tmp_path: Path) -> None:
    root = moved("fsdkaggle2018", tmp_path / "data", KAGGLE18)
    lines = (root / "train_post_competition.csv").read_text().splitlines()
    (root / "train_post_competition.csv").unlink()
    (root / "train.csv").write_text("".join(",".join(line.split(",")[:3]) + "\n" for line in lines))
    with pytest.raises(
        BadInputError, match=r"train\.csv: has no column 'freesound_id'.*put train_post_competition\.csv"
    ):
        load_task("fsdkaggle2018", root)


def test_one_half_of_voxceleb_names_the_folder_of_both(tmp_path: Path) -> None:
    root = moved("voxceleb1", tmp_path / "data", {"wav/id10001": "dev/wav/id10001", "wav": "test/wav"})
    with pytest.raises(
        BadInputError, match=rf"4 of 153,516 clips found; name the folder of all parts: --data-dir {root}"
    ):
        load_task("voxceleb1", root / "dev")


def test_a_copy_in_a_folder_of_its_own_is_named(tmp_path: Path) -> None:
    parts = {f"nsynth-{split}": f"NSynth/full/nsynth-{split}" for split in ("train", "valid", "test")}
    root = moved("nsynth", tmp_path / "nsynth", parts)
    found = (
        rf"but {root}/NSynth/full/nsynth-train/examples\.json is there; name its folder: --data-dir {root}/NSynth/full"
    )
    with pytest.raises(BadInputError, match=rf"nsynth: no nsynth-train/examples\.json in .*, {found}"):
        load_task("nsynth", tmp_path)


def test_speakers_without_their_folder_are_named(tmp_path: Path) -> None:
    speakers = {f"wav/id1000{number}": f"id1000{number}" for number in (1, 2, 3)}
    root = moved("voxceleb1", tmp_path / "voxceleb1", speakers)
    (root / "wav").rmdir()
    found = rf"but 3 folders of speakers \(id10001 and so on\) lie in {root} itself; move them into {root}/wav"
    with pytest.raises(BadInputError, match=rf"voxceleb1: no wav in .*, {found}"):
        load_task("voxceleb1", tmp_path)


def test_sounds_in_another_format_are_named(tmp_path: Path) -> None:
    root = moved("esc50", tmp_path / "esc50", {})
    for sound in (root / AUDIO).iterdir():
        sound.rename(sound.with_suffix(".flac"))
    found = rf"{root}/{AUDIO} holds 12 of them as \.flac, and \.wav as published is expected"
    with pytest.raises(BadInputError, match=rf"0 of 12 clips found .*; {found}"):
        load_task("esc50", tmp_path)


def test_the_first_release_of_speech_commands_is_named(tmp_path: Path) -> None:
    root = moved("speech-commands", tmp_path / "data", {name: f"train/{name}" for name in WORDS})
    (root / "MINIATURE").unlink()
    with pytest.raises(BadInputError, match="of 105,829 clips found; unpack the archives"):
        load_task("speech-commands", root)
    shutil.rmtree(root / "train" / "backward")
    for name in ("validation_list.txt", "testing_list.txt"):
        (root / "train" / name).write_text("")
    with pytest.raises(BadInputError, match=r"get v0\.02: this is v0\.01 .*lacks the words backward, follow"):
        load_task("speech-commands", root)
