"""VoxCeleb1 (Nagrani et al. 2017): 153,516 utterances of 1,251 speakers; the label is the speaker."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from uamix_bench.plugins.card import TaskCard, read_card
from uamix_bench.util.errors import BadInputError

from .official import Official, lines, names, whole

_SPEAKER = re.compile(r"id\d{5}")
_UTTERANCE = re.compile(r"\d{5}\.wav")
_SPLITS = {"1": "train", "2": "dev", "3": "test"}


class VoxCeleb1(Official):
    """Reads ``wav/{speaker}/{video}/{utterance:05d}.wav``, into which the dev and the test archive both unpack.

    A video's YouTube id may begin with ``-`` or hold ``_``. Beside ``wav`` may lie the authors' ``iden_split.txt``,
    which gives the splits, and ``vox1_meta.csv``, which names the speakers; both also name what a copy lacks.
    """

    card = read_card(Path(__file__).with_suffix(".toml"), TaskCard)
    marker = "wav"

    def clips(self, root: Path) -> pd.DataFrame:
        """Lists the utterances: label the speaker, group speaker and video, split of the identification task."""
        listed = _splits(root / "iden_split.txt")
        absent = _speakers(root / "vox1_meta.csv")
        rows = []
        for speaker in sorted(filter(_SPEAKER.fullmatch, names(root / "wav"))):
            absent.discard(speaker)
            for video in names(root / "wav" / speaker):
                group = f"{speaker}/{video}"
                for name in filter(_UTTERANCE.fullmatch, names(f"{root}/wav/{group}")):
                    split = listed.pop(f"{group}/{name}", "")
                    rows.append((f"wav/{group}/{name}", f"{root}/wav/{group}/{name}", speaker, group, split))
        return whole(self, root, rows, [f"wav/{name}" for name in listed or absent])


def _splits(path: Path) -> dict[str, str]:
    """Reads ``1 id10006/nLEBBc9oIFs/00003.wav``, one utterance a line: 1 is train, 2 dev, 3 test."""
    splits = {}
    for number, line in enumerate(lines(path) if path.is_file() else (), start=1):
        code, _, clip = line.partition(" ")
        if code not in _SPLITS or not clip:
            raise BadInputError(path, f"line {number} is not '1|2|3 SPEAKER/VIDEO/UTTERANCE.wav'", "download it again")
        splits[clip.strip()] = _SPLITS[code]
    return splits


def _speakers(path: Path) -> set[str]:
    """Reads the speakers from the authors' table, which separates its columns by tabs despite its name."""
    if not path.is_file():
        return set()
    header, *table = [line.split("\t") for line in lines(path)] or [[""]]
    if header[0] != "VoxCeleb1 ID" or len(header) < 2:
        raise BadInputError(path, "has no tab-separated column 'VoxCeleb1 ID'", "download it again")
    return {row[0] for row in table}
