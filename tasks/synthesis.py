"""Synthetic sounds: seeded classes of sounds and the clips drawn from them.

A class is a narrow region in the traits of its family; a clip is a draw from it with its own pitch, onset,
level, reverberation, noise, channel, band and length. Two families sound only in the test split, one only in
the validation split.
"""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uamix_bench.util.files import write_atomic

from . import synthesis_families as sounds, synthesis_speech as speech
from .synthesis_signal import SAMPLE_RATE, Complex, Draw, Float, fft_size, frequencies, loudness

__all__ = ["FAMILIES", "SAMPLE_RATE", "SPLITS", "VERSION", "SoundClass", "classes", "encode_wav", "render", "write"]

VERSION = "1"
SPLITS = ("test", "valid", "train")  # the order in which regions are drawn: test classes take the best spread
_LONGEST_S = 2.0


@dataclass(frozen=True)
class Family:
    """A family of sounds.

    Attributes:
        synthesise: Function (draw, sample count) -> (S,) float64 samples of any scale.
        traits: Number of dimensions of the space in which classes are regions.
        seconds: Shortest and longest sound in seconds, without the silence around it.
        counts: Number of classes in each of SPLITS.
    """

    synthesise: Callable[[Draw, int], Float]
    traits: int
    seconds: tuple[float, float]
    counts: tuple[int, int, int]


FAMILIES = {
    "harmonic": Family(sounds.harmonic, 5, (0.3, 1.6), (3, 1, 18)),
    "fm-bell": Family(sounds.fm_bell, 4, (0.3, 1.6), (3, 1, 18)),
    "noise": Family(sounds.noise, 6, (0.4, 1.6), (3, 1, 18)),
    "chirp": Family(sounds.chirp, 4, (0.3, 1.2), (3, 1, 18)),
    "siren": Family(sounds.siren, 4, (0.5, 1.7), (3, 1, 18)),
    "clicks": Family(sounds.clicks, 7, (0.6, 1.7), (3, 1, 18)),
    "rain": Family(sounds.rain, 5, (0.4, 1.7), (3, 1, 18)),
    "engine": Family(sounds.engine, 8, (0.4, 1.7), (3, 1, 18)),
    "drum": Family(sounds.drum, 7, (0.3, 1.6), (3, 1, 18)),
    "melody": Family(sounds.melody, 6, (0.5, 1.6), (3, 1, 18)),
    "vowel": Family(speech.vowel, 4, (0.3, 0.9), (3, 2, 40)),
    "syllables": Family(speech.syllables, 11, (0.3, 0.9), (7, 4, 80)),
    "voice": Family(speech.voice, 8, (0.6, 1.7), (5, 3, 60)),
    "mixture": Family(sounds.mixture, 17, (0.5, 1.6), (5, 1, 40)),
    "pluck": Family(sounds.pluck, 5, (0.3, 1.6), (7, 0, 0)),
    "bird": Family(sounds.bird, 7, (0.5, 1.6), (7, 0, 0)),
    "bubbles": Family(sounds.bubbles, 5, (0.5, 1.6), (0, 4, 0)),
}


@dataclass(frozen=True)
class SoundClass:
    """A class of sounds.

    Attributes:
        label: Name of the class, such as "fm-bell-017"; no two classes of any splits share one.
        family: Key of FAMILIES.
        split: Split of the class: "train", "valid" or "test".
        index: Number of the class within the family.
    """

    label: str
    family: str
    split: str
    index: int


def classes(split: str) -> list[SoundClass]:
    """Return the classes of a split ("train" 400, "valid" 24, "test" 64), by family.

    Raises:
        ValueError: If there is no such split.
    """
    which = SPLITS.index(split)
    found = []
    for name, family in FAMILIES.items():
        first = sum(family.counts[:which])
        indices = range(first, first + family.counts[which])
        found += [SoundClass(f"{name}-{index:03d}", name, split, index) for index in indices]
    return found


def render(sound_class: SoundClass, clip_index: int, seed: int = 0) -> NDArray[np.int16]:
    """Return one clip of a class.

    The samples depend on nothing but the arguments and VERSION and agree on every machine to within one step.

    Args:
        sound_class: Class of `classes`.
        clip_index: Number of the clip, from 0; there is no last one.
        seed: Seed of the clips; another seed gives other clips of the same classes.

    Returns:
        (S,) int16 samples at 16 kHz, mono, 0.3 to 2 s, the peak between -16 and 0 dB of full scale.
    """
    family = FAMILIES[sound_class.family]
    key = json.dumps([VERSION, seed, sound_class.split, sound_class.label, clip_index])
    draw = Draw(key, _centres(sound_class.family)[sound_class.index])
    count = round(draw.own_log(*family.seconds) * SAMPLE_RATE)
    return _recorded(draw, family.synthesise(draw, count))


def encode_wav(samples: NDArray[np.int16]) -> bytes:
    """Return (S,) int16 samples at 16 kHz as the bytes of a mono 16-bit WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


def write(clips: list[tuple[str, str]]) -> int:
    """Render and write clips, each file whole or not at all; return how many.

    The function is here, and not in the task's module, so that a worker process imports no reader of data sets.

    Args:
        clips: Pairs of a clip's id, ``{split}/{label}/{index:03d}.wav``, and the path of its file.

    Raises:
        MachineError: A file cannot be written.
    """
    for clip, path in clips:
        split, label, name = clip.split("/")
        family, number = label.rsplit("-", 1)
        sound_class = SoundClass(label, family, split, int(number))
        write_atomic(Path(path), encode_wav(render(sound_class, int(name.removesuffix(".wav")))), durable=False)
    return len(clips)


@cache
def _centres(family_name: str) -> Float:
    """Return (classes, traits) centres in the unit cube; each is the furthest of 32 from those before."""
    family = FAMILIES[family_name]
    draw = Draw(json.dumps([VERSION, "classes", family_name]), np.empty(0))
    centres = draw.uniforms(family.traits)[None]
    while len(centres) < sum(family.counts):
        candidates = draw.uniforms(32 * family.traits).reshape(32, family.traits)
        nearest = ((candidates[:, None] - centres) ** 2).sum(axis=2).min(axis=1)
        centres = np.concatenate([centres, candidates[[nearest.argmax()]]])
    return centres


def _recorded(draw: Draw, sound: Float) -> NDArray[np.int16]:
    """Return a sound (S,) as if recorded: fades, silence, room, background noise, channel, band, level."""
    attack, release = (int(draw.own_log(0.004, 0.05) * SAMPLE_RATE) for _ in range(2))
    sound[:attack] *= np.linspace(0, 1, attack)
    sound[-release:] *= np.linspace(1, 0, release)
    lead, tail = (int(draw.own(0, 0.2) ** 3 / 0.04 * SAMPLE_RATE) for _ in range(2))
    count = min(len(sound) + lead + tail, int(_LONGEST_S * SAMPLE_RATE))

    size = fft_size(count + SAMPLE_RATE // 4)
    spectrum = np.fft.rfft(np.pad(sound / loudness(sound), (lead, 0)), size)
    spectrum *= np.fft.rfft(_room(draw), size)
    frequency = frequencies(size)
    spectrum += _background(draw, frequency) * size**0.5
    spectrum *= _channel(draw, frequency)
    samples = np.fft.irfft(spectrum, size)[:count]
    peak = 10 ** (-16 * draw.own(0, 1) ** 3 / 20)
    steps: NDArray[np.int16] = np.rint(samples * (32_767 * peak / np.abs(samples).max())).astype(np.int16)
    return steps


def _room(draw: Draw) -> Float:
    """Return (K,) an impulse response: the direct sound, then noise that dies away within 0.25 s."""
    time_s, wet = draw.own_log(0.01, 0.08), draw.own(0, 0.5) ** 2 / 0.5
    count = int(3 * time_s * SAMPLE_RATE)
    response = draw.normals(count) * np.exp(-np.arange(count) / (time_s * SAMPLE_RATE))
    response *= wet / np.sqrt((response**2).sum())
    response[0] = 1.0
    return response


def _background(draw: Draw, frequency: Float) -> Complex:
    """Return (F,) the spectrum of noise of some colour, 8 to 40 dB below a sound of unit power."""
    parts = draw.normals(2 * len(frequency)).reshape(2, -1)
    colour = np.maximum(frequency, 60) ** -draw.own(0.1, 0.4)
    colour /= np.sqrt(np.mean(colour**2))
    amplitude = 10 ** (-(8 + 32 * draw.uniforms(3).mean()) / 20)
    spectrum: Complex = amplitude * colour * (parts[0] + 1j * parts[1]) / np.sqrt(2)
    return spectrum


def _channel(draw: Draw, frequency: Float) -> Float:
    """Return (F,) gains: a smooth random equaliser, and a limit near 4 kHz for one clip in ten."""
    octave = np.linspace(0, 1, 65)  # of the range from 40 Hz to 8 kHz
    ripples = np.cos(np.pi * np.outer(np.arange(1, 5), octave) + 2 * np.pi * draw.uniforms(4)[:, None])
    decibels = 1.2 * draw.own(0, 1) * ripples.sum(axis=0)
    gains: Float = np.interp(frequency, 40 * 200**octave, 10 ** (decibels / 20))
    limit, limited = draw.own(3400, 4000), draw.own(0, 1) < 0.1
    return gains / np.sqrt(1 + (frequency / limit) ** 24) if limited else gains
