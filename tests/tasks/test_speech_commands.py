from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from uamix_bench.data.task import Task, load_task
from uamix_bench.plugins import registry
from uamix_bench.util.errors import BadInputError

SPLITS = {
    "yes/0a7c2a8d_nohash_0.wav": "validation",
    "yes/0a7c2a8d_nohash_1.wav": "validation",
    "yes/ffd2ba2f_nohash_0.wav": "train",
    "yes/004ae714_nohash_10.wav": "test",
    "visual/0a7c2a8d_nohash_0.wav": "validation",
    "visual/ffd2ba2f_nohash_0.wav": "train",
}


@pytest.fixture
def reader() -> Task:
    task: Task = registry.find_task("speech-commands").load()()
    return task


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "speech-commands"
    for folder in ("yes", "visual", "_background_noise_"):
        (root / folder).mkdir(parents=True)
    for index, clip in enumerate(SPLITS):
        soundfile.write(root / clip, np.zeros((16_000, 5_920)[index % 2]), 16_000)  # some are shorter than 1 s
    soundfile.write(root / "_background_noise_" / "running_tap.wav", np.zeros(32_000), 16_000)
    (root / "_background_noise_" / "README.md").touch()
    for name in ("README.md", "LICENSE", "MINIATURE"):
        (root / name).write_text("6 clips")
    for split, name in (("validation", "validation_list.txt"), ("test", "testing_list.txt")):
        (root / name).write_text("".join(f"{clip}\n" for clip, of in SPLITS.items() if of == split))
    return root


def test_lists_the_utterances_and_their_splits(reader: Task, root: Path) -> None:
    table = reader.clips(root).to_pandas().set_index("clip")
    assert table["split"].to_dict() == SPLITS
    assert all(Path(path).is_file() for path in table["path"])
    assert reader.verify(root, deep=True) == []


def test_label_is_the_word_and_group_the_speaker(reader: Task, root: Path) -> None:
    table = reader.clips(root).to_pandas().set_index("clip")
    assert table["label"].to_dict() == {clip: clip.split("/")[0] for clip in SPLITS}
    assert table["group"].to_dict() == {clip: clip.split("/")[1][:8] for clip in SPLITS}
    assert table.groupby("group")["label"].nunique()["0a7c2a8d"] == 2  # a speaker says several words


def test_background_noise_is_no_word(reader: Task, root: Path) -> None:
    (root / "_background_noise_" / "0a7c2a8d_nohash_0.wav").touch()
    assert set(reader.clips(root)["label"]) == {"yes", "visual"}


def test_what_is_no_utterance_does_not_count(reader: Task, root: Path) -> None:
    (root / "yes" / ".DS_Store").touch()
    (root / "yes" / "._0a7c2a8d_nohash_0.wav").touch()
    shutil.copytree(root / "yes", root / ".git")
    assert len(reader.clips(root)) == 6


def test_lists_with_other_line_ends_say_the_same(reader: Task, root: Path) -> None:
    before = reader.clips(root)
    for name in ("validation_list.txt", "testing_list.txt"):
        (root / name).write_bytes((root / name).read_bytes().replace(b"\n", b"\r\n"))
    assert (
        reader.clips(root).to_pandas().sort_values("clip").values.tolist()
        == before.to_pandas().sort_values("clip").values.tolist()
    )


def test_a_missing_utterance_of_the_lists_is_named(reader: Task, root: Path) -> None:
    (root / "yes" / "004ae714_nohash_10.wav").unlink()
    with pytest.raises(BadInputError, match=r"5 of 6 clips found \(missing: yes/004ae714_nohash_10\.wav\)"):
        reader.clips(root)


def test_a_missing_word_is_counted_and_its_first_utterances_named(reader: Task, root: Path) -> None:
    shutil.rmtree(root / "yes")
    missing = r"yes/004ae714_nohash_10\.wav, yes/0a7c2a8d_nohash_0\.wav, yes/0a7c2a8d_nohash_1\.wav"
    with pytest.raises(BadInputError, match=rf"2 of 6 clips found \(missing: {missing}\)"):
        reader.clips(root)


def test_a_missing_utterance_of_no_list_is_counted(reader: Task, root: Path) -> None:
    (root / "visual" / "ffd2ba2f_nohash_0.wav").unlink()
    with pytest.raises(BadInputError, match="5 of 6 clips found;"):
        reader.clips(root)


def test_an_utterance_too_many_is_counted(reader: Task, root: Path) -> None:
    (root / "yes" / "ffd2ba2f_nohash_1.wav").touch()
    with pytest.raises(BadInputError, match="7 of 6 clips found;"):
        reader.clips(root)


def test_a_missing_list_is_named(root: Path) -> None:
    (root / "validation_list.txt").unlink()
    with pytest.raises(BadInputError, match=r"validation_list.txt: no such file"):
        load_task("speech-commands", root)
    (root / "testing_list.txt").unlink()
    with pytest.raises(BadInputError, match=r"no testing_list.txt in"):
        load_task("speech-commands", root)


def test_the_real_data_set_has_105_829_utterances(reader: Task, root: Path) -> None:
    (root / "MINIATURE").unlink()
    with pytest.raises(BadInputError, match=r"6 of 105,829 clips found"):
        reader.clips(root)
    assert reader.card.clips == 84_843 + 9_981 + 11_005


def test_is_found_in_either_place(root: Path) -> None:
    by_name, itself = (load_task("speech-commands", place) for place in (root.parent, root))
    assert by_name.clips_sha256 == itself.clips_sha256
    assert len(by_name.split("validation").table) == 3
