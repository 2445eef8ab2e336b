"""Sound of a clip: a file, a segment of a file, or a row of a parquet file; and digests of its content."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from uamix_bench.data.clip_table import PLACES, ROW, ClipTable
from uamix_bench.storage.digests import FileDigests, Part, part_digests, unchanged
from uamix_bench.util import files
from uamix_bench.util.errors import BadInputError, BenchError
from uamix_bench.util.progress import SILENT, Progress

SILENCE = 1e-4  # of full scale, half the range of a silent clip's samples: three steps of 16 bits
ROUNDING_S = 1e-3  # times in lists are often rounded to it: so much may a segment pass the end of its file


class Sound(NamedTuple):
    """Sound of a clip.

    Attributes:
        path: Path of the file that holds it.
        start_s: Time of the first sample of a segment, in seconds; None if the sound is whole.
        end_s: Time behind the last sample of a segment, in seconds.
        row: Number of the row of a parquet file, from 0; None in a sound file.
    """

    path: str
    start_s: float | None = None
    end_s: float | None = None
    row: int | None = None

    def __str__(self) -> str:
        """Name of the sound in messages."""
        if self.row is not None:
            return f"{self.path} row {self.row}"
        return self.path if self.start_s is None else f"{self.path} from {self.start_s:g} to {self.end_s:g} s"

    @property
    def absolute(self) -> Sound:
        """The same sound by its absolute path; no link is followed."""
        return self._replace(path=os.path.abspath(self.path))  # noqa: PTH100 - half the time of Path.absolute


def sounds(table: ClipTable) -> list[Sound]:
    """Sounds of the rows of a clip table."""
    paths = list(map(str, table["path"]))
    if not any(name in table for name in PLACES):
        return list(map(Sound, paths))
    none = [math.nan] * len(paths)
    columns = [table[name].tolist() if name in table else none for name in PLACES]
    return [
        Sound(
            path,
            None if math.isnan(start) else start,
            None if math.isnan(end) else end,
            None if math.isnan(row) else int(row),
        )
        for path, start, end, row in zip(paths, *columns, strict=True)
    ]


def sound_digests(wanted: Iterable[Sound], *, memo: bool = True, progress: Progress = SILENT) -> FileDigests:
    """Digests of sounds: equal for equal content, wherever it lies.

    The digest of a file and that of a parquet row are over the sound file's bytes, so that they agree. The digest of a
    segment is over the digest of the whole file and the two times.

    Args:
        wanted: The n sounds.
        memo: True looks up and keeps the digests of files and rows; see `storage.digests.file_digests`.
        progress: Progress display of the files that are read.
    """
    wanted = list(wanted)
    number: dict[Part, int] = {}  # each file is read once, however many segments it has
    places = [number.setdefault(_part(one), len(number)) for one in wanted]
    found = part_digests(list(number), _sha256, memo=memo, progress=progress)
    failed = {index: found.failed[at] for index, at in enumerate(places) if at in found.failed}
    digests = [
        bytes(32) if index in failed else _of_segment(found.digests[at], one)
        for index, (at, one) in enumerate(zip(places, wanted, strict=True))
    ]
    return FileDigests(digests, failed, found.warnings, [found.stamps[at] for at in places])


def check_unchanged(sound: Sound, digest: bytes, stamp: bytes) -> None:
    """Checks that a sound is still the one that was digested.

    Raises:
        BadInputError: Its content is another.
    """
    if not unchanged(_part(sound), stamp) and sound_digests([sound], memo=False).digests != [digest]:
        raise BadInputError(sound, "changed while it was read", "try again when nothing writes to it")


def _part(sound: Sound) -> Part:
    return Part(sound.path, "" if sound.row is None else f"row {sound.row}")


def _of_segment(whole: bytes, sound: Sound) -> bytes:
    if sound.start_s is None:
        return whole
    return bytes.fromhex(files.digest(["segment", whole.hex(), sound.start_s, sound.end_s]))


def _sha256(part: Part) -> bytes | BenchError:
    try:
        if not part.part:
            return bytes.fromhex(files.file_sha256(Path(part.path)))
        from uamix_bench.data import parquet

        return hashlib.sha256(parquet.sound_bytes(part.path, int(part.part.removeprefix(ROW)))).digest()
    except BenchError as error:
        return error
