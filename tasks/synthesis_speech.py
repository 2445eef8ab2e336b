"""Speech-like families: pulses and breath through formants that move from syllable to syllable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .synthesis_signal import SAMPLE_RATE, Draw, Float, cycles, frequencies, impulses, seconds, semitones

_WINDOW = 512
_HOP = 128


@dataclass(frozen=True)
class Voice:
    """Voice of one speaker.

    Attributes:
        pitch: Median fundamental in Hz.
        pitch_range: Standard width of the intonation in semitones.
        tract: Scale of all formants; a short vocal tract is above 1.
        breath: Amplitude of the breath noise against the pulses.
        tilt: Fall of the glottal source in dB per octave.
        roughness: Relative scatter of the pulses' strengths and times.
        upper: Fourth formant in Hz before scaling; the fifth lies 1 kHz above.
        sharpness: Scale of the formants' bandwidths.
    """

    pitch: float
    pitch_range: float
    tract: float
    breath: float
    tilt: float
    roughness: float
    upper: float
    sharpness: float


@dataclass(frozen=True)
class Consonant:
    """Consonant that begins a syllable.

    Attributes:
        locus: Second formant in Hz from which the vowel is reached.
        closure: Strength of voicing before the release, 0 to 1.
        noise_hz: Centre of the noise in Hz.
        octaves: Width of the noise in octaves.
        gain: Strength of the noise, 0 to 1.
        noise_from: Start of the noise, as a share of the syllable.
        noise_to: End of the noise, as a share of the syllable.
    """

    locus: float
    closure: float
    noise_hz: float = 1000.0
    octaves: float = 0.5
    gain: float = 0.0
    noise_from: float = 0.0
    noise_to: float = 0.1


# Loci and noise centres after Stevens, "Acoustic Phonetics" (1998), chapters 7 to 9, rounded.
CONSONANTS = (
    Consonant(900, 0.0, 900, 0.9, 0.6, 0.16, 0.24),  # p
    Consonant(1800, 0.0, 4000, 0.5, 0.9, 0.16, 0.27),  # t
    Consonant(2000, 0.0, 1900, 0.3, 0.9, 0.16, 0.28),  # k
    Consonant(900, 0.35, 800, 0.9, 0.4, 0.16, 0.19),  # b
    Consonant(1800, 0.35, 3600, 0.5, 0.5, 0.16, 0.20),  # d
    Consonant(2000, 0.35, 1800, 0.3, 0.5, 0.16, 0.20),  # g
    Consonant(1800, 0.0, 5800, 0.25, 0.9, 0.0, 0.30),  # s
    Consonant(1900, 0.0, 2900, 0.3, 0.9, 0.0, 0.30),  # sh
    Consonant(1000, 0.0, 4500, 1.2, 0.3, 0.0, 0.26),  # f
    Consonant(1800, 0.5, 5500, 0.3, 0.5, 0.0, 0.26),  # z
    Consonant(900, 0.6),  # m
    Consonant(1700, 0.6),  # n
    Consonant(650, 0.8),  # w
    Consonant(2300, 0.8),  # y
)


@dataclass(frozen=True)
class Syllable:
    """A consonant and the first two formants, in Hz, of its vowel; `vowel` 0 leaves the vowel out."""

    consonant: Consonant
    first: float
    second: float
    weight: float = 1.0
    vowel: float = 1.0


def vowel_formants(openness: float, frontness: float) -> tuple[float, float]:
    """Return the first and second formant in Hz of a vowel given by two numbers from 0 to 1."""
    first = 270 * (860 / 270) ** openness
    back, front = max(650.0, 1.3 * first), 2500 - 1.2 * (first - 270)
    return first, back * (front / back) ** frontness


def any_voice(draw: Draw) -> Voice:
    """Return a voice that is the clip's own."""
    pitch = draw.own_log(85, 300)
    return Voice(
        pitch=pitch,
        pitch_range=draw.own(1, 4),
        tract=(pitch / 160) ** 0.22 * draw.own(0.94, 1.06),
        breath=draw.own_log(0.005, 0.1),
        tilt=draw.own(-9, -3),
        roughness=draw.own(0, 0.03),
        upper=draw.own(3300, 3900),
        sharpness=draw.own(0.8, 1.4),
    )


def vowel(draw: Draw, count: int) -> Float:
    """A vowel or diphthong, said by any voice."""
    openness, frontness = draw.trait(0, 1), draw.trait(0, 1)
    far_openness, far_frontness = draw.trait(0, 1), draw.trait(0, 1)
    times = np.array([0.0, 0.25, 0.75, 1.0]) * count / SAMPLE_RATE
    start, end = vowel_formants(openness, frontness), vowel_formants(far_openness, far_frontness)
    tracks = np.array([start, start, end, end]).T
    flat = np.ones(4)
    return _speak(draw, any_voice(draw), count, times, tracks, flat, 0 * flat, 1000 * flat, flat)


def syllables(draw: Draw, count: int) -> Float:
    """A word of one to three syllables, said by any voice."""
    number, coda = draw.kind(3) + 1, draw.kind(5)
    word = [_trait_syllable(draw) for _ in range(3)][:number]
    if coda:
        closing = (CONSONANTS[6], CONSONANTS[11], CONSONANTS[1], CONSONANTS[2])[coda - 1]
        word.append(Syllable(closing, word[-1].first, word[-1].second, 0.5, 0.0))
    return say(draw, any_voice(draw), word, count)


def voice(draw: Draw, count: int) -> Float:
    """A speaker, saying any syllables."""
    speaker = Voice(
        pitch=draw.trait_log(80, 320),
        pitch_range=draw.trait(0.5, 5),
        tract=draw.trait_log(0.78, 1.32),
        breath=draw.trait_log(0.004, 0.5),
        tilt=draw.trait(-13, 0),
        roughness=draw.trait(0, 0.06),
        upper=draw.trait(3000, 4200),
        sharpness=draw.trait_log(0.6, 2.0),
    )
    number = max(2, round(count / SAMPLE_RATE / draw.own(0.16, 0.3)))
    return say(draw, speaker, [_own_syllable(draw) for _ in range(number)], count)


def _trait_syllable(draw: Draw) -> Syllable:
    consonant = CONSONANTS[draw.kind(len(CONSONANTS))]
    first, second = vowel_formants(draw.trait(0, 1), draw.trait(0, 1))
    return Syllable(consonant, first, second, draw.own(0.8, 1.25))


def _own_syllable(draw: Draw) -> Syllable:
    consonant = CONSONANTS[int(draw.own(0, len(CONSONANTS)))]
    first, second = vowel_formants(draw.own(0, 1), draw.own(0, 1))
    return Syllable(consonant, first, second, draw.own(0.8, 1.25))


def say(draw: Draw, speaker: Voice, word: list[Syllable], count: int) -> Float:
    """Return (count,) samples of syllables that fill the time by their weights."""
    lengths = np.array([syllable.weight for syllable in word])
    lengths *= count / SAMPLE_RATE / lengths.sum()
    keys = []  # time, first formant, second formant, voicing, noise, its centre, its width
    for syllable, length, start in zip(word, lengths, np.cumsum(lengths) - lengths, strict=True):
        c, loud = syllable.consonant, syllable.vowel
        noise = (c.noise_hz, c.octaves)
        shares = {
            0.0: 0.0,
            c.noise_from: 0.0,
            c.noise_from + 0.015: c.gain,
            c.noise_to: c.gain,
            c.noise_to + 0.03: 0.0,
        }
        low, middle = (270.0, c.locus), (0.5 * (270 + syllable.first), 0.5 * (c.locus + syllable.second))
        course = {
            0.02: (*low, c.closure),
            0.16: (*low, c.closure),
            0.24: (*middle, 0.6 * loud + 0.4 * c.closure),
        }
        course |= dict.fromkeys((0.36, 0.85), (syllable.first, syllable.second, loud))
        course |= {0.98: (syllable.first, syllable.second, 0.3 * loud)}
        times = sorted({*shares, *course})
        tracks = np.array(list(course.values())).T
        gains = np.interp(times, list(shares), list(shares.values()))
        for row in zip(times, *(np.interp(times, list(course), track) for track in tracks), gains, strict=True):
            keys.append((start + length * row[0], *row[1:], *noise))
    times_s, first, second, voicing, noise_gain, noise_hz, octaves = np.array(keys).T
    return _speak(draw, speaker, count, times_s, np.stack([first, second]), voicing, noise_gain, noise_hz, octaves)


def _speak(
    draw: Draw,
    speaker: Voice,
    count: int,
    times_s: Float,
    formants: Float,
    voicing: Float,
    noise_gain: Float,
    noise_hz: Float,
    octaves: Float,
) -> Float:
    """Return (count,) samples: pulses and noise, filtered frame by frame between the (K,) key frames."""
    knots = np.linspace(0, count / SAMPLE_RATE, 5)
    fall = draw.own(-1.5, 0.5) * np.linspace(-1, 1, 5)
    course = np.interp(seconds(count), knots, speaker.pitch_range * (draw.uniforms(5) - 0.5) * 2 + fall)
    phase = cycles(speaker.pitch * semitones(course))
    pulses = np.arange(1, int(phase[-1]) + 1)
    scatter = 1 + speaker.roughness * draw.normals(2 * len(pulses)).reshape(2, -1)
    moments = np.interp(pulses + scatter[0] - 1, phase, seconds(count))
    period = np.sqrt(SAMPLE_RATE / speaker.pitch)  # unit power for any pitch
    source = np.fft.rfft(_frames(impulses(moments, period * scatter[1] ** 3, count)))
    hiss = np.fft.rfft(_frames(draw.normals(count)))

    frame_s = np.arange(len(source)) * _HOP / SAMPLE_RATE
    first, second, sounding, rushing, centre, width = (
        np.interp(frame_s, times_s, track)[:, None]
        for track in (*formants, voicing, noise_gain, np.log2(noise_hz), octaves)
    )
    frequency = frequencies(_WINDOW)
    third = 2450 + 0.35 * np.maximum(second - 1500, 0)
    tract = _tract(frequency / speaker.tract, (first, second, third), speaker)
    tilt = np.maximum(frequency, 80) ** (speaker.tilt / 6.02) * 100 ** (-speaker.tilt / 6.02)
    rush = np.exp(-0.5 * ((np.log2(np.maximum(frequency, 50)) - centre) / width) ** 2)
    spectrum = sounding * tract * (tilt * source + speaker.breath * hiss) + 0.6 * rushing * rush * hiss
    return _overlap(np.fft.irfft(spectrum), count)


def _tract(frequency: Float, formants: tuple[Float, Float, Float], speaker: Voice) -> Float:
    """Return (frames, F) zero-phase gains of five resonators in a row, before the tract's scale."""
    square = frequency**2
    power = np.ones((1, len(frequency)))
    fixed = (np.array([[speaker.upper]]), np.array([[speaker.upper + 1000]]))
    for centre, bandwidth in zip((*formants, *fixed), (60.0, 80.0, 130.0, 200.0, 280.0), strict=True):
        width = (bandwidth * speaker.sharpness) ** 2
        power = power * (centre**4 / ((square - centre**2) ** 2 + width * square))
    return np.sqrt(power)


def _frames(samples: Float) -> Float:
    """Return (frames, 512) windowed frames every 128 samples, the first centred on the first sample."""
    padded = np.pad(samples, (_WINDOW // 2, _WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][: len(samples) // _HOP + 2]
    return frames * _root_hann()


def _overlap(frames: Float, count: int) -> Float:
    """Return (count,) samples: the inverse of `_frames`."""
    parts = (frames * _root_hann() / 2).reshape(len(frames), _WINDOW // _HOP, _HOP)
    total = np.zeros((len(frames) + _WINDOW // _HOP - 1, _HOP))
    for part in range(_WINDOW // _HOP):
        total[part : part + len(frames)] += parts[:, part]
    return total.ravel()[_WINDOW // 2 : _WINDOW // 2 + count]


def _root_hann() -> Float:
    """Return (512,) the square root of a periodic Hann window: its squares add up to 2 at a quarter's hop."""
    return np.sin(np.pi * np.arange(_WINDOW) / _WINDOW)
