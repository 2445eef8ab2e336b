"""Sounds without labels: folders of any depth, text lists, AudioSet's own CSV."""

from __future__ import annotations

from pathlib import Path

import pytest

from uamix_bench.data.task import TaskData, load_task
from uamix_bench.util.errors import BadInputError

HEADER = """# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=4, num_segs=4, num_unique_labels=3, num_positive_labels=5
# YTID, start_seconds, end_seconds, positive_labels
"""
ROWS = """--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_,/m/0bt9lr,/m/0jbk"
_BfvyPmVMo4, 20.000, 30.000, "/m/03l9g"
-0DdlOuIFUI, 50.500, 60.500, "/m/0130jx,/m/02jz0l"
abcdefghijk, 30.000, 40.000, "/m/04rlf"
"""


def load(path: Path, **options: object) -> TaskData:
    return load_task(str(path), labelled=False, allow_partial=True, **options)  # type: ignore[arg-type]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_a_folder_may_hold_sounds_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "deep/b.FLAC", "deep/er/c.mp3", "notes.txt", ".hidden/d.wav", "deep/.e.wav")
    clips = load(tmp_path).table
    assert clips["clip"].tolist() == ["a.wav", "deep/b.FLAC", "deep/er/c.mp3"]
    assert clips["label"].tolist() == ["", "deep", "deep"]
    assert clips["group"].tolist() == clips["clip"].tolist()


def test_class_folders_have_the_table_they_have_as_a_task(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.wav", "y/b.wav")
    assert load(tmp_path).clips_sha256 == load_task(str(tmp_path)).clips_sha256


def test_a_csv_needs_no_labels(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "b.wav")
    (tmp_path / "list.csv").write_text("path,group\na.wav,one\nb.wav,one\n")
    assert load(tmp_path / "list.csv").table["group"].tolist() == ["one", "one"]
    with pytest.raises(BadInputError, match="no column 'label'"):
        load_task(str(tmp_path / "list.csv"))


def test_a_text_list_of_paths(tmp_path: Path) -> None:
    touch(tmp_path, "sounds/a.wav", "sounds/b c.wav")
    (tmp_path / "list.txt").write_text("# two sounds\nb c.wav\n\na.wav\n")
    assert load(tmp_path / "list.txt", audio_root=tmp_path / "sounds").table["clip"].tolist() == ["a.wav", "b c.wav"]
    (tmp_path / "list.txt").write_text("a.wav\nc.wav\n")
    with pytest.raises(BadInputError, match=r"c\.wav: named in list\.txt, but no such file"):
        load(tmp_path / "list.txt", audio_root=tmp_path / "sounds")
    (tmp_path / "list.txt").write_text("a.wav\n\na.wav\n")
    with pytest.raises(BadInputError, match=r"line 3 repeats a\.wav"):
        load(tmp_path / "list.txt", audio_root=tmp_path / "sounds")


@pytest.mark.parametrize(
    "names",
    [
        ["--4gqARaEJE.wav", "_BfvyPmVMo4.flac", "-0DdlOuIFUI.wav", "abcdefghijk.wav"],
        ["Y--4gqARaEJE.wav", "Y_BfvyPmVMo4.wav", "Y-0DdlOuIFUI.wav", "Yabcdefghijk.wav"],
        ["--4gqARaEJE_0_10.wav", "_BfvyPmVMo4_20_30.wav", "-0DdlOuIFUI_50.5_60.5.wav", "abcdefghijk_30.wav"],
        [
            "--4gqARaEJE_0.000.wav",
            "_BfvyPmVMo4_20.000_30.000.wav",
            "-0DdlOuIFUI_50500.wav",
            "abcdefghijk_30000_40000.wav",
        ],
    ],
)
def test_audioset_s_own_csv_finds_the_names_that_tools_give(names: list[str], tmp_path: Path) -> None:
    touch(tmp_path / "audio" / "some", *names)
    (tmp_path / "balanced_train_segments.csv").write_text(HEADER + ROWS)
    data = load(tmp_path / "balanced_train_segments.csv", audio_root=tmp_path / "audio")
    assert data.table["clip"].tolist() == sorted(f"some/{name}" for name in names)
    assert set(data.table["group"]) == {"--4gqARaEJE", "_BfvyPmVMo4", "-0DdlOuIFUI", "abcdefghijk"}
    assert "/m/068hy,/m/07q6cd_,/m/0bt9lr,/m/0jbk" in data.table["label"].tolist()
    assert data.partial == ""


def test_what_audioset_lost_is_counted(tmp_path: Path) -> None:
    touch(tmp_path, "_BfvyPmVMo4.wav", "other.wav")
    (tmp_path / "eval_segments.csv").write_text(HEADER + ROWS)
    data = load(tmp_path / "eval_segments.csv")
    assert len(data.table) == 1
    assert data.partial == "holds 1 of the 4 clips of eval_segments.csv"
    touch(tmp_path, "more/--4gqARaEJE.m4a", "_BfvyPmVMo4.mp4")  # a video beside its sound is no loss
    lacks = "holds 1 of the 4 clips of eval_segments.csv; 1 are there in formats that are not read"
    assert load(tmp_path / "eval_segments.csv").partial == lacks
    (tmp_path / "_BfvyPmVMo4.wav").unlink()
    with pytest.raises(BadInputError, match=r"none of the 4 clips .*--audio-root"):
        load(tmp_path / "eval_segments.csv")
    (tmp_path / "eval_segments.csv").write_text(HEADER + "_BfvyPmVMo4, twenty, 30.000, x\n")
    with pytest.raises(BadInputError, match="row 1 is not YTID"):
        load(tmp_path / "eval_segments.csv")
