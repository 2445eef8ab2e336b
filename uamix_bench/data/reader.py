"""Contract of a data set's reader (`Task`)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from uamix_bench.data import folders
from uamix_bench.data.clip_table import ClipTable, Columns
from uamix_bench.data.folders import Listing
from uamix_bench.data.sound import sounds
from uamix_bench.plugins.card import TaskCard
from uamix_bench.util.errors import BadInputError, UsageError
from uamix_bench.util.progress import SILENT, Progress
from uamix_bench.util.text import listed

# A file in the root of a generated stand-in: it begins with its number of clips; what it holds of the card's `holds`
# stands in its further lines.
MINIATURE = "MINIATURE"
_NAMED = 3  # missing files that the error names


class IncompleteError(BadInputError):
    """Error for a copy of a data set that lacks clips.

    Args:
        subject: Root of the copy.
        reason: Counts of the clips, and names of the missing ones.
        remedy: The step that mends it.
        found: Clip table of the clips that exist.
    """

    def __init__(self, subject: object, reason: str, remedy: str, found: Columns) -> None:
        super().__init__(subject, reason, remedy)
        self.found = ClipTable(found)

    def __reduce__(self) -> tuple[type[IncompleteError], tuple[str, str, str, ClipTable]]:  # type: ignore[override]
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

    def clips(self, root: Path) -> Columns:
        """Lists the clips in a copy of the data set.

        Args:
            root: Folder into which the official archives are unpacked.

        Returns:
            Clip table, one row a clip: a `ClipTable`, a DataFrame of pandas, or a dictionary of lists. Its columns are
            ``clip`` (stable id: path relative to `root`, with ``/``), ``path``, ``label``, ``group`` (must not stand
            on both sides of an episode; the clip itself if it has no group) and ``split``. Columns ``start`` and
            ``end``, in seconds, make a clip a segment of its file; a column ``row`` makes it a row of a parquet file,
            from 0.

        Raises:
            IncompleteError: The copy lacks clips.
            BadInputError: The copy differs from the published data set.
        """
        raise NotImplementedError

    def listing(self, root: Path) -> Listing:
        """The clip table with remarks, by default none. `load_task` calls this.

        Raises: the errors of :meth:`clips`.
        """
        return Listing(ClipTable(self.clips(root)))

    def supervised(self, root: Path, table: ClipTable) -> Columns:
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

    def materialise(self, rows: ClipTable, progress: Progress = SILENT) -> None:
        """Makes sure that the files of these `rows` of the clip table exist. Generated data sets make them here."""

    def verify(self, root: Path, deep: bool = False, progress: Progress = SILENT) -> list[Problem]:
        """Verifies a copy, or the files of an incomplete one: no file is empty; `deep` decodes all."""
        problems = []
        try:
            listing = self.listing(root)
            table = listing.clips
            if listing.unread:
                reason = folders.tally(listing.unread, table["label"])
                problems.append(Problem(str(root), reason, "convert them, for example with 'ffmpeg -i IN OUT.flac'"))
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
        found, remedy = next(filter(None, map(self.misplaced, places)), ("", where))
        reason = f"no {self.marker} in {places[0]} or {places[1]}" + (f", but {found}" if found else "")
        raise BadInputError(self.card.name, reason, remedy)

    def misplaced(self, place: Path) -> tuple[str, str] | None:
        """A copy in a layout that the reader does not know: what lies in `place` instead, and the remedy; else None."""
        for level in ("*", "*/*"):
            for root in sorted(place.glob(level)):
                if not root.name.startswith(".") and (root / self.marker).exists() and self.marker:
                    return f"{root / self.marker} is there", f"name its folder: --data-dir {root}"
        return None


def counted(task: Task, root: Path, table: ClipTable, missing: Iterable[str] = (), hint: str = "") -> ClipTable:
    """The clip table of a copy, if it holds every clip.

    Args:
        task: Reader whose card holds the number of clips, or None for an unknown number.
        root: Root folder of the data set.
        table: Clip table of the clips found.
        missing: Names in the data set's own lists that `root` lacks.
        hint: Remedy for an incomplete copy; empty to unpack the archives again.

    Raises:
        IncompleteError: The copy lacks clips; the line has the counts.
        BadInputError: The copy holds more clips than the data set.
    """
    expected, absent = task.edition(root).clips, sorted(missing)
    if not absent and expected in (None, len(table)):
        return table
    every = len(table) + len(absent) if expected is None else expected
    reason = f"{len(table):,} of {every:,} clips found"
    if not absent and len(table) > every:
        raise BadInputError(root, reason, f"move away what is not of {task.card.name}")
    if absent:
        reason += f" (missing: {listed(absent, _NAMED)})"
    remedy = hint or f"unpack the archives of {task.card.name} again"
    raise IncompleteError(root, reason, f"{remedy}, or evaluate what is there, unranked, with --allow-partial", table)


def _empty(table: ClipTable) -> list[Problem]:
    """Lists the empty files, as a full disk leaves them. Files that are not generated yet are no fault."""
    problems = []
    for path in dict.fromkeys(table["path"].tolist()):
        with suppress(OSError):
            if not os.stat(path).st_size:  # noqa: PTH116 - half the time of Path.stat, and there are 300,000
                problems.append(Problem(path, "is empty (0 bytes)", "download or export it again"))
    return problems


def _decode_all(table: ClipTable, progress: Progress) -> list[Problem]:
    from uamix_bench.data.audio import read

    problems = []
    with progress.bar("decoding", len(table)) as advance:
        for sound in sounds(table):
            try:
                read(sound, None)
            except BadInputError as error:
                problems.append(Problem(error.subject, error.reason, error.remedy))
            advance(1, "")
    return problems
