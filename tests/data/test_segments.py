"""Segments of recordings: read to the sample in every format, told apart by digests, refused where they are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings, strategies as st

from uamix_bench.data.audio import probe, read, resample, segments
from uamix_bench.data.sound import Sound, sound_digests, sounds
from uamix_bench.data.task import TaskData, load_task
from uamix_bench.embeddings.cache import clip_keys
from uamix_bench.util.errors import BadInputError

RATE = 8_000
FORMATS = [
    *(("wav", subtype) for subtype in ("PCM_16", "PCM_24", "FLOAT", "IMA_ADPCM", "MS_ADPCM", "GSM610", "ULAW")),
    *(("flac", "PCM_16"), ("aiff", "PCM_16"), ("ogg", "VORBIS"), ("ogg", "OPUS"), ("mp3", "MPEG_LAYER_III")),
]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Four seconds of noise that swells, in each format."""
    folder, noise = tmp_path_factory.mktemp("recordings"), np.random.default_rng(0).normal(size=4 * RATE)
    made = {}
    for ending, subtype in FORMATS:
        made[ending, subtype] = folder / f"{subtype}.{ending}"
        soundfile.write(made[ending, subtype], noise * np.linspace(0.01, 0.2, len(noise)), RATE, subtype=subtype)
    return made


@pytest.mark.parametrize("form", FORMATS, ids="-".join)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 3 * RATE), st.integers(1, RATE), st.sampled_from([None, 16_000, 5_000]))
def test_a_segment_is_the_samples_of_the_whole_file(
    recordings: dict[tuple[str, str], Path], form: tuple[str, str], first: int, count: int, rate: int | None
) -> None:
    """Of every format, whether its decoder can seek or not."""
    path = recordings[form]
    whole, own_rate = read(path, None)
    stop = min(first + count, len(whole))
    sound = Sound(str(path), first / own_rate, stop / own_rate)
    wanted = whole[first:stop] if rate is None else resample(whole[first:stop], own_rate, rate)
    np.testing.assert_array_equal(read(sound, rate).samples, wanted)
    assert probe(sound).frames == stop - first
    part = read(sound, None, max_seconds=0.01, offset=(stop - first) // 2 / own_rate).samples
    np.testing.assert_array_equal(part, whole[first + (stop - first) // 2 : stop][: round(0.01 * own_rate)])


def test_windows_of_a_segment_end_with_it(recordings: dict[tuple[str, str], Path]) -> None:
    path = recordings["flac", "PCM_16"]
    whole = read(path, None).samples
    found = list(segments(Sound(str(path), 0.5, 1.75), RATE, 0.5))
    assert [len(one) for one in found] == [4_000, 4_000, 2_000]
    np.testing.assert_array_equal(np.concatenate(found), whole[4_000:14_000])


def test_no_two_segments_share_a_digest_or_a_key(recordings: dict[tuple[str, str], Path], bench_home: Path) -> None:
    one, other = (str(recordings[form]) for form in FORMATS[:2])
    wanted = [Sound(path, *times) for path in (one, other) for times in ((), (0.0, 1.0), (0.0, 1.5), (0.5, 1.5))]
    found = sound_digests(wanted)
    assert found.failed == {}
    assert len({*found.digests, *clip_keys(found.digests, 10.0)}) == 16
    assert sound_digests(wanted[::-1], memo=False).digests == found.digests[::-1]
    (lost,) = sound_digests([Sound(f"{one}.gone", 0.0, 1.0)]).failed.values()
    assert "no such file" in str(lost)


# --- lists


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", np.random.default_rng(1).normal(scale=0.1, size=2 * RATE), RATE)
    return tmp_path


def load(folder: Path, *lines: str, header: str = "path,start,end,label") -> TaskData:
    (folder / "events.csv").write_text("\n".join([header, *lines, ""]))
    return load_task(str(folder / "events.csv"))


@pytest.mark.parametrize("names", ["start,end", "onset,offset"])
def test_a_list_of_segments(folder: Path, names: str) -> None:
    header = f"path,{names},label,species"
    data = load(folder, "a.wav,0.5,1.25,cat,x", "a.wav,1.25,2,dog,x", "b.wav,0,0.00025,cat,x", header=header)
    assert data.table["clip"].tolist() == ["a.wav#t=0.5,1.25", "a.wav#t=1.25,2", "b.wav#t=0,0.00025"]
    assert data.table["group"].tolist() == ["a.wav", "a.wav", "b.wav"]
    assert sounds(data.table)[:2] == [Sound(str(folder / "a.wav"), 0.5, 1.25), Sound(str(folder / "a.wav"), 1.25, 2.0)]
    remark, segments = data.remarks
    assert segments.text == "3 clips are segments of 2 files, by the columns of start and end"
    assert remark.text == "column species of the list is not used (used: clip, path, label, group, split, start, end)"


def test_ids_and_groups_of_the_list_s_own(folder: Path) -> None:
    header = "clip,path,start,end,label,group"
    data = load(folder, "two,a.wav,0.5,1,cat,night", "one,a.wav,0,0.5,dog,", header=header)
    assert data.table.to_pandas()[["clip", "group"]].to_numpy().tolist() == [["one", "a.wav"], ["two", "night"]]
    with pytest.raises(BadInputError, match=r"events\.csv: line 2 has an absolute path for its clip"):
        load(folder, "/home/me,a.wav,0.5,1,cat,", header=header)
    with pytest.raises(BadInputError, match=r"events\.csv: line 3 repeats one"):
        load(folder, "one,a.wav,0.5,1,cat,", "one,b.wav,0,1,cat,", header=header)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["a.wav,0,1,cat", 'a.wav,"0,5",1,cat'], r"line 3 has no time in its start \('0,5'\); give seconds"),
        (["a.wav,00:01,1,cat"], "line 2 has no time in its start"),
        (["a.wav,0,,cat"], "line 2 has no end; give seconds"),
        (["a.wav,0,nan,cat"], "line 2 has no time in its end"),
        (["a.wav,-1,1,cat"], "line 2 has no time in its start"),
        (["a.wav,1,1,cat"], "line 2 ends at 1 s and starts at 1 s"),
        (
            ["a.wav,0,1,cat", "a.wav,1.5,2.01,cat", "b.wav,1,5,cat"],
            r"line 3 ends at 2.01 s, and a\.wav lasts 2.000 s, and 1",
        ),
        (
            ["b.wav,0,1,cat", "a.wav,0,1,cat", "a.wav,0.5,1.5,dog"],
            r"lines 3 \(cat\) and 4 \(dog\) overlap in a\.wav at 0.5 s",
        ),
        (["a.wav,0,2,cat", "a.wav,0.1,0.2,cat", "a.wav,0.5,0.6,dog"], r"lines 2 \(cat\) and 4 \(dog\) overlap"),
        (["a.wav,0,1.9,cat", "a.wav,0.1,2,dog", "a.wav,1.95,2,cat"], r"lines 2 \(cat\) and 3 \(dog\) overlap"),
        (["a.wav,0,1,cat", "a.wav,0,1,cat"], r"line 3 repeats a\.wav#t=0,1"),
    ],
)
def test_a_wrong_time_is_one_line_that_names_the_place(folder: Path, lines: list[str], words: str) -> None:
    with pytest.raises(BadInputError, match=rf"events\.csv: {words}") as caught:
        load(folder, *lines)
    assert caught.value.exit_code == 3


def test_times_are_rounded_by_a_millisecond(folder: Path) -> None:
    data = load(folder, "a.wav,0,1.0004,cat", "a.wav,1,2.0009,dog")
    assert [remark.text for remark in data.remarks] == [
        "2 clips are segments of 1 files, by the columns of start and end"
    ]
    assert len(read(sounds(data.table)[1], None).samples) == RATE


def test_overlaps_of_one_label_and_files_without_a_seek_are_told(folder: Path) -> None:
    soundfile.write(folder / "c.mp3", np.zeros(2 * RATE), RATE)
    data = load(folder, "a.wav,0,1,cat", "a.wav,0.5,1.5,cat", "c.mp3,0,1,dog", "c.mp3,1,2,dog")
    assert [remark.text.partition(";")[0] for remark in data.remarks] == [
        "1 overlap an earlier one of the same file",
        "2 lie in MP3 or OGG files, each of which is decoded from its beginning",
        "4 clips are segments of 2 files, by the columns of start and end",
    ]


def test_a_broken_recording_is_left_to_the_embedding(folder: Path) -> None:
    (folder / "a.wav").write_bytes(b"RIFF")
    assert len(load(folder, "a.wav,0,1,cat", "b.wav,0,1,dog").table) == 2


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(1, 5), st.sampled_from("xyz")), min_size=1, max_size=8, unique=True
    )
)
def test_overlaps_are_found_as_by_comparing_all_pairs(listed: list[tuple[int, int, str]]) -> None:
    from uamix_bench.data.segments import Segment, _overlaps

    parts = [Segment(line, start, start + length, label) for line, (start, length, label) in enumerate(listed)]
    pairs = [
        (a, b) for a in parts for b in parts if a.line < b.line and max(a.start_s, b.start_s) < min(a.end_s, b.end_s)
    ]
    found = list(_overlaps(parts))
    assert {frozenset(pair) for pair in found} <= {frozenset(pair) for pair in pairs}
    assert bool(found) == bool(pairs)
    assert any(a.label != b.label for a, b in found) == any(a.label != b.label for a, b in pairs)
