"""The draws and the few signal operations that all families of synthetic sounds share.

Everything is float64 and reads its randomness from a `Draw`, so that a clip is the same on every machine,
to within one 16-bit step.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
REGION_HALF_WIDTH = 0.04  # of a trait's whole range: how far a clip strays from the centre of its class

Float = NDArray[np.float64]
Complex = NDArray[np.complex128]


class Draw:
    """Random numbers of one clip, and the traits of its class.

    Only raw Philox words are used (numpy guarantees that stream, not the methods of `Generator`).

    Args:
        key: Canonical text that names the clip; its SHA-256 seeds the stream.
        centre: (D,) centre of the class in the unit cube of its family's traits, read in order.
    """

    def __init__(self, key: str, centre: Float) -> None:
        digest = hashlib.sha256(key.encode()).digest()
        self._philox = np.random.Philox(key=int.from_bytes(digest[:16], "little"))
        self._centre = centre
        self.traits_read = 0

    def uniforms(self, count: int) -> Float:
        """Return (count,) numbers in [0, 1) with 53 random bits each."""
        return (self._philox.random_raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normals(self, count: int) -> Float:
        """Return (count,) nearly normal numbers, mean 0, variance 1: exact sums of four 16-bit uniforms."""
        words = self._philox.random_raw(count)
        quarters = np.uint64(0x0000_FFFF_0000_FFFF)
        pairs = (words & quarters) + ((words >> np.uint64(16)) & quarters)
        total = (pairs & np.uint64(0xFFFF_FFFF)) + (pairs >> np.uint64(32))
        return (total.astype(np.float64) - 2 * 65_535) * (math.sqrt(3) / 65_536)

    def own(self, low: float, high: float) -> float:
        """Return the clip's own number, uniform in [low, high)."""
        return low + (high - low) * float(self.uniforms(1)[0])

    def own_log(self, low: float, high: float) -> float:
        """Return the clip's own number, log-uniform in [low, high)."""
        return float(low * np.exp(np.log(high / low) * self.own(0, 1)))

    def trait(self, low: float, high: float) -> float:
        """Return the class's next trait, scaled to [low, high], with the clip's small deviation."""
        unit = self._next_centre() + REGION_HALF_WIDTH * self.own(-1, 1)
        return low + (high - low) * min(max(unit, 0.0), 1.0)

    def trait_log(self, low: float, high: float) -> float:
        """Return the class's next trait on a logarithmic scale, with the clip's small deviation."""
        return float(low * np.exp(np.log(high / low) * self.trait(0, 1)))

    def kind(self, count: int) -> int:
        """Return the class's next trait as one of `count` kinds, from 0: the same for all its clips."""
        return min(int(self._next_centre() * count), count - 1)

    def _next_centre(self) -> float:
        self.traits_read += 1
        return float(self._centre[self.traits_read - 1])


def seconds(count: int) -> Float:
    """Return (count,) times of samples in seconds."""
    return np.arange(count) / SAMPLE_RATE


def cycles(frequency: Float) -> Float:
    """Return (S,) phase in cycles of a tone with (S,) frequencies in Hz."""
    return np.cumsum(frequency) / SAMPLE_RATE


def semitones(value: float | Float) -> Float:
    """Return the frequency ratio of an interval in semitones."""
    return np.exp2(np.asarray(value) / 12)


def wave(frequency: Float, harmonics: Float) -> Float:
    """Return (S,) samples of a periodic tone.

    Args:
        frequency: (S,) frequencies in Hz.
        harmonics: (H,) amplitudes from the fundamental up; those beyond 7.6 kHz are left out.
    """
    points = 4096
    audible = harmonics[: max(1, int(7600 / frequency.max()))]
    spectrum = np.zeros(points // 2 + 1, dtype=np.complex128)
    # Schroeder's phases keep the peak low without touching the timbre.
    order = np.arange(1, len(audible) + 1)
    spectrum[order] = audible * np.exp(-1j * np.pi * order**2 / len(audible))
    table = np.fft.irfft(spectrum, points) * points
    position: Float = cycles(frequency) % 1 * points
    samples: Float = np.interp(position, np.arange(points + 1), np.append(table, table[0]))
    return samples


def tilted(count: int, decibel_per_octave: float) -> Float:
    """Return (count,) harmonic amplitudes that fall (or rise) by a number of dB an octave."""
    amplitudes: Float = np.arange(1.0, count + 1) ** (decibel_per_octave / 6.02)
    return amplitudes


def decay(count: int, time_s: float) -> Float:
    """Return (count,) an exponential fall to 1/e after time_s seconds."""
    return np.exp(-seconds(count) / time_s)


def impulses(times_s: Float, amplitudes: Float, count: int) -> Float:
    """Return (count,) samples with an impulse at each of (K,) times; those outside are left out.

    Each impulse is shared by two neighbouring samples, so that an impulse moves smoothly with its time.
    """
    position = times_s * SAMPLE_RATE
    inside = (position >= 0) & (position < count - 1)
    position, amplitudes = position[inside], amplitudes[inside]
    left = position.astype(np.int64)
    share = position - left
    indices = np.concatenate([left, left + 1])
    weights = np.concatenate([amplitudes * (1 - share), amplitudes * share])
    return np.bincount(indices, weights, minlength=count).astype(np.float64)


def fft_size(count: int) -> int:
    """Return the smallest 2^k or 3 * 2^k that holds `count` samples."""
    power = 1 << (count - 1).bit_length()
    return 3 * power // 4 if 3 * power // 4 >= count else power


def frequencies(size: int) -> Float:
    """Return (size // 2 + 1,) frequencies in Hz of the bins of a real transform."""
    return np.arange(size // 2 + 1, dtype=np.float64) * (SAMPLE_RATE / size)


def filtered(samples: Float, response: Callable[[Float], Complex | Float]) -> Float:
    """Return (S,) samples through a filter given by its response to (F,) frequencies in Hz."""
    size = fft_size(len(samples) + SAMPLE_RATE // 4)
    gains = response(frequencies(size))
    return np.fft.irfft(np.fft.rfft(samples, size) * gains, size)[: len(samples)]


def resonance(frequency: float, decay_s: float) -> Callable[[Float], Complex]:
    """Return the response of a resonator: centre in Hz, time to 1/e in seconds, peak gain near 1."""

    def response(frequencies: Float) -> Complex:
        damping = 1 / decay_s
        s = 2j * np.pi * frequencies + damping
        return 2 * damping * s / (s**2 + (2 * np.pi * frequency) ** 2)

    return response


def band(frequency: float, octaves: float) -> Callable[[Float], Float]:
    """Return a bell-shaped response on the octave scale: centre in Hz, standard deviation in octaves."""

    def response(frequencies: Float) -> Float:
        distance = np.log2(np.maximum(frequencies, 1.0) / frequency) / octaves
        return np.exp(-0.5 * distance**2)

    return response


def loudness(samples: Float) -> float:
    """Return the root mean square of (S,) samples, at least 1e-9."""
    return max(float(np.sqrt(np.mean(samples**2))), 1e-9)
