"""VoxCeleb1 (Nagrani et al. 2017): 153,516 utterances of 1,251 speakers; the label is the speaker."""

from __future__ import annotations

import re
from pathlib import Path

from uamix_bench.data.clip_table import ClipTable
from uamix_bench.plugins.card import TaskCard, read_card
from uamix_bench.util.errors import BadInputError

from .official import Official, below, first, lines, names, whole

_SPEAKER = re.compile(r"id1\d{4}")  # those of VoxCeleb2 begin with id0
_UTTERANCE = re.compile(r"\d{5}\.wav")
_PARTS = ("dev", "test", "vox1_dev_wav", "vox1_test_wav")
_SPLITS = {"1": "train", "2": "dev", "3": "test"}


class VoxCeleb1(Official):
    """Reads ``wav/{speaker}/{video}/{utterance:05d}.wav``, into which the dev and the test archive both unpack.

    A video's YouTube id may begin with ``-`` or hold ``_``. Beside ``wav`` may lie the authors' ``iden_split.txt``,
    which gives the splits, and ``vox1_meta.csv``, which names the speakers; both also name what a copy lacks.
    The two archives may be unpacked apart, into ``dev/wav`` and ``test/wav``; clips have the same ids then.
    """

    card = read_card(Path(__file__).with_suffix(".toml"), TaskCard)
    marker = "wav"

    def mark(self, root: Path) -> Path | None:
        """First of the folders of speakers; an empty ``wav`` if there is no other."""
        return next(iter(_speaker_folders(root)), None) or super().mark(root)

    def misplaced(self, place: Path) -> tuple[str, str] | None:
        """Folders of speakers that lie in `place` itself."""
        speakers = _speakers_in(place)
        if not speakers:
            return super().misplaced(place)
        found = f"{len(speakers):,} folders of speakers ({speakers[0]} and so on) lie in {place} itself"
        return found, f"move them into {place / self.marker}"

    def clips(self, root: Path) -> ClipTable:
        """Lists the utterances: label the speaker, group speaker and video, split of the identification task."""
        listed = _splits(first(root, "iden_split.txt", "*/iden_split.txt"))
        absent = _speakers(first(root, "vox1_meta.csv", "*/vox1_meta.csv"))
        rows = []
        for place in [folder / speaker for folder in _speaker_folders(root) for speaker in _speakers_in(folder)]:
            absent.discard(place.name)
            for video in names(place):
                group = f"{place.name}/{video}"
                for name in filter(_UTTERANCE.fullmatch, names(place / video)):
                    split = listed.pop(f"{group}/{name}", "")
                    rows.append((f"wav/{group}/{name}", f"{place}/{video}/{name}", place.name, group, split))
        above = _speaker_folders(root.parent) if root.name in _PARTS else []
        hint = f"name the folder of all parts: --data-dir {root.parent}" if len(above) > 1 else ""
        return whole(self, root, rows, [f"wav/{name}" for name in listed or absent], hint)


def _speaker_folders(root: Path) -> list[Path]:
    """Folders of speakers: ``wav``, or one in each part, or the parts themselves; also one level further down."""
    for level in ("", "*/"):
        for inner in ("/wav", ""):
            places = ["wav"] * bool(inner) + [f"{part}{inner}" for part in _PARTS]
            found = [path for place in places for path in below(root, level + place) if _speakers_in(path)]
            if found:
                return found
    return []


def _speakers_in(folder: Path) -> list[str]:
    return sorted(filter(_SPEAKER.fullmatch, names(folder)))


def _splits(path: Path | None) -> dict[str, str]:
    """Reads ``1 id10006/nLEBBc9oIFs/00003.wav``, one utterance a line: 1 is train, 2 dev, 3 test."""
    splits = {}
    for number, line in enumerate(lines(path) if path else (), start=1):
        code, _, clip = line.partition(" ")
        if code not in _SPLITS or not clip:
            raise BadInputError(path, f"line {number} is not '1|2|3 SPEAKER/VIDEO/UTTERANCE.wav'", "download it again")
        splits[clip.strip()] = _SPLITS[code]
    return splits


def _speakers(path: Path | None) -> set[str]:
    """Reads the speakers from the authors' table, which separates its columns by tabs despite its name."""
    if path is None:
        return set()
    header, *table = [line.split("\t") for line in lines(path)] or [[""]]
    if header[0] != "VoxCeleb1 ID" or len(header) < 2:
        raise BadInputError(path, "has no tab-separated column 'VoxCeleb1 ID'", "download it again")
    return {row[0] for row in table}
