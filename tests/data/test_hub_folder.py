"""Data sets as the Hugging Face Hub keeps them: audio folders with metadata, and parquet files of sounds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from uamix_bench.data import parquet
from uamix_bench.data.audio import probe, read, segments
from uamix_bench.data.sound import Sound, sound_digests, sounds
from uamix_bench.data.task import TaskData, load_task
from uamix_bench.finetuning.splits import read_labels
from uamix_bench.storage.digests import file_digests
from uamix_bench.util.errors import BadInputError, MachineError

RATE = 8_000
USED = "clip, path, label, group, split"
UNUSED = f"columns: column text of the list is not used (used: {USED}); clips are read from their start"
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def sound(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).normal(scale=0.1, size=RATE // 4), RATE)
    return path


def rows(data: TaskData) -> list[list[str]]:
    return data.table.to_pandas()[["clip", "label", "group", "split"]].to_numpy().tolist()


def said(data: TaskData) -> list[str]:
    return [str(remark) for remark in data.remarks]


# --- audio folders


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_metadata_in_the_root(tmp_path: Path, form: str) -> None:
    for seed, name in enumerate(("data/a.wav", "data/b.wav", "data/left.wav")):
        sound(tmp_path / name, seed)
    listed = [("data/a.wav", "cat", "x"), ("data/b.wav", "dog", "y")]
    if form == "csv":
        (tmp_path / "metadata.csv").write_text("file_name,label,text\n" + "".join(f"{','.join(r)}\n" for r in listed))
    elif form == "jsonl":
        lines = [json.dumps(dict(zip(("file_name", "label", "text"), row, strict=True))) for row in listed]
        (tmp_path / "metadata.jsonl").write_text("\n\n".join(lines))
    else:
        columns = dict(zip(("file_name", "label", "text"), map(list, zip(*listed, strict=True)), strict=True))
        pq.write_table(pa.table(columns), tmp_path / "metadata.parquet")
    data = load_task(str(tmp_path))
    assert rows(data) == [["data/a.wav", "cat", "data/a.wav", ""], ["data/b.wav", "dog", "data/b.wav", ""]]
    assert said(data) == [
        UNUSED,
        "metadata: 1 sounds of the folder are not in its metadata and left out",
    ]
    assert load_task(str(tmp_path / f"metadata.{form}")).clips_sha256 == data.clips_sha256  # the file itself


def test_metadata_of_each_split(tmp_path: Path) -> None:
    for split, label in (("train", "cat"), ("test", "dog")):
        sound(tmp_path / "data" / split / "a.wav")
        (tmp_path / "data" / split / "metadata.csv").write_text(f"file_name,label\na.wav,{label}\n")
    data = load_task(str(tmp_path))
    assert rows(data) == [
        ["data/test/a.wav", "dog", "data/test/a.wav", "test"],
        ["data/train/a.wav", "cat", "data/train/a.wav", "train"],
    ]
    assert data.remarks == ()


def test_segments_in_metadata(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")
    (tmp_path / "metadata.csv").write_text("file_name,onset,offset,label\na.wav,0,0.1,cat\na.wav,0.1,0.25,dog\n")
    data = load_task(str(tmp_path))
    assert [row[0] for row in rows(data)] == ["a.wav#t=0,0.1", "a.wav#t=0.1,0.25"]
    (tmp_path / "metadata.csv").write_text("file_name,onset,offset,label\na.wav,0,0.1,cat\na.wav,0.1,0.26,dog\n")
    with pytest.raises(BadInputError, match=r"metadata\.csv: line 3 ends at 0.26 s, and a\.wav lasts 0.250 s"):
        load_task(str(tmp_path))


def test_metadata_without_labels_leave_the_class_folders(tmp_path: Path) -> None:
    sound(tmp_path / "cat" / "a.wav")
    (tmp_path / "metadata.csv").write_text("file_name,text\ncat/a.wav,meow\n")
    data = load_task(str(tmp_path))
    assert rows(data) == [["cat/a.wav", "cat", "cat/a.wav", ""]]
    assert said(data) == ["metadata: metadata.csv has no column label and is not used; classes are the folders' names"]
    (tmp_path / "cat" / "a.wav").rename(tmp_path / "a.wav")
    with pytest.raises(BadInputError, match=r"metadata\.csv: has no column 'label' \(it has: file_name, text\)"):
        load_task(str(tmp_path))


@pytest.mark.parametrize("text", ["{", "[1]", '{"file_name": "a.wav"}'])
def test_a_faulty_line_of_json_is_named(tmp_path: Path, text: str) -> None:
    sound(tmp_path / "a.wav")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.wav", "label": "cat"}\n' + text)
    with pytest.raises(BadInputError, match=r"metadata\.jsonl: line 2 (is not JSON|is no JSON object|has no label)"):
        load_task(str(tmp_path))


# --- several classes


@pytest.mark.parametrize(
    ("name", "text", "separator"),
    [
        ("list.csv", 'path,labels\na.wav,"cat,dog"\nb.wav,owl\n', ","),
        ("list.csv", "path,labels\na.wav,cat;dog\nb.wav,owl\n", ";"),
        ("list.csv", "path,label\na.wav,\"['cat', 'dog']\"\nb.wav,['owl']\n", ";"),
        ("list.jsonl", '{"path": "a.wav", "label": ["cat", "dog"]}\n{"path": "b.wav", "label": ["owl"]}\n', ";"),
    ],
)
def test_several_classes_are_for_finetune_alone(tmp_path: Path, name: str, text: str, separator: str) -> None:
    for one in ("a.wav", "b.wav"):
        sound(tmp_path / one)
    (tmp_path / name).write_text(text)
    data = load_task(str(tmp_path / name))
    column = "labels" if "labels" in text else "label"
    assert data.several == (column, separator)
    with pytest.raises(BadInputError, match=f"column '{column}' gives clips several classes.*uamix-bench finetune"):
        _ = data.sorted_clips
    found = read_labels(data, data.several.separator)
    assert found.classes == ("cat", "dog", "owl")
    assert found.targets.tolist() == [[True, True, False], [False, False, True]]


def test_one_class_a_clip_may_be_called_labels(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")
    (tmp_path / "list.csv").write_text("path,labels\na.wav,cat\n")
    assert load_task(str(tmp_path / "list.csv")).several is None
    (tmp_path / "list.csv").write_text('path,label\na.wav,"Beluga, White Whale"\n')
    assert load_task(str(tmp_path / "list.csv")).several is None
    (tmp_path / "list.csv").write_text("path,label\na.wav,\"['a;b']\"\n")
    with pytest.raises(BadInputError, match=r"list\.csv: class 'a;b' holds ';', which separates classes"):
        load_task(str(tmp_path / "list.csv"))


# --- parquet

CLASSES = {
    "info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "audio": {"_type": "Audio"}}}
}


def write(path: Path, files: Sequence[Path | None], *, names: bool = True, **columns: list[Any]) -> Path:
    """A parquet file as `datasets` writes it, with row groups of two."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": one and one.read_bytes(), "path": one.name if one and names else None} for one in files]
    table = pa.table({"audio": pa.array(cells, kind), **columns})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({b"huggingface": json.dumps(CLASSES)}), path, row_group_size=2)
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [sound(tmp_path / "files" / f"{name}.{ending}", seed) for seed, (name, ending) in enumerate(FILES)]


FILES = [("e", "wav"), ("d", "flac"), ("c", "mp3"), ("b", "ogg"), ("a", "wav")]


def test_a_row_is_the_file_in_it(tmp_path: Path, bench_home: Path, files: list[Path]) -> None:
    """Its samples, its header and its digest, and so its key in the cache."""
    path = write(tmp_path / "pets.parquet", files, label=[0, 1, 0, 1, 0], text=["x"] * 5)
    data = load_task(str(path))
    assert rows(data) == [
        [f"{n}.{e}", label, f"{n}.{e}", ""]
        for (n, e), label in zip(FILES[::-1], "cat dog cat dog cat".split(), strict=True)
    ]
    assert [str(one) for one in sounds(data.table)[:1]] == [f"{path} row 4"]
    for one, file in zip(sounds(data.table), files[::-1], strict=True):
        np.testing.assert_array_equal(read(one, 16_000).samples, read(file, 16_000).samples)
        assert probe(one) == probe(file)
        assert len(list(segments(one, RATE, 0.1))) == len(list(segments(file, RATE, 0.1)))
    wanted = file_digests(list(map(str, files[::-1]))).digests
    assert sound_digests(sounds(data.table)).digests == wanted
    assert sound_digests(sounds(data.table)).digests == wanted  # as remembered
    assert said(data) == [UNUSED]


def test_a_changed_file_has_other_digests(tmp_path: Path, bench_home: Path, files: list[Path]) -> None:
    path = write(tmp_path / "pets.parquet", files[:2], label=[0, 1])
    before = sound_digests([Sound(str(path), row=0)]).digests
    write(path, files[1:3], label=[0, 1])
    assert sound_digests([Sound(str(path), row=0)]).digests != before
    assert sound_digests([Sound(str(path), row=0)]).digests == [hashlib.sha256(files[1].read_bytes()).digest()]


def test_shards_of_splits_in_a_folder(tmp_path: Path, files: list[Path]) -> None:
    root = tmp_path / "set"
    write(root / "data" / "train-00000-of-00002.parquet", files[:2], label=[0, 1])
    write(root / "data" / "train-00001-of-00002-0a1b.parquet", files[2:3], label=[0])
    write(root / "data" / "test-00000-of-00001.parquet", files[:2], label=[1, 0])  # the names are those of train
    assert rows(load_task(str(root))) == [
        [f"data/{name}", label, f"data/{name}", split]
        for name, label, split in (
            ("test-00000-of-00001.parquet#0", "dog", "test"),
            ("test-00000-of-00001.parquet#1", "cat", "test"),
            ("train-00000-of-00002.parquet#0", "cat", "train"),
            ("train-00000-of-00002.parquet#1", "dog", "train"),
            ("train-00001-of-00002-0a1b.parquet#0", "cat", "train"),
        )
    ]


def test_faults_of_a_parquet_file_are_named(tmp_path: Path, bench_home: Path, files: list[Path]) -> None:
    path = write(tmp_path / "x.parquet", [files[0], None, files[1]], label=[0, 1, None])
    with pytest.raises(BadInputError, match=r"x\.parquet: row 2 has no label; fill it or delete the row"):
        load_task(str(path))
    (lost,) = sound_digests([Sound(str(path), row=row) for row in range(3)]).failed.values()
    assert str(lost) == f"{path} row 1: holds no bytes of a sound; give files that hold their sounds"
    with pytest.raises(BadInputError, match="row 1: holds no bytes"):
        read(Sound(str(path), row=1), None)
    with pytest.raises(BadInputError, match=r"x\.parquet row 9: has 3 rows"):
        read(Sound(str(path), row=9), None)
    write(path, [files[0]], label=[[0, 1]])
    assert load_task(str(path)).several == ("label", ";")
    assert load_task(str(path)).table["label"].tolist() == ["cat;dog"]
    pq.write_table(pa.table({"label": ["cat"], "sound": [1]}), path)
    with pytest.raises(BadInputError, match=r"x\.parquet: has no column of sounds \(it has: label, sound\)"):
        load_task(str(path))
    for content in (b"", b"PAR1 and more", path.read_bytes()[:-20]):
        path.write_bytes(content)
        with pytest.raises(BadInputError, match=r"x\.parquet: is damaged or no parquet file"):
            load_task(str(path))


def test_few_row_groups_are_in_memory(tmp_path: Path, files: list[Path]) -> None:
    path = write(tmp_path / "x.parquet", files * 2, names=False, label=[0] * 10)
    groups = parquet._Groups(most_bytes=20_000)
    found = [groups.value(str(path), row) for row in (9, 0, 5, 3, 8, 9, 1)]
    assert found == [(files * 2)[row].read_bytes() for row in (9, 0, 5, 3, 8, 9, 1)]
    assert 1 <= len(groups._held) < 5
    assert sum(size for _, size in list(groups._held.values())[:-1]) <= 20_000


@pytest.mark.usefixtures("bench_home")
def test_a_file_replaced_by_one_of_its_size_and_time_is_read_again(tmp_path: Path) -> None:
    old, new = (sound(tmp_path / f"{seed}.wav", seed) for seed in (1, 2))
    path, other = (write(tmp_path / f"{one.stem}.parquet", [one], names=False, label=[0]) for one in (old, new))
    assert sound_digests([Sound(str(path), row=0)]).digests == file_digests([str(old)]).digests
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    assert other.stat().st_size == path.stat().st_size
    other.replace(path)
    assert sound_digests([Sound(str(path), row=0)]).digests == file_digests([str(new)]).digests


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.parquet", files[:1], label=[0])

    def refuse(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name="pyarrow")

    monkeypatch.setattr("uamix_bench.util.errors.import_module", refuse)
    with pytest.raises(
        MachineError, match=r"needs pyarrow, which is not installed; pip install 'uamix-bench\[parquet\]'"
    ):
        load_task(str(path))
