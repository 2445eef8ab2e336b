"""Sound files as they are decoded: found by their content, in all their streams, and refused where they are faulty.

The module of each container finds a file's length and streams, since libsndfile believes headers and reads the first
stream only.
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

import numpy as np
import soundfile

from uamix_bench.data import flac, mp3, ogg, riff, tags
from uamix_bench.data.sound import ROUNDING_S, Sound
from uamix_bench.data.streams import REENCODE, REFETCH, Handle, Source, Stream, damaged, truncated
from uamix_bench.util.arrays import Samples
from uamix_bench.util.errors import BadInputError
from uamix_bench.util.files import unreadable

SAMPLE_RATES = range(1_000, 768_001)
_MAX_CHANNELS = 64
_MAX_FRAMES = 1 << 30  # six hours at 48 kHz; damaged headers claim 2^36 and more
_MAX_PEAK = 8.0  # 18 dB above full scale: room for float mixes, none for integers stored as floats
_BLOCK = 1 << 20  # samples decoded at once
_BEYOND_S = 1.0  # of a segment's end, where its file is looked at
_SEVERAL = "WAV, AIFF, FLAC, OGG or MP3"


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


class _Sequential(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file read block after block without a seek. Soundfile's seek after a block is inexact in OGG."""

    def seekable(self) -> bool:
        return False


class OpenSound:
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
def opened(path: Path | Sound, until_s: float | None = None) -> Iterator[OpenSound]:
    """Opens a sound by its content and checks its file's structure, as far as `until_s` needs it or all of it."""
    with _content(path) as (source, file):
        sound = None
        try:
            if isinstance(path, Sound) and path.start_s is not None and path.end_s is not None:
                until_s = path.end_s + _BEYOND_S  # the end must be seen to exist
            kind, streams = _streams(source, until_s)
            try:
                sound = OpenSound(path, file, source.size, streams)
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


def _check_header(path: Path | Sound, info: AudioInfo) -> None:
    if info.frames <= 0:
        raise BadInputError(path, "holds no samples", REFETCH)
    if info.sample_rate not in SAMPLE_RATES or info.channels > _MAX_CHANNELS or info.frames > _MAX_FRAMES:
        claim = f"{info.frames} frames of {info.channels} channels at {info.sample_rate} Hz"
        limits = f"the limits are {_MAX_FRAMES} frames, {_MAX_CHANNELS} channels and 1,000 to 768,000 Hz"
        raise BadInputError(path, f"claims {claim} ({limits})", REENCODE)


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
