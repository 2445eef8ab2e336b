"""NSynth (Engel et al. 2017): 305,979 notes of 1,006 instruments; the label is the instrument."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from uamix_bench.data.clip_table import ClipTable
from uamix_bench.plugins.card import TaskCard, read_card
from uamix_bench.util.errors import BadInputError
from uamix_bench.util.files import unreadable

from .official import Official, names, whole

SPLITS = ("train", "valid", "test")


class NSynth(Official):
    """Reads ``nsynth-{split}/examples.json`` and ``nsynth-{split}/audio/{note}.wav``, all three splits.

    A note is named ``{instrument}-{pitch:03d}-{velocity:03d}``, which is parsed from the right.
    """

    card = read_card(Path(__file__).with_suffix(".toml"), TaskCard)
    marker = "nsynth-train/examples.json"

    def clips(self, root: Path) -> ClipTable:
        """Lists the notes: label ``instrument_str``, group instrument and pitch, split train, valid or test.

        Notes of one instrument and pitch that differ only in velocity are near-duplicates, hence the group.
        """
        rows: list[tuple[str, ...]] = []
        missing: list[str] = []
        for split in SPLITS:
            folder = f"nsynth-{split}"
            examples = root / folder / "examples.json"
            if not examples.is_file():
                missing.append(f"{folder}/examples.json")
                continue
            there = names(root / folder / "audio")
            for note, instrument in _instruments(examples).items():
                group = note.rpartition("-")[0]
                if group.rpartition("-")[0] != instrument:
                    reason = f"note {note!a} says that its instrument is {instrument!a}"
                    raise BadInputError(examples, reason, "unpack the archive again")
                clip = f"{folder}/audio/{note}.wav"
                if f"{note}.wav" in there:
                    rows.append((clip, f"{root}/{clip}", instrument, group, split))
                else:
                    missing.append(clip)
        return whole(self, root, rows, missing)

    def supervised(self, root: Path, table: ClipTable) -> ClipTable:
        """Clip table for fine-tuning, with ``instrument_family_str`` as the label and the instrument as the group.

        The family is read from the instrument's name. That is ``{family}_{source}_{number}``, which is parsed from the
        right: one family is ``synth_lead``.
        """
        instruments = table["label"].tolist()
        return table.assign(label=[name.rsplit("_", 2)[0] for name in instruments], group=instruments)

    def locate(self, data_dir: Path) -> Path:
        """Finds the root by any of the three splits, so that an incomplete copy is found and its clips counted."""
        for place in (data_dir / self.card.name, data_dir):
            if any((place / f"nsynth-{split}" / "examples.json").is_file() for split in SPLITS):
                return place
        return super().locate(data_dir)


def _instruments(path: Path) -> dict[str, str]:
    """Maps each note to its instrument; the other twelve fields of a note are not kept in memory."""
    try:
        with path.open("rb") as file:
            notes = json.load(file, object_hook=_instrument)
    except (ValueError, RecursionError) as error:
        raise BadInputError(path, f"is not valid JSON ({error})", "unpack the archive again") from error
    except OSError as error:
        raise unreadable(path, error) from error
    if not isinstance(notes, dict) or not all(isinstance(name, str) for name in notes.values()):
        raise BadInputError(path, "is not an object of notes that have an instrument_str", "unpack the archive again")
    return notes


def _instrument(fields: dict[str, Any]) -> object:
    name = fields.get("instrument_str")
    return sys.intern(name) if isinstance(name, str) else fields
