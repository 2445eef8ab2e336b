"""Data sets that a card alone describes: a user's own, and the project's four with unverified layouts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pydantic import ValidationError

from uamix_bench.cli import main, selection
from uamix_bench.data.sound import Sound, sounds
from uamix_bench.data.task import TaskData, load_task
from uamix_bench.plugins import registry
from uamix_bench.plugins.card import Layout
from uamix_bench.records.store import ResultStore
from uamix_bench.util.errors import BadInputError

CARD = """
name = "pets"
title = "Pets"
version = "2"
licence = "CC0"
clip_seconds = 1.0
label = "animal"
group = "owner"
"""


def put(folder: Path, names: Mapping[str, str] | list[str]) -> Path:
    """Files that only a list sees, or short noises where the value is empty."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(names[name] if isinstance(names, Mapping) else "")
    return folder


def load(folder: Path, layout: str, more: str = "", **options: object) -> TaskData:
    put(folder, {"pets.toml": f"{CARD}{more}\n[layout]\n{layout}\n"})
    return load_task(str(folder / "pets.toml"), folder / "nowhere", **options)  # type: ignore[arg-type]


def rows(data: TaskData) -> list[list[str]]:
    return data.table.to_pandas()[["clip", "label", "group", "split"]].to_numpy().tolist()


def test_names_of_files_tell_label_and_group(tmp_path: Path) -> None:
    put(tmp_path, ["wav/anna_cat_1.wav", "wav/ben_dog_1.wav", "wav/anna_dog_x_2.wav", "wav/README.txt", "loose.wav"])
    layout = 'path = "wav/{owner}_{animal}_{take}.wav"\nlabel = "{animal}"\ngroup = "{owner}"\nsplit = "by {owner}"'
    data = load(tmp_path, layout)
    assert (data.name, data.card.version, data.card.clip_seconds) == ("pets", "2", 1.0)
    assert rows(data) == [
        ["wav/anna_cat_1.wav", "cat", "anna", "by anna"],
        ["wav/anna_dog_x_2.wav", "dog", "anna", "by anna"],
        ["wav/ben_dog_1.wav", "dog", "ben", "by ben"],
    ]
    assert [str(remark) for remark in data.remarks] == [
        "layout: 1 sounds do not match wav/{owner}_{animal}_{take}.wav and are left out"
    ]


@pytest.mark.parametrize("value", ["null", "NaN"])
def test_a_list_without_a_label_is_refused(tmp_path: Path, value: str) -> None:
    put(tmp_path, ["a.wav", "b.wav"])
    put(tmp_path, {"meta.jsonl": f'{{"file": "a.wav", "kind": "x"}}\n{{"file": "b.wav", "kind": {value}}}\n'})
    with pytest.raises(BadInputError, match="line 2 has no label"):
        load(tmp_path, 'list = "meta.jsonl"\npath = "{file}"\nlabel = "{kind}"')


def test_columns_of_a_list_under_their_own_names(tmp_path: Path) -> None:
    """Its columns start and end are not taken for times, as the card does not name them."""
    put(tmp_path, ["audio/1/a.wav", "audio/2/b.wav", "audio/2/c.wav"])
    put(tmp_path, {"meta.csv": "file,fold,kind,start,end\na.wav,1,C,9,13\nb.wav,2,D,0,4\nc.wav,2,X,1,2\n"})
    layout = (
        'list = "meta.csv"\npath = "audio/{fold}/{file}"\nlabel = "{kind}"\nsplit = "fold{fold}"\n'
        'labels = {C = "cat", D = "dog"}\nleave_out = ["X"]'
    )
    data = load(tmp_path, layout, "classes = 2\nclips = 2")
    assert rows(data) == [
        ["audio/1/a.wav", "cat", "audio/1/a.wav", "fold1"],
        ["audio/2/b.wav", "dog", "audio/2/b.wav", "fold2"],
    ]
    assert sounds(data.table)[0] == Sound(str(tmp_path / "audio/1/a.wav"))
    with pytest.raises(BadInputError, match="has labels that the card does not name \\(D\\)"):
        load(tmp_path, layout.replace(', D = "dog"', ""))
    with pytest.raises(BadInputError, match=r"meta\.csv: has no column 'kin' \(it has: file, fold, kind, start, end\)"):
        load(tmp_path, layout.replace("{kind}", "{kin}"))


def test_times_that_the_card_names_are_segments(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 8_000)
    events = [{"file": "a", "t0": 0, "t1": 0.5, "kind": "cat"}, {"file": "a", "t0": 0.5, "t1": 2, "kind": "dog"}]
    put(tmp_path, {"meta.jsonl": "\n".join(map(json.dumps, events))})
    layout = 'list = "meta.jsonl"\npath = "{file}.wav"\nlabel = "{kind}"\nstart = "{t0}"\nend = "{t1}"'
    assert [row[0] for row in rows(load(tmp_path, layout))] == ["a.wav#t=0,0.5", "a.wav#t=0.5,2"]


def test_a_list_in_the_usual_form_and_class_folders(tmp_path: Path) -> None:
    put(tmp_path, ["cat/a.wav", "dog/b.wav"])
    folders = load(tmp_path, "")
    put(tmp_path, {"list.csv": "path,label\ncat/a.wav,cat\ndog/b.wav,dog\n"})
    listed = load(tmp_path, 'list = "list.csv"')
    assert rows(folders) == rows(listed)
    with pytest.raises(BadInputError, match="2 of 1 clips found; move away what is not of pets"):
        load(tmp_path, "", "clips = 1")
    with pytest.raises(BadInputError, match="2 of 3 classes found"):
        load(tmp_path, "", "classes = 3")
    with pytest.raises(BadInputError, match=r"2 of 3 clips found; .*--allow-partial"):
        load(tmp_path, "", "clips = 3")
    assert load(tmp_path, "", "clips = 3", allow_partial=True).partial == "2 of 3 clips found"


def test_what_a_list_names_and_the_copy_lacks(tmp_path: Path) -> None:
    put(tmp_path, ["a.wav"])
    put(tmp_path, {"meta.csv": "file,kind\na.wav,cat\nb.wav,dog\n"})
    layout = 'list = "meta.csv"\npath = "{file}"\nlabel = "{kind}"'
    with pytest.raises(BadInputError, match=r"1 of 2 clips found \(missing: b\.wav\)"):
        load(tmp_path, layout)
    (tmp_path / "a.wav").unlink()
    with pytest.raises(BadInputError, match=r"holds none of the 2 clips of meta\.csv"):
        load(tmp_path, layout)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"path": "/a/{x}.wav", "label": "{x}"}, "below the data set's root"),
        ({"list": "../meta.csv"}, "below the data set's root"),
        ({"label": "{x}"}, "is a template, and there is none for path"),
        ({"path": "{x}.wav"}, "label: is missing beside path"),
        ({"path": "{x}.wav", "label": "{y}"}, "has no field {y}"),
        ({"path": "{x}/{x}.wav", "label": "{x}"}, "names a field twice"),
        ({"path": "{x}", "label": "{x}", "start": "{x}"}, "a segment has both"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(fields: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Layout.model_validate(fields)


def test_a_card_without_a_layout_or_of_a_published_name(tmp_path: Path) -> None:
    put(tmp_path, {"pets.toml": CARD})
    with pytest.raises(BadInputError, match=r"pets\.toml: has no \[layout\]"):
        load_task(str(tmp_path / "pets.toml"))
    put(tmp_path, {"esc.toml": CARD.replace("pets", "esc50") + "[layout]\n"})
    with pytest.raises(BadInputError, match=r"esc\.toml: is the card of 'esc50', a published data set; rename it"):
        load_task(str(tmp_path / "esc.toml"))


# --- the project's own

US8K = "UrbanSound8K/metadata/UrbanSound8K.csv"
COPIES = {
    "urbansound8k": {
        US8K: "slice_file_name,fsID,start,end,salience,fold,classID,class\n"
        "100-3-0-0.wav,100,0.0,4.0,1,5,3,dog_bark\n200-1-0-0.wav,200,58.0,62.0,1,10,1,car_horn\n",
        "UrbanSound8K/audio/fold5/100-3-0-0.wav": "",
        "UrbanSound8K/audio/fold10/200-1-0-0.wav": "",
    },
    "crema-d": {"AudioWAV/1001_DFA_ANG_XX.wav": "", "AudioWAV/1040_ITH_SAD_X.wav": ""},
    "vocalsound": {"audio_16k/f0003_0_cough.wav": "", "audio_16k/m0004_1_throatclearing.wav": ""},
    "watkins": {
        "annotations.csv": ",path,species\n0,audio/1.wav,Killer_Whale\n"
        '1,audio/2.wav,"Beluga,_White_Whale"\n2,audio/3.wav,Weddell_Seal\n',
        "audio/1.wav": "",
        "audio/2.wav": "",
        "audio/3.wav": "",
    },
}
TABLES = {
    "urbansound8k": [
        ["audio/fold10/200-1-0-0.wav", "car_horn", "200", "fold10"],
        ["audio/fold5/100-3-0-0.wav", "dog_bark", "100", "fold5"],
    ],
    "crema-d": [
        ["AudioWAV/1001_DFA_ANG_XX.wav", "anger", "1001", ""],
        ["AudioWAV/1040_ITH_SAD_X.wav", "sad", "1040", ""],
    ],
    "vocalsound": [
        ["audio_16k/f0003_0_cough.wav", "cough", "f0003", ""],
        ["audio_16k/m0004_1_throatclearing.wav", "throatclearing", "m0004", ""],
    ],
    "watkins": [
        ["audio/1.wav", "Killer_Whale", "audio/1.wav", ""],
        ["audio/2.wav", "Beluga,_White_Whale", "audio/2.wav", ""],
    ],
}


def test_every_layout_of_the_project_is_unverified_and_tested_here() -> None:
    by_card = {name: plugin.card for name, plugin in registry.tasks().items() if plugin.card.layout}
    assert set(by_card) == set(COPIES) == set(TABLES)
    assert not set(by_card) & set(selection.tasks("all"))
    assert selection.tasks("crema*") == ["crema-d"]
    assert all(card.unverified and card.citation and card.home and card.licence for card in by_card.values())


@pytest.mark.parametrize("name", COPIES)
def test_the_described_layout_is_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / name, COPIES[name])
    with pytest.raises(BadInputError, match=r"2 of (7,442|8,732) clips found|2 of (6|31) classes found"):
        load_task(name, tmp_path)
    card = registry.find_task(name).card.model_copy(update={"clips": None, "classes": 2})
    plugin = registry.find_task(name)
    monkeypatch.setattr(registry, "find_task", lambda _: registry.Plugin(name, plugin.entry_point, card, plugin.folder))
    data = load_task(name, tmp_path)
    assert rows(data) == TABLES[name]
    assert [remark.code for remark in data.remarks] == ["unverified"]
    assert not data.version_tells_sounds  # its sounds are in the identity of results


# --- commands


def test_a_card_from_a_terminal(
    tmp_path: Path, bench_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0)
    for label in ("cat", "dog", "owl"):
        for number in range(4):
            path = tmp_path / "wav" / f"p{number}_{label}.wav"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, noise.normal(scale=0.1, size=4_000), 16_000)
    layout = 'path = "wav/{owner}_{animal}.wav"\nlabel = "{animal}"\ngroup = "{owner}"\n'
    put(tmp_path, {"pets.toml": f'{CARD}unverified = "a guess"\nclips = 12\n[layout]\n{layout}'})
    monkeypatch.chdir(tmp_path)
    assert main(["tasks", "verify", "pets.toml", "--deep"]) == 0
    assert "pets@2: 12 clips in" in capsys.readouterr().out
    arguments = ["fewshot", "--model", "logmel", "--task", "pets.toml", "--n", "3", "--q", "2", "--episodes", "5"]
    assert main(arguments) == 0
    assert "pets: the layout is unverified: a guess" in capsys.readouterr().err
    ((_, result),) = ResultStore()
    assert (result.task.name, result.task.version) == ("pets", "2")
    assert result.task.content_sha256
    assert "unverified: the layout is unverified: a guess" in result.status.notes
    (tmp_path / "wav" / "p0_cat.wav").unlink()
    assert main(["tasks", "verify", "pets.toml"]) == 3
    assert "11 of 12 clips found" in capsys.readouterr().out
