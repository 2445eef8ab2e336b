"""Makes the clips of the bundled recorded tasks anew: ``python -m uamix_bench.tasks.bundling``.

It needs the Debian packages fluidsynth, fluid-soundfont-gm and sonic-pi-samples.
"""

from __future__ import annotations

import csv
import io
import shutil
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from uamix_bench.data.audio import read
from uamix_bench.util.arrays import Floats
from uamix_bench.util.errors import BadInputError, BenchError
from uamix_bench.util.files import write_atomic

from . import corpus_instruments as instruments
from .bundled import SOUNDS
from .soundfont import render
from .synthesis_signal import SAMPLE_RATE

SAMPLES = Path("/usr/share/sonic-pi/samples")

_NOTES, _NOTE_SECONDS = 20, 1.0  # of an instrument
_PIECES, _PIECE_SECONDS = 5, 1.0  # of a sample, at most
_FEWEST, _MOST = 16, 24  # clips of a family: one shot and 15 queries; a class is not much larger than another
_PEAK = 0.9
_STEP = 2**-10  # of full scale: 11 bits halve the files; FLAC holds them exactly in 16


class Clip(NamedTuple):
    """Clip of a bundled task: name without suffix, samples, class and group."""

    name: str
    samples: Floats
    label: str
    group: str


def instrument_notes() -> Iterator[Clip]:
    """As many notes of each instrument of the task's side, one of each recording in turn."""
    for preset in instruments.sides()["task"]:
        label = preset.name.lower().replace(" ", "-")
        chosen = instruments.even_notes(preset, _NOTES)
        sounds = render(instruments.FONT, preset.program, [note for _, note in chosen], _NOTE_SECONDS, SAMPLE_RATE)
        for (group, note), samples in zip(chosen, sounds, strict=True):
            yield Clip(f"{label}/{note.key:03d}", samples, label, group)


def studio_pieces() -> Iterator[Clip]:
    """Pieces of the samples of each family, the first ones of all samples before the second ones.

    Raises:
        BadInputError: The package is not installed.
    """
    found = sorted(SAMPLES.glob("*.flac"))
    if not found:
        raise BadInputError(SAMPLES, "holds no samples", "install the package sonic-pi-samples")
    for family, paths in groupby(found, key=lambda path: path.stem.partition("_")[0]):
        pieces = [piece for path in paths for piece in _pieces(path, family)]
        pieces.sort(key=lambda piece: piece.name.rpartition("-")[2])  # stable: by turn, then by sample
        if len(pieces) >= _FEWEST:
            yield from pieces[:_MOST]


def _pieces(path: Path, family: str) -> Iterator[Clip]:
    samples = read(path, SAMPLE_RATE).samples
    length = round(_PIECE_SECONDS * SAMPLE_RATE)
    whole = max(1, len(samples) // length)  # a shorter rest is left out
    for turn in range(min(whole, _PIECES)):
        piece = samples[turn * length : (turn + 1) * length]
        if np.abs(piece).max() >= 0.02 * np.abs(samples).max():
            yield Clip(f"{family}/{path.stem}-{turn}", piece, family, path.stem)


def write(name: str, clips: Iterator[Clip], folder: Path = SOUNDS) -> None:
    """Writes the clips of a task and their table, in place of the clips that exist."""
    root = folder / name
    for old in root.glob("*/"):
        shutil.rmtree(old)
    rows = [("clip", "label", "group")]
    for clip in clips:
        samples = np.round(clip.samples * (_PEAK / np.abs(clip.samples).max()) / _STEP) * _STEP
        content = io.BytesIO()
        soundfile.write(content, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16", compression_level=1.0)
        write_atomic(root / f"{clip.name}.flac", content.getvalue(), durable=False)
        rows.append((f"{clip.name}.flac", clip.label, clip.group))
    table = io.StringIO(newline="")
    csv.writer(table, lineterminator="\n").writerows([rows[0], *sorted(rows[1:])])
    write_atomic(root / "clips.csv", table.getvalue().encode())


if __name__ == "__main__":
    try:
        write("instruments", instrument_notes())
        write("studio-samples", studio_pieces())
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
