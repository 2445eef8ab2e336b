"""A data set on the disk (`TaskData`), and the way to it by name or path (`load_task`)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from json.encoder import encode_basestring
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from uamix_bench.data import folders
from uamix_bench.data.by_card import ByCard
from uamix_bench.data.clip_table import COLUMNS, END, PLACES, START, ClipTable, SortedClips, sort_clips
from uamix_bench.data.copies import first_copies, one_group
from uamix_bench.data.folders import Listing, Remark, Several, Unread
from uamix_bench.data.own import OWN_CLIP_SECONDS as OWN_CLIP_SECONDS, Own, own_task
from uamix_bench.data.reader import (
    MINIATURE as MINIATURE,
    IncompleteError as IncompleteError,
    Problem as Problem,
    Task as Task,
)
from uamix_bench.data.sound import sounds
from uamix_bench.plugins import registry
from uamix_bench.plugins.card import TaskCard
from uamix_bench.util.arrays import Ints, Mask
from uamix_bench.util.errors import BadInputError, UsageError, nearest
from uamix_bench.util.files import home
from uamix_bench.util.progress import SILENT, Progress
from uamix_bench.util.text import UNFIT

if TYPE_CHECKING:
    import pandas as pd

_TEXTS = ("clip", "label", "group", "split")  # columns that results and digests hold


@dataclass(frozen=True)
class TaskData:
    """A data set on the disk: its reader, its root, and its clip table, sorted by clip.

    `partial` names the clips that an incomplete copy lacks, and is empty for a whole one. `remarks` hold facts on the
    table for readers of its scores. `unread` holds the clips outside the table whose format is not read.
    `copies_grouped` is True if clips of equal content share a group. `several` is set if clips have several classes.
    `names` holds the names of classes, by label, that the user gave. `clips` is the `table` for users of pandas.

    Raises:
        ValueError: The table is not sorted.
    """

    task: Task
    card: TaskCard
    root: Path
    table: ClipTable
    partial: str = ""
    remarks: tuple[Remark, ...] = ()
    unread: tuple[Unread, ...] = ()
    copies_grouped: bool = False
    several: Several | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.table.ordered:  # episodes and digests go by this order
            raise ValueError("the clip table of a task is sorted by clip")

    @property
    def name(self) -> str:
        """Name of the task in results."""
        return self.card.name

    @property
    def version_tells_sounds(self) -> bool:
        """True if name and version identify the sounds: for the project's own data sets, except miniatures."""
        ours = type(self.task).__module__.startswith("uamix_bench.tasks.")
        return ours and self.card.version == self.task.card.version

    @cached_property
    def clips(self) -> pd.DataFrame:
        """The clip table as a DataFrame of pandas, a copy."""
        return self.table.to_pandas()

    @cached_property
    def clips_sha256(self) -> str:
        """SHA-256 over (clip, label, group, split) of every row, in order; episodes and labels depend on these."""
        return table_sha256(self.table)

    @cached_property
    def class_names(self) -> dict[str, str]:
        """Name of each class for zero-shot evaluation, by label: the user's, else the label with spaces for ``_``.

        Raises:
            BadInputError: Two classes have one name.
        """
        labels = sorted(set(self.table["label"]))
        found = {label: self.names.get(label) or " ".join(label.replace("_", " ").split()) or label for label in labels}
        of_name: dict[str, str] = {}
        for label, name in found.items():
            if of_name.setdefault(name, label) != label:
                reason = f"the classes '{of_name[name]}' and '{label}' have one name, '{name}'"
                raise BadInputError(
                    self.name, reason, "name them apart: --classes FILE.csv with the columns label,name"
                )
        return found

    @cached_property
    def sorted_clips(self) -> SortedClips:
        """The clip table in the order used for drawing episodes, computed once.

        Raises:
            BadInputError: Clips have several classes, and an episode gives each one.
        """
        if self.several is not None:
            reason = f"column '{self.several.column}' gives clips several classes, and an episode gives each clip one"
            remedy = "evaluate it with 'uamix-bench finetune', or give a column 'label' with one class a clip"
            raise BadInputError(self.name, reason, remedy)
        return sort_clips(*(self.table[column].tolist() for column in ("clip", "label", "group")), ordered=True)

    def group_copies(self, progress: Progress = SILENT) -> TaskData:
        """The same task with clips of equal content in one group, for group-disjoint episodes.

        The project's own data sets keep their published groups.
        """
        if self.copies_grouped or self.version_tells_sounds:
            return self
        groups = one_group(self.table["group"].tolist(), first_copies(sounds(self.table), progress))
        return replace(self, table=self.table.assign(group=groups), copies_grouped=True)

    def first_copies(self, rows: Ints, progress: Progress = SILENT) -> Ints | None:
        """Row of the first identical clip, (n,) int64: for a clip in `rows` among these, for every other clip its own.

        None if name and version identify the sounds.
        """
        if self.version_tells_sounds:
            return None
        first = np.arange(len(self.table))
        first[rows] = rows[first_copies(sounds(self.table.take(rows)), progress)]
        return first

    def split(self, *names: str) -> TaskData:
        """The same task, with only the clips of these splits.

        Raises:
            UsageError: One of the splits holds no clip.
        """
        known = sorted(set(self.table["split"]) - {""})
        for name in names:
            if name not in known:
                raise UsageError(f"{self.name}:{name}", "no such split", f"known: {', '.join(known) or 'none'}")
        return self._where(self.table.among("split", names))

    def only(self, classes: Iterable[str]) -> TaskData:
        """The same task, with only the clips of these classes. Its clip table and every digest differ.

        Raises:
            UsageError: There is no such class; the line suggests the nearest.
        """
        wanted = set(classes)
        known = sorted(set(self.table["label"]))
        if unknown := sorted(wanted.difference(known)):
            more = f", nor {len(unknown) - 1} more that are named" if len(unknown) > 1 else ""
            raise UsageError(self.name, f"has no class '{unknown[0]}'{more}", nearest(unknown[0], known))
        return self._where(self.table.among("label", wanted))

    def named(self, names: Mapping[str, str]) -> TaskData:
        """The same task with these names of classes, by label; an empty one leaves the class its own."""
        return replace(self, names={**self.names, **{label: name for label, name in names.items() if name}})

    def without(self, clips: Iterable[str]) -> TaskData:
        """The same task without these clips."""
        return self._where(~self.table.among("clip", set(clips)))

    def metaaudio(self) -> TaskData:
        """The same task, with only the test classes of MetaAudio's split (Heggan et al. 2022, ``Baseline/*.npy``).

        Raises:
            UsageError: The card does not list these classes, or the copy lacks one.
        """
        if self.card.metaaudio is None:
            reason = "the test classes that MetaAudio's split gives it are not known here"
            raise UsageError(f"--protocol metaaudio --task {self.name}", reason, "list them in a file: --classes FILE")
        return self.only(self.card.metaaudio)

    def most_queries(self, k_shot: int, at_most: int) -> int:
        """Largest number of queries a class, up to `at_most`, that leaves every class its `k_shot` supports.

        Raises:
            UsageError: A class has no clip left for a query; the line names it.
        """
        sizes = self.table.sizes("label")
        most = min(at_most, min(sizes.values()) - k_shot)
        if most < 1:
            fewest = sorted((size, label) for label, size in sizes.items() if size <= k_shot)[:4]
            short = ", ".join(f"{label} has {size}" for size, label in fewest)
            reason = f"--q auto leaves no class out, and with {k_shot} supports these have no query: {short}"
            raise UsageError(self.name, reason, "use a smaller --k, a number for --q, or choose --classes")
        return most

    def _where(self, chosen: Mask) -> TaskData:
        return replace(self, table=self.table.take(chosen))


def load_task(
    name: str,
    data_dir: str | Path | None = None,
    *,
    audio_root: str | Path | None = None,
    clip_seconds: float | None = None,
    splits: tuple[str, ...] | None = None,
    allow_partial: bool = False,
    keep_going: bool = False,
    labelled: bool = True,
) -> TaskData:
    """Loads a task's clip table; no sound is read, but the headers of recordings that segments lie in.

    Args:
        name: A registered task, ``FILE.py:CLASS``, or the path of a folder (one sub-folder a class, or a data set of
            the Hugging Face Hub), of a list (columns ``path,label[,group,split]``), of a parquet file with sounds, or
            of a card (``.toml``). A name with a separator, a suffix or a leading dot is a path.
        data_dir: Folder of the data sets; default ``UAMIX_BENCH_HOME/data``.
        audio_root: Folder that a CSV's paths are relative to; default the CSV's own folder.
        clip_seconds: Crop length in seconds, instead of the card's.
        splits: Names of the splits to keep, instead of the card's.
        allow_partial: True accepts an incomplete copy. `TaskData.partial` then names the missing clips, and no result
            on it is complete.
        keep_going: True leaves out sounds whose format is not read. `TaskData.unread` then lists them, and no result is
            complete.
        labelled: True if a path's clips need labels. If False, a folder may hold sounds anywhere, a CSV needs no label,
            and a text list of paths or AudioSet's own CSV is accepted.

    Raises:
        UsageError: The task or split is unknown.
        BadInputError: The data is missing, incomplete, or differs from the published data set.
    """
    task, root = find_reader(name, data_dir, audio_root=audio_root, labelled=labelled)
    lacks = ""
    try:
        found = task.listing(root)
    except IncompleteError as error:
        if not allow_partial or not len(error.found):
            raise
        lacks, found = error.reason, Listing(error.found)
    remarks = list(found.remarks)
    if found.unread:
        left_out = folders.tally(found.unread, found.clips["label"])
        if not keep_going or not len(found.clips):
            remedy = "convert them ('ffmpeg -i IN OUT.flac'); fewshot and finetune set them aside with --keep-going"
            raise BadInputError(root, left_out, remedy)
        remarks.append(Remark("unread", left_out))
    table = _checked(found.clips, name)
    if labelled and found.several is None:
        remarks += folders.doubtful_labels(set(table["label"]))
    card = task.edition(root)
    if isinstance(task, Own):
        card = card.model_copy(update={"version": table_sha256(table)[:12]})
    if clip_seconds:
        card = card.model_copy(update={"clip_seconds": clip_seconds})
    data = TaskData(
        task, card, root, table, lacks, tuple(remarks), found.unread, several=found.several, names=found.names
    )
    wanted = splits or card.splits
    return data.split(*wanted) if wanted else data


def find_reader(
    name: str, data_dir: str | Path | None = None, *, audio_root: str | Path | None = None, labelled: bool = True
) -> tuple[Task, Path]:
    """Finds the reader of a task, and the root of its copy; no list is read.

    Args:
        name: A registered task, ``FILE.py:CLASS``, or a path; see :func:`load_task`.
        data_dir: Folder of the data sets; default ``UAMIX_BENCH_HOME/data``.
        audio_root: Folder that a list's paths are relative to; default the list's own folder.
        labelled: True if a path's clips need labels.

    Raises:
        UsageError: The task is unknown.
        BadInputError: There is no copy, or the class is no reader.
    """
    above = Path(data_dir) if data_dir else home() / "data"
    if is_path(name) and ".py:" not in name:
        return own_task(Path(name), above, Path(audio_root) if audio_root else None, labelled=labelled)
    task = reader(name)
    return task, task.locate(above)


def reader(name: str) -> Task:
    """Reader of a registered task or of ``FILE.py:CLASS``.

    Raises:
        UsageError: The task is unknown.
        BadInputError: The class fails to import, or is no reader.
    """
    if ".py:" in name:
        found = registry.from_file(name, "--task")
    else:
        plugin = registry.find_task(name)
        if plugin.card.layout is not None:
            return ByCard(plugin.card)
        found = plugin.load()
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise BadInputError(name, "is not a subclass of uamix_bench.Task", "name the class that reads the data set")
    return found()


def is_path(name: str) -> bool:
    """Test for a --task value that is a path to a user's own data: it has a separator, a suffix or a leading dot."""
    return "/" in name or "\\" in name or name.startswith(".") or Path(name).suffix != ""


def table_sha256(table: ClipTable) -> str:
    """SHA-256 (hex) over the rows [clip, label, group, split], each as canonical JSON and a newline, sorted by clip."""
    table = table.by_clip()
    # What `files.canonical_json` gives for a list of four strings, without a call of it for each of 300,000 rows.
    quoted = [map(encode_basestring, table[column].tolist()) for column in _TEXTS]
    return hashlib.sha256("".join([f"[{','.join(row)}]\n" for row in zip(*quoted, strict=True)]).encode()).hexdigest()


def _checked(table: ClipTable, source: object) -> ClipTable:
    """Returns a clip table sorted by clip. Faulty tables and names that no result can hold are refused."""
    if sorted(set(table.columns) - set(PLACES)) != sorted(COLUMNS) or (START in table) != (END in table):
        raise BadInputError(source, f"its clip table has the columns {', '.join(table.columns)}", f"want {COLUMNS}")
    for column in _TEXTS:
        names = dict.fromkeys(table[column].tolist())
        if not all(isinstance(name, str) for name in names):
            strange = next(name for name in names if not isinstance(name, str))
            raise BadInputError(source, f"{column} {strange!r} of its clip table is no text", "give every clip a text")
        if unfit := next(filter(UNFIT.search, names), ""):
            raise BadInputError(
                source, f"{column} {unfit!a} holds a control, invisible or undecodable character", "rename it"
            )
    clips = table["clip"].tolist()
    if len(set(clips)) < len(clips):
        repeated = next(clip for clip, times in Counter(clips).items() if times > 1)
        remedy = "leave one of the two (names that differ in Unicode form only are one)"
        raise BadInputError(source, f"lists {repeated!a} twice", remedy)
    return table.by_clip()
