from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from uamix_bench.data.task import Task, load_task
from uamix_bench.plugins import registry
from uamix_bench.util.errors import BadInputError

NOTES = {
    "train": ["bass_synthetic_068-049-025", "bass_synthetic_068-049-127", "synth_lead_synthetic_011-060-100"],
    "valid": ["vocal_acoustic_005-061-050"],
    "test": ["vocal_acoustic_005-062-050", "organ_electronic_104-021-075"],
}


@pytest.fixture
def reader() -> Task:
    task: Task = registry.find_task("nsynth").load()()
    return task


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "nsynth"
    for split, notes in NOTES.items():
        audio = root / f"nsynth-{split}" / "audio"
        audio.mkdir(parents=True)
        examples = {}
        for index, note in enumerate(notes):
            instrument, pitch, velocity = note.rsplit("-", 2)
            soundfile.write(audio / f"{note}.wav", np.zeros(64_000), 16_000)
            examples[note] = {
                "note": index,
                "note_str": note,
                "instrument": index,
                "instrument_str": instrument,
                "pitch": int(pitch),
                "velocity": int(velocity),
                "qualities": [0] * 10,
                "qualities_str": ["dark", "reverb"],
                "instrument_family_str": instrument.rsplit("_", 2)[0],
            }
        (audio.parent / "examples.json").write_text(json.dumps(examples, indent=4))
    (root / "MINIATURE").write_text("6 clips")
    return root


def test_lists_the_notes_of_all_three_splits(reader: Task, root: Path) -> None:
    table = reader.clips(root).to_pandas().set_index("clip")
    names = {f"nsynth-{split}/audio/{note}.wav": split for split, notes in NOTES.items() for note in notes}
    assert table["split"].to_dict() == names
    assert all(Path(path).is_file() for path in table["path"])
    assert reader.verify(root, deep=True) == []


def test_label_is_the_instrument_and_group_leaves_out_the_velocity(reader: Task, root: Path) -> None:
    table = reader.clips(root)
    assert table["label"].tolist() == [
        *["bass_synthetic_068"] * 2,
        "synth_lead_synthetic_011",  # the one family with an underscore
        *["vocal_acoustic_005"] * 2,  # one instrument in validation and test
        "organ_electronic_104",
    ]
    assert table["group"].tolist() == [
        *["bass_synthetic_068-049"] * 2,
        "synth_lead_synthetic_011-060",
        "vocal_acoustic_005-061",
        "vocal_acoustic_005-062",
        "organ_electronic_104-021",
    ]


def test_files_that_no_list_names_do_not_count(reader: Task, root: Path) -> None:
    (root / "nsynth-test" / "audio" / "stray.wav").touch()
    assert len(reader.clips(root)) == 6


def test_a_missing_note_is_named(reader: Task, root: Path) -> None:
    note = root / "nsynth-train" / "audio" / "synth_lead_synthetic_011-060-100.wav"
    note.unlink()
    with pytest.raises(BadInputError, match=r"5 of 6 clips found \(missing: nsynth-train/audio/synth_lead_\S+\.wav\)"):
        reader.clips(root)


@pytest.mark.parametrize("split", NOTES)
def test_a_missing_split_is_named_with_counts(root: Path, split: str) -> None:
    shutil.rmtree(root / f"nsynth-{split}")
    counts = rf"{6 - len(NOTES[split])} of 6 clips found \(missing: nsynth-{split}/examples\.json\)"
    with pytest.raises(BadInputError, match=counts):
        load_task("nsynth", root.parent)


def test_the_real_data_set_has_305_979_notes(reader: Task, root: Path) -> None:
    (root / "MINIATURE").unlink()
    with pytest.raises(BadInputError, match=r"6 of 305,979 clips found"):
        reader.clips(root)
    assert reader.card.clips == 289_205 + 12_678 + 4_096
    assert reader.card.classes == 953 + 53


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is not valid JSON"),
        ('{"a-001-002": {', "is not valid JSON"),
        ("[]", "is not an object of notes"),
        ('{"a-001-002": {"pitch": 1}}', "is not an object of notes"),
        ('{"a-001-002": {"instrument_str": "b"}}', "says that its instrument is 'b'"),
        ('{"a": {"instrument_str": "a"}}', "says that its instrument is 'a'"),
    ],
)
def test_a_damaged_list_is_named(reader: Task, root: Path, content: str, reason: str) -> None:
    (root / "nsynth-valid" / "examples.json").write_text(content)
    with pytest.raises(BadInputError, match=reason) as caught:
        reader.clips(root)
    assert caught.value.subject.endswith("nsynth-valid/examples.json")


def test_is_found_in_either_place(root: Path) -> None:
    assert load_task("nsynth", root.parent).clips_sha256 == load_task("nsynth", root).clips_sha256
    with pytest.raises(BadInputError, match=r"no nsynth-train/examples\.json in"):
        load_task("nsynth", root / "nsynth-train")
