"""Segments of recordings, listed by their times in seconds: checks of times, of files' ends, and of overlaps."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from uamix_bench.data.clip_table import END, START
from uamix_bench.data.columns import Listed
from uamix_bench.data.folders import Remark
from uamix_bench.data.sound import ROUNDING_S
from uamix_bench.util.errors import BadInputError, BenchError

_SECONDS = re.compile(r"\d+(\.\d*)?([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?", re.ASCII)
_DECODED_WHOLE = (".mp3", ".ogg", ".oga", ".opus")  # a decoder finds no sample in them but from the beginning
_AT_ONCE = 8  # files that are looked at


class Segment(NamedTuple):
    """A segment: place in the list, times in seconds, label."""

    line: int
    start_s: float
    end_s: float
    label: str


def read(
    path: object, given: Listed, files: Sequence[str], *, labelled: bool
) -> tuple[list[tuple[float, float]], tuple[Remark, ...]]:
    """Reads the times of a list and compares them with the files and with each other.

    Args:
        path: Name of the list, for messages.
        given: Rows with the columns ``start``, ``end`` and ``label`` as text.
        files: Path of each segment's file.
        labelled: True if two segments of different labels must not overlap.

    Returns:
        Times of each segment in seconds, and remarks on overlaps and on files that are slow to read in parts.

    Raises:
        BadInputError: A time cannot be read or is past the end of its file, an end is not after its start, or segments
            of two labels overlap. The error names the line.
    """
    unit, columns = given.unit, given.columns
    of_file: dict[str, list[Segment]] = {}
    times = []
    rows = zip(given.numbers, files, columns[START], columns[END], columns["label"], strict=True)
    for line, file, start, end, label in rows:
        start_s, end_s = (_seconds(path, f"{unit} {line}", name, text) for name, text in ((START, start), (END, end)))
        if end_s <= start_s:
            raise BadInputError(path, f"{unit} {line} ends at {end} s and starts at {start} s", "swap or correct them")
        times.append((start_s, end_s))
        of_file.setdefault(file, []).append(Segment(line, start_s, end_s, label))
    _refuse_past_the_end(path, unit, of_file)
    overlapping = 0
    for file, segments in of_file.items():
        for one, other in _overlaps(segments):
            if labelled and one.label != other.label:
                lines = " and ".join(f"{part.line} ({part.label})" for part in sorted((one, other)))
                reason = f"{unit}s {lines} overlap in {Path(file).name} at {other.start_s:g} s"
                raise BadInputError(path, reason, "give each moment one label, or leave one of the two out")
            overlapping += 1
    remarks = []
    if overlapping:
        text = f"{overlapping:,} overlap an earlier one of the same file; --group-disjoint keeps them apart"
        remarks.append(Remark("segments", text))
    if slow := sum(len(parts) for file, parts in of_file.items() if file.lower().endswith(_DECODED_WHOLE)):
        text = f"{slow:,} lie in MP3 or OGG files, each of which is decoded from its beginning; FLAC and WAV are not"
        remarks.append(Remark("segments", text))
    return times, tuple(remarks)


def _seconds(path: object, place: str, column: str, text: str) -> float:
    if not _SECONDS.fullmatch(text) or not math.isfinite(value := float(text)):
        reason = f"{place} has no time in its {column} ({text[:40]!a})" if text else f"{place} has no {column}"
        raise BadInputError(path, reason, "give seconds, such as 1.25")
    return value


def _refuse_past_the_end(path: object, unit: str, of_file: dict[str, list[Segment]]) -> None:
    """Looks at the headers of the files. A broken file is left to whoever reads it."""
    from uamix_bench.data.audio import probe

    def duration_s(file: str) -> float:
        try:
            return probe(Path(file)).duration_s
        except BenchError:
            return math.inf

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        durations = list(pool.map(duration_s, of_file))
    past = [
        (part, file, length_s)
        for (file, parts), length_s in zip(of_file.items(), durations, strict=True)
        for part in parts
        if part.end_s > length_s + ROUNDING_S
    ]
    if past:
        part, file, length_s = min(past)
        more = f", and {len(past) - 1:,} more are past the end of theirs" if len(past) > 1 else ""
        reason = f"{unit} {part.line} ends at {part.end_s:g} s, and {Path(file).name} lasts {length_s:.3f} s{more}"
        raise BadInputError(path, reason, "times are in seconds from the beginning of the file; correct them")


def _overlaps(segments: Sequence[Segment]) -> Iterator[tuple[Segment, Segment]]:
    """Segments that begin before an earlier one of the same file ends, with that one; first one of another label."""
    last: Segment | None = None  # of those before, the one that ends last, and the same among other labels
    other: Segment | None = None
    for segment in sorted(segments, key=lambda one: (one.start_s, one.end_s)):
        for before in (other, last) if last and last.label == segment.label else (last, other):
            if before is not None and before.end_s - segment.start_s > ROUNDING_S:
                yield before, segment
                break
        if last is None or segment.end_s >= last.end_s:
            if last is not None and last.label != segment.label:
                other = last
            last = segment
        elif segment.label != last.label and (other is None or segment.end_s > other.end_s):
            other = segment
