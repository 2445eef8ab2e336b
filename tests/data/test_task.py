"""A user's own folder or CSV, and what load_task makes of names, splits and readers."""

from __future__ import annotations

import csv
import hashlib
import os
import random
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings, strategies as st

from uamix_bench.data.clip_table import COLUMNS
from uamix_bench.data.own_data import read_csv
from uamix_bench.data.task import OWN_CLIP_SECONDS, Task, TaskData, is_path, load_task, table_sha256
from uamix_bench.storage.digests import file_digests
from uamix_bench.tuning.sounds import find_data
from uamix_bench.util.errors import BadInputError, MachineError, UsageError

NFC, NFD = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))


def touch(root: Path, names: Iterable[str]) -> Path:
    """Files that only a list sees: no sound is read."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def listed(folder: Path, text: str, *, encoding: str = "utf-8", name: str = "list.csv") -> str:
    (folder / name).write_bytes(text.encode(encoding))
    return str(folder / name)


def rows(data: TaskData) -> list[tuple[str, ...]]:
    return list(data.table.to_pandas()[["clip", "label", "group", "split"]].itertuples(index=False, name=None))


# --- folders


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    names = ["cat/b.wav", "cat/a.FLAC", "dog/deep/er/c.ogg", "dog/.hidden.wav", "dog/.cache/d.wav", "dog/notes.txt"]
    root = touch(tmp_path / "pets.v2", [*names, "loose.wav", ".git/e.wav", "dog/x.mp3", "empty/readme.md"])
    (root / "dog/folder.wav").mkdir()
    data = load_task(str(root))
    assert rows(data) == [
        ("cat/a.FLAC", "cat", "cat/a.FLAC", ""),
        ("cat/b.wav", "cat", "cat/b.wav", ""),
        ("dog/deep/er/c.ogg", "dog", "dog/deep/er/c.ogg", ""),
        ("dog/x.mp3", "dog", "dog/x.mp3", ""),
    ]
    assert tuple(data.table.columns) == COLUMNS
    assert [Path(path) for path in data.table["path"]] == [root / clip for clip in data.table["clip"]]
    assert data.name == "local/pets.v2"
    assert data.card.clip_seconds == OWN_CLIP_SECONDS


@pytest.mark.parametrize(
    ("name", "stem"),
    [("my set", "my-set"), ("données", "donn-es"), ("...", "data"), ("_x-", "x"), ("a" * 99, "a" * 70)],
)
def test_own_names_can_name_results(tmp_path: Path, name: str, stem: str) -> None:
    assert load_task(str(touch(tmp_path / name, ["a/x.wav"]))).name == f"local/{stem}"


@pytest.mark.parametrize("names", [[], ["loose.wav"], ["a/readme.txt"]])
def test_a_folder_without_sound_is_named(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(BadInputError, match="no sound in any sub-folder; give a folder with one sub-folder per class"):
        load_task(str(touch(tmp_path, names)))


def test_the_order_of_listing_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = touch(tmp_path, [f"{label}/{index}.wav" for label in "cab" for index in range(20)])
    wanted = load_task(str(root)).table.to_pandas()
    scandir = os.scandir

    class Shuffled:
        def __init__(self, path: str) -> None:
            with scandir(path) as entries:
                self.entries = iter(sorted(entries, key=lambda entry: random.Random(entry.name).random()))

        def __enter__(self) -> Iterable[os.DirEntry[str]]:
            return self.entries

        def __next__(self) -> os.DirEntry[str]:
            return next(self.entries)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Shuffled)
    assert load_task(str(root)).table.to_pandas().equals(wanted)


def test_what_is_named_like_a_sound_is_listed_whatever_it_is(tmp_path: Path) -> None:
    """A link to nothing or a pipe left out would be a smaller data set without a word."""
    root = touch(tmp_path / "own", ["cat/a.wav", "cat/deep/b.wav", "dog.wav/c.wav", "beside.wav", ".hidden/d.wav"])
    (root / "cat" / "absent.wav").symlink_to("nowhere")
    (root / "cat" / "circle.wav").symlink_to("circle.wav")
    os.mkfifo(root / "cat" / "pipe.wav")
    (root / "bird").symlink_to(root / "cat" / "deep", target_is_directory=True)
    table = load_task(str(root)).table
    cats = {f"cat/{name}.wav" for name in ("a", "absent", "circle", "deep/b", "pipe")}
    assert set(table["clip"]) == {*cats, "dog.wav/c.wav", "bird/b.wav"}
    digests = file_digests(table["path"].tolist(), memo=False)
    broken = {table["clip"][index]: error for index, error in digests.failed.items()}
    assert set(broken) == {f"cat/{name}.wav" for name in ("absent", "circle", "pipe")}
    assert "no such file" in str(broken["cat/absent.wav"])
    assert "is not a regular file" in str(broken["cat/pipe.wav"])


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not passed over, as a glob would; root may read all of them."""
    root, scandir = touch(tmp_path, ["cat/a.wav", "dog/b.wav"]), os.scandir

    def refuse(path: object) -> object:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(MachineError, match=r"dog: cannot be read \(Permission denied\)"):
        load_task(str(root))


@pytest.mark.parametrize("name", ["list.csv", "list.txt"])
def test_a_list_that_is_a_pipe_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(BadInputError, match=f"{name}: is not a regular file"):
        find_data(str(tmp_path / name))


def test_names_are_composed_one_way(tmp_path: Path) -> None:
    composed, decomposed = (touch(tmp_path / name, [f"caf{e}/{e}.wav"]) for name, e in (("one", NFC), ("two", NFD)))
    assert (
        rows(load_task(str(composed)))
        == rows(load_task(str(decomposed)))
        == [(f"caf{NFC}/{NFC}.wav", f"caf{NFC}", f"caf{NFC}/{NFC}.wav", "")]
    )
    touch(tmp_path / "two", [f"caf{NFC}/{NFC}.wav"])
    with pytest.raises(BadInputError, match=r"lists 'caf\\xe9/\\xe9.wav' twice"):
        load_task(str(tmp_path / "two"))


@pytest.mark.parametrize("name", [b"a\xff.wav", b"a\n.wav", b"a\x1b[31m.wav"])
def test_names_that_no_result_can_hold_are_named(tmp_path: Path, name: bytes) -> None:
    folder = touch(tmp_path, ["cat/ok.wav"]) / "cat"
    Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"")
    with pytest.raises(BadInputError, match="holds a control, invisible or undecodable character; rename it") as caught:
        load_task(str(tmp_path))
    assert str(caught.value).isprintable()
    str(caught.value).encode()


# --- lists

FULL = "path,label,group,split\nb.wav,dog,g1,train\na.wav,cat,,test\n"
WANTED = [("a.wav", "cat", "a.wav", "test"), ("b.wav", "dog", "g1", "train")]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (FULL, "utf-8"),
        (FULL, "utf-8-sig"),
        (FULL.replace("\n", "\r\n"), "utf-8-sig"),
        (FULL.replace("\n", "\n\n") + "\n\n", "utf-8"),
        (FULL.rstrip(), "utf-8"),
        ("split, label ,path,group\ntrain,dog,b.wav,g1\n test ,cat, a.wav,\n", "utf-8"),
        (
            'notes,path,label,group,split\n"two\nlines, and ""more""",b.wav,dog,g1,train\n,./a.wav,"cat","",test\n',
            "utf-8",
        ),
        ("path,label,group,split\nx/../b.wav,dog,g1,train\na.wav,cat,,test\n", "utf-8"),
    ],
)
def test_a_list_in_any_dress(tmp_path: Path, text: str, encoding: str) -> None:
    touch(tmp_path, ["a.wav", "b.wav", "x/c.wav"])
    data = load_task(listed(tmp_path, text, encoding=encoding))
    assert rows(data) == WANTED
    assert all(Path(path).is_file() for path in data.table["path"])
    assert data.name == "local/list"


def test_group_and_split_may_be_left_out(tmp_path: Path) -> None:
    touch(tmp_path, ["a.wav", "b.wav"])
    assert rows(load_task(listed(tmp_path, "path,label\nb.wav,dog\na.wav,cat\n"))) == [
        ("a.wav", "cat", "a.wav", ""),
        ("b.wav", "dog", "b.wav", ""),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "lists no clip; the first line names the columns: path,label"),
        ("path,group\na.wav,1\n", r"has no column 'label' \(it has: path, group\)"),
        ("path;label\na.wav;cat\n", r"has no column 'path' \(it has: path;label\)"),
        ("path,label,label\na.wav,cat,dog\n", "has two columns 'label'"),
        ("path,label\n", "lists no clip; give one line per clip"),
        ("path,label\na.wav,cat\n,dog\n", "line 3 has no path; fill it or delete the line"),
        ('path,label,note\na.wav,cat,"1\n2"\nb.wav, ,3\n', "line 4 has no label"),
        ("path,label\na.wav,cat,7\n", "line 2 has 3 fields, the first line 2; quote fields that hold a comma"),
        ("path,label\na.wav,cat\nb.wav\n", "line 3 has 1 fields, the first line 2"),
        ("path,label\na.wav,cat\nb.wav,dog\n./a.wav,cat\n", "line 4 repeats a.wav; list every clip once"),
        (
            "path,label,start\na.wav,cat,0\na.wav,cat,5\n",
            "line 3 repeats a.wav; .*column start of the list is not used",
        ),
        ('path,label\na.wav,"cat\n', "is not a CSV"),
        ('path,label\na.wav,"c\nat"\n', r"label 'c\\nat' holds a control, invisible or undecodable character"),
        ("path,label\na.wav,ca\x00t\n", r"label 'ca\\x00t' holds a control"),
    ],
)
def test_a_faulty_list_is_one_line_that_names_the_place(tmp_path: Path, text: str, reason: str) -> None:
    touch(tmp_path, ["a.wav", "b.wav"])
    with pytest.raises(BadInputError, match=reason) as caught:
        load_task(listed(tmp_path, text))
    assert str(caught.value).startswith(str(tmp_path / "list.csv"))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_list_in_another_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(BadInputError, match=r"is not a CSV .*; save it as UTF-8, comma-separated"):
        load_task(listed(tmp_path, "path,label\né.wav,cat\n", encoding=encoding))


def test_missing_files_are_counted_and_the_first_named(tmp_path: Path) -> None:
    touch(tmp_path, ["a.wav"])
    path = listed(tmp_path, "path,label\na.wav,cat\nb.wav,cat\nc.wav,dog\nd.wav,dog\n")
    with pytest.raises(BadInputError) as caught:
        load_task(path)
    wanted = f"{tmp_path / 'b.wav'} and 2 more: named in list.csv, but no such file; check --audio-root"
    assert str(caught.value) == wanted
    touch(tmp_path, ["c.wav", "d.wav"])
    with pytest.raises(BadInputError, match=r"b\.wav: named in list\.csv"):
        load_task(path)


@pytest.mark.parametrize(
    ("header", "unused"),
    [
        ("path,label", None),
        (",label,path,split,group", None),  # as pandas writes its index
        ("path,label,start", "column start of the list is not used"),
        ("path,label,start,offset,speaker,fold", "columns start, offset, speaker, fold of the list are not used"),
        ("path,label,Onset,Offset,Group", "columns Onset, Offset, Group of the list are not used"),
        ("path,label," + ",".join(f"c{i}" for i in range(12)), "c7 and 4 more of the list are not used"),
    ],
)
def test_columns_that_are_not_used_are_named(tmp_path: Path, header: str, unused: str | None) -> None:
    touch(tmp_path, ["a.wav"])
    row = ",".join({"path": "a.wav", "label": "cat"}.get(name, "1") for name in header.split(","))
    remarks = load_task(listed(tmp_path, f"{header}\n{row}\n")).remarks
    assert [remark.code for remark in remarks] == ["columns"] * (unused is not None)
    assert unused is None or unused in remarks[0].text


@pytest.mark.parametrize("on_disk", ["Ton/é.wav", "Ton/é.WAV", f"Ton/{NFD}.wav"])
@pytest.mark.parametrize("in_list", ["Ton/é.wav", "Ton\\é.wav", "Ton\\é.WAV", ".\\Ton\\é.wav", f"Ton\\{NFD}.WAV"])
def test_a_list_from_another_system_finds_its_files(tmp_path: Path, on_disk: str, in_list: str) -> None:
    touch(tmp_path, [on_disk])
    data = load_task(listed(tmp_path, f"path,label\n{in_list},cat\n"))
    assert data.table["path"].tolist() == [str(tmp_path / on_disk)]
    assert data.table["clip"].tolist() == [unicodedata.normalize("NFC", on_disk)]
    assert data.remarks == ()
    (tmp_path / "list.txt").write_text(f"{in_list}\n")
    assert find_data(str(tmp_path / "list.txt")).table["path"].tolist() == [str(tmp_path / on_disk)]


def test_quotes_behind_a_blank_are_quotes(tmp_path: Path) -> None:
    touch(tmp_path, ["a, b.wav", "c.wav"])
    data = load_task(listed(tmp_path, 'label, path\ncat, "a, b.wav"\n"cat", c.wav\n'))
    assert data.table.to_pandas()[["clip", "label"]].to_numpy().tolist() == [["a, b.wav", "cat"], ["c.wav", "cat"]]


def test_a_name_that_is_there_as_listed_comes_first(tmp_path: Path) -> None:
    touch(tmp_path, ["a\\b.wav", "a/b.wav", "c.wav", "c.WAV"])
    data = load_task(listed(tmp_path, "path,label\na\\b.wav,cat\nc.WAV,dog\n"))
    assert sorted(data.table["path"]) == [str(tmp_path / name) for name in ("a\\b.wav", "c.WAV")]
    with pytest.raises(BadInputError, match=r"line 3 repeats d\.wav"):
        own(tmp_path / "x", "path,label\nd.wav,cat\nd.WAV,dog\n", ["d.wav"])


@pytest.mark.parametrize(
    ("in_list", "hint"),
    [
        ("tone/a.wav", r"the file is called .*/Tone/A\.wav: names differ in case or Unicode form, rename one of them"),
        (f"caf{NFC}/caf{NFD}.wav", rf"the file is called .*/caf{NFD}/caf{NFC}\.wav: names differ"),
        (r"C:\sounds\a.wav", "this is a Windows path: make it relative, and name its folder with --audio-root"),
        (r"\\server\sounds\a.wav", "this is a Windows path"),
        (r"tone\b.wav", "check --audio-root"),
    ],
)
def test_what_is_not_found_has_a_hint(tmp_path: Path, in_list: str, hint: str) -> None:
    touch(tmp_path, ["Tone/A.wav", f"caf{NFD}/caf{NFC}.wav"])
    with pytest.raises(BadInputError, match=f"named in list.csv, but no such file; {hint}"):
        load_task(listed(tmp_path, f"path,label\n{in_list},cat\n"))


def test_paths_are_relative_to_the_audio_root(tmp_path: Path) -> None:
    touch(tmp_path / "sounds", ["x/a.wav"])
    (tmp_path / "lists").mkdir()
    path = listed(tmp_path / "lists", "path,label\nx/a.wav,cat\n")
    data = load_task(path, audio_root=tmp_path / "sounds")
    assert rows(data) == [("x/a.wav", "cat", "x/a.wav", "")]
    assert data.table["path"].tolist() == [str(tmp_path / "sounds/x/a.wav")]
    with pytest.raises(BadInputError, match="check --audio-root"):
        load_task(path)


def test_absolute_paths_stay_out_of_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, ["here/s/a.wav", "there/s/a.wav", "there/t/b.wav"])
    within = listed(tmp_path / "here", f"path,label\n{tmp_path}/here/s/a.wav,cat\n")
    assert rows(load_task(within)) == [("s/a.wav", "cat", "s/a.wav", "")]
    outside = listed(tmp_path / "here", f"path,label\n{tmp_path}/there/s/a.wav,cat\n{tmp_path}/there/t/b.wav,dog\n")
    parent = listed(tmp_path / "here", "path,label\n../there/s/a.wav,cat\n../there/t/b.wav,dog\n", name="list2.csv")
    wanted = [("s/a.wav", "cat", "s/a.wav", ""), ("t/b.wav", "dog", "t/b.wav", "")]
    assert rows(load_task(outside)) == rows(load_task(parent)) == wanted
    monkeypatch.chdir(tmp_path / "here")
    assert rows(load_task("list2.csv")) == wanted
    both = listed(tmp_path / "here", f"path,label\ns/a.wav,cat\n{tmp_path}/there/s/a.wav,dog\n")
    assert [clip for clip, *_ in rows(load_task(both))] == ["here/s/a.wav", "there/s/a.wav"]


@pytest.mark.parametrize("on_disk", [NFC, NFD])
@pytest.mark.parametrize("in_list", [NFC, NFD])
def test_a_listed_name_is_found_however_it_is_composed(tmp_path: Path, on_disk: str, in_list: str) -> None:
    touch(tmp_path, [f"{on_disk}.wav"])
    data = load_task(listed(tmp_path, f"path,label,group\n{in_list}.wav,{in_list},{in_list}\n"))
    assert rows(data) == [(f"{NFC}.wav", NFC, NFC, "")]
    assert data.table["path"].tolist() == [str(tmp_path / f"{on_disk}.wav")]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)] * 3),
        min_size=1,
        max_size=6,
    )
)
def test_read_csv_reads_what_a_csv_writer_wrote(tmp_path: Path, table: list[tuple[str, ...]]) -> None:
    path = tmp_path / "list.csv"  # written anew for every example
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("a", "b", "c"), *table])
    found = read_csv(path, ("a", "b", "c"))
    assert list(zip(*found.columns.values(), strict=True)) == [tuple(map(str.strip, row)) for row in table]
    assert list(found.numbers) == sorted(set(found.numbers))
    assert found.numbers[0] >= 2


# --- versions, names, splits, readers


def own(folder: Path, text: str, names: Iterable[str] = ("a.wav", "b.wav", "c.wav")) -> TaskData:
    touch(folder, names)
    return load_task(listed(folder, text))


def test_the_version_is_the_hash_of_the_table_wherever_it_lies(tmp_path: Path) -> None:
    data = own(tmp_path / "x", "path,label\na.wav,cat\nb.wav,dog\n")
    assert data.card.version == data.clips_sha256[:12] == table_sha256(data.table.take(slice(None, None, -1)))[:12]
    canonical = '["a.wav","cat","a.wav",""]\n["b.wav","dog","b.wav",""]\n'
    assert data.clips_sha256 == hashlib.sha256(canonical.encode()).hexdigest()
    assert own(tmp_path / "y", "label,path\ndog,b.wav\ncat,a.wav\n").card.version == data.card.version
    for other in (
        "path,label\na.wav,cat\nb.wav,cat\n",
        "path,label\na.wav,cat\nc.wav,dog\n",
        "path,label,group\na.wav,cat,1\nb.wav,dog,1\n",
        "path,label,split\na.wav,cat,test\nb.wav,dog,\n",
        "path,label\na.wav,cat\n",
    ):
        assert own(tmp_path / "x", other).card.version != data.card.version


def test_splits_choose_clips_and_leave_the_version(tmp_path: Path) -> None:
    text = "path,label,split\na.wav,cat,train\nb.wav,dog,test\nc.wav,cat,valid\n"
    whole = own(tmp_path, text)
    path = str(tmp_path / "list.csv")
    part = load_task(path, splits=("test", "valid"))
    assert part.table["clip"].tolist() == ["b.wav", "c.wav"]
    assert part.card.version == whole.card.version
    assert part.clips_sha256 != whole.clips_sha256
    for splits, line in (
        (("tets",), "local/list:tets: no such split; known: test, train, valid"),
        (("test", "x"), "list:x"),
    ):
        with pytest.raises(UsageError, match=line):
            load_task(path, splits=splits)
    own(tmp_path, "path,label\na.wav,cat\n")
    with pytest.raises(UsageError, match="no such split; known: none"):
        load_task(path, splits=("test",))


def test_a_clip_table_is_sorted(tmp_path: Path) -> None:
    data = load_task(str(touch(tmp_path / "x", ["a/1.wav", "a/2.wav", "b/1.wav"])))
    assert data.sorted_clips.rows.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="sorted by clip"):
        replace(data, table=data.table.take(slice(None, None, -1)))


def test_most_queries_is_what_the_smallest_class_has_beside_its_supports(tmp_path: Path) -> None:
    names = [f"{label}/{index}.wav" for label, count in (("a", 9), ("b", 4), ("c", 3)) for index in range(count)]
    data = load_task(str(touch(tmp_path / "x", names)))
    assert [data.most_queries(k, 15) for k in (1, 2)] == [2, 1]
    assert data.only(["a", "b"]).most_queries(1, 15) == 3
    assert data.only(["a"]).most_queries(1, 5) == 5
    with pytest.raises(UsageError, match="c has 3, b has 4; use a smaller --k"):
        data.most_queries(4, 15)


def test_the_clip_length_is_the_users(tmp_path: Path) -> None:
    own(tmp_path, "path,label\na.wav,cat\n")
    assert load_task(str(tmp_path / "list.csv"), clip_seconds=2.5).card.clip_seconds == 2.5
    assert load_task("synthetic", tmp_path, clip_seconds=1.0).card.clip_seconds == 1.0
    assert load_task("synthetic", tmp_path).card.clip_seconds == 2.0


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("esc50", False),
        ("synthetic", False),
        ("./esc50", True),
        ("a/b", True),
        ("..", True),
        ("x.csv", True),
        ("a\\b", True),
    ],
)
def test_what_is_a_path(name: str, known: bool) -> None:
    assert is_path(name) == known


@pytest.mark.parametrize(
    ("name", "error", "line"),
    [
        ("esc5", UsageError, "--task esc5: no such task; did you mean 'esc50'? (a folder or CSV goes by its path)"),
        ("./absent", BadInputError, "absent: no such file or folder; give a folder with one sub-folder per class"),
        ("absent.csv", BadInputError, "absent.csv: no such file or folder"),
        (
            "readme.txt",
            BadInputError,
            "readme.txt: is no folder, list or card; give a folder with one sub-folder per class",
        ),
        ("absent.py:Mine", BadInputError, "absent.py: no such file; give --task FILE.py:NAME"),
        ("mine.py:Other", BadInputError, "mine.py: defines no 'Other'"),
        ("mine.py:Path", BadInputError, "mine.py:Path: is not a subclass of uamix_bench.Task"),
    ],
)
def test_one_line_for_what_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: type[Exception], line: str
) -> None:
    touch(tmp_path, ["readme.txt"])
    (tmp_path / "mine.py").write_text("from pathlib import Path\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        load_task(name)
    assert line in str(caught.value)


READER = """
import pandas as pd
from uamix_bench.plugins.card import TaskCard
from uamix_bench.data.task import Task

class Mine(Task):
    card = TaskCard(
        name="mine", title="Mine", licence="MIT", version="3", clip_seconds=4.0, label="l", group="g", splits=("test",)
    )
    marker = "here.txt"

    def clips(self, root):
        return KIND(dict(zip(COLUMNS, zip(*ROWS))))
"""


@pytest.fixture
def reader(tmp_path: Path) -> Callable[..., str]:
    def made(rows: list[tuple[str, ...]], columns: Iterable[str] = COLUMNS, kind: str = "pd.DataFrame") -> str:
        text = READER.replace("ROWS", repr(rows)).replace("COLUMNS", repr(list(columns))).replace("KIND", kind)
        (tmp_path / "mine.py").write_text(text)
        touch(tmp_path / "data/mine", ["here.txt"])
        return f"{tmp_path / 'mine.py'}:Mine"

    return made


@pytest.mark.parametrize("kind", ["pd.DataFrame", "dict"])
def test_a_reader_of_ones_own(reader: Callable[..., str], tmp_path: Path, bench_home: Path, kind: str) -> None:
    table = [("b", "/b", "l2", "b", "test"), ("a", "/a", "l1", "a", "train"), ("c", "/c", "l1", "c", "test")]
    data = load_task(reader(table, kind=kind), tmp_path / "data")
    assert data.table["clip"].tolist() == ["b", "c"]
    assert (data.name, data.card.version, data.root) == ("mine", "3", tmp_path / "data/mine")
    assert isinstance(data.task, Task)
    with pytest.raises(BadInputError, match=r"mine: no here.txt in .*home/data/mine or .*--data-dir"):
        load_task(reader(table))


@pytest.mark.parametrize(
    ("table", "columns", "reason"),
    [
        (
            [("a", "/a", "l", "")],
            ["clip", "path", "label", "split"],
            "its clip table has the columns clip, path, label, split",
        ),
        ([("a", "/a", "l", "a", "")] * 2, COLUMNS, "lists 'a' twice"),
        ([("a", "/a", "l\t", "a", "")], COLUMNS, r"label 'l\\t' holds a control"),
        ([("a", "/a", 5, "a", "")], COLUMNS, "label 5 of its clip table is no text"),
        ([("a", "/a", None, "a", "")], COLUMNS, "label (None|nan) of its clip table is no text"),
    ],
)
def test_a_readers_mistakes_are_named(
    reader: Callable[..., str], tmp_path: Path, table: list[tuple[str, ...]], columns: list[str], reason: str
) -> None:
    with pytest.raises(BadInputError, match=reason):
        load_task(reader(table, columns), tmp_path / "data")


def test_verify_lists_problems(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    soundfile.write(tmp_path / "good.wav", [0.0] * 100, 16_000)
    data = load_task(listed(tmp_path, "path,label\nbad.wav,x\ngood.wav,y\n"))
    assert data.task.verify(data.root) == []
    assert [problem.subject for problem in data.task.verify(data.root, deep=True)] == [str(tmp_path / "bad.wav")]
    (tmp_path / "bad.wav").write_bytes(b"")
    for deep in (False, True):
        (problem,) = data.task.verify(data.root, deep)
        assert problem[:2] == (str(tmp_path / "bad.wav"), "is empty (0 bytes)")
    (tmp_path / "good.wav").unlink()
    (problem,) = data.task.verify(data.root)
    assert problem.subject == str(tmp_path / "good.wav")


def test_the_real_lists_load(test_data: Path) -> None:
    folder = test_data / "data"
    digits, speakers = (load_task(str(folder / f"spoken-digits/{name}.csv")) for name in ("digits", "speakers"))
    assert len(digits.table) == len(speakers.table) == 2_000
    assert set(digits.table["label"]) == set("0123456789") == set(speakers.table["group"])
    assert digits.table["clip"].tolist() == speakers.table["clip"].tolist()
    assert digits.table["label"].tolist() == speakers.table["group"].tolist()
    assert len(load_task(str(folder / "cc0-samples/clips.csv")).table) == 195


def test_the_clip_table_is_a_data_frame_for_users_of_pandas() -> None:
    task = load_task("instruments")
    assert isinstance(task.clips, pd.DataFrame)
    assert {name: column.tolist() for name, column in task.clips.items()} == {
        name: column.tolist() for name, column in task.table.items()
    }
    codes = task.clips["label"].astype("category").cat.codes
    assert [sorted(set(task.table["label"]))[code] for code in codes] == task.table["label"].tolist()
