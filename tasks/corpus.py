"""Training corpus of the bundled weights, made from installed packages: ``python -m uamix_bench.tasks.corpus FOLDER``.

It needs the Debian packages espeak-ng, flite, fluidsynth, fluid-soundfont-gm, asterisk-core-sounds-it-wav and
asterisk-core-sounds-ru-wav. ``train.csv`` lists the clips to train on, ``valid-*.csv`` are few-shot tasks of voices,
languages and instruments that no training clip has, each row with the source and licence of its clip.
"""

from __future__ import annotations

import argparse
import csv
import io
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, TypeGuard

import numpy as np
import soundfile

from uamix_bench.util.arrays import Floats
from uamix_bench.util.errors import BenchError
from uamix_bench.util.files import check_writable, write_atomic

from . import corpus_instruments as instruments, corpus_speech as speech, synthesis
from .soundfont import Note, Preset, render
from .synthesis_signal import SAMPLE_RATE

SEED = 0
_SHORTEST, _LONGEST = 0.15, 2.0  # seconds of a clip
_ESPEAK, _FLITE, _NOTES_EACH, _SYNTHETIC_EVERY = 4_500, 900, 5, 8
_VOICES = 32  # of espeak-ng; with very many, the voice alone would tell a clip from all others, not its words
_WORDS, _SPEAKERS, _TAKES = 12, 7, 5  # of validation: words, voices of espeak-ng, and takes of a word by a voice
_FLITE_HZ = {"kal16": 105.0, "awb": 130.0, "rms": 95.0}  # kal is kal16 at 8 kHz, awb_time tells the time, in numbers
_FLITE_HELD_OUT = "slt"
_PIECES, _PIECE = 4, 1.2  # of a prompt, at most, and seconds of each

_GENERATED = "generated; the engine's licence does not extend to its output"
_COLUMNS = "path label group source licence package".split()


class Clip(NamedTuple):
    """Clip of the corpus: its file without suffix, its samples, and its row."""

    path: str
    samples: Floats
    label: str
    group: str
    source: str
    licence: str
    package: str


@cache
def package(name: str) -> str:
    """Name and installed version of a Debian package; the name alone where there is no dpkg."""
    try:
        shown = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", name], check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return name
    return f"{name} {shown.stdout}"


def _random(stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=SEED, counter=stream << 64))


def _held_out(names: list[str], validation: bool) -> list[str]:
    """Every fifth name for validation, the others for training."""
    return [name for number, name in enumerate(names) if (number % 5 == 2) == validation]


def _words(draw: np.random.Generator) -> str:
    return " ".join(speech.made_up_word(draw) for _ in range(draw.integers(1, 3)))


def _is_clip(samples: Floats | None) -> TypeGuard[Floats]:
    return samples is not None and len(samples) >= _SHORTEST * SAMPLE_RATE


def espeak_training() -> Iterator[Clip]:
    """Made-up words, one or two a clip, in languages and variants that validation does not have, by few voices each."""
    draw = _random(1)
    languages = draw.choice(_held_out(list(speech.LANGUAGES), False), _VOICES, replace=False)
    variants = draw.choice(_held_out(speech.variants(), False), _VOICES, replace=False)
    speeds, pitches = draw.uniform(120, 210, _VOICES), draw.uniform(20, 75, _VOICES)
    made = 0
    while made < _ESPEAK:
        number = made % _VOICES
        voice = speech.Voice(str(languages[number]), str(variants[number]))
        text = _words(draw)
        speed, pitch = speeds[number] * draw.uniform(0.9, 1.1), pitches[number] + draw.uniform(-5, 5)
        samples = speech.espeak(voice, text, round(speed), round(pitch))
        if _is_clip(samples):
            path = f"espeak/{made:05d}"
            made += 1
            yield Clip(path, samples, str(voice), path, f"{voice}: {text}", _GENERATED, package("espeak-ng"))


def flite_training() -> Iterator[Clip]:
    """Made-up words by Flite's voices but the last, at drawn tempo and pitch."""
    draw = _random(2)
    made = 0
    while made < _FLITE:
        voice = list(_FLITE_HZ)[made % len(_FLITE_HZ)]
        text = _words(draw)
        pitch = _FLITE_HZ[voice] * draw.uniform(0.9, 1.1)
        samples = speech.flite(voice, text, float(draw.uniform(0.8, 1.2)), float(pitch))
        if _is_clip(samples):
            path = f"flite/{made:05d}"
            made += 1
            yield Clip(path, samples, voice, path, f"{voice}: {text}", "CMU Flite's (BSD-like)", package("flite"))


def prompts_training() -> Iterator[Clip]:
    """Pieces of recorded prompts, Carlo Flora's in Italian and Maxim Topal's in Russian."""
    for language, voice in speech.PROMPTS.items():
        for name, samples in speech.prompts(language):
            length = round(_PIECE * SAMPLE_RATE)
            for number, start in enumerate(range(0, len(samples), length)[:_PIECES]):
                piece = samples[start : start + length]
                if len(piece) >= 0.4 * SAMPLE_RATE:
                    path = f"prompts/{language}-{name.replace('/', '-')}-{number}"
                    source = f"{voice}/{name}.wav"
                    yield Clip(path, piece, voice, f"{language}-{name}", source, "CC BY 3.0", _prompts(language))


def _prompts(language: str) -> str:
    return package(f"asterisk-core-sounds-{language}-wav")


def notes_training() -> Iterator[Clip]:
    """Notes of the training side's instruments, five of each recording."""
    draw = _random(3)
    for preset in instruments.sides()["train"]:
        yield from _notes(instruments.random_notes(preset, _NOTES_EACH, draw), preset, "notes")


def synthetic_training() -> Iterator[Clip]:
    """The program's own synthetic sounds, some of each training class."""
    for sound_class in synthesis.classes("train"):
        for index in range(0, 50, _SYNTHETIC_EVERY):
            samples = (synthesis.render(sound_class, index) / 32_768).astype(np.float32)
            path = f"synthetic/{sound_class.label}-{index:02d}"
            yield Clip(path, samples, sound_class.label, path, "synthetic:train", "CC0-1.0", "uamix-bench")


def _notes(chosen: list[tuple[str, Note]], preset: Preset, folder: str) -> Iterator[Clip]:
    sounds = render(instruments.FONT, preset.program, [note for _, note in chosen], 1.8, SAMPLE_RATE)
    for (group, note), samples in zip(chosen, sounds, strict=True):
        if np.abs(samples).max() < 1e-3:  # a key for which the recording has nothing to play
            continue
        path = f"{folder}/{preset.program:03d}-{note.key}-{note.velocity}"
        source = f"FluidR3_GM.sf2, preset {preset.program} {preset.name}, key {note.key}, velocity {note.velocity}"
        yield Clip(path, samples, preset.name, group, source, "MIT", package("fluid-soundfont-gm"))


def speech_validation() -> Iterator[Clip]:
    """Made-up words in several takes by voices that no training clip has, of other languages too."""
    draw = _random(4)
    languages, variants = _held_out(list(speech.LANGUAGES), True), _held_out(speech.variants(), True)
    voices = [speech.Voice(languages[n % len(languages)], variants[n % len(variants)]) for n in range(_SPEAKERS)]
    words = 0
    while words < _WORDS:
        word = speech.made_up_word(draw)
        takes: dict[tuple[str, int], Floats | None] = {}
        for take in range(_TAKES):
            for voice in voices:
                speed, pitch = 160 * draw.uniform(0.85, 1.15), 50 + draw.uniform(-10, 10)
                takes[str(voice), take] = speech.espeak(voice, word, round(speed), round(pitch))
            stretch, pitch = draw.uniform(0.85, 1.15), 170 * draw.uniform(0.9, 1.1)
            takes[_FLITE_HELD_OUT, take] = speech.flite(_FLITE_HELD_OUT, word, float(stretch), float(pitch))
        if not all(map(_is_clip, takes.values())):
            continue
        words += 1
        for (speaker, take), samples in takes.items():
            by_flite = speaker == _FLITE_HELD_OUT
            licence = "CMU Flite's (BSD-like)" if by_flite else _GENERATED
            made_by = package("flite" if by_flite else "espeak-ng")
            assert samples is not None
            path = f"valid-speech/{word}-{speaker}-{take}"
            yield Clip(path, samples, word, speaker, f"{speaker}: {word}", licence, made_by)


def notes_validation() -> Iterator[Clip]:
    """Notes of the validation side's instruments, as many of each."""
    for preset in instruments.sides()["valid"]:
        yield from _notes(instruments.even_notes(preset, 20), preset, "valid-notes")


TRAINING: dict[str, Callable[[], Iterator[Clip]]] = {
    "espeak": espeak_training,
    "flite": flite_training,
    "prompts": prompts_training,
    "notes": notes_training,
    "synthetic": synthetic_training,
}


def make(folder: Path, without: Sequence[str], say: Callable[[str], None]) -> None:
    """Makes the corpus in a folder: FLAC files at 16 kHz, and the lists.

    Args:
        folder: Folder to write to.
        without: Names of `TRAINING` to leave out, for a control.
        say: Receiver of a line about each source.

    Raises:
        BadInputError: A package is not installed.
        MachineError: A program does not run, or a file cannot be written.
    """
    check_writable(folder)
    training = []
    for name, clips in TRAINING.items():
        if name not in without:
            written = _write(folder, clips())
            say(f"{name}: {len(written):,} clips")
            training += written
    _list(folder / "train.csv", training)
    words = _write(folder, speech_validation())
    _list(folder / "valid-words.csv", words)
    _list(folder / "valid-voices.csv", [{**row, "label": row["group"], "group": row["label"]} for row in words])
    _list(folder / "valid-notes.csv", _write(folder, notes_validation()))


def _write(folder: Path, clips: Iterator[Clip]) -> list[dict[str, str]]:
    draw = _random(5)
    rows = []
    for clip in clips:
        level = 10 ** (-draw.uniform(1, 21) / 20)  # of the peak, so that loudness tells no class
        samples = clip.samples[: round(_LONGEST * SAMPLE_RATE)]
        samples = samples * (level / max(1e-9, float(np.abs(samples).max())))
        content = io.BytesIO()
        soundfile.write(content, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        write_atomic(folder / f"{clip.path}.flac", content.getvalue(), durable=False)
        rows.append(dict(zip(_COLUMNS, (f"{clip.path}.flac", *clip[2:]), strict=True)))
    return rows


def _list(path: Path, rows: list[dict[str, str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())


def main() -> None:
    """Makes the corpus that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m uamix_bench.tasks.corpus", description="Make the training corpus.")
    parser.add_argument("folder", type=Path, help="folder to write to")
    parser.add_argument("--without", action="append", default=[], choices=TRAINING, help="source to leave out")
    given = parser.parse_args()
    try:
        make(given.folder, given.without, partial(print, flush=True))
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
