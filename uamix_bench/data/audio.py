"""Waveforms of sound files: decoding, mixing down, resampling, cutting and looping.

One decoder (libsndfile), one down-mix (the mean of the channels), one resampler (soxr HQ). Silence, clips of a few
samples and float samples a little beyond full scale are accepted; a truncated file is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr

from uamix_bench.data.decoder import SAMPLE_RATES, AudioInfo as AudioInfo, opened
from uamix_bench.data.sound import Sound
from uamix_bench.util.arrays import Samples
from uamix_bench.util.errors import BadInputError, MachineError
from uamix_bench.util.threads import PATIENCE_S

_FILTER_REACH = 256  # samples of the lower rate; soxr HQ's filter reaches 90 of them


class Waveform(NamedTuple):
    """A mono waveform: `samples` (S,) float32, full scale at 1, `sample_rate` in Hz."""

    samples: Samples
    sample_rate: int


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
    with opened(path, max_seconds) as sound:
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
    with opened(path, until_s) as sound:
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
    with opened(path) as sound:
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


def _reach_s(sample_rate: int | None) -> float:
    """Upper bound of the filter's reach beyond a cut, in seconds."""
    return 0.0 if sample_rate is None else _FILTER_REACH / min(sample_rate, *SAMPLE_RATES[:1]) + 0.1


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
