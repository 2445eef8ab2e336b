"""The families of synthetic sounds that are not speech: each turns a clip's draws into samples.

A family reads the traits of its class through `draw.trait` and `draw.kind`, always in the same order, and
everything that must not matter (pitch, above all) through `draw.own`. All return (count,) float64 samples of any
scale at 16 kHz.
"""

from __future__ import annotations

import numpy as np

from .synthesis_signal import (
    SAMPLE_RATE,
    Complex,
    Draw,
    Float,
    band,
    cycles,
    decay,
    filtered,
    impulses,
    loudness,
    resonance,
    seconds,
    semitones,
    tilted,
    wave,
)


def harmonic(draw: Draw, count: int) -> Float:
    """Sustained tone: spectral tilt, even harmonics, one emphasised harmonic, vibrato."""
    harmonics = tilted(40, draw.trait(-14, -2))
    harmonics[1::2] *= draw.trait(0, 1)
    order = np.arange(1, 41)
    harmonics *= 1 + 8 * np.exp(-0.5 * ((order - draw.trait_log(2, 14)) / 0.8) ** 2)
    rate, depth = draw.trait_log(2.5, 11), draw.trait(0.0, 1.6)
    vibrato = depth * np.sin(2 * np.pi * (rate * seconds(count) + draw.own(0, 1)))
    glide = draw.own(-1, 1) * seconds(count)
    return wave(draw.own_log(140, 380) * semitones(vibrato + glide), harmonics)


def fm_bell(draw: Draw, count: int) -> Float:
    """Frequency modulation with a decaying index (Chowning 1973): ratio, index, both decays."""
    ratio, index = draw.trait_log(0.6, 6.0), draw.trait(0.5, 7)
    index_decay, fall = draw.trait_log(0.04, 0.5), draw.trait_log(0.08, 0.8)
    carrier = draw.own_log(250, 700) * seconds(count)
    modulator = index * decay(count, index_decay) * np.sin(2 * np.pi * ratio * carrier)
    return np.sin(2 * np.pi * carrier + modulator) * decay(count, fall)


def noise(draw: Draw, count: int) -> Float:
    """Noise in two bands: both centres, their width and balance, and the rate of a slow beat."""
    low, high = draw.trait_log(250, 1400), draw.trait_log(1500, 5500)
    width, balance = draw.trait_log(0.05, 0.5), draw.trait(0.15, 0.85)
    shift = float(semitones(draw.own(-2, 2)))
    lower, upper = band(low * shift, width), band(high * shift, width)
    rate, depth = draw.trait_log(1.5, 14), draw.trait(0, 1)
    beat = 1 + depth * np.sin(2 * np.pi * (rate * seconds(count) + draw.own(0, 1)))
    return beat * filtered(draw.normals(count), lambda f: balance * lower(f) + (1 - balance) * upper(f))


def chirp(draw: Draw, count: int) -> Float:
    """Sweeps: extent and direction, curvature, number of repeats, tilt of the harmonics."""
    extent, bend = draw.trait(-2.2, 2.2), draw.trait(-2, 2)
    repeats, tilt = draw.kind(4) + 1, draw.trait(-18, -4)
    position = np.linspace(0, repeats, count, endpoint=False) % 1
    course = position ** np.exp2(bend) - 0.5
    gap = np.clip(12 * np.minimum(position, 1 - position), 0, 1)
    sweep: Float = wave(draw.own_log(500, 1100) * np.exp2(extent * course), tilted(12, tilt)) * gap
    return sweep


def siren(draw: Draw, count: int) -> Float:
    """A pitch that goes round: rate, depth, shape of the course, tilt."""
    rate, depth = draw.trait_log(1.2, 12), draw.trait_log(0.08, 1.0)
    shape, tilt = draw.kind(4), draw.trait(-16, -3)
    turn = (rate * seconds(count) + draw.own(0, 1)) % 1
    triangle = 4 * np.abs(turn - 0.5) - 1
    course = (np.sin(2 * np.pi * turn), np.tanh(8 * triangle), 1 - 2 * turn, 2 * turn - 1)[shape]
    return wave(draw.own_log(350, 950) * np.exp2(depth * course), tilted(16, tilt))


def clicks(draw: Draw, count: int) -> Float:
    """A rhythm of clicks: cycle, gaps and accents within it, acceleration, decay of a click."""
    cycle = draw.trait_log(0.1, 0.45)
    gaps = np.array([1.0, draw.trait(0.15, 2), draw.trait(0.15, 2)])
    accents = np.array([1.0, draw.trait(0.1, 1), draw.trait(0.1, 1)])
    pace, ring = draw.trait(-0.5, 0.5), draw.trait_log(0.0008, 0.015)
    turns = int(2.0 / cycle) + 2
    starts = np.concatenate([[0.0], np.cumsum(gaps / gaps.sum())[:-1]])
    beats = (np.arange(turns)[:, None] + starts).ravel() * cycle
    times = beats ** np.exp2(pace)
    strikes = impulses(0.01 + times, np.resize(accents, len(times)), count)
    return filtered(strikes, resonance(draw.own_log(600, 3000), ring))


def rain(draw: Draw, count: int) -> Float:
    """Drops at random times over a hiss: density, pitch and ring of the drops, hiss, gusts."""
    density, pitch = draw.trait_log(10, 400), draw.trait_log(500, 4500)
    ring, hiss, gust = draw.trait_log(0.001, 0.02), draw.trait(0.0, 0.6), draw.trait_log(1, 10)
    drops = int(density * count / SAMPLE_RATE) + 2
    times = draw.uniforms(drops) * count / SAMPLE_RATE
    shift = float(semitones(draw.own(-2, 2)))
    wet = filtered(impulses(times, draw.normals(drops), count), resonance(pitch * shift, ring))
    back = filtered(draw.normals(count), lambda f: 1 / (1 + (f / 3000) ** 2))
    swell = 1 + 0.7 * np.sin(2 * np.pi * (gust * seconds(count) + draw.own(0, 1)))
    return swell * (wet / loudness(wet) + hiss * back / loudness(back))


def engine(draw: Draw, count: int) -> Float:
    """Firing pulses: strength of four cylinders, exhaust resonance, breath, and the course of the speed."""
    strengths = np.array([1.0, draw.trait(0, 1), draw.trait(0, 1), draw.trait(0, 1)])
    exhaust, ring = draw.trait_log(150, 1800), draw.trait_log(0.002, 0.02)
    breath, rate, depth = draw.trait(0, 0.8), draw.trait_log(0.6, 6), draw.trait(0, 0.5)
    wander = depth * np.sin(2 * np.pi * (rate * seconds(count) + draw.own(0, 1)))
    phase = cycles(draw.own_log(30, 110) * np.exp2(wander))
    fired = np.arange(1, int(phase[-1]) + 1)
    strokes = impulses(np.interp(fired, phase, seconds(count)), strengths[fired % 4], count)
    return filtered(strokes + 0.05 * breath * draw.normals(count), resonance(exhaust, ring))


def drum(draw: Draw, count: int) -> Float:
    """Strokes on a skin: pitch drop, decays of skin and rattle, share and colour of the rattle, spacing."""
    drop, drop_time = draw.trait(0, 2.5), draw.trait_log(0.01, 0.12)
    skin_time, rattle_time = draw.trait_log(0.03, 0.4), draw.trait_log(0.01, 0.2)
    rattle, colour, spacing = draw.trait(0.05, 0.9), draw.trait_log(700, 5500), draw.trait_log(0.07, 0.6)
    since = seconds(count) % (spacing * draw.own(0.95, 1.05))
    course = draw.own_log(60, 220) * np.exp2(drop * np.exp(-since / drop_time))
    skin = np.sin(2 * np.pi * cycles(course)) + 0.4 * np.sin(2 * np.pi * 1.59 * cycles(course))
    snare = filtered(draw.normals(count), band(colour, 0.5))
    snare /= loudness(snare)
    return (1 - rattle) * skin * np.exp(-since / skin_time) + rattle * snare * np.exp(-since / rattle_time)


def melody(draw: Draw, count: int) -> Float:
    """A tune in any key and any timbre: three intervals, the rhythm, how the notes die away."""
    steps = np.array([0.0, draw.trait(-10, 10), draw.trait(-10, 10), draw.trait(-10, 10)])
    lengths = np.array([1.0, draw.trait_log(0.4, 2.5), draw.trait_log(0.4, 2.5), 1.2])
    fall = draw.trait_log(0.15, 3)
    ends = np.cumsum(lengths / lengths.sum())
    position = np.linspace(0, 1, count, endpoint=False)
    note = np.minimum(np.searchsorted(ends, position, side="right"), 3)
    since = (position - np.append(0.0, ends)[note]) / ends[0]
    harmonics = tilted(20, draw.own(-14, -4))
    fading: Float = np.exp(-since / fall) * np.minimum(1, 20 * since)
    return wave(draw.own_log(240, 600) * semitones(steps[note]), harmonics) * fading


def pluck(draw: Draw, count: int) -> Float:
    """Plucked string (Karplus and Strong 1983): decay, damping, place, body, spacing of the strokes.

    Its loop is linear, so that it is solved in the frequency domain, for any real period.
    """
    fall, damping = draw.trait_log(0.08, 0.7), draw.trait(0.02, 0.5)
    place, body, spacing = draw.trait(0.05, 0.5), draw.trait_log(150, 2500), draw.trait_log(0.12, 1.0)
    period = 1 / draw.own_log(110, 280)
    times = np.arange(0.005, count / SAMPLE_RATE, spacing)
    burst = draw.normals(int(period * SAMPLE_RATE))
    pick = np.zeros(count)
    for start in (times * SAMPLE_RATE).astype(np.int64).tolist():
        width = min(len(burst), count - start)
        pick[start : start + width] += burst[:width]
    loss = np.exp(-period / fall)

    def string(frequencies: Float) -> Complex:
        turn = 2j * np.pi * frequencies
        average = 1 - damping + damping * np.exp(-turn / SAMPLE_RATE)
        loop = 1 - loss * average * np.exp(-turn * period)
        heard: Complex = (1 - np.exp(-turn * period * place)) * (0.1 + resonance(body, 0.004)(frequencies)) / loop
        return heard

    return filtered(pick, string)


def bird(draw: Draw, count: int) -> Float:
    """Song of short high sweeps: note length and gap, sweep of two kinds of note in turn, bend, trill."""
    length, gap = draw.trait_log(0.04, 0.2), draw.trait_log(0.02, 0.2)
    sweeps = np.array([draw.trait(-1, 1), draw.trait(-1, 1)])
    bend, trill, depth = draw.trait(-1.5, 1.5), draw.trait_log(15, 70), draw.trait(0, 0.15)
    pace = draw.own(0.9, 1.1)
    time = seconds(count) * pace
    position = np.minimum(time % (length + gap) / length, 1)
    sweep = sweeps[(time // (length + gap)).astype(np.int64) % 2]
    course = sweep * (position ** np.exp2(bend) - 0.5) + depth * np.sin(2 * np.pi * trill * time)
    return wave(draw.own_log(2000, 3000) * np.exp2(course), np.array([1.0, 0.15])) * np.sin(np.pi * position) ** 0.7


def bubbles(draw: Draw, count: int) -> Float:
    """Bubbles that rise in pitch as they die: density, pitch and its spread, rise, life."""
    density, pitch = draw.trait_log(4, 40), draw.trait_log(350, 1500)
    spread, rise, life = draw.trait(0.05, 0.8), draw.trait(-1, 3), draw.trait_log(0.01, 0.08)
    total = np.zeros(count)
    bubbles_in_clip = int(density * count / SAMPLE_RATE) + 1
    width = int(5 * life * SAMPLE_RATE)
    time = seconds(width)
    for start, height, size in draw.uniforms(3 * bubbles_in_clip).reshape(-1, 3):
        first = int(start * count)
        frequency = pitch * np.exp2(spread * (2 * height - 1))
        one = size * np.sin(2 * np.pi * frequency * time * (1 + rise * time / life / 10)) * np.exp(-time / life)
        total[first : first + width] += (one * np.minimum(1, time / 0.002))[: count - first]
    return total


def mixture(draw: Draw, count: int) -> Float:
    """One sustained and one broken sound of training families, at the clip's own balance."""
    total = np.zeros(count)
    for choices, gain in (
        ((harmonic, noise, siren, engine), 1.0),
        ((clicks, drum, chirp, fm_bell), draw.own_log(0.5, 2)),
    ):
        part = choices[draw.kind(len(choices))](draw, count)
        total += gain * part / loudness(part)
    return total
