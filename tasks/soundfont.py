"""SoundFont 2: the recordings behind each preset, and notes rendered by FluidSynth.

Source of the layout: SoundFont Technical Specification 2.04, sections 4 to 8.
"""

from __future__ import annotations

import hashlib
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from uamix_bench.data.audio import resample
from uamix_bench.util.arrays import Bytes, Floats
from uamix_bench.util.errors import BadInputError, MachineError

_RENDERED_HZ = 44_100  # the recordings' own rate: FluidSynth's interpolation does not filter when it goes down
_TICKS = 960  # MIDI ticks a second, at 480 a quarter note and the default 120 quarter notes a minute
_GAIN = 0.5  # of FluidSynth: its default of 0.2 loses resolution, and a single note does not clip at this

_GENERATORS = [("operator", "<u2"), ("amount", "<u2")]
_BAGS = [("generator", "<u2"), ("modulator", "<u2")]
_HEADERS: dict[bytes, list[tuple[Any, ...]]] = {
    b"phdr": [("name", "S20"), ("program", "<u2"), ("bank", "<u2"), ("bag", "<u2"), ("unused", "<u4", 3)],
    b"pbag": _BAGS,
    b"pgen": _GENERATORS,
    b"inst": [("name", "S20"), ("bag", "<u2")],
    b"ibag": _BAGS,
    b"igen": _GENERATORS,
    b"shdr": [
        ("name", "S20"),
        *((name, "<u4") for name in ("start", "end", "loop_start", "loop_end", "rate")),
        *(("pitch", "u1"), ("correction", "i1"), ("link", "<u2"), ("type", "<u2")),
    ],
}
# Generators, section 8.1.2.
_INSTRUMENT, _KEYS, _VELOCITIES, _SAMPLE, _ROOT = 41, 43, 44, 53, 58
_RIGHT, _LEFT = 2, 4  # types of samples, section 7.10
_ALL = 127 << 8


@dataclass(frozen=True)
class Zone:
    """Keys and velocities, both ends included, for which a recording sounds, and the key it was recorded at."""

    keys: tuple[int, int]
    velocities: tuple[int, int]
    recording: str
    root: int


@dataclass(frozen=True)
class Preset:
    """Preset of a sound font.

    Attributes:
        program: MIDI program, 0 to 127.
        name: Name in the font.
        zones: Where each recording sounds.
    """

    program: int
    name: str
    zones: tuple[Zone, ...]

    @property
    def recordings(self) -> frozenset[str]:
        """Digests of all recordings that the preset plays."""
        return frozenset(zone.recording for zone in self.zones)

    def sounding(self, key: int, velocity: int) -> list[Zone]:
        """Zones that sound for a key."""
        return [
            zone
            for zone in self.zones
            if zone.keys[0] <= key <= zone.keys[1] and zone.velocities[0] <= velocity <= zone.velocities[1]
        ]


def presets(path: Path) -> list[Preset]:
    """Reads the melodic presets, those of bank 0, by program.

    Raises:
        BadInputError: The file is missing or no SoundFont 2.
    """
    try:
        data = np.memmap(path, np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise BadInputError(path, f"cannot be read ({error})", "install the package fluid-soundfont-gm") from error
    if bytes(data[:4]) != b"RIFF" or bytes(data[8:12]) != b"sfbk":
        raise BadInputError(path, "is no SoundFont 2", "give a .sf2 file")
    chunks = dict(_chunks(data, 12, len(data)))
    tables = {name: chunks[name].view(np.dtype(fields)) for name, fields in _HEADERS.items()}
    digests = _recordings(chunks[b"smpl"].view("<i2"), tables[b"shdr"])
    found = []
    for header, after in pairwise(tables[b"phdr"]):
        if header["bank"] == 0:
            zones = tuple(_zones(tables, digests, header["bag"], after["bag"]))
            found.append(Preset(int(header["program"]), header["name"].decode("latin-1"), zones))
    return sorted(found, key=lambda preset: preset.program)


def _chunks(data: Bytes, start: int, stop: int) -> Iterator[tuple[bytes, Bytes]]:
    while start < stop:
        name, (size,) = bytes(data[start : start + 4]), struct.unpack("<I", bytes(data[start + 4 : start + 8]))
        if name == b"LIST":
            yield from _chunks(data, start + 12, start + 8 + size)
        else:
            yield name, data[start + 8 : start + 8 + size]
        start += 8 + size + size % 2


def _recordings(samples: npt.NDArray[np.int16], headers: npt.NDArray[np.void]) -> list[str]:
    """Digest of each sample's recording: equal sounds are one, and so are the two sides of a stereo recording.

    The sides are neighbours whose names differ in their end alone, as in ``Oboe C4(L)``; the font links none.
    """
    digests = [
        hashlib.sha256(samples[header["start"] : header["end"]].tobytes()).hexdigest()[:16] for header in headers
    ]
    for index, (one, other) in enumerate(pairwise(headers)):
        sides = one["type"] | other["type"] == _LEFT | _RIGHT and one["type"] != other["type"]
        if sides and one["name"][:-3] == other["name"][:-3]:
            digests[index] = digests[index + 1] = min(digests[index], digests[index + 1])
    return digests


def _zones(tables: dict[bytes, npt.NDArray[np.void]], digests: Sequence[str], first: int, last: int) -> Iterator[Zone]:
    headers, instruments = tables[b"shdr"], tables[b"inst"]
    for outer in _generators(tables[b"pbag"], tables[b"pgen"], first, last, _INSTRUMENT):
        number = outer[_INSTRUMENT]
        bags = instruments[number]["bag"], instruments[number + 1]["bag"]
        for inner in _generators(tables[b"ibag"], tables[b"igen"], *bags, _SAMPLE):
            keys, velocities = (_both(outer.get(of, _ALL), inner.get(of, _ALL)) for of in (_KEYS, _VELOCITIES))
            if keys[0] <= keys[1] and velocities[0] <= velocities[1]:
                sample = inner[_SAMPLE]
                root = inner.get(_ROOT, 255)
                yield Zone(keys, velocities, digests[sample], root if root < 128 else int(headers[sample]["pitch"]))


def _generators(
    bags: npt.NDArray[np.void], generators: npt.NDArray[np.void], first: int, last: int, wanted: int
) -> Iterator[dict[int, int]]:
    """Generators of each bag that has the `wanted` one; a bag without it is global."""
    for bag, after in pairwise(bags[first : last + 1]):
        amounts = {int(of): int(amount) for of, amount in generators[bag["generator"] : after["generator"]]}
        if wanted in amounts:
            yield amounts


def _both(one: int, other: int) -> tuple[int, int]:
    """Intersection of two ranges, each the lowest value in the low byte, the highest in the high byte."""
    return max(one & 255, other & 255), min(one >> 8, other >> 8)


def components(found: Iterable[Preset]) -> list[list[Preset]]:
    """Groups of presets that share recordings, directly or through others, in the order of their first programs."""
    groups: list[list[Preset]] = []
    for preset in found:
        touched = [group for group in groups if any(preset.recordings & other.recordings for other in group)]
        groups = [group for group in groups if group not in touched]
        groups.append([*(one for group in touched for one in group), preset])
    return sorted((sorted(group, key=lambda one: one.program) for group in groups), key=lambda one: one[0].program)


@dataclass(frozen=True)
class Note:
    """Note to play: MIDI key and velocity, and seconds that the key is held."""

    key: int
    velocity: int = 100
    seconds: float = 1.0


def render(path: Path, program: int, notes: Sequence[Note], seconds: float, sample_rate: int) -> list[Floats]:
    """Renders each note alone, without reverberation and chorus.

    Args:
        path: SoundFont file.
        program: MIDI program.
        notes: Notes to play.
        seconds: Length of each sound, the release included.
        sample_rate: Rate of the sounds, in Hz.

    Returns:
        (S,) mono samples of each note.

    Raises:
        MachineError: FluidSynth is missing or fails.
    """
    apart = seconds + 2.0  # seconds, in which the note before dies away
    with tempfile.TemporaryDirectory() as folder:
        midi, wave = Path(folder) / "notes.mid", Path(folder) / "notes.wav"
        midi.write_bytes(_midi(program, notes, apart))
        dry = ["-R", "0", "-C", "0", "-g", str(_GAIN), "-r", str(_RENDERED_HZ)]
        command = ["fluidsynth", "-ni", "-q", *dry, "-o", "synth.dynamic-sample-loading=1", "-F", str(wave)]
        try:
            subprocess.run([*command, str(path), str(midi)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise MachineError("fluidsynth", f"does not run ({error})", "install the package fluidsynth") from error
        sound = soundfile.read(wave, dtype="float32", always_2d=True)[0].mean(axis=1)
    length = round(seconds * _RENDERED_HZ)
    starts = [round(number * apart * _RENDERED_HZ) for number in range(len(notes))]
    return [resample(sound[start : start + length], _RENDERED_HZ, sample_rate) for start in starts]


def _midi(program: int, notes: Sequence[Note], apart: float) -> bytes:
    """Standard MIDI file of one track that plays the notes one by one."""
    events = [(0, bytes([0xC0, program]))]
    for number, note in enumerate(notes):
        start = round(number * apart * _TICKS)
        events.append((start, bytes([0x90, note.key, note.velocity])))
        events.append((start + round(note.seconds * _TICKS), bytes([0x80, note.key, 0])))
    events.append((round(len(notes) * apart * _TICKS), b"\xff\x2f\x00"))
    track, before = b"", 0
    for time, event in events:
        track += _variable(time - before) + event
        before = time
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, 480) + b"MTrk" + struct.pack(">I", len(track)) + track


def _variable(value: int) -> bytes:
    """Number of variable length: seven bits a byte, the highest bit set in all but the last."""
    parts = [value & 127]
    while value := value >> 7:
        parts.append(value & 127 | 128)
    return bytes(reversed(parts))
