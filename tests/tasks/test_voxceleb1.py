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
    "id10001/-1zY6szJsFf/00001.wav": "train",  # a YouTube id may begin with -
    "id10001/-1zY6szJsFf/00002.wav": "train",
    "id10001/7w0IBEWc9Qw/00001.wav": "dev",
    "id10270/_5zTh_ahl5l/00001.wav": "test",  # the test archive's speakers, in the same wav
    "id10270/x6uYqmx31kE/00001.wav": "train",
}
META = """VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet
id10001\tA.J._Buckley\tm\tIreland\tdev
id10270\tEartha_Kitt\tf\tUSA\ttest
"""


@pytest.fixture
def reader() -> Task:
    task: Task = registry.find_task("voxceleb1").load()()
    return task


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "voxceleb1"
    for clip in SPLITS:
        (root / "wav" / clip).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / "wav" / clip, np.zeros(64_000), 16_000)
    codes = {"train": 1, "dev": 2, "test": 3}
    (root / "iden_split.txt").write_text("".join(f"{codes[split]} {clip}\n" for clip, split in SPLITS.items()))
    (root / "vox1_meta.csv").write_text(META)
    (root / "MINIATURE").write_text("5 clips")
    return root


def test_lists_the_utterances_of_both_archives(reader: Task, root: Path) -> None:
    table = reader.clips(root).to_pandas().set_index("clip")
    assert table["split"].to_dict() == {f"wav/{clip}": split for clip, split in SPLITS.items()}
    assert table["label"].to_dict() == {f"wav/{clip}": clip.split("/")[0] for clip in SPLITS}
    assert table["group"].to_dict() == {f"wav/{clip}": clip[:19] for clip in SPLITS}  # speaker and video
    assert all(Path(path).is_file() for path in table["path"])
    assert reader.verify(root, deep=True) == []


def test_without_the_authors_lists_there_is_no_split(reader: Task, root: Path) -> None:
    before = reader.clips(root).to_pandas().sort_values("clip")
    (root / "iden_split.txt").unlink()
    (root / "vox1_meta.csv").unlink()
    after = reader.clips(root).to_pandas().sort_values("clip")
    assert set(after.pop("split")) == {""}
    assert after.values.tolist() == before.drop(columns="split").values.tolist()


def test_what_is_no_utterance_does_not_count(reader: Task, root: Path) -> None:
    (root / "wav" / ".DS_Store").touch()
    (root / "wav" / "id10001" / ".DS_Store").touch()
    (root / "wav" / "id10001" / "-1zY6szJsFf" / "._00001.wav").touch()
    shutil.copytree(root / "wav" / "id10001", root / "wav" / "speaker")
    assert len(reader.clips(root)) == 5


def test_a_missing_utterance_is_named(reader: Task, root: Path) -> None:
    (root / "wav" / "id10001" / "-1zY6szJsFf" / "00002.wav").unlink()
    with pytest.raises(BadInputError, match=r"4 of 5 clips found \(missing: wav/id10001/-1zY6szJsFf/00002\.wav\)"):
        reader.clips(root)


def test_a_missing_archive_is_named_by_its_speakers(reader: Task, root: Path) -> None:
    (root / "iden_split.txt").unlink()
    shutil.rmtree(root / "wav" / "id10270")
    with pytest.raises(BadInputError, match=r"3 of 5 clips found \(missing: wav/id10270\)"):
        reader.clips(root)


def test_a_missing_archive_is_counted_without_the_authors_lists(reader: Task, root: Path) -> None:
    (root / "iden_split.txt").unlink()
    (root / "vox1_meta.csv").unlink()
    shutil.rmtree(root / "wav" / "id10270")
    with pytest.raises(BadInputError, match="3 of 5 clips found;"):
        reader.clips(root)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("iden_split.txt", "1 id10001/a/00001.wav\n4 id10001/a/00002.wav\n", "line 2 is not"),
        ("iden_split.txt", "1\n", "line 1 is not"),
        ("vox1_meta.csv", META.replace("\t", ","), "no tab-separated column"),  # as some mirrors convert it
        ("vox1_meta.csv", "", "no tab-separated column"),
    ],
)
def test_a_damaged_list_is_named(reader: Task, root: Path, name: str, content: str, reason: str) -> None:
    (root / name).write_text(content)
    with pytest.raises(BadInputError, match=reason) as caught:
        reader.clips(root)
    assert caught.value.subject.endswith(name)


def test_a_list_that_is_no_text_is_named(reader: Task, root: Path) -> None:
    (root / "iden_split.txt").write_bytes(b"\xff\xfe1")
    with pytest.raises(BadInputError, match="is not UTF-8 text"):
        reader.clips(root)


def test_the_real_data_set_has_153_516_utterances(reader: Task, root: Path) -> None:
    (root / "MINIATURE").unlink()
    with pytest.raises(BadInputError, match=r"5 of 153,516 clips found"):
        reader.clips(root)
    assert reader.card.clips == 148_642 + 4_874 == 138_361 + 6_904 + 8_251
    assert reader.card.classes == 1_211 + 40


def test_who_has_no_copy_is_sent_to_the_authors_page(reader: Task) -> None:
    archives = [file for file in reader.card.files if file.name.startswith("vox1_")]
    assert len(archives) == 6
    assert all(file.page and not file.url for file in archives)


def test_is_found_in_either_place(root: Path) -> None:
    by_name, itself = (load_task("voxceleb1", place) for place in (root.parent, root))
    assert by_name.clips_sha256 == itself.clips_sha256
    assert len(by_name.split("dev").table) == 1
