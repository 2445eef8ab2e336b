"""Sound files and waveforms: decoding, mixing down, resampling, cutting, looping, and refusal of faulty recordings.

One decoder (libsndfile), one down-mix (the mean of the channels), one resampler (soxr HQ). Silence, clips of a few
samples and float samples a little beyond full scale are accepted; a truncated file is refused. The module of each
container finds a file's length and streams, since libsndfile believes headers and reads the first stream only.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from uamix_bench.data import flac, mp3, ogg, riff, tags
from uamix_bench.data.sound import Sound
from uamix_bench.data.streams import REENCODE, REFETCH, Handle, Source, Stream, damaged, truncated
from uamix_bench.util.arrays import Samples
from uamix_bench.util.errors import BadInputError, MachineError
from uamix_bench.util.files import unreadable
from uamix_bench.util.threads import PATIENCE_S

ROUNDING_S = 1e-3  # times in lists are often rounded to it: so much may a segment pass the end of its file
_SAMPLE_RATES = range(1_000, 768_001)
_MAX_CHANNELS = 64
_MAX_FRAMES = 1 << 30  # six hours at 48 kHz; damaged headers claim 2^36 and more
_MAX_PEAK = 8.0  # 18 dB above full scale: room for float mixes, none for integers stored as floats
_BLOCK = 1 << 20  # samples decoded at once
_FILTER_REACH = 256  # samples of the lower rate; soxr HQ's filter reaches 90 of them
_BEYOND_S = 1.0  # of a segment's end, where its file is looked at
_SEVERAL = "WAV, AIFF, FLAC, OGG or MP3"


class Waveform(NamedTuple):
    """A mono waveform: `samples` (S,) float32, full scale at 1, `sample_rate` in Hz."""

    samples: Samples
    sample_rate: int


@dataclass(frozen=True)
class AudioInfo:
    """Header of a sound file: `frames` (samples per channel), `sample_rate` in Hz, `channels`."""

    frames: int
    sample_rate: int
    channels: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate


def probe(path: Path | Sound, *, max_seconds: float | None = None) -> AudioInfo:
    """Reads a sound's header and checks its file as far as possible without decoding.

    Args:
        path: Path of a sound file, or a sound.
        max_seconds: Length that need be checked, in seconds; the rest of a longer file may stay unread. None checks
            all of it.

    Returns:
        Facts of the whole file, or of the segment.

    Raises:
        BadInputError: The file has a fault that `read` refuses, except faults that only decoding shows.
        MachineError: The file cannot be opened.
    """
    with _opened(path, max_seconds) as sound:
        return sound.info


def read(
    path: Path | Sound, sample_rate: int | None, *, max_seconds: float | None = None, offset: float = 0.0
) -> Waveform:
    """Decodes a WAV (also RF64), AIFF, FLAC, OGG (Vorbis, Opus, FLAC) or MP3 file, whatever its name, to mono.

    A segment is decoded to the sample and resampled alone, as a file that holds no more would be. A part by `offset`
    and `max_seconds` equals the same part of the whole sound resampled. For that, the samples that the filter reaches
    beyond the cut are decoded too, and decoding begins at a sample of both rates.

    Args:
        path: Path of a sound file, or a sound.
        sample_rate: Rate of the result, in Hz; None keeps the file's own.
        max_seconds: Length to decode at most, in seconds; None decodes all.
        offset: Time of the first decoded sample, in seconds from the sound's beginning.

    Returns:
        The waveform, at least one sample long.

    Raises:
        BadInputError: The file is missing, empty, not sound, truncated, holds nothing at `offset`, has a header that
            no recording has, ends before its segment does, or holds a sample that is NaN, infinite or beyond 8 times
            full scale.
        MachineError: The file cannot be opened.
    """
    until_s = None if max_seconds is None else offset + max_seconds + _reach_s(sample_rate)
    with _opened(path, until_s) as sound:
        info = sound.info
        target = sample_rate or info.sample_rate
        first = round(offset * target)
        if first >= max(1, info.frames * target // info.sample_rate):
            reason = f"lasts {info.duration_s:.3f} s and holds nothing at {offset:g} s"
            raise BadInputError(path, reason, "choose an earlier offset")
        length = None if max_seconds is None else max(1, round(max_seconds * target))
        start, stop, begin = _span(info, target, first, length)
        sound.skip_to(start)
        samples = sound.decode(stop - start)
    part = resample(samples, info.sample_rate, target)[begin:][:length]
    return Waveform(np.ascontiguousarray(part), target)


def undecoded(path: Path | Sound) -> MachineError:
    """Error for a file whose decoding is given up."""
    reason = f"is not decoded after {PATIENCE_S:g} s: it, its disk or its network hangs"
    return MachineError(path, reason, "try again, or leave it out")


def samples_read(info: AudioInfo, sample_rate: int, max_seconds: float) -> int:
    """Number of samples that :func:`read` gives of the first `max_seconds` of a file with this header."""
    whole = (2 * info.frames * sample_rate + info.sample_rate) // (2 * info.sample_rate)  # soxr rounds halves up
    return max(1, min(whole, round(max_seconds * sample_rate)))


def segments(path: Path | Sound, sample_rate: int, seconds: float) -> Iterator[Samples]:
    """Decodes a sound segment by segment and holds one at a time in memory.

    Segments of equal length follow one another from the beginning. A rest at the end is one more segment if it lasts at
    least half as long; a shorter rest is left out. A file shorter than one segment is one segment.

    Args:
        path: Path of a sound file, or a sound.
        sample_rate: Rate of the segments, in Hz.
        seconds: Length of a segment, in seconds.

    Yields:
        Samples of the segment, (S,) float32, equal to those of `read` at that offset.

    Raises:
        BadInputError: The file has a fault that `read` refuses; some segments may have been yielded before.
        MachineError: The file cannot be opened.
    """
    with _opened(path) as sound:
        info = sound.info
        sound.skip_to(0)
        length = max(1, round(seconds * sample_rate))
        total = info.frames * sample_rate // info.sample_rate
        held, held_from = np.zeros(0, np.float32), 0
        for index in range(max(1, (2 * total + length) // (2 * length))):
            start, stop, begin = _span(info, sample_rate, index * length, length)
            more = stop - held_from - len(held)  # neighbours share the filter's reach
            held, held_from = held[start - held_from :], start
            held = np.concatenate([held, sound.decode(more)])
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
    """A sound file read block after block without a seek. Soundfile's seek after a block is inexact in OGG."""

    def seekable(self) -> bool:
        return False


class _Sound:
    """An open sound. The streams of its file are decoded one after the other as if they were one.

    `info` is that of the segment, if the sound is one.
    """

    def __init__(self, path: Path | Sound, file: FileIO | None, size: int, streams: list[Stream]) -> None:
        self._path, self._disk, self._size, self._streams = path, file, size, streams
        self._begin = 0  # frame of the file that is the sound's first
        self._position = self._index = 0
        self._handle: Handle | None = None
        self._sound: _Sequential | None = None
        infos = [self._open(index) for index in reversed(range(len(streams)))][::-1]  # the first one stays open
        rates = sorted({info.sample_rate for info in infos})
        if len(rates) > 1:
            how = f"is joined of streams of different rates ({', '.join(map(str, rates))} Hz)"
            raise BadInputError(path, how, "split it, or join the sounds at one rate")
        self._ends = list(accumulate(info.frames for info in infos))
        self.info = AudioInfo(self._ends[-1], rates[0], max(info.channels for info in infos))
        _check_header(path, self.info)
        if isinstance(path, Sound) and path.start_s is not None and path.end_s is not None:
            self._cut(path.start_s, path.end_s)

    def _cut(self, start_s: float, end_s: float) -> None:
        """Makes the sound a segment of the file.

        Raises:
            BadInputError: The file ends before the segment does, or the segment holds no sample.
        """
        rate, frames = self.info.sample_rate, self.info.frames
        self._begin, stop = round(start_s * rate), round(end_s * rate)
        if frames < stop <= frames + math.ceil(ROUNDING_S * rate):
            stop = frames
        if stop > frames:
            reason = f"the file lasts {self.info.duration_s:.3f} s and ends before that"
            raise BadInputError(self._path, reason, "correct the times, or the file")
        if stop <= self._begin:
            raise BadInputError(self._path, "holds no sample", "give a later end")
        self.info = AudioInfo(stop - self._begin, rate, self.info.channels)

    def _open(self, index: int) -> AudioInfo:
        """Closes the open stream and opens another."""
        stream = self._streams[index]
        self.close()
        if self._disk is not None and stream.source.is_file(self._size) and not stream.open_end:
            self._disk.seek(0)
            # By descriptor: the name's ending must not choose the decoder (".raw" would mean headerless).
            self._sound = _Sequential(self._disk.fileno(), closefd=False)
        else:
            self._handle = Handle(stream)
            self._sound = _Sequential(self._handle)
        frames = self._sound.frames if stream.frames is None else stream.frames
        return AudioInfo(frames, self._sound.samplerate, self._sound.channels)

    def close(self) -> None:
        """Closes the stream that is open."""
        if self._sound is not None:
            self._sound.close()

    def check_disk(self) -> None:
        """Raises the disk's read error, if any. A decoder takes such an error for the end of a file."""
        if self._handle is not None and self._handle.error is not None:
            raise unreadable(Path(str(self._path)), self._handle.error) from self._handle.error

    def skip_to(self, frame: int) -> None:
        """Goes forward to a frame of the sound, from the beginning of the file."""
        assert self._sound is not None
        frame += self._begin
        exact = self._sound.format not in ("OGG", "MP3") and soundfile.SoundFile.seekable(self._sound)
        if frame and exact and len(self._streams) == 1:
            self._sound.seek(frame)
            self._position = frame
        else:
            for _ in self._blocks(frame):
                pass

    def decode(self, frames: int) -> Samples:
        """The next `frames`, (frames,) float32, mixed down. Memory depends on the samples found, not on the header."""
        blocks = list(self._blocks(frames))
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)

    def _blocks(self, frames: int) -> Iterator[Samples]:
        """Decodes the next `frames` in blocks.

        Raises:
            BadInputError: The file ends before.
        """
        stop = self._position + frames
        while self._position < stop:
            if self._position >= self._ends[self._index]:
                self._index += 1
                self._open(self._index)
                continue
            assert self._sound is not None
            most = min(stop, self._ends[self._index]) - self._position
            block = self._sound.read(min(most, max(1, _BLOCK // self.info.channels)), dtype="float32", always_2d=True)
            if not len(block):
                raise self._ends_early()
            _check_samples(self._path, block, self._position)
            self._position += len(block)
            yield sum(block.T) / block.shape[1]

    def _ends_early(self) -> BadInputError:
        self.check_disk()
        if self._streams[self._index].frames is not None:  # what was counted, and nothing claims
            return damaged(self._path, f"decoding ends after {self._position} of {self._ends[-1]} samples")
        claim = f"its header claims {self._ends[-1]} frames, decoding ends after {self._position}"
        return truncated(self._path, claim)


@contextmanager
def _opened(path: Path | Sound, until_s: float | None = None) -> Iterator[_Sound]:
    """Opens a sound by its content and checks its file's structure, as far as `until_s` needs it or all of it."""
    with _content(path) as (source, file):
        sound = None
        try:
            if isinstance(path, Sound) and path.start_s is not None and path.end_s is not None:
                until_s = path.end_s + _BEYOND_S  # the end must be seen to exist
            kind, streams = _streams(source, until_s)
            try:
                sound = _Sound(path, file, source.size, streams)
                yield sound
            except soundfile.SoundFileError as error:
                if sound is not None:
                    sound.check_disk()
                remedy = REFETCH if sound is not None else f"{REENCODE}, or {REFETCH}"  # then the codec may be unknown
                raise BadInputError(path, f"is a damaged or unsupported {kind} file", remedy) from error
        except OSError as error:
            raise unreadable(Path(str(path)), error) from error
        finally:
            if sound is not None:
                sound.close()


@contextmanager
def _content(place: Path | Sound) -> Iterator[tuple[Source, FileIO | None]]:
    """Bytes of a sound's file, or of a parquet row; and the file, if they are one."""
    if isinstance(place, Sound) and place.row is not None:
        from uamix_bench.data.parquet import sound_bytes

        yield Source(place, None, [sound_bytes(place.path, place.row)]), None
        return
    path = Path(place.path) if isinstance(place, Sound) else place
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
        yield Source(place, file, [(0, status.st_size)]), file


def _streams(source: Source, until_s: float | None) -> tuple[str, list[Stream]]:
    """Container of a file and its streams."""
    path, size = source.path, source.size
    if not size:
        raise BadInputError(path, "is empty (0 bytes)", REFETCH)
    head = source.at(0, 64)
    kind = _kind(head)
    if start := tags.behind(source, 0):
        kind = _kind(source.at(start, 64)) or ("MP3" if head.startswith(b"ID3") else "")
        source = source if kind == "MP3" else source.part(start, size)
    if kind == "WAV":
        stream, is_mpeg = riff.wav(source)
        return kind, mp3.streams(stream.source, until_s) if is_mpeg else [stream]
    if kind == "AIFF":
        return kind, [riff.aiff(source)]
    if kind:
        return kind, {"FLAC": flac.streams, "OGG": ogg.streams, "MP3": mp3.streams}[kind](source, until_s)
    if head.lstrip().startswith(b"<"):
        raise BadInputError(path, "is an HTML or XML page, not sound", "the download went wrong; fetch it again")
    if head.startswith(b"version https://git-lfs"):
        raise BadInputError(path, "is a git-lfs pointer, not the sound itself", "run 'git lfs pull' there")
    if mp3.begins_within(source):
        return "MP3", mp3.streams(source, until_s)
    raise BadInputError(path, f"is not a {_SEVERAL} file", REENCODE)


def _kind(head: bytes) -> str:
    """Container by a file's first bytes; empty for an unsupported one, which is never decoded."""
    if head.startswith((b"RIFF", b"RIFX", b"RF64")):
        return "WAV"
    if head.startswith(b"FORM") and head[8:12] in (b"AIFF", b"AIFC"):
        return "AIFF"
    if head.startswith((b"fLaC", b"OggS")):
        return "FLAC" if head.startswith(b"f") else "OGG"
    mpeg = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06  # sync word, layer I to III
    return "MP3" if mpeg else ""


def _reach_s(sample_rate: int | None) -> float:
    """Upper bound of the filter's reach beyond a cut, in seconds."""
    return 0.0 if sample_rate is None else _FILTER_REACH / min(sample_rate, *_SAMPLE_RATES[:1]) + 0.1


def _check_header(path: Path | Sound, info: AudioInfo) -> None:
    if info.frames <= 0:
        raise BadInputError(path, "holds no samples", REFETCH)
    if info.sample_rate not in _SAMPLE_RATES or info.channels > _MAX_CHANNELS or info.frames > _MAX_FRAMES:
        claim = f"{info.frames} frames of {info.channels} channels at {info.sample_rate} Hz"
        limits = f"the limits are {_MAX_FRAMES} frames, {_MAX_CHANNELS} channels and 1,000 to 768,000 Hz"
        raise BadInputError(path, f"claims {claim} ({limits})", REENCODE)


def _span(info: AudioInfo, target: int, first: int, length: int | None) -> tuple[int, int, int]:
    """Range of frames to decode for `length` samples of rate `target` from `first` on, with the filter's reach.

    Returns:
        The first frame to decode, which is a sample of both rates; the frame behind the last; and the index of sample
        `first` in the resampled range.
    """
    source, stop = info.sample_rate, info.frames
    reach = 0.0 if source == target else _FILTER_REACH * max(1.0, source / target)
    grid = source // math.gcd(source, target)
    start = max(0, int(first * source / target - reach)) // grid * grid
    if length is not None:
        stop = min(stop, math.ceil((first + length) * source / target + reach))
    return start, stop, first - start * target // source


def _check_samples(path: Path | Sound, block: Samples, start: int) -> None:
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
