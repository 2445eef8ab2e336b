"""Sounds as encoders, recorders and joined files leave them: read whole or refused, never a first part.

What must come out says ffmpeg, lame or sox where they are installed; the rest is written here by hand.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from uamix_bench.data.audio import probe, read, segments
from uamix_bench.util.arrays import Samples
from uamix_bench.util.errors import BadInputError

RATE = 22_050
PRESET = "-hide_banner -loglevel error -y"


def tool(name: str) -> str:
    """The path of an encoder; the test is skipped where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(name: str, *arguments: object) -> bytes:
    done = subprocess.run([tool(name), *map(str, arguments)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"this {name} cannot: {done.stderr.decode(errors='replace').strip()[-200:]}")
    return done.stdout


def ffmpeg(*arguments: object) -> bytes:
    return run("ffmpeg", *PRESET.split(), *arguments)


def sound(seconds: float = 1.5, rate: int = RATE, seed: int = 0) -> Samples:
    """Quiet noise, then loud: a constant-bitrate guess from the beginning is far off at variable bitrate."""
    draw = np.random.default_rng(seed).standard_normal(round(seconds * rate)) * 0.1
    draw[: len(draw) // 3] *= 0.001
    return np.clip(np.round(draw * 32_768) / 32_768, -1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "sound.wav"
    soundfile.write(path, sound(), RATE)
    return path


def decoded(path: Path, channels: int = 1) -> Samples:
    """What ffmpeg decodes, (S,) float32, averaged over the channels."""
    raw = ffmpeg("-i", path, "-map", "0:a:0", "-f", "f32le", "-c:a", "pcm_f32le", "-")
    samples: Samples = np.frombuffer(raw, np.float32).reshape(-1, channels).mean(axis=1)
    return samples


def check_whole(path: Path, wanted: Samples, delay: int = 0, tolerance: float = 1e-3) -> Samples:
    """Reads a file, by every way of reading, and compares it with what it must give after `delay` more samples."""
    found = read(path, None).samples
    assert len(found) == len(wanted) + delay == probe(path).frames
    np.testing.assert_allclose(found[delay:], wanted, atol=tolerance)
    rate = probe(path).sample_rate
    part = read(path, None, max_seconds=0.2, offset=0.25).samples
    np.testing.assert_allclose(part, found[round(0.25 * rate) :][: round(0.2 * rate)], atol=1e-6)
    joined = np.concatenate(list(segments(path, rate, 0.25)))
    np.testing.assert_allclose(joined, found[: len(joined)], atol=1e-6)
    assert len(found) - len(joined) < 0.125 * rate + 1
    return found


def refusal(path: Path, *words: str) -> str:
    with pytest.raises(BadInputError) as caught:
        read(path, None)
    with pytest.raises(BadInputError):
        list(segments(path, 8_000, 0.25))
    line = str(caught.value)
    assert "\n" not in line
    assert caught.value.remedy
    assert any(word in line for word in words), line
    return line


# --- MP3

LAME = {
    "CBR": "-b 64",
    "CBR without a count": "-b 64 -t",
    "VBR": "-V 4",
    "VBR without a count": "-V 4 -t",
    "ABR without a count": "--abr 80 -t",
    "high VBR without a count": "-V 0 -t",
    "ID3v2": "-V 4 -t --tt title --ta artist --id3v2-only",
    "ID3v1": "-b 64 -t --tt title --ta artist --id3v1-only",
    "both tags": "-V 4 --tt title --ta artist --add-id3v2",
    "checksums": "-b 64 -t -p",
    "MPEG-1": "-b 64 -t --resample 44.1",
    "MPEG-2.5": "-b 16 -t --resample 11.025",
    "stereo": "-V 4 -t -m j",
}


def lame(wav: Path, path: Path, flags: str) -> Path:
    run("lame", "--quiet", *flags.split(), wav, path)
    return path


@pytest.mark.parametrize("flags", LAME.values(), ids=LAME)
def test_an_mp3_of_lame_is_what_ffmpeg_decodes(tmp_path: Path, wav: Path, flags: str) -> None:
    if "-m j" in flags:
        samples, _ = soundfile.read(wav, dtype="float32")
        wav = tmp_path / "stereo.wav"
        soundfile.write(wav, np.stack([samples, np.roll(samples, 40)], axis=1), RATE)
    path = lame(wav, tmp_path / "a.mp3", flags)
    check_whole(path, decoded(path, 2 if "-m j" in flags else 1))


@pytest.mark.parametrize("flags", ["--freeformat -b 200 -t", "--freeformat -b 320"])
def test_free_format_is_what_lame_decodes(tmp_path: Path, wav: Path, flags: str) -> None:
    path = lame(wav, tmp_path / "a.mp3", flags)  # ffmpeg knows no free format
    run("lame", "--quiet", "--decode", path, tmp_path / "b.wav")
    wanted, _ = soundfile.read(tmp_path / "b.wav", dtype="float32")
    check_whole(path, wanted, delay=529 if "-t" in flags else 0)  # lame drops the decoder's delay


FFMPEG_MP3 = {
    "file": ("-f mp3", "a.mp3"),
    "no count": ("-write_xing 0 -q:a 4", "a.mp3"),
    "pipe": ("-f mp3 -q:a 4 pipe:1", None),
    "MP2": ("-c:a mp2 -ar 44100 -f mp2", "a.mp3"),
    "MP3 in WAV": ("-c:a libmp3lame -q:a 4", "a.wav"),
    "ID3v2.3 and ID3v1": ("-write_xing 0 -q:a 4 -id3v2_version 3 -write_id3v1 1 -metadata title=a", "a.mp3"),
}


@pytest.mark.parametrize(("flags", "name"), FFMPEG_MP3.values(), ids=FFMPEG_MP3)
def test_an_mp3_of_ffmpeg_is_what_it_decodes(tmp_path: Path, wav: Path, flags: str, name: str | None) -> None:
    path = tmp_path / (name or "a.mp3")
    written = ffmpeg("-i", wav, *flags.split(), *([path] if name else []))
    if name is None:
        path.write_bytes(written)
    check_whole(path, decoded(path), tolerance=1e-3 if flags[:8] != "-c:a mp2" else 2e-3)


def mp3(seconds: float = 1.5, seed: int = 0) -> bytes:
    """An MP3 by libsndfile, with an Info frame and LAME's delay."""
    import io

    file = io.BytesIO()
    soundfile.write(file, sound(seconds, 44_100, seed), 44_100, format="MP3", subtype="MPEG_LAYER_III")
    return file.getvalue()


def id3v2(size: int) -> bytes:
    return b"ID3\x04\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(size)


def ape(size: int) -> bytes:
    head = b"APETAGEX" + struct.pack("<III", 2_000, size + 32, 0)
    return head + b"\0\0\0\xa0" + bytes(8) + b"a" * size + head + b"\0\0\0\x80" + bytes(8)


ID3V1 = b"TAG" + b"title".ljust(125, b"\0")
PICTURE = id3v2(70_000)


def bare(content: bytes) -> bytes:
    """An MP3 without its Info frame."""
    mark = content.index(b"Info") if b"Info" in content[:200] else content.index(b"Xing")
    return content[content.index(content[:2], mark) :]


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "uncounted"])
@pytest.mark.parametrize(
    ("before", "behind"),
    [
        (b"", ID3V1),
        (PICTURE, b""),
        (id3v2(100) + PICTURE, ID3V1),
        (ape(40), ape(3_000)),
        (b"", ape(30) + ID3V1),
        (b"", id3v2(300)),
        (b"", b"LYRICSBEGIN" + b"x" * 50 + b"000061LYRICS200" + ID3V1),
        (PICTURE, bytes(5_000)),
        (b"", b"\xff" * 3_000),
        (b"", np.random.default_rng(1).bytes(3_000)),
        (id3v2(10) + bytes(500), b""),
    ],
)
def test_tags_and_junk_around_an_mp3_change_nothing(
    tmp_path: Path, counted: bool, before: bytes, behind: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    content = mp3() if counted else bare(mp3())
    (tmp_path / "plain").write_bytes(content)
    (tmp_path / "tagged").write_bytes(before + content + behind)
    wanted = read(tmp_path / "plain", None).samples
    assert len(wanted) == (len(sound(1.5, 44_100)) if counted else probe(tmp_path / "plain").frames)
    check_whole(tmp_path / "tagged", wanted)
    assert capfd.readouterr() == ("", "")  # libmpg123 warns of what it thinks is a wrong size


def patched(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + len(value) :]


def info_at(content: bytes) -> int:
    return max(content[:200].find(b"Info"), content[:200].find(b"Xing"))


def with_vbri(content: bytes, frames: int) -> bytes:
    """An MP3 whose first frame counts in the way of Fraunhofer's encoder."""
    size = len(content) - len(bare(content))
    vbri = content[:4].ljust(36, b"\0") + b"VBRI" + struct.pack(">HHHII", 1, 0, 75, len(content), frames)
    return vbri.ljust(size, b"\0") + bare(content)


def test_a_cut_mp3_without_a_count_is_refused(tmp_path: Path) -> None:
    content = bare(mp3())
    (tmp_path / "a").write_bytes(content)
    whole = read(tmp_path / "a", None).samples
    frame = len(whole) // 1_152
    assert frame * 1_152 == len(whole)
    for cut in (1, 2, 30, 100):
        for tag in (b"", ID3V1, ape(100)):
            (tmp_path / "a").write_bytes(PICTURE + content[:-cut] + tag)
            refusal(tmp_path / "a", "its last frame is incomplete")
    for more in (1, 2, 3, 4, 60):  # bytes of a further frame
        (tmp_path / "a").write_bytes(content + content[:more])
        refusal(tmp_path / "a", "its last frame is incomplete")


@pytest.mark.parametrize("mark", ["Info", "VBRI"])
def test_a_count_above_the_frames_is_refused(tmp_path: Path, mark: str) -> None:
    content = mp3()
    (tmp_path / "a").write_bytes(bare(content))
    frames = probe(tmp_path / "a").frames // 1_152
    for counted in (frames + 2, 2 * frames, (1 << 32) - 1):
        changed = with_vbri(content, counted)
        if mark == "Info":
            changed = patched(content, info_at(content) + 8, struct.pack(">I", counted))
        (tmp_path / "a").write_bytes(changed)
        assert f"counts {counted} frames, {frames} are there" in refusal(tmp_path / "a", "header counts")


@pytest.mark.parametrize("mark", ["Info", "VBRI", "none"])
def test_a_count_below_the_frames_hides_nothing(tmp_path: Path, mark: str) -> None:
    content = mp3()
    (tmp_path / "a").write_bytes(bare(content))
    wanted = read(tmp_path / "a", None).samples
    for counted in (0, 1, 20):
        changed = with_vbri(content, counted)
        if mark == "Info":
            changed = patched(content, info_at(content) + 8, struct.pack(">I", counted))
        if mark == "none":  # the frame is there and its flags say that it holds no count
            changed = patched(content, info_at(content) + 7, b"\0")
        (tmp_path / "a").write_bytes(changed)
        check_whole(tmp_path / "a", wanted)


@pytest.mark.parametrize("between", [b"", ID3V1, PICTURE, ape(40), ID3V1 + id3v2(50)])
def test_joined_mp3_are_read_one_after_the_other(tmp_path: Path, between: bytes) -> None:
    first, second = mp3(1.0, 1), mp3(0.7, 2)
    parts = []
    for content in (first, second):
        (tmp_path / "part").write_bytes(content)
        parts.append(read(tmp_path / "part", None).samples)
    (tmp_path / "a").write_bytes(first + between + second)
    check_whole(tmp_path / "a", np.concatenate(parts))
    (tmp_path / "a").write_bytes(PICTURE + first + between + second + between + first)
    check_whole(tmp_path / "a", np.concatenate([*parts, parts[0]]))
    (tmp_path / "a").write_bytes(first + between + second[:-9])
    refusal(tmp_path / "a", "its last frame is incomplete")
    for cut in (3_000, 2_000):
        (tmp_path / "a").write_bytes(first[:-cut] + between + second)
        refusal(tmp_path / "a", "frames", "damaged", "truncated")


def test_joined_mp3_without_counts_are_one(tmp_path: Path) -> None:
    content = bare(mp3(1.0, 1))
    (tmp_path / "a").write_bytes(content * 2)
    (tmp_path / "b").write_bytes(content)
    assert probe(tmp_path / "a").frames == 2 * probe(tmp_path / "b").frames == len(read(tmp_path / "a", None).samples)
    (tmp_path / "a").write_bytes(content + b"not a tag" * 300 + content)
    refusal(tmp_path / "a", "are no MPEG audio, and more of it follows")


@pytest.mark.parametrize("cut", [1, 100, 2_000])
def test_an_mp3_that_begins_within_a_frame_is_what_ffmpeg_decodes(tmp_path: Path, wav: Path, cut: int) -> None:
    whole = lame(wav, tmp_path / "a.mp3", "-V 4 -t --nores").read_bytes()  # no frame needs those before it
    (tmp_path / "b.mp3").write_bytes(whole[cut:])
    check_whole(tmp_path / "b.mp3", decoded(tmp_path / "b.mp3"))


def test_free_format_frames_below_their_side_information_are_none(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """They would make the decoder write a line each to the screen."""
    (tmp_path / "a.mp3").write_bytes(b"\xff\xfb\x00\x00" * 1_000)
    refusal(tmp_path / "a.mp3", "damaged", "truncated")
    assert capfd.readouterr().err == ""


def test_mp3_of_different_rates_are_not_joined(tmp_path: Path) -> None:
    other = tmp_path / "b"
    soundfile.write(other, sound(1.0, 32_000), 32_000, format="MP3", subtype="MPEG_LAYER_III")
    for content in (mp3() + other.read_bytes(), bare(mp3()) + bare(other.read_bytes())):
        (tmp_path / "a").write_bytes(content)
        refusal(tmp_path / "a", "different rates (32000, 44100 Hz)")


def test_joined_streams_of_different_channels_are_mixed_down_each(tmp_path: Path) -> None:
    stereo = tmp_path / "b"
    soundfile.write(stereo, np.stack([sound(1.0, 44_100, 4)] * 2, axis=1), 44_100, format="MP3")
    (tmp_path / "a").write_bytes(mp3())
    wanted = [read(tmp_path / name, None).samples for name in "ab"]
    (tmp_path / "c").write_bytes(mp3() + stereo.read_bytes())
    check_whole(tmp_path / "c", np.concatenate(wanted))
    assert probe(tmp_path / "c").channels == 2


# --- WAV and AIFF


def riff(data: bytes, claimed: int | None = None, before: bytes = b"", behind: bytes = b"", tag: int = 1) -> bytes:
    """A WAV of 16-bit samples at 16 kHz, whose data chunk claims any length."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, tag, 1, 16_000, 32_000, 2, 16)
    length = len(data) if claimed is None else claimed
    body = b"WAVE" + form + before + b"data" + struct.pack("<I", length) + data + behind
    return b"RIFF" + struct.pack("<I", len(body)) + body


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


PCM = (sound(0.5, 16_000) * 32_768).astype("<i2")
JUNK = chunk(b"JUNK", bytes(4_000))


@pytest.mark.parametrize(
    "content",
    [
        riff(PCM.tobytes()),
        riff(PCM.tobytes(), 0),
        riff(PCM.tobytes(), 0, before=JUNK),
        riff(PCM.tobytes(), 0xFFFF_FFFF),
        riff(PCM.tobytes(), 0x7FFF_F000, before=JUNK),
        riff(PCM.tobytes(), behind=JUNK + chunk(b"LIST", b"INFOx" + bytes(3))),
        riff(PCM.tobytes(), behind=chunk(b"abcd", bytes(10))),
        riff(PCM.tobytes(), behind=chunk(b"LIST", bytes(100))[:50]),
        riff(PCM.tobytes(), behind=ID3V1),
        riff(PCM.tobytes(), behind=id3v2(30)),
        riff(PCM.tobytes(), behind=bytes(4_096)),
        riff(PCM.tobytes(), behind=b"\r\n"),
        id3v2(30) + riff(PCM.tobytes()),
    ],
)
def test_a_wav_is_read_whole(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    np.testing.assert_array_equal(check_whole(tmp_path / "a", PCM / np.float32(32_768)), PCM / np.float32(32_768))


@pytest.mark.parametrize("claimed", [2, 1_600, 3_201, 2 * len(PCM) - 20])
def test_a_wav_whose_header_lags_behind_is_refused(tmp_path: Path, claimed: int) -> None:
    for content in (riff(PCM.tobytes(), claimed), riff(PCM.tobytes(), claimed, before=JUNK, behind=JUNK)):
        (tmp_path / "a").write_bytes(content)
        refusal(tmp_path / "a", "unfinished or wrong header")
        with pytest.raises(BadInputError):
            probe(tmp_path / "a")
        if claimed > 2:  # the remedy that the line gives
            ffmpeg("-ignore_length", "1", "-i", tmp_path / "a", tmp_path / "b.wav")
            assert len(read(tmp_path / "b.wav", None).samples) >= len(PCM)


def test_a_second_sound_in_a_wav_is_refused(tmp_path: Path) -> None:
    for content in (riff(PCM.tobytes()) * 2, riff(PCM.tobytes(), behind=JUNK + chunk(b"data", PCM.tobytes()))):
        (tmp_path / "a").write_bytes(content)
        refusal(tmp_path / "a", "holds a second sound")


def test_a_wav_of_nothing_holds_no_samples(tmp_path: Path) -> None:
    for content in (riff(b""), riff(b"", behind=JUNK), riff(b"", behind=bytes(100))):
        (tmp_path / "a").write_bytes(content)
        refusal(tmp_path / "a", "no samples")


@pytest.mark.parametrize(
    "subtype", ["GSM610", "G721_32", "NMS_ADPCM_16", "NMS_ADPCM_32", "IMA_ADPCM", "MS_ADPCM", "ULAW"]
)
def test_codecs_in_wav_are_read_in_any_part(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a"
    soundfile.write(path, 0.5 * np.sin(np.arange(16_000) / 9), 8_000, format="WAV", subtype=subtype)
    with soundfile.SoundFile(path) as file:  # in one block, as nothing seeks then
        wanted = np.zeros(40_000, np.float32)
        wanted = wanted[: file.buffer_read_into(wanted, "float32")]
    assert len(wanted) >= 16_000
    check_whole(path, wanted)


def test_a_cut_gsm_wav_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a", sound(1.0, 8_000), 8_000, format="WAV", subtype="GSM610")
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(content[:-70])
    refusal(tmp_path / "a", "is truncated")


def test_an_rf64_is_read_to_its_end_or_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a", sound(), RATE, format="RF64", subtype="PCM_16")
    content = (tmp_path / "a").read_bytes()
    at = content.index(b"ds64") + 16
    (tmp_path / "a").write_bytes(patched(content, at, bytes(8)))
    check_whole(tmp_path / "a", sound(), tolerance=0)
    for size, words in ((2_000, "unfinished or wrong header"), ((1 << 64) - 1, "truncated")):
        (tmp_path / "a").write_bytes(patched(content, at, struct.pack("<Q", size)))
        refusal(tmp_path / "a", words)


@pytest.mark.parametrize("flags", ["", "-c:a pcm_s24be", "-c:a pcm_f32be", "-c:a pcm_mulaw", "-c:a pcm_s16le"])
def test_an_aiff_is_what_ffmpeg_decodes(tmp_path: Path, wav: Path, flags: str) -> None:
    ffmpeg("-i", wav, *flags.split(), tmp_path / "a.aiff")
    check_whole(tmp_path / "a.aiff", decoded(tmp_path / "a.aiff"))


def test_a_piped_aiff_is_read_to_its_end(tmp_path: Path, wav: Path) -> None:
    (tmp_path / "a").write_bytes(ffmpeg("-i", wav, "-f", "aiff", "-"))
    check_whole(tmp_path / "a", sound())


@pytest.mark.parametrize("kind", ["aiff", "aifc"])
def test_an_aiff_that_sox_piped_is_read_to_its_end(tmp_path: Path, wav: Path, kind: str) -> None:
    (tmp_path / "a").write_bytes(run("sox", wav, "-t", kind, "-"))
    check_whole(tmp_path / "a", sound())


def test_an_aiff_whose_header_lags_behind_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a", sound(), RATE, format="AIFF", subtype="PCM_16")
    content = (tmp_path / "a").read_bytes()
    frames, length = content.index(b"COMM") + 10, content.index(b"SSND") + 4
    shorter = patched(patched(content, frames, struct.pack(">I", 2_000)), length, struct.pack(">I", 4_008))
    for changed in (shorter, patched(content, frames, struct.pack(">I", 2_000)), content + content):
        (tmp_path / "a").write_bytes(changed)
        refusal(tmp_path / "a", "unfinished or wrong header", "second sound")
    (tmp_path / "a").write_bytes(patched(content, frames, struct.pack(">I", len(sound()) + 1)))
    refusal(tmp_path / "a", "is truncated")


# --- FLAC


def flac(samples: Samples | None = None, total: int | None = None) -> bytes:
    import io

    file = io.BytesIO()
    soundfile.write(file, sound() if samples is None else samples, RATE, format="FLAC", subtype="PCM_16")
    content = file.getvalue()
    if total is None:
        return content
    return patched(content, 21, bytes([content[21] & 0xF0 | total >> 32]) + struct.pack(">I", total & 0xFFFF_FFFF))


@pytest.mark.parametrize("total", [None, 0, 1, 20_000, 33_000])
@pytest.mark.parametrize(("before", "behind"), [(b"", b""), (PICTURE, b""), (b"", ID3V1)])
def test_a_flac_is_decoded_to_its_last_frame(tmp_path: Path, total: int | None, before: bytes, behind: bytes) -> None:
    (tmp_path / "a").write_bytes(before + flac(total=total) + behind)
    check_whole(tmp_path / "a", sound(), tolerance=0)


def test_a_cut_flac_of_unknown_length_is_refused(tmp_path: Path) -> None:
    content = flac(total=0)
    for cut in (1, 2, 10, 500, 2_000, len(content) - 100, len(content) - 50):
        (tmp_path / "a").write_bytes(content[:-cut])
        refusal(tmp_path / "a", "damaged", "truncated")


@pytest.mark.parametrize("total", [None, 0])
def test_joined_flac_are_read_one_after_the_other(tmp_path: Path, total: int | None) -> None:
    second = sound(0.9, RATE, 3)
    (tmp_path / "a").write_bytes(flac(total=total) + flac(second, total) + flac(second))
    check_whole(tmp_path / "a", np.concatenate([sound(), second, second]), tolerance=0)
    (tmp_path / "a").write_bytes(flac(total=total)[:-500] + flac(second))
    refusal(tmp_path / "a", "damaged", "truncated")
    (tmp_path / "a").write_bytes(flac(total=total) + flac(second, total)[:-500])
    refusal(tmp_path / "a", "damaged", "truncated")


FLAC_TOOLS = [
    "-f flac",
    "-f flac -frame_size 1000",
    "-f flac -compression_level 0",
    "-f flac -c:a flac -sample_fmt s32",
]


@pytest.mark.parametrize("flags", FLAC_TOOLS)
def test_a_flac_that_ffmpeg_piped_is_read_to_its_end(tmp_path: Path, wav: Path, flags: str) -> None:
    (tmp_path / "a").write_bytes(ffmpeg("-i", wav, *flags.split(), "-"))
    check_whole(tmp_path / "a", sound(), tolerance=0)


def test_flac_segments_of_ffmpeg_are_read_whole(tmp_path: Path, wav: Path) -> None:
    ffmpeg("-i", wav, "-c:a", "flac", "-f", "segment", "-segment_time", "0.6", tmp_path / "%d.flac")
    parts = sorted(tmp_path.glob("?.flac"))
    assert len(parts) > 1
    np.testing.assert_array_equal(np.concatenate([read(part, None).samples for part in parts]), sound())


# --- OGG


def ogg(subtype: str, seconds: float = 1.5, seed: int = 0) -> bytes:
    import io

    file = io.BytesIO()
    soundfile.write(file, sound(seconds, 48_000, seed), 48_000, format="OGG", subtype=subtype)
    return file.getvalue()


def checksum(page: bytes) -> bytes:
    """A page with its checksum (RFC 3533, section 6)."""
    crc = 0
    for byte in page[:22] + bytes(4) + page[26:]:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x104C11DB7) if crc & 0x8000_0000 else crc << 1
    return page[:22] + struct.pack("<I", crc) + page[26:]


def pages(content: bytes) -> list[bytes]:
    found = []
    while content:
        size = 27 + content[26] + sum(content[27 : 27 + content[26]])
        found.append(content[:size])
        content = content[size:]
    return found


def with_serial(content: bytes, serial: int) -> bytes:
    return b"".join(checksum(patched(page, 14, struct.pack("<I", serial))) for page in pages(content))


def without_mark(content: bytes) -> bytes:
    """The same without the end-of-stream flag of its last page."""
    *most, last = pages(content)
    return b"".join(most) + checksum(patched(last, 5, bytes([last[5] & ~4])))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("same", [False, True], ids=["serials", "one serial"])
def test_a_chained_ogg_is_read_one_link_after_the_other(tmp_path: Path, subtype: str, same: bool) -> None:
    links = [ogg(subtype, seconds, seed) for seed, seconds in enumerate((1.2, 0.6, 0.9))]
    links = [with_serial(link, 7 if same else 7 + index) for index, link in enumerate(links)]
    wanted = []
    for link in links:
        (tmp_path / "a").write_bytes(link)
        wanted.append(read(tmp_path / "a", None).samples)
    (tmp_path / "a").write_bytes(b"".join(links))
    check_whole(tmp_path / "a", np.concatenate(wanted))
    (tmp_path / "a").write_bytes(without_mark(links[0]) + links[1])
    check_whole(tmp_path / "a", np.concatenate(wanted[:2]))
    (tmp_path / "a").write_bytes(b"".join(links)[:-100])
    refusal(tmp_path / "a", "incomplete")
    (tmp_path / "a").write_bytes(links[0][:-100] + links[1])
    refusal(tmp_path / "a", "are no page", "damaged")


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_whose_end_is_not_marked_is_read_where_its_last_packet_shows_it(tmp_path: Path, subtype: str) -> None:
    content = ogg(subtype)
    (tmp_path / "a").write_bytes(content)
    wanted = read(tmp_path / "a", None).samples
    assert len(wanted) == len(sound(1.5, 48_000))
    (tmp_path / "a").write_bytes(without_mark(content))
    check_whole(tmp_path / "a", wanted)
    (tmp_path / "a").write_bytes(content + b"trailing junk" * 10)
    check_whole(tmp_path / "a", wanted)
    parts = pages(content)
    for count in range(1, len(parts)):  # cut between pages, nothing of that kind is there
        (tmp_path / "a").write_bytes(b"".join(parts[:count]))
        line = refusal(tmp_path / "a", "no end-of-stream mark", "incomplete")
        assert "cut" in line or "incomplete" in line


@pytest.mark.parametrize(
    ("flags", "rate"),
    [("-c:a libvorbis", RATE), ("-ar 48000 -c:a libopus -b:a 64k", 48_000), ("-c:a libvorbis -q:a 9", RATE)],
)
def test_an_ogg_of_ffmpeg_is_what_it_decodes(tmp_path: Path, wav: Path, flags: str, rate: int) -> None:
    ffmpeg("-i", wav, *flags.split(), tmp_path / "a.ogg")
    wanted = decoded(tmp_path / "a.ogg")
    assert abs(len(wanted) - 1.5 * rate) < 2
    check_whole(tmp_path / "a.ogg", wanted)
    (tmp_path / "b.ogg").write_bytes(without_mark((tmp_path / "a.ogg").read_bytes()))
    check_whole(tmp_path / "b.ogg", wanted)


def test_flac_in_ogg_is_read(tmp_path: Path, wav: Path) -> None:
    ffmpeg("-i", wav, "-c:a", "flac", tmp_path / "a.oga")
    content = (tmp_path / "a.oga").read_bytes()
    check_whole(tmp_path / "a.oga", sound(), tolerance=0)
    (tmp_path / "b").write_bytes(content + with_serial(content, 99))
    check_whole(tmp_path / "b", np.concatenate([sound(), sound()]), tolerance=0)
    for count in range(3, len(pages(content))):
        (tmp_path / "b").write_bytes(b"".join(pages(content)[:count]))
        refusal(tmp_path / "b", "damaged", "truncated", "mark")


def test_only_what_is_wanted_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The beginning of a long file costs no more than that, of whatever container."""
    from uamix_bench.data.streams import Source

    looked: list[int] = []
    original = Source.at

    def at(self: Source, position: int, count: int) -> bytes:
        found = original(self, position, count)
        looked.append(len(found))
        return found

    monkeypatch.setattr(Source, "at", at)
    for name, content in (("a.mp3", mp3(20)), ("b.flac", flac(sound(20))), ("c.ogg", ogg("VORBIS", 20))):
        looked.clear()
        (tmp_path / name).write_bytes(content)
        assert len(read(tmp_path / name, 16_000, max_seconds=1.0).samples) == 16_000
        assert sum(looked) < max(100_000, len(content) / 4), name


def test_many_marks_behind_a_flac_cost_one_look_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from uamix_bench.data.streams import Source

    looked: list[int] = []
    original = Source._read

    def counted(self: Source, position: int, count: int) -> bytes:
        looked.append(count)
        return original(self, position, count)

    monkeypatch.setattr(Source, "_read", counted)
    content = flac(sound()) + b"fLaC" * 30_000
    (tmp_path / "a.flac").write_bytes(content)
    check_whole(tmp_path / "a.flac", sound(), tolerance=0)
    assert sum(looked) < 100 * len(content)


def test_codecs_that_are_not_read_have_the_remedy_of_converting(tmp_path: Path, wav: Path) -> None:
    for name, codec in (("a.wav", "g722"), ("b.wav", "adpcm_yamaha")):
        ffmpeg("-i", wav, "-c:a", codec, tmp_path / name)
        assert "ffmpeg -i IN OUT.flac" in refusal(tmp_path / name, "unsupported WAV")


def test_a_mark_is_found_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from uamix_bench.data.streams import Source

    monkeypatch.setattr("uamix_bench.data.streams._BLOCK", 64)
    for size in (0, 3, 4, 5, 63, 64, 65, 200):
        for at in range(0, size - 3):
            content = bytearray(b"f" * size)
            content[at : at + 4] = b"fLaC"
            (tmp_path / "a").write_bytes(content)
            with (tmp_path / "a").open("rb", buffering=0) as file:
                source = Source(tmp_path / "a", file, [(0, size)])
                for begin in range(0, size, 7):
                    assert list(source.places(b"fLaC", begin)) == [at] * (at >= begin)
                joined = source.joined([source.part(at, size), bytes(content[:at]), source.part(0, at)])
                assert joined.at(0, 1_000) == content[at:] + content[:at] * 2
                assert joined.patched(1, b"xy").part(1, 5).at(0, 3) == b"xyC"
