"""Sound files and waveforms: decode, mix down, resample, cut, loop, and refuse what is not a whole recording.

One decoder (libsndfile), one down-mix (the mean of the channels), one resampler (soxr HQ). Silence, clips of
a few samples and float samples a little beyond full scale are sound; a file cut short is not.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from uamix_bench.util.errors import BadInputError, MachineError
from uamix_bench.util.files import unreadable
from uamix_bench.util.threads import PATIENCE_S

Samples = npt.NDArray[np.float32]

_SAMPLE_RATES = range(1_000, 768_001)
_MAX_CHANNELS = 64
_MAX_FRAMES = 1 << 30  # six hours at 48 kHz; damaged headers claim 2^36 and more
_MAX_PEAK = 8.0  # 18 dB above full scale: room for float mixes, none for integers stored as floats
_BLOCK = 1 << 20  # samples decoded at once
_FILTER_REACH = 256  # samples of the lower rate; soxr HQ's filter reaches 90 of them
_STREAMED = 0x7FFF_E000  # writers that cannot seek back leave a length of 2 or 4 GiB, less some bytes
_SEVERAL = "WAV, FLAC, OGG or MP3"
_REFETCH = "download or export it again"
_REENCODE = "re-encode it, for example with 'ffmpeg -i IN OUT.flac'"


class Waveform(NamedTuple):
    """Mono sound: `samples` (S,) float32, full scale at 1, `sample_rate` in Hz."""

    samples: Samples
    sample_rate: int


@dataclass(frozen=True)
class AudioInfo:
    """The header of a sound file: `frames` (samples per channel), `sample_rate` in Hz, `channels`."""

    frames: int
    sample_rate: int
    channels: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate


def probe(path: Path) -> AudioInfo:
    """Reads a sound file's header and checks the file as far as that goes without decoding.

    Raises:
        BadInputError: As `read`, but for what only decoding shows.
        MachineError: The file cannot be opened.
    """
    with _opened(path) as (_, info):
        return info


def read(path: Path, sample_rate: int | None, *, max_seconds: float | None = None, offset: float = 0.0) -> Waveform:
    """Decodes a WAV (also RF64), FLAC, OGG (Vorbis, Opus) or MP3 file, whatever its name, to a mono waveform.

    A part of a resampled file equals that part of the whole file resampled: what the filter reaches beyond
    the cut is decoded too, and decoding begins where the two grids of samples meet.

    Args:
        path: The file.
        sample_rate: To resample to, in Hz; None keeps the file's own.
        max_seconds: Decode no more than this; None decodes all.
        offset: Where to begin, in seconds.

    Returns:
        The waveform, at least one sample long.

    Raises:
        BadInputError: The file is missing, empty, not sound, truncated, holds nothing at `offset`, claims
            what no recording has, or holds a sample that is NaN, infinite or beyond 8 times full scale.
        MachineError: The file cannot be opened.
    """
    with _opened(path) as (file, info):
        target = sample_rate or info.sample_rate
        first = round(offset * target)
        if first >= max(1, info.frames * target // info.sample_rate):
            reason = f"lasts {info.duration_s:.3f} s and holds nothing at {offset:g} s"
            raise BadInputError(path, reason, "choose an earlier offset")
        length = None if max_seconds is None else max(1, round(max_seconds * target))
        start, stop, begin = _span(info, target, first, length)
        samples = _decode(path, file, start, stop - start)
    part = resample(samples, info.sample_rate, target)[begin:][:length]
    return Waveform(np.ascontiguousarray(part), target)


def undecoded(path: Path) -> MachineError:
    """What is said of a file whose decoding is given up."""
    reason = f"is not decoded after {PATIENCE_S:g} s: it, its disk or its network hangs"
    return MachineError(path, reason, "try again, or leave it out")


def samples_read(info: AudioInfo, sample_rate: int, max_seconds: float) -> int:
    """How many samples :func:`read` gives of the beginning of a file with this header."""
    whole = (2 * info.frames * sample_rate + info.sample_rate) // (2 * info.sample_rate)  # soxr rounds halves up
    return max(1, min(whole, round(max_seconds * sample_rate)))


def segments(path: Path, sample_rate: int, seconds: float) -> Iterator[Samples]:
    """Decodes a file segment by segment, of which one at a time is held in memory.

    Segments follow one another from the beginning, each as long as asked for. What remains at the end is one more if
    it lasts at least half as long, and is left out if not; a file shorter than one segment is one.

    Args:
        path: The file.
        sample_rate: To resample to, in Hz.
        seconds: Length of a segment.

    Yields:
        (S,) float32, what `read` gives at that offset.

    Raises:
        BadInputError: As `read`, also after some segments.
        MachineError: The file cannot be opened.
    """
    with _opened(path) as (file, info):
        length = max(1, round(seconds * sample_rate))
        total = info.frames * sample_rate // info.sample_rate
        held, held_from = np.zeros(0, np.float32), 0
        for index in range(max(1, (2 * total + length) // (2 * length))):
            start, stop, begin = _span(info, sample_rate, index * length, length)
            decoded = held_from + len(held)  # neighbours share the filter's reach
            held, held_from = held[start - held_from :], start
            held = np.concatenate([held, *_decode_blocks(path, file, decoded, stop - decoded)])
            if start + len(held) < stop:
                raise _ends_early(path, file, start + len(held))
            part = resample(held, info.sample_rate, sample_rate)[begin:][:length]
            yield np.ascontiguousarray(part)


def resample(samples: Samples, from_rate: int, to_rate: int) -> Samples:
    """Resamples (S,) float32 from one rate to another, in Hz, with soxr HQ; at least one sample remains."""
    if from_rate == to_rate:
        return samples
    if len(samples) * to_rate < from_rate:  # less than one sample of the new rate
        return samples[:1]
    resampled: Samples = soxr.resample(samples, from_rate, to_rate, quality="HQ")
    return resampled


def loop(samples: Samples, length: int) -> Samples:
    """Repeats or cuts (S,) float32, S at least 1, to exactly `length` samples."""
    return np.resize(samples, length)


class _Sequential(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file read block after block; soundfile seeks after each where it can, which is inexact in OGG."""

    def seekable(self) -> bool:
        return False


@contextmanager
def _opened(path: Path) -> Iterator[tuple[soundfile.SoundFile, AudioInfo]]:
    """Opens a sound file by its content, its header checked."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError
        if not stat.S_ISREG(status.st_mode):
            raise BadInputError(path, "is not a regular file", "give the path of a sound file")
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise unreadable(path, error) from error
    with file:
        kind = _kind(path, file, status.st_size)
        if kind == "WAV":
            _check_riff(path, file, status.st_size)
        if kind == "OGG":
            _check_ogg(path, file, status.st_size)
        file.seek(0)
        try:
            # By descriptor: the name's ending must not choose the decoder (".raw" would mean headerless).
            with _Sequential(file.fileno(), closefd=False) as sound:
                info = AudioInfo(sound.frames, sound.samplerate, sound.channels)
                _check_header(path, info)
                yield sound, info
        except soundfile.SoundFileError as error:
            raise BadInputError(path, f"is a damaged or unsupported {kind} file", _REFETCH) from error


def _kind(path: Path, file: FileIO, size: int) -> str:
    """Names the container by its first bytes, and refuses every other kind before a decoder sees it."""
    head = file.read(64)
    if not size:
        raise BadInputError(path, "is empty (0 bytes)", _REFETCH)
    if head.startswith((b"RIFF", b"RIFX", b"RF64")):
        return "WAV"
    if head.startswith((b"fLaC", b"OggS", b"ID3")):
        return {b"fLaC": "FLAC", b"OggS": "OGG"}.get(head[:4], "MP3")
    if head[0] == 0xFF and len(head) > 1 and head[1] & 0xE0 == 0xE0 and head[1] & 0x06:  # sync word, layer I to III
        return "MP3"
    if head.lstrip().startswith(b"<"):
        raise BadInputError(path, "is an HTML or XML page, not sound", "the download went wrong; fetch it again")
    if head.startswith(b"version https://git-lfs"):
        raise BadInputError(path, "is a git-lfs pointer, not the sound itself", "run 'git lfs pull' there")
    raise BadInputError(path, f"is not a {_SEVERAL} file", _REENCODE)


def _check_riff(path: Path, file: FileIO, size: int) -> None:
    """Refuses a WAV whose data chunk claims more bytes than the file holds; libsndfile would shorten it."""
    order: Literal["big", "little"] = "big" if _at(file, 0, 4) == b"RIFX" else "little"
    position, long_length = 12, None
    for _ in range(1_000):  # a damaged file may hold millions of empty chunks
        name, length = _at(file, position, 4), int.from_bytes(_at(file, position + 4, 4), order)
        if name == b"ds64":  # RF64 keeps a length beyond 32 bits here (EBU Tech 3306)
            long_length = int.from_bytes(_at(file, position + 16, 8), "little")
        if name == b"data" or not name:
            break
        position += 8 + length + length % 2
    else:
        return
    if long_length is not None:
        length = long_length
    elif length >= _STREAMED:
        return
    missing = position + 8 + length - size
    if name and missing > 0:
        raise _truncated(path, f"its header claims {length} bytes of sound, {missing} of them are missing")


def _check_ogg(path: Path, file: FileIO, size: int) -> None:
    """Refuses an OGG file without its last page, which alone says how long it is (RFC 3533, section 6)."""
    tail = _at(file, max(0, size - (1 << 16)), 1 << 16)  # a page has at most 65,307 bytes
    page = tail[max(0, tail.rfind(b"OggS")) :]
    whole = len(page) > 26 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
    if not whole or not page[5] & 0x04:
        raise _truncated(path, "its last page is missing")


def _at(file: FileIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count) or b""


def _check_header(path: Path, info: AudioInfo) -> None:
    if info.frames <= 0:
        raise BadInputError(path, "holds no samples", _REFETCH)
    if info.sample_rate not in _SAMPLE_RATES or info.channels > _MAX_CHANNELS or info.frames > _MAX_FRAMES:
        claim = f"{info.frames} frames of {info.channels} channels at {info.sample_rate} Hz"
        limits = f"the limits are {_MAX_FRAMES} frames, {_MAX_CHANNELS} channels and 1,000 to 768,000 Hz"
        raise BadInputError(path, f"claims {claim} ({limits})", _REENCODE)


def _span(info: AudioInfo, target: int, first: int, length: int | None) -> tuple[int, int, int]:
    """What to decode for `length` samples of rate `target` from `first` on: the part, and the filter's reach beyond it.

    Returns:
        The first frame of the file, where the two grids of samples meet, the last but one, and where the part begins
        in what is resampled from there on.
    """
    source, stop = info.sample_rate, info.frames
    reach = 0.0 if source == target else _FILTER_REACH * max(1.0, source / target)
    grid = source // math.gcd(source, target)
    start = max(0, int(first * source / target - reach)) // grid * grid
    if length is not None:
        stop = min(stop, math.ceil((first + length) * source / target + reach))
    return start, stop, first - start * target // source


def _decode(path: Path, file: soundfile.SoundFile, start: int, frames: int) -> Samples:
    """Decodes `frames` from `start` on, mixed down; memory follows what a file holds, not what it claims."""
    if file.format in ("OGG", "MP3"):  # where seeking is inexact
        _decode_blocks(path, file, 0, start)
    else:
        file.seek(start)
    blocks = _decode_blocks(path, file, start, frames)
    found = sum(map(len, blocks))
    if found < frames:
        raise _ends_early(path, file, start + found)
    return np.concatenate(blocks)


def _decode_blocks(path: Path, file: soundfile.SoundFile, start: int, frames: int) -> list[Samples]:
    """Decodes on from where the file stands, frame `start`, until `frames` are there or the file ends."""
    blocks: list[Samples] = []
    done = 0
    while done < frames:
        block = file.read(min(frames - done, max(1, _BLOCK // file.channels)), dtype="float32", always_2d=True)
        if not len(block):
            break
        _check_samples(path, block, start + done)
        blocks.append(sum(block.T) / file.channels)
        done += len(block)
    return blocks


def _check_samples(path: Path, block: Samples, start: int) -> None:
    peak = max(block.max(), -block.min())
    if peak <= _MAX_PEAK:  # false where a sample is NaN
        return
    finite = np.isfinite(block).all(axis=1)
    if not finite.all():
        index = int(np.argmin(finite))
        what = "not a number" if np.isnan(block[index]).any() else "infinite"
        raise BadInputError(path, f"sample {start + index} is {what}", "repair the file, or leave it out")
    reason = f"reaches {peak:g} times full scale at sample {start + int(np.abs(block).max(axis=1).argmax())}"
    raise BadInputError(path, reason, "scale the samples to [-1, 1]")


def _ends_early(path: Path, file: soundfile.SoundFile, frame: int) -> BadInputError:
    return _truncated(path, f"its header claims {file.frames} frames, decoding ends after {frame}")


def _truncated(path: Path, how: str) -> BadInputError:
    return BadInputError(path, f"is truncated: {how}", _REFETCH)
