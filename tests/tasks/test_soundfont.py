"""The recordings behind presets, on a font made here, and the sides of FluidR3, where it is installed."""

from __future__ import annotations

import struct
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from uamix_bench.tasks import corpus_instruments, soundfont
from uamix_bench.util.errors import BadInputError

ROOT, KEYS, SAMPLE, INSTRUMENT = 58, 43, 53, 41


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def made_font(
    path: Path, sounds: list[tuple[str, int, list[int]]], instruments: list[list[tuple[int, int, int]]]
) -> Path:
    """A font with a preset an instrument, each a list of zones (lowest key, highest key, sample)."""
    samples, headers = b"", b""
    for name, kind, values in sounds:
        start = len(samples) // 2
        samples += np.array(values, "<i2").tobytes() + b"\0" * 92
        ends = (start, start + len(values), 0, 0, 44_100)
        headers += struct.pack("<20s5IBbHH", name.encode(), *ends, 60, 0, 0, kind)
    pbag = igen = ibag = inst = phdr = pgen = b""
    zones = 0
    for number, listed in enumerate([*instruments, []]):
        phdr += struct.pack("<20sHHH3I", f"preset {number}".encode(), number, 0, number, 0, 0, 0)
        pbag += struct.pack("<HH", number, 0)
        pgen += struct.pack("<HH", INSTRUMENT, number)
        inst += struct.pack("<20sH", f"instrument {number}".encode(), zones)
        for low, high, sample in listed:
            ibag += struct.pack("<HH", 3 * zones, 0)
            igen += struct.pack("<6H", KEYS, low | high << 8, ROOT, low, SAMPLE, sample)
            zones += 1
    ibag += struct.pack("<HH", 3 * zones, 0)
    headers += struct.pack("<20s5IBbHH", b"EOS", 0, 0, 0, 0, 0, 0, 0, 0, 0)
    tables = {"phdr": phdr, "pbag": pbag, "pgen": pgen, "inst": inst, "ibag": ibag, "igen": igen, "shdr": headers}
    pdta = b"pdta" + b"".join(chunk(name.encode(), content) for name, content in tables.items())
    body = b"sfbk" + chunk(b"LIST", b"sdta" + chunk(b"smpl", samples)) + chunk(b"LIST", pdta)
    path.write_bytes(chunk(b"RIFF", body))
    return path


def test_equal_sounds_and_the_sides_of_a_stereo_sound_are_one_recording(tmp_path: Path) -> None:
    sounds = [
        ("oboe(L)", 4, [1, 2, 3]),
        ("oboe(R)", 2, [3, 2, 1]),
        ("flute", 1, [5, 6]),
        ("copy", 1, [5, 6]),
        ("lone(R)", 2, [9]),
    ]
    zones = [[(0, 60, 0), (0, 60, 1)], [(0, 40, 2), (41, 127, 4)], [(0, 127, 3)]]
    found = soundfont.presets(made_font(tmp_path / "f.sf2", sounds, zones))
    assert [(preset.program, preset.name) for preset in found] == [(n, f"preset {n}") for n in range(3)]
    assert [len(preset.recordings) for preset in found] == [1, 2, 1]
    assert found[2].recordings < found[1].recordings
    assert [zone.root for zone in found[1].sounding(50, 100)] == [41]
    assert not found[0].sounding(61, 100)
    parts = soundfont.components(found)
    assert [[preset.program for preset in part] for part in parts] == [[0], [1, 2]]


def test_a_file_that_is_no_font_is_named(tmp_path: Path) -> None:
    (tmp_path / "f.sf2").write_bytes(b"RIFF" + bytes(60))
    with pytest.raises(BadInputError, match=r"f\.sf2: is no SoundFont 2"):
        soundfont.presets(tmp_path / "f.sf2")
    with pytest.raises(BadInputError, match="cannot be read"):
        soundfont.presets(tmp_path / "missing.sf2")


@pytest.mark.skipif(not corpus_instruments.FONT.exists(), reason="fluid-soundfont-gm is not installed")
def test_no_recording_of_the_font_is_on_two_sides() -> None:
    sides = corpus_instruments.sides()
    heard = {side: frozenset().union(*(preset.recordings for preset in placed)) for side, placed in sides.items()}
    assert all(heard.values())
    for one, other in combinations(heard, 2):
        assert not heard[one] & heard[other], (one, other)
    assert len(sides["task"]) == 20
