"""Miniature copies of the official data sets: their real folders, names and lists, with a few generated sounds.

They are for tests and trials. A copy is marked as a miniature (see `Task.edition`). So a reader expects its number of
clips, and no score on it passes for one on the data set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, NamedTuple

import numpy as np
import soundfile

from uamix_bench.data.task import MINIATURE
from uamix_bench.plugins import registry
from uamix_bench.util.arrays import Doubles
from uamix_bench.util.errors import UsageError, nearest
from uamix_bench.util.files import make_folder, write_atomic

_ESC50 = (
    "dog rooster pig cow frog cat hen insects sheep crow rain sea_waves crackling_fire crickets chirping_birds "
    "water_drops wind pouring_water toilet_flush thunderstorm crying_baby sneezing clapping breathing coughing "
    "footsteps laughing brushing_teeth snoring drinking_sipping door_wood_knock mouse_click keyboard_typing "
    "door_wood_creaks can_opening washing_machine vacuum_cleaner clock_alarm clock_tick glass_breaking helicopter "
    "chainsaw siren car_horn engine train church_bells airplane fireworks hand_saw"
).split()
_ESC10 = frozenset(
    "dog rooster rain sea_waves crackling_fire crying_baby sneezing clock_tick helicopter chainsaw".split()
)
_FAMILIES = "bass brass flute guitar keyboard mallet organ reed string synth_lead vocal".split()
_SOURCES = ("acoustic", "electronic", "synthetic")
_WORDS = (
    "backward bed bird cat dog down eight five follow forward four go happy house learn left marvin nine no off on one "
    "right seven sheila six stop three tree two up visual wow yes zero"
).split()
_KAGGLE18 = (
    "Acoustic_guitar Applause Bark Bass_drum Burping_or_eructation Bus Cello Chime Clarinet Computer_keyboard Cough "
    "Cowbell Double_bass Drawer_open_or_close Electric_piano Fart Finger_snapping Fireworks Flute Glockenspiel Gong "
    "Gunshot_or_gunfire Harmonica Hi-hat Keys_jangling Knock Laughter Meow Microwave_oven Oboe Saxophone Scissors "
    "Shatter Snare_drum Squeak Tambourine Tearing Telephone Trumpet Violin_or_fiddle Writing"
).split()


class Layout(NamedTuple):
    """Contents of a copy, by path relative to its root: the class number of each sound, the text of each list.

    Classes whose numbers are equal modulo `families` share an audible family; 0 if there are no families.
    """

    sample_rate: int
    sounds: dict[str, int]
    texts: dict[str, str]
    families: int = 0


def make(
    name: str,
    folder: Path,
    *,
    clips_per_class: int = 4,
    classes: int | None = None,
    seconds: float = 0.25,
    seed: int = 0,
) -> Path:
    """Makes a miniature of an official data set.

    Args:
        name: Name of the task, such as ``esc50``.
        folder: New or empty folder, which becomes the data set's root for ``--data-dir``.
        clips_per_class: Number of clips of each class, at least 1.
        classes: Number of classes, the first ones of the data set; None for all, or 30 if the data set has hundreds.
        seconds: Length of every clip, in seconds; 16-bit mono at the data set's rate. The official clips are mostly
            longer.
        seed: Seed of the sounds.

    Returns:
        Path `folder`, as given.

    Raises:
        UsageError: The task has no miniature, or the folder is not empty.
        MachineError: The folder cannot be written.
    """
    if name not in LAYOUTS:
        raise UsageError(name, "has no miniature", nearest(name, list(LAYOUTS)))
    if make_folder(folder) and any(folder.iterdir()):
        raise UsageError(folder, "is not empty", "choose a new folder")
    layout = LAYOUTS[name](classes, clips_per_class)
    place = folder.absolute()
    moved: list[Path] = []
    root = Path(mkdtemp(prefix=".tmp-", dir=place.parent))
    try:  # it appears whole, or not at all
        for index, (path, label) in enumerate(layout.sounds.items()):
            samples = _sound(label, index, round(seconds * layout.sample_rate), layout.sample_rate, seed)
            if layout.families:
                samples += _formant(label % layout.families, len(samples), layout.sample_rate)
            make_folder((root / path).parent)
            soundfile.write(root / path, samples, layout.sample_rate, subtype="PCM_16")
        for path, text in layout.texts.items():
            write_atomic(root / path, text.encode())
        mark = f"{len(layout.sounds)} generated clips in the layout of {name}: a stand-in for tests, not the data set"
        made = [entry for entry in registry.find_task(name).card.holds if (root / entry).exists()]
        write_atomic(root / MINIATURE, _lines([mark, *made]).encode())
        for entry in sorted(root.iterdir(), key=lambda entry: entry.name == MINIATURE):  # the mark last
            moved.append(place / entry.name)
            entry.replace(moved[-1])
        root.rmdir()
    except BaseException:
        for entry in (root, *moved):
            if entry.is_file():
                entry.unlink()
            rmtree(entry, ignore_errors=True)
        raise
    return folder


def _sound(label: int, index: int, samples: int, sample_rate: int, seed: int) -> Doubles:
    """Tone with tremolo and noise, (samples,) in [-1, 1]: pitch and rate by class, tuning by clip."""
    generator = np.random.default_rng((seed, label, index))
    time = np.arange(samples) / sample_rate
    pitch_hz = 110 * 2 ** (label % 53 / 12) * generator.uniform(0.98, 1.02)
    tremolo = 1 + 0.5 * np.sin(2 * np.pi * (3 + label % 7) * time)
    return 0.2 * tremolo * np.sin(2 * np.pi * pitch_hz * time) + 0.02 * generator.standard_normal(samples)


def _formant(family: int, samples: int, sample_rate: int) -> Doubles:
    """Resonance of a family of instruments, the same at any pitch, (samples,): here a steady tone."""
    pitch_hz = 300 * 2 ** (family / 2.5)
    return 0.2 * np.sin(2 * np.pi * pitch_hz * np.arange(samples) / sample_rate)


def _esc50(classes: int | None, count: int) -> Layout:
    """Miniature ESC-50: two takes a recording, five folds.

    One recording spans rooster and hen and two folds, as four really do.
    """
    sounds, rows = {}, ["filename,fold,target,category,esc10,src_file,take"]
    for target, category in enumerate(_ESC50[:classes]):
        for index in range(count):
            recording, take, fold = 100_000 + 100 * target + index // 2, "AB"[index % 2], 1 + (target + index // 2) % 5
            if category == "hen" and index < 2:
                recording, take, fold = 100_000 + 100 * _ESC50.index("rooster"), "CD"[index], 4
            name = f"{fold}-{recording}-{take}-{target}.wav"
            sounds[f"ESC-50-master/audio/{name}"] = target
            rows.append(f"{name},{fold},{target},{category},{category in _ESC10},{recording},{take}")
    return Layout(44_100, sounds, {"ESC-50-master/meta/esc50.csv": _lines(rows)})


def _nsynth(classes: int | None, count: int) -> Layout:
    """Miniature NSynth: train has instruments of its own, valid and test share theirs; all families; two velocities."""
    sounds: dict[str, int] = {}
    examples: dict[str, dict[str, Any]] = {"train": {}, "valid": {}, "test": {}}
    for number in range(classes or 30):
        family, source = number % len(_FAMILIES), number % len(_SOURCES)
        instrument = f"{_FAMILIES[family]}_{_SOURCES[source]}_{number:03d}"
        for index in range(count):
            split = ("valid", "test")[index // 2 % 2] if number % 3 == 2 else "train"
            pitch, velocity = 60 + index // 2, (50, 127)[index % 2]
            note = f"{instrument}-{pitch:03d}-{velocity:03d}"
            sounds[f"nsynth-{split}/audio/{note}.wav"] = number
            examples[split][note] = {
                "note": len(sounds),
                "note_str": note,
                "instrument": number,
                "instrument_str": instrument,
                "pitch": pitch,
                "velocity": velocity,
                "sample_rate": 16_000,
                "qualities": [0] * 10,
                "qualities_str": [],
                "instrument_family": family,
                "instrument_family_str": _FAMILIES[family],
                "instrument_source": source,
                "instrument_source_str": _SOURCES[source],
            }
    texts = {f"nsynth-{split}/examples.json": json.dumps(notes, indent=4) for split, notes in examples.items()}
    return Layout(16_000, sounds, texts, families=len(_FAMILIES))


def _speech_commands(classes: int | None, count: int) -> Layout:
    """Miniature Speech Commands: all words by the same speakers, two takes each; the fourth speaker is in test."""
    sounds, validation, test = {}, [], []
    for number, word in enumerate(_WORDS[:classes]):
        for index in range(count):
            speaker = index // 2
            clip = f"{word}/{_hex(f'speaker {speaker}')}_nohash_{index % 2}.wav"
            sounds[clip] = number
            if speaker % 4 == 2:
                validation.append(clip)
            elif speaker % 4 == 3:
                test.append(clip)
    texts = {"validation_list.txt": _lines(validation), "testing_list.txt": _lines(test)}
    return Layout(16_000, sounds, {**texts, "_background_noise_/running_tap.wav": "", "README.md": "", "LICENSE": ""})


def _fsdkaggle2018(classes: int | None, count: int) -> Layout:
    """Miniature FSDKaggle2018: every fourth clip of a class is test, every second verified.

    Of two or three clips the last is test, of single ones every second class, so that neither list is empty. The test
    folder also holds an empty, ignored clip.
    """
    every = min(max(count, 2), 4)
    sounds = {}
    train = ["fname,label,manually_verified,freesound_id,license"]
    test = ["fname,label,usage,freesound_id,license"]
    for number, label in enumerate(_KAGGLE18[:classes]):
        for index in range(count):
            fname, freesound_id = f"{_hex(f'{label} {index}')}.wav", 1_000 * number + index
            part = "test" if (index if count > 1 else number) % every == every - 1 else "train"
            sounds[f"FSDKaggle2018.audio_{part}/{fname}"] = number
            if part == "test":
                test.append(f"{fname},{label},{('Public', 'Private')[index % 2]},{freesound_id},Attribution")
            else:
                train.append(f"{fname},{label},{index % 2},{freesound_id},Creative Commons 0")
    texts = {
        "FSDKaggle2018.meta/train_post_competition.csv": _lines(train),
        "FSDKaggle2018.meta/test_post_competition_scoring_clips.csv": _lines(test),
        "FSDKaggle2018.audio_test/0b0427e2.wav": "",
    }
    return Layout(44_100, sounds, texts)


def _voxceleb1(classes: int | None, count: int) -> Layout:
    """Miniature VoxCeleb1: two utterances of each video, whose id begins with ``-`` or holds ``_``, as some do."""
    sounds, splits, meta = {}, [], ["VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"]
    for number in range(classes or 30):
        speaker = f"id{10_001 + number}"
        meta.append(f"{speaker}\tSpeaker_{number}\t{'mf'[number % 2]}\tUSA\t{'test' if number >= 269 else 'dev'}")
        for index in range(count):
            video = "-_"[index // 2 % 2] + _hex(f"{speaker} {index // 2}") + "xy"
            utterance = f"{speaker}/{video}/{1 + index % 2:05d}.wav"
            sounds[f"wav/{utterance}"] = number
            splits.append(f"{1 + index // 2 % 3} {utterance}")
    return Layout(16_000, sounds, {"iden_split.txt": _lines(splits), "vox1_meta.csv": _lines(meta)})


def _hex(text: str) -> str:
    """Eight hexadecimal digits made from a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _lines(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


LAYOUTS: dict[str, Callable[[int | None, int], Layout]] = {
    "esc50": _esc50,
    "nsynth": _nsynth,
    "speech-commands": _speech_commands,
    "fsdkaggle2018": _fsdkaggle2018,
    "voxceleb1": _voxceleb1,
}
