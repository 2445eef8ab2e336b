"""Instruments of FluidR3 GM for training, validation and the bundled task: no recording is on two sides."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from .soundfont import Note, Preset, components, presets

FONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
VELOCITY = 100
_KEYS = range(28, 97)  # E1, the lowest string of a double bass, to C7
_FEWEST = 6  # recordings of a class that is tested on

Side = Literal["train", "valid", "task"]


def sides() -> dict[Side, list[Preset]]:
    """Presets of the installed font by side; components of shared recordings stay whole.

    A component of enough recordings may be tested on. Of those, by program, one in three is the task's and one in four
    validation's; each gives one class, its first preset. All others are for training.
    """
    placed: dict[Side, list[Preset]] = {"train": [], "valid": [], "task": []}
    number = 0
    for component in components(presets(FONT)):
        if len(component[0].recordings) < _FEWEST or len(component) > 3:
            placed["train"] += component
            continue
        side: Side = "task" if number % 3 == 1 else "valid" if number % 12 in (3, 8, 11) else "train"
        placed[side] += component if side == "train" else component[:1]
        number += 1
    return placed


def recordings(preset: Preset) -> dict[str, list[int]]:
    """Keys of each recording or set of recordings that sound together, those nearest to the recorded key first."""
    keys: dict[str, list[int]] = {}
    roots: dict[str, int] = {}
    for key in _KEYS:
        if zones := preset.sounding(key, VELOCITY):
            group = "+".join(sorted({zone.recording for zone in zones}))
            keys.setdefault(group, []).append(key)
            roots[group] = zones[0].root
    return {group: sorted(found, key=lambda key: abs(key - roots[group])) for group, found in keys.items()}


def even_notes(preset: Preset, count: int) -> list[tuple[str, Note]]:
    """`count` notes with their recordings, one of each recording in turn, at most; nearest to the recorded keys."""
    chosen: list[tuple[str, Note]] = []
    groups = recordings(preset)
    for turn in range(max(map(len, groups.values()))):
        chosen += [(group, Note(keys[turn], VELOCITY)) for group, keys in groups.items() if turn < len(keys)]
    return chosen[:count]


def random_notes(preset: Preset, each: int, draw: np.random.Generator) -> list[tuple[str, Note]]:
    """`each` notes of every recording, at drawn keys, velocities and lengths."""
    chosen = []
    for group, keys in recordings(preset).items():
        for key in draw.choice(keys[:7], min(each, len(keys[:7])), replace=False):
            note = Note(int(key), int(draw.integers(60, 121)), float(draw.uniform(0.2, 1.2)))
            chosen.append((group, note))
    return chosen
