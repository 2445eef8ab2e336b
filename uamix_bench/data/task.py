"""Contract of a data set's reader (`Task`), a data set on the disk (`TaskData`), and `load_task`."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd

from uamix_bench.data import folders, own_data
from uamix_bench.data.clip_table import SortedClips, sort_clips
from uamix_bench.data.copies import first_copies, one_group
from uamix_bench.data.folders import COLUMNS as COLUMNS, Listing, Remark, Unread
from uamix_bench.plugins import registry
from uamix_bench.plugins.card import TaskCard
from uamix_bench.util.arrays import Ints
from uamix_bench.util.errors import BadInputError, UsageError, nearest
from uamix_bench.util.files import home
from uamix_bench.util.progress import SILENT, Progress
from uamix_bench.util.text import UNFIT

OWN_CLIP_SECONDS = 10.0
# A file in the root of a generated stand-in: it begins with its number of clips; what it holds of the card's `holds`
# stands in its further lines.
MINIATURE = "MINIATURE"


class IncompleteError(BadInputError):
    """Error for a copy of a data set that lacks clips.

    Args:
        subject: Root of the copy.
        reason: Counts of the clips, and names of the missing ones.
        remedy: The step that mends it.
        found: Clip table of the clips that exist.
    """

    def __init__(self, subject: object, reason: str, remedy: str, found: pd.DataFrame) -> None:
        super().__init__(subject, reason, remedy)
        self.found = found

    def __reduce__(self) -> tuple[type[IncompleteError], tuple[str, str, str, pd.DataFrame]]:  # type: ignore[override]
        return type(self), (self.subject, self.reason, self.remedy, self.found)


class Problem(NamedTuple):
    """A fault in a copy of a data set."""

    subject: str
    reason: str
    remedy: str


class Task:
    """A labelled data set. A subclass reads its folder into a clip table.

    Attributes:
        card: Facts about the data set, from the TOML beside the reader.
        marker: Path relative to the data set's root that exists in every copy.
    """

    card: ClassVar[TaskCard]
    marker: ClassVar[str] = ""

    def clips(self, root: Path) -> pd.DataFrame:
        """Lists the clips in a copy of the data set.

        Args:
            root: Folder into which the official archives are unpacked.

        Returns:
            Clip table, one row a clip, with the columns ``clip`` (stable id: path relative to `root`, with ``/``),
            ``path``, ``label``, ``group`` (must not stand on both sides of an episode; the clip itself if it has no
            group) and ``split``.

        Raises:
            IncompleteError: The copy lacks clips.
            BadInputError: The copy differs from the published data set.
        """
        raise NotImplementedError

    def listing(self, root: Path) -> Listing:
        """The clip table with remarks, by default none. `load_task` calls this.

        Raises: the errors of :meth:`clips`.
        """
        return Listing(self.clips(root))

    def supervised(self, root: Path, table: pd.DataFrame) -> pd.DataFrame:
        """The clip table for fine-tuning: `table`, unless fine-tuning has other labels or groups than episodes."""
        return table

    def edition(self, root: Path) -> TaskCard:
        """The card of the copy in `root`. A miniature has its own number of clips and its own version.

        A partial miniature is thus refused too, and a score on a miniature is never taken for one on the data set.

        Raises:
            BadInputError: The mark of a miniature is damaged.
        """
        mark = root / MINIATURE
        if not mark.is_file():
            return self.card
        count = re.match(rb"\d{1,9}\b", mark.read_bytes())
        if count is None:
            raise BadInputError(mark, "does not begin with a number of clips", "make the miniature again")
        return self.card.model_copy(update={"version": f"{self.card.version}-miniature", "clips": int(count[0])})

    def materialise(self, rows: pd.DataFrame, progress: Progress = SILENT) -> None:
        """Makes sure that the files of these `rows` of the clip table exist. Generated data sets make them here."""

    def verify(self, root: Path, deep: bool = False, progress: Progress = SILENT) -> list[Problem]:
        """Verifies a copy, or the files of an incomplete one: no file is empty; `deep` decodes all."""
        problems = []
        try:
            table = self.clips(root)
        except BadInputError as error:
            problems.append(Problem(error.subject, error.reason, error.remedy))
            if not isinstance(error, IncompleteError):
                return problems
            table = error.found
        if deep:
            self.materialise(table, progress)
        return problems + (_decode_all(table, progress) if deep else _empty(table))

    def miniature(self, folder: Path, **sizes: Any) -> Path:
        """Makes a miniature in a new folder: the real folders and names, with a few generated sounds.

        Args:
            folder: Root of the miniature.
            **sizes: ``classes``, ``clips_per_class`` and ``seconds``, instead of the defaults.

        Raises:
            UsageError: The task has no miniature, or the folder is not empty.
        """
        raise UsageError(self.card.name, "has no miniature", "it is generated itself, or its reader makes none")

    def mark(self, root: Path) -> Path | None:
        """Path of the `marker` in a root, or of its counterpart in another layout; None if neither exists."""
        return root / self.marker if (root / self.marker).exists() else None

    def locate(self, data_dir: Path) -> Path:
        """Finds the data set's root: ``data_dir/<name>``, or `data_dir` itself.

        Raises:
            BadInputError: The data set is in neither; the line names the folders searched and its source.
        """
        places = (data_dir / self.card.name, data_dir)
        for place in places:
            if self.mark(place):
                return place
        prepare = f"run 'uamix-bench tasks prepare {self.card.name}', " if self.card.files else ""
        where = f"{prepare}unpack {self.card.home or 'its archives'} into {places[0]}, or name another with --data-dir"
        raise BadInputError(self.card.name, f"no {self.marker} in {places[0]} or {places[1]}", where)


@dataclass(frozen=True)
class TaskData:
    """A data set on the disk: its reader, its root, and its clip table, sorted by clip.

    `partial` names the clips that an incomplete copy lacks, and is empty for a whole one. `remarks` hold facts on the
    table for readers of its scores. `unread` holds the clips outside the table whose format is not read.
    `copies_grouped` is True if clips of equal content share a group.

    Raises:
        ValueError: The table is not sorted.
    """

    task: Task
    card: TaskCard
    root: Path
    clips: pd.DataFrame
    partial: str = ""
    remarks: tuple[Remark, ...] = ()
    unread: tuple[Unread, ...] = ()
    copies_grouped: bool = False

    def __post_init__(self) -> None:
        if not self.clips["clip"].is_monotonic_increasing:  # episodes and digests go by this order
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
    def clips_sha256(self) -> str:
        """SHA-256 over (clip, label, group, split) of every row, in order; episodes and labels depend on these."""
        return table_sha256(self.clips)

    @cached_property
    def sorted_clips(self) -> SortedClips:
        """The clip table in the order used for drawing episodes, computed once."""
        return sort_clips(*(self.clips[column].tolist() for column in ("clip", "label", "group")), ordered=True)

    def group_copies(self, progress: Progress = SILENT) -> TaskData:
        """The same task with clips of equal content in one group, for group-disjoint episodes.

        The project's own data sets keep their published groups.
        """
        if self.copies_grouped or self.version_tells_sounds:
            return self
        groups = one_group(self.clips["group"].tolist(), first_copies(self.clips["path"].tolist(), progress))
        return replace(self, clips=self.clips.assign(group=groups), copies_grouped=True)

    def first_copies(self, rows: Ints, progress: Progress = SILENT) -> Ints | None:
        """Row of the first identical clip, (n,) int64: for a clip in `rows` among these, for every other clip its own.

        None if name and version identify the sounds.
        """
        if self.version_tells_sounds:
            return None
        first = np.arange(len(self.clips))
        first[rows] = rows[first_copies(self.clips["path"].iloc[rows].tolist(), progress)]
        return first

    def split(self, *names: str) -> TaskData:
        """The same task, with only the clips of these splits.

        Raises:
            UsageError: One of the splits holds no clip.
        """
        known = sorted(set(self.clips["split"]) - {""})
        for name in names:
            if name not in known:
                raise UsageError(f"{self.name}:{name}", "no such split", f"known: {', '.join(known) or 'none'}")
        return self._where(self.clips["split"].isin(names))

    def only(self, classes: Iterable[str]) -> TaskData:
        """The same task, with only the clips of these classes. Its clip table and every digest differ.

        Raises:
            UsageError: There is no such class; the line suggests the nearest.
        """
        wanted = set(classes)
        known = sorted(set(self.clips["label"]))
        if unknown := sorted(wanted.difference(known)):
            more = f", nor {len(unknown) - 1} more that are named" if len(unknown) > 1 else ""
            raise UsageError(self.name, f"has no class '{unknown[0]}'{more}", nearest(unknown[0], known))
        return self._where(self.clips["label"].isin(wanted))

    def without(self, clips: Iterable[str]) -> TaskData:
        """The same task without these clips."""
        return self._where(~self.clips["clip"].isin(set(clips)))

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
        sizes = self.clips["label"].value_counts()
        most = min(at_most, int(sizes.min()) - k_shot)
        if most < 1:
            short = ", ".join(f"{label} has {size}" for label, size in sizes[sizes <= k_shot].sort_values()[:4].items())
            reason = f"--q auto leaves no class out, and with {k_shot} supports these have no query: {short}"
            raise UsageError(self.name, reason, "use a smaller --k, a number for --q, or choose --classes")
        return most

    def _where(self, chosen: pd.Series[bool]) -> TaskData:
        return replace(self, clips=self.clips[chosen].reset_index(drop=True))


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
    """Loads a task's clip table; no sound is read.

    Args:
        name: A registered task, ``FILE.py:CLASS``, or the path of a folder (one sub-folder a class) or of a CSV
            (columns ``path,label[,group,split]``). A name with a separator, a suffix or a leading dot is a path.
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
    task: Task
    if is_path(name) and ".py:" not in name:
        task, root = _own(Path(name), Path(audio_root) if audio_root else None, labelled)
    else:
        reader = registry.from_file(name, "--task") if ".py:" in name else registry.find_task(name).load()
        if not (isinstance(reader, type) and issubclass(reader, Task)):
            raise BadInputError(name, "is not a subclass of uamix_bench.Task", "name the class that reads the data set")
        task = reader()
        root = task.locate(Path(data_dir) if data_dir else home() / "data")
    lacks = ""
    try:
        found = task.listing(root)
    except IncompleteError as error:
        if not allow_partial or error.found.empty:
            raise
        lacks, found = error.reason, Listing(error.found)
    remarks = list(found.remarks)
    if found.unread:
        left_out = folders.tally(found.unread, found.clips["label"])
        if not keep_going or found.clips.empty:
            remedy = "convert them ('ffmpeg -i IN OUT.flac'); fewshot and finetune set them aside with --keep-going"
            raise BadInputError(root, left_out, remedy)
        remarks.append(Remark("unread", left_out))
    table = _checked(found.clips, name)
    if labelled:
        remarks += folders.alike_labels(table["label"].unique())
    card = task.edition(root)
    if isinstance(task, Own):
        card = card.model_copy(update={"version": table_sha256(table)[:12]})
    if clip_seconds:
        card = card.model_copy(update={"clip_seconds": clip_seconds})
    data = TaskData(task, card, root, table, lacks, tuple(remarks), found.unread)
    wanted = splits or card.splits
    return data.split(*wanted) if wanted else data


def is_path(name: str) -> bool:
    """Test for a --task value that is a path to a user's own data: it has a separator, a suffix or a leading dot."""
    return "/" in name or "\\" in name or name.startswith(".") or Path(name).suffix != ""


def table_sha256(table: pd.DataFrame) -> str:
    """SHA-256 (hex) over the rows [clip, label, group, split], each as canonical JSON and a newline, sorted by clip."""
    if not table["clip"].is_monotonic_increasing:
        table = table.sort_values("clip")
    # What `files.canonical_json` gives for a list of four strings, without a call of it for each of 300,000 rows.
    quoted = [map(encode_basestring, table[column].tolist()) for column in ("clip", "label", "group", "split")]
    return hashlib.sha256("".join([f"[{','.join(row)}]\n" for row in zip(*quoted, strict=True)]).encode()).hexdigest()


class Own(Task):
    """A user's own data: a folder of class folders, or a CSV. Its card is made from its name.

    Args:
        name: Stem of the folder's or file's name.
        read: Function that makes the clip table of a root; see `folders` and `own_data`.
    """

    def __init__(self, name: str, read: Callable[[Path], Listing]) -> None:
        stem = re.sub(r"[^A-Za-z0-9._+-]+", "-", folders.composed(name)).strip("-._+")[:70] or "data"
        # the card of an instance, where the readers of published data sets have one per class
        self.card = TaskCard(  # type: ignore[misc]
            name=f"local/{stem}",
            title=f"own data: {stem}",
            licence="the user's own",
            version="0",
            clip_seconds=OWN_CLIP_SECONDS,
            label="sub-folder or label column",
            group="group column, or the clip itself",
        )
        self._read = read

    def clips(self, root: Path) -> pd.DataFrame:
        """Reads the clip table. Every file of a list must exist."""
        return self._read(root).clips

    def listing(self, root: Path) -> Listing:
        """Reads the clip table with the remarks on it."""
        return self._read(root)


def _own(path: Path, audio_root: Path | None, labelled: bool) -> tuple[Own, Path]:
    if path.is_dir():
        return Own(path.resolve().name, folders.class_folders if labelled else folders.sounds), path
    if not path.exists():
        raise BadInputError(path, "no such file or folder", "check the path")
    root = audio_root or path.parent
    if not labelled and own_data.is_audioset_list(path):
        return Own(path.stem, partial(_audioset, path)), root
    if path.suffix.lower() == ".csv":
        return Own(path.stem, partial(own_data.clip_list, path, labelled=labelled)), root
    if labelled:
        remedy = "give a folder with one sub-folder per class, or a CSV"
        raise BadInputError(path, "is neither a folder nor a .csv file", remedy)
    return Own(path.stem, partial(own_data.path_list, path)), root


def _audioset(path: Path, root: Path) -> Listing:
    """Reads AudioSet's own list. Copies are rarely whole, as videos vanish."""
    table, lacks = own_data.audioset_list(path, root)
    if lacks:
        raise IncompleteError(root, lacks, "fetch the others", table)
    return Listing(table)


def _checked(table: pd.DataFrame, source: object) -> pd.DataFrame:
    """Returns a clip table sorted by clip. Faulty tables and names that no result can hold are refused."""
    if sorted(table.columns) != sorted(COLUMNS):
        raise BadInputError(source, f"its clip table has the columns {', '.join(table.columns)}", f"want {COLUMNS}")
    for column in ("clip", "label", "group", "split"):
        unfit = next((name for name in table[column].unique() if UNFIT.search(name)), None)
        if unfit is not None:
            raise BadInputError(
                source, f"{column} {unfit!a} holds a control, invisible or undecodable character", "rename it"
            )
    repeated = table.loc[table["clip"].duplicated(), "clip"]
    if len(repeated):
        remedy = "leave one of the two (names that differ in Unicode form only are one)"
        raise BadInputError(source, f"lists {repeated.iloc[0]!a} twice", remedy)
    return table.sort_values("clip", ignore_index=True)


def _empty(table: pd.DataFrame) -> list[Problem]:
    """Lists the empty files, as a full disk leaves them. Files that are not generated yet are no fault."""
    problems = []
    for path in table["path"]:
        with suppress(OSError):
            if not os.stat(path).st_size:  # noqa: PTH116 - half the time of Path.stat, and there are 300,000
                problems.append(Problem(path, "is empty (0 bytes)", "download or export it again"))
    return problems


def _decode_all(table: pd.DataFrame, progress: Progress) -> list[Problem]:
    from uamix_bench.data.audio import read

    problems = []
    with progress.bar("decoding", len(table)) as advance:
        for path in table["path"]:
            try:
                read(Path(path), None)
            except BadInputError as error:
                problems.append(Problem(error.subject, error.reason, error.remedy))
            advance(1, "")
    return problems
