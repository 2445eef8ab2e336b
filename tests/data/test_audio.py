"""Decoding, resampling and the refusal of damaged files, on files written here."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings, strategies as st

from uamix_bench.data.audio import AudioInfo, loop, probe, read, resample, segments
from uamix_bench.util.arrays import Samples
from uamix_bench.util.errors import BadInputError

FORMATS = {
    "wav": "PCM_16",
    "flac": "PCM_16",
    "ogg": "VORBIS",
    "opus": "OPUS",
    "mp3": "MPEG_LAYER_III",
    "rf64": "PCM_16",
    "aiff": "PCM_16",
}


def noise(count: int, channels: int = 1) -> Samples:
    """Noise on the grid of 16-bit samples, (count,) or (count, channels)."""
    shape = (count,) if channels == 1 else (count, channels)
    steps = np.random.default_rng(count).integers(-8_000, 8_000, shape)
    return (steps / 32_768).astype(np.float32)


def write(path: Path, samples: Samples, sample_rate: int, kind: str = "wav", subtype: str | None = None) -> bytes:
    """Writes a file of one of `FORMATS`, under any name, and returns its bytes."""
    container = {"opus": "OGG"}.get(kind, kind.upper())
    soundfile.write(path, samples, sample_rate, format=container, subtype=subtype or FORMATS[kind])
    return path.read_bytes()


def tone(frequency: float, sample_rate: int, seconds: float) -> Samples:
    """A sine of amplitude one half, (S,) float32."""
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    return (0.5 * np.sin(2 * np.pi * frequency * times)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("wav", "PCM_16"),
        ("wav", "PCM_24"),
        ("wav", "PCM_32"),
        ("wav", "FLOAT"),
        ("wav", "DOUBLE"),
        ("rf64", "PCM_16"),
        ("aiff", "PCM_16"),
        ("aiff", "PCM_24"),
        ("aiff", "FLOAT"),
        ("flac", "PCM_16"),
        ("flac", "PCM_24"),
    ],
)
def test_lossless_containers_give_the_same_samples_under_any_name(tmp_path: Path, kind: str, subtype: str) -> None:
    samples = noise(5_000)
    for name in ("a.wav", "a.flac", "a.raw", "a", 'new\nline "<b>.mp3'):
        write(tmp_path / name, samples, 22_050, kind, subtype)
        waveform = read(tmp_path / name, None)
        assert waveform.sample_rate == 22_050
        assert waveform.samples.dtype == np.float32
        np.testing.assert_array_equal(waveform.samples, samples)


@pytest.mark.parametrize("kind", ["ogg", "opus", "mp3"])
def test_lossy_containers_keep_length_and_sound(tmp_path: Path, kind: str) -> None:
    sound = tone(440, 48_000, 1.3)
    write(tmp_path / "a", sound, 48_000, kind)
    samples = read(tmp_path / "a", None).samples
    assert len(samples) == len(sound)
    assert np.corrcoef(samples, sound)[0, 1] > 0.99


def test_channels_are_averaged(tmp_path: Path) -> None:
    stereo, many = noise(1_000, 2), noise(1_000, 7)
    write(tmp_path / "stereo", stereo, 8_000)
    write(tmp_path / "many", many, 8_000)
    np.testing.assert_array_equal(read(tmp_path / "stereo", None).samples, stereo.mean(axis=1))
    np.testing.assert_allclose(read(tmp_path / "many", None).samples, many.mean(axis=1), atol=1e-7)


def test_probe_reads_the_header(tmp_path: Path) -> None:
    write(tmp_path / "a", noise(12_000, 2), 48_000, "flac")
    info = probe(tmp_path / "a")
    assert info == AudioInfo(frames=12_000, sample_rate=48_000, channels=2)
    assert info.duration_s == 0.25


@pytest.mark.parametrize(("source", "target"), [(44_100, 16_000), (44_101, 16_000), (8_000, 16_000), (96_000, 32_000)])
def test_a_resampled_tone_is_the_tone_at_the_other_rate(source: int, target: int) -> None:
    begun = time.process_time()
    samples = resample(tone(997, source, 2.0), source, target)
    assert time.process_time() - begun < 1.0  # 44,101 Hz costs a polyphase resampler most of a minute
    inner = slice(target // 10, -target // 10)  # the filter rings at the ends
    assert len(samples) == 2 * target
    np.testing.assert_allclose(samples[inner], tone(997, target, 2.0)[inner], atol=2e-5)


def test_resampling_removes_what_the_new_rate_cannot_hold() -> None:
    assert np.abs(resample(tone(11_000, 44_100, 1.0), 44_100, 16_000)[1_000:-1_000]).max() < 1e-5


@pytest.mark.parametrize("count", [1, 2, 3, 10])
@pytest.mark.parametrize("source", [8_000, 16_000, 44_100, 768_000])
def test_at_least_one_sample_remains(count: int, source: int) -> None:
    assert len(resample(np.ones(count, np.float32), source, 16_000)) >= 1


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("source", [16_000, 48_000])
def test_a_part_equals_that_part_of_the_whole(tmp_path: Path, kind: str, source: int) -> None:
    write(tmp_path / "a", noise(source * 3), source, kind)
    whole = read(tmp_path / "a", 16_000).samples
    for offset, seconds in [(0.0, 1.0), (0.5, 0.3), (1.2345, 10.0), (0.0, 1e-9), (2.9999, None)]:
        part = read(tmp_path / "a", 16_000, max_seconds=seconds, offset=offset).samples
        first = round(offset * 16_000)
        wanted = whole[first:] if seconds is None else whole[first : first + max(1, round(seconds * 16_000))]
        np.testing.assert_allclose(part, wanted, atol=1e-6)


@pytest.mark.parametrize("kind", FORMATS)
def test_decoding_in_blocks_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    write(tmp_path / "a", noise(30_000), 16_000, kind)
    whole, _ = soundfile.read(tmp_path / "a", dtype="float32")
    monkeypatch.setattr("uamix_bench.data.decoder._BLOCK", 777)
    np.testing.assert_allclose(read(tmp_path / "a", None).samples, whole, atol=2e-7)


@pytest.mark.parametrize("source", [1_000, 22_050, 44_100, 44_101, 192_000])
def test_parts_of_odd_rates_equal_the_whole(tmp_path: Path, source: int) -> None:
    write(tmp_path / "a", noise(source * 3), source)
    whole = read(tmp_path / "a", 32_000).samples
    for offset in (0.0, 0.7, 2.3):
        part = read(tmp_path / "a", 32_000, max_seconds=0.4, offset=offset).samples
        np.testing.assert_allclose(part, whole[round(offset * 32_000) :][:12_800], atol=1e-6)


def test_only_the_part_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = 0
    original = soundfile.SoundFile.read

    def counting(self: soundfile.SoundFile, *args: object, **kwargs: object) -> Samples:
        nonlocal decoded
        block: Samples = original(self, *args, **kwargs)
        decoded += len(block)
        return block

    write(tmp_path / "a", noise(44_100 * 20), 44_100)
    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    assert len(read(tmp_path / "a", 16_000, max_seconds=2.0).samples) == 32_000
    assert 2.0 * 44_100 <= decoded < 2.1 * 44_100


def test_silence_and_single_samples_are_sound(tmp_path: Path) -> None:
    write(tmp_path / "silence", np.zeros(100, np.float32), 16_000)
    write(tmp_path / "one", noise(1), 44_100)
    assert not read(tmp_path / "silence", None).samples.any()
    assert len(read(tmp_path / "one", 16_000).samples) == 1


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50), st.integers(1, 200))
def test_loop_repeats_to_the_length(values: list[float], length: int) -> None:
    looped = loop(np.array(values, np.float32), length)
    assert looped.tolist() == [values[index % len(values)] for index in range(length)]


def refusal(path: Path) -> BadInputError:
    """Reads a file that must be refused, in one line that names it and a remedy."""
    with pytest.raises(BadInputError) as caught:
        read(path, 16_000)
    error = caught.value
    assert error.subject == str(path)
    assert error.remedy
    assert len(str(error).splitlines()) == 1
    return error


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"RIFF", "damaged"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs"),
        (b"0123456789" * 100, "not a WAV"),
        (b"\0" * 4_096, "not a WAV"),
        (b"\xff", "not a WAV"),
        (b"\xff\xfb" + b"\0" * 100, "damaged"),
        (b"PAF " + b"\0" * 4_096, "not a WAV"),
    ],
)
def test_what_is_not_sound_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    assert reason in refusal(path).reason


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "missing.wav").reason
    assert "folder" in refusal(tmp_path).reason
    if Path("/dev/zero").exists():
        assert "not a regular file" in refusal(Path("/dev/zero")).reason
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer
        assert "not a regular file" in refusal(tmp_path / "pipe").reason


@pytest.mark.parametrize("kind", FORMATS)
def test_no_truncated_file_is_read_as_a_shorter_one(tmp_path: Path, kind: str) -> None:
    """Truncated at every container edge (chunks, pages, sound data) and at fractions of the whole."""
    content = write(tmp_path / "whole", noise(48_000), 48_000, kind)
    edges = {
        position for mark in (b"fmt ", b"ds64", b"data", b"OggS", b"COMM", b"SSND") for position in _find(content, mark)
    }
    cuts = {edge + shift for edge in edges for shift in (0, 1, 4, 8, 9, 20, 27, 28)}
    cuts |= {round(len(content) * share) for share in (0.01, 0.1, 0.5, 0.9, 0.99)}
    cuts |= {len(content) - 1, len(content) - 2, len(content) - 100, 12, 44}
    for cut in sorted(cuts):
        if 0 < cut < len(content):
            (tmp_path / "cut").write_bytes(content[:cut])
            refusal(tmp_path / "cut")
    assert len(read(tmp_path / "whole", None).samples) == 48_000


def _find(content: bytes, mark: bytes) -> list[int]:
    return [at for at in range(len(content)) if content.startswith(mark, at)]


def test_a_truncated_wav_is_refused_even_where_the_wanted_part_is_whole(tmp_path: Path) -> None:
    content = write(tmp_path / "a", noise(16_000), 16_000)
    (tmp_path / "a").write_bytes(content[:-2])
    with pytest.raises(BadInputError, match=r"claims 32000 bytes of sound, 2 of them are missing"):
        read(tmp_path / "a", None, max_seconds=0.1)


@pytest.mark.parametrize("length", [0xFFFF_FFFF, 0x7FFF_F000, 0xFFFF_FFFF - 44, 0x7FFF_FFFF])
def test_a_streamed_wav_of_unknown_length_is_whole(tmp_path: Path, length: int) -> None:
    samples = noise(1_000)
    content = write(tmp_path / "a", samples, 16_000)
    at = content.index(b"data") + 4
    (tmp_path / "a").write_bytes(content[:at] + struct.pack("<I", length) + content[at + 4 :])
    np.testing.assert_array_equal(read(tmp_path / "a", None).samples, samples)


def test_chunks_around_the_data_are_passed_over(tmp_path: Path) -> None:
    samples = noise(501)
    content = write(tmp_path / "a", samples, 16_000, subtype="PCM_U8")
    before = b"LIST" + struct.pack("<I", 5) + b"INFO!" + b"\0"  # odd, so padded
    at = content.index(b"data")
    odd = content[: at + 8 + 501]  # an odd data chunk at the end of a file, its padding left out
    for whole in (content[:at] + before + content[at:], content + before[:9], odd):
        (tmp_path / "b").write_bytes(whole)
        assert len(read(tmp_path / "b", None).samples) == 501


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    for subtype in ("PCM_16", "FLOAT"):
        write(tmp_path / "a", np.zeros(0, np.float32), 16_000, subtype=subtype)
        assert "no samples" in refusal(tmp_path / "a").reason


def test_an_offset_beyond_the_end_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", noise(44_100), 44_100)
    for offset in (1.0, 5.0):
        with pytest.raises(BadInputError, match="holds nothing at"):
            read(tmp_path / "a", 16_000, offset=offset)


@pytest.mark.parametrize("frames", [(1 << 36) - 1, 1 << 31, 40_000])
def test_a_flac_that_claims_other_lengths_is_refused(tmp_path: Path, frames: int) -> None:
    content = bytearray(write(tmp_path / "a", noise(16_000), 16_000, "flac"))
    content[21] = content[21] & 0xF0 | frames >> 32  # STREAMINFO: 36 bits of total samples
    content[22:26] = struct.pack(">I", frames & 0xFFFF_FFFF)
    (tmp_path / "a").write_bytes(content)
    begun = time.process_time()
    refusal(tmp_path / "a")
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize(("channels", "sample_rate"), [(65, 16_000), (1_000, 16_000), (1, 999), (1, 768_001), (1, 1)])
def test_absurd_headers_are_refused(tmp_path: Path, channels: int, sample_rate: int) -> None:
    write(tmp_path / "a", noise(100, channels), sample_rate)
    assert "limits" in refusal(tmp_path / "a").reason


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "not a number"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_samples_that_are_no_numbers_are_named(tmp_path: Path, value: float, reason: str) -> None:
    samples = noise(3_000_000, 1).reshape(-1, 2).copy()
    samples[1_200_345, 1] = value
    write(tmp_path / "a", samples, 16_000, subtype="FLOAT")
    assert refusal(tmp_path / "a").reason == f"sample 1200345 is {reason}"
    assert read(tmp_path / "a", None, max_seconds=1.0).samples.size == 16_000


def test_integers_stored_as_floats_are_refused_and_headroom_is_not(tmp_path: Path) -> None:
    samples = noise(1_000)
    write(tmp_path / "scaled", samples * 32_768, 16_000, subtype="FLOAT")
    write(tmp_path / "hot", samples / np.abs(samples).max() * 7.9, 16_000, subtype="FLOAT")
    assert "times full scale" in refusal(tmp_path / "scaled").reason
    assert read(tmp_path / "hot", None).samples.max() <= 7.9


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(FORMATS)), data=st.data())
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    content = bytearray(write(tmp_path / "a", noise(4_000), 16_000, kind))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, min(len(content) - 1, 300)))] = data.draw(st.integers(0, 255))
    (tmp_path / "a").write_bytes(content)
    try:
        samples = read(tmp_path / "a", 16_000).samples
    except BadInputError as error:
        line = str(error)
        assert "\n" not in line
        return
    assert len(samples) > 0
    assert np.isfinite(samples).all()


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [8_000, 44_100])
@pytest.mark.parametrize(("seconds", "count"), [(0.3, 1), (1.0, 1), (1.45, 1), (1.55, 2), (4.0, 4), (4.4, 4), (4.6, 5)])
def test_segments_are_what_read_gives_at_their_offsets(
    tmp_path: Path, kind: str, rate: int, seconds: float, count: int
) -> None:
    path = tmp_path / "sound"
    write(path, tone(200, rate, seconds) + 0.1 * noise(round(seconds * rate)), rate, kind)
    found = list(segments(path, 8_000, 1.0))
    assert len(found) == count  # a remainder of half a second or more is one, a shorter one is left out
    for index, part in enumerate(found):
        assert np.array_equal(part, read(path, 8_000, max_seconds=1.0, offset=index).samples)
    if rate == 8_000 and kind in ("wav", "flac"):
        whole = read(path, 8_000).samples
        assert np.array_equal(np.concatenate(found), whole[: len(np.concatenate(found))])
        assert len(whole) - sum(map(len, found)) < 4_000


def test_half_a_segment_is_one(tmp_path: Path) -> None:
    for frames, count in ((150, 2), (149, 1), (1, 1), (99, 1), (250, 3), (249, 2)):
        write(tmp_path / "x.wav", noise(frames), 1_000)
        assert len(list(segments(tmp_path / "x.wav", 1_000, 0.1))) == count


def test_segments_hold_no_long_file_in_memory(tmp_path: Path) -> None:
    import tracemalloc

    write(tmp_path / "long.wav", noise(8_000 * 600), 8_000)  # ten minutes: 19 MB as float32
    tracemalloc.start()
    try:
        assert sum(map(len, segments(tmp_path / "long.wav", 16_000, 10.0))) == 16_000 * 600
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


def test_a_damaged_end_is_found_after_the_segments_before_it(tmp_path: Path) -> None:
    content = write(tmp_path / "x.flac", noise(40_000), 8_000, "flac")
    (tmp_path / "x.flac").write_bytes(content[: len(content) * 3 // 4])
    found = segments(tmp_path / "x.flac", 8_000, 1.0)
    assert len([next(found) for _ in range(2)]) == 2
    with pytest.raises(BadInputError, match=r"truncated|damaged"):
        list(found)
