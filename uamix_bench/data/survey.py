"""Survey of a clip table and its sounds: sizes, lengths, rates, and what is silent, broken or there twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np

from uamix_bench.data import audio
from uamix_bench.data.copies import first_copies
from uamix_bench.data.sound import SILENCE, Sound, sounds as sounds_of
from uamix_bench.data.task import TaskData
from uamix_bench.util.errors import BenchError
from uamix_bench.util.progress import SILENT, Progress
from uamix_bench.util.threads import SLOW_S, cores, in_threads

_AHEAD = 64  # files


class ClassSize(NamedTuple):
    """Clips of a class, and their length in seconds without the broken ones; None if no sound was read."""

    clips: int
    seconds: float | None


class Sounds(NamedTuple):
    """Findings in the sounds of a clip table.

    Attributes:
        lengths_s: Least, median and largest length in seconds; None without a readable sound.
        cut: Number of clips longer than the task's clip length.
        rates: Number of clips of each sample rate, in Hz.
        channels: Number of clips of each number of channels.
        silent: Ids of the clips whose part that is heard is silent.
        broken: Ids, labels and faults of the clips that cannot be read.
        equal: Ids of the clips of equal content, each set with its labels.
    """

    lengths_s: tuple[float, float, float] | None
    cut: int
    rates: dict[int, int]
    channels: dict[int, int]
    silent: tuple[str, ...]
    broken: tuple[tuple[str, str, str], ...]
    equal: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]


class Survey(NamedTuple):
    """Sizes and faults of a clip table and its sounds.

    Attributes:
        classes: Size of each class, by its name.
        splits: Number of clips of each split, by its name; empty without splits.
        groups: Number of groups; None if every clip is its own.
        unread: Ids and kinds of the sounds whose format is not read.
        remarks: Remarks on the table, a line each.
        sounds: Findings in the sounds; None if they were not read.
    """

    classes: dict[str, ClassSize]
    splits: dict[str, int]
    groups: int | None
    unread: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...]
    sounds: Sounds | None

    @property
    def clips(self) -> int:
        """Number of clips of all classes."""
        return sum(size.clips for size in self.classes.values())

    @property
    def fewest(self) -> int:
        """Number of usable clips of the smallest class."""
        return min(self.usable.values(), default=0)

    @property
    def usable(self) -> dict[str, int]:
        """Number of clips of each class without the broken ones."""
        lost = Counter(label for _, label, _ in self.sounds.broken) if self.sounds else Counter[str]()
        return {label: size.clips - lost[label] for label, size in self.classes.items()}


class _Heard(NamedTuple):
    info: audio.AudioInfo
    silent: bool


def survey(data: TaskData, *, sounds: bool = True, memo: bool = True, progress: Progress = SILENT) -> Survey:
    """Looks at a clip table and its sounds.

    Args:
        data: Clip table.
        sounds: Whether the part of every clip that an evaluation hears is decoded.
        memo: Whether digests of files are stored.
        progress: Progress display of the sounds that are read.
    """
    table = data.table
    heard = _hear(data, progress) if sounds else []
    seconds: dict[str, float] = defaultdict(float)
    for label, one in zip(table["label"], heard, strict=False):
        if isinstance(one, _Heard):
            seconds[label] += one.info.duration_s
    sizes = Counter(table["label"].tolist())
    groups = len(set(table["group"]))
    return Survey(
        classes={label: ClassSize(sizes[label], seconds[label] if sounds else None) for label in sorted(sizes)},
        splits=dict(sorted(Counter(split for split in table["split"] if split).items())),
        groups=groups if groups < len(table) else None,
        unread=tuple((one.clip, one.reason) for one in data.unread),
        remarks=tuple(remark.text for remark in data.remarks),
        sounds=_findings(data, heard, memo, progress) if sounds else None,
    )


def _hear(data: TaskData, progress: Progress) -> list[_Heard | BenchError]:
    """Header of each clip, and whether what is heard of it is silent; the error of a broken one."""
    seconds = data.card.clip_seconds

    def hear(sound: Sound) -> _Heard | BenchError:
        try:
            info = audio.probe(sound)
            samples = audio.read(sound, None, max_seconds=seconds).samples
        except BenchError as error:
            return error
        return _Heard(info, bool(np.ptp(samples) / 2 < SILENCE))

    def slow(sound: Sound) -> None:
        progress.say(f"{sound}: still decoding after {SLOW_S:g} s")

    def hung(sound: Sound) -> _Heard | BenchError:
        return audio.undecoded(sound)

    data.task.materialise(data.table, progress)
    wanted = sounds_of(data.table)
    found = []
    with progress.bar("reading sounds", len(wanted)) as advance:
        for one in in_threads(hear, wanted, threads=cores(), ahead=_AHEAD, slow=slow, hung=hung):
            found.append(one)
            advance(1, "")
    return found


def _findings(data: TaskData, heard: list[_Heard | BenchError], memo: bool, progress: Progress) -> Sounds:
    clips, labels = data.table["clip"].tolist(), data.table["label"].tolist()
    rows = zip(clips, labels, heard, strict=True)
    infos = [one.info for one in heard if isinstance(one, _Heard)]
    lengths = [info.duration_s for info in infos]
    alike: dict[int, list[int]] = defaultdict(list)
    for row, first in enumerate(first_copies(sounds_of(data.table), progress, memo).tolist()):
        alike[first].append(row)
    equal = [rows for rows in alike.values() if len(rows) > 1]
    return Sounds(
        lengths_s=(min(lengths), float(np.median(lengths)), max(lengths)) if lengths else None,
        cut=sum(length > data.card.clip_seconds for length in lengths),
        rates=dict(sorted(Counter(info.sample_rate for info in infos).items())),
        channels=dict(sorted(Counter(info.channels for info in infos).items())),
        silent=tuple(clip for clip, one in zip(clips, heard, strict=True) if isinstance(one, _Heard) and one.silent),
        broken=tuple((clip, label, one.reason) for clip, label, one in rows if isinstance(one, BenchError)),
        equal=tuple(
            (tuple(clips[row] for row in rows), tuple(sorted({labels[row] for row in rows}))) for rows in equal
        ),
    )
