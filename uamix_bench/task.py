"""Task, the contract of a data set's reader; load_task; a user's own folder or CSV."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pandas as pd

from uamix_bench import registry
from uamix_bench.card import TaskCard
from uamix_bench.errors import BadInputError, UsageError, nearest
from uamix_bench.files import home, unreadable
from uamix_bench.progress import SILENT, Progress

COLUMNS = ("clip", "path", "label", "group", "split")
AUDIO_SUFFIXES = frozenset(".wav .flac .ogg .oga .opus .mp3".split())  # what audio.py decodes
OWN_CLIP_SECONDS = 10.0
MINIATURE = "MINIATURE"  # a file in the root of a generated stand-in, which begins with its number of clips

_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # surrogates stand for bytes of a name that are not UTF-8


class IncompleteError(BadInputError):
    """A copy of a data set lacks clips.

    Args:
        subject: The copy's root.
        reason: The counts, and what is missing.
        remedy: What the user can do about it.
        found: The clip table of what is there.
    """

    def __init__(self, subject: object, reason: str, remedy: str, found: pd.DataFrame) -> None:
        super().__init__(subject, reason, remedy)
        self.found = found

    def __reduce__(self) -> tuple[type[IncompleteError], tuple[str, str, str, pd.DataFrame]]:  # type: ignore[override]
        return type(self), (self.subject, self.reason, self.remedy, self.found)


class Problem(NamedTuple):
    """Something wrong with a copy of a data set."""

    subject: str
    reason: str
    remedy: str


class Task:
    """A labelled data set. A reader subclasses it and says how its folder becomes a clip table.

    Attributes:
        card: The facts, from the TOML beside the reader.
        marker: A file, relative to the data set's root, that is there when the data set is.
    """

    card: ClassVar[TaskCard]
    marker: ClassVar[str] = ""

    def clips(self, root: Path) -> pd.DataFrame:
        """Lists the clips in a copy of the data set.

        Args:
            root: The folder that holds what the official archives unpack to.

        Returns:
            One row a clip, columns ``clip`` (stable id: path relative to `root`, with ``/``), ``path``, ``label``,
            ``group`` (what must not stand on both sides of an episode, or the clip itself), ``split``.

        Raises:
            IncompleteError: The copy lacks clips.
            BadInputError: The copy is not what it claims.
        """
        raise NotImplementedError

    def supervised(self, root: Path, table: pd.DataFrame) -> pd.DataFrame:
        """The clip table as fine-tuning takes it: `table`, unless its labels or groups are others than in episodes."""
        return table

    def edition(self, root: Path) -> TaskCard:
        """The card of the copy in `root`: a miniature has its own number of clips and a version of its own.

        So a partial copy of the data set is still refused, and no score on a miniature passes for one on the data set.

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
        """Makes sure that the files of these `rows` of the clip table exist (generated data sets make them here)."""

    def verify(self, root: Path, deep: bool = False, progress: Progress = SILENT) -> list[Problem]:
        """Checks a copy of the data set; `deep` also decodes every file, of an incomplete copy those that are there."""
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
            problems += _decode_all(table, progress)
        return problems

    def miniature(self, folder: Path, **sizes: Any) -> Path:
        """Makes a small stand-in, with the real folders and names and a few generated sounds, in a new folder.

        Args:
            folder: Becomes the root of the copy.
            **sizes: ``classes``, ``clips_per_class`` and ``seconds``, where the defaults do not fit.

        Raises:
            UsageError: The task has none, or the folder holds something.
        """
        raise UsageError(self.card.name, "has no miniature", "it is generated itself, or its reader makes none")

    def locate(self, data_dir: Path) -> Path:
        """Finds the data set's root: ``data_dir/<name>``, or `data_dir` itself.

        Raises:
            BadInputError: It is in neither; the line says where was looked and where to get it.
        """
        places = (data_dir / self.card.name, data_dir)
        for place in places:
            if (place / self.marker).exists():
                return place
        prepare = f"run 'uamix-bench tasks prepare {self.card.name}', " if self.card.files else ""
        where = f"{prepare}unpack {self.card.home or 'its archives'} into {places[0]}, or name another with --data-dir"
        raise BadInputError(self.card.name, f"no {self.marker} in {places[0]} or {places[1]}", where)


@dataclass(frozen=True)
class TaskData:
    """A data set that is there: its reader, its root, and its clip table, sorted by clip.

    `partial` says what an incomplete copy lacks, and is empty for a whole one.
    """

    task: Task
    card: TaskCard
    root: Path
    clips: pd.DataFrame
    partial: str = ""

    @property
    def name(self) -> str:
        """Name in results."""
        return self.card.name

    @cached_property
    def clips_sha256(self) -> str:
        """SHA-256 over (clip, label, group, split) of every row, in order: what episodes and labels depend on."""
        return table_sha256(self.clips)

    def split(self, *names: str) -> TaskData:
        """The same task, with only the clips of these splits.

        Raises:
            UsageError: No clip is in one of them.
        """
        known = sorted(set(self.clips["split"]) - {""})
        for name in names:
            if name not in known:
                raise UsageError(f"{self.name}:{name}", "no such split", f"known: {', '.join(known) or 'none'}")
        return self._where(self.clips["split"].isin(names))

    def only(self, classes: Iterable[str]) -> TaskData:
        """The same task, with only the clips of these classes; their table, and so every digest, is another.

        Raises:
            UsageError: There is no such class; the line suggests the nearest.
        """
        wanted = set(classes)
        known = sorted(set(self.clips["label"]))
        if unknown := sorted(wanted.difference(known)):
            more = f", nor {len(unknown) - 1} more that are named" if len(unknown) > 1 else ""
            raise UsageError(self.name, f"has no class '{unknown[0]}'{more}", nearest(unknown[0], known))
        return self._where(self.clips["label"].isin(wanted))

    def metaaudio(self) -> TaskData:
        """The same task, with only the test classes of MetaAudio's split (Heggan et al. 2022, ``Baseline/*.npy``).

        Raises:
            UsageError: The card does not list them, or the copy lacks one.
        """
        if self.card.metaaudio is None:
            reason = "the test classes that MetaAudio's split gives it are not known here"
            raise UsageError(f"--protocol metaaudio --task {self.name}", reason, "list them in a file: --classes FILE")
        return self.only(self.card.metaaudio)

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
) -> TaskData:
    """Loads a task's clip table; no sound is read.

    Args:
        name: A registered task, ``FILE.py:CLASS``, or the path of a folder (one sub-folder a class) or of a CSV
            (columns ``path,label[,group,split]``). A path is what has a separator, a suffix or a leading dot.
        data_dir: Where data sets are; default ``UAMIX_BENCH_HOME/data``.
        audio_root: What a CSV's paths are relative to; default the CSV's own folder.
        clip_seconds: Crop length instead of the card's.
        splits: The splits to keep instead of the card's.
        allow_partial: Whether to go on with what is there of an incomplete copy; `TaskData.partial` then says what
            is missing, and no result on it is complete.

    Raises:
        UsageError: Unknown task or split.
        BadInputError: The data is missing, incomplete, or not what it claims.
    """
    task: Task
    if is_path(name) and ".py:" not in name:
        task, root = _own(Path(name), Path(audio_root) if audio_root else None)
    else:
        reader = registry.from_file(name, "--task") if ".py:" in name else registry.find_task(name).load()
        if not (isinstance(reader, type) and issubclass(reader, Task)):
            raise BadInputError(name, "is not a subclass of uamix_bench.Task", "name the class that reads the data set")
        task = reader()
        root = task.locate(Path(data_dir) if data_dir else home() / "data")
    partial = ""
    try:
        found = task.clips(root)
    except IncompleteError as error:
        if not allow_partial or error.found.empty:
            raise
        partial, found = error.reason, error.found
    table = _checked(found, name)
    card = task.edition(root)
    if isinstance(task, Own):
        card = card.model_copy(update={"version": table_sha256(table)[:12]})
    if clip_seconds:
        card = card.model_copy(update={"clip_seconds": clip_seconds})
    data = TaskData(task, card, root, table, partial)
    wanted = splits or card.splits
    return data.split(*wanted) if wanted else data


def is_path(name: str) -> bool:
    """Whether a --task value names a user's own data: it has a separator, a suffix or a leading dot."""
    return "/" in name or "\\" in name or name.startswith(".") or Path(name).suffix != ""


def table_sha256(table: pd.DataFrame) -> str:
    """SHA-256 (hex) over the rows [clip, label, group, split], each as canonical JSON and a newline, sorted by clip."""
    if not table["clip"].is_monotonic_increasing:
        table = table.sort_values("clip")
    # What `files.canonical_json` gives for a list of four strings, without a call of it for each of 300,000 rows.
    quoted = [map(encode_basestring, table[column].tolist()) for column in ("clip", "label", "group", "split")]
    return hashlib.sha256("".join([f"[{','.join(row)}]\n" for row in zip(*quoted, strict=True)]).encode()).hexdigest()


class Own(Task):
    """A user's own data: its card is made from its name."""

    def __init__(self, name: str) -> None:
        stem = re.sub(r"[^A-Za-z0-9._+-]+", "-", _text(name)).strip("-._+")[:70] or "data"
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


class ClassFolders(Own):
    """A folder with one sub-folder a class, which may hold further folders."""

    def clips(self, root: Path) -> pd.DataFrame:
        """Lists every sound below every sub-folder; files and folders whose names begin with a dot are passed over."""
        rows = []
        for path in root.glob("*/**/*"):
            parts = path.relative_to(root).parts
            hidden = any(part.startswith(".") for part in parts)
            if path.suffix.lower() in AUDIO_SUFFIXES and not hidden and path.is_file():
                clip = _text("/".join(parts))
                rows.append((clip, str(path), _text(parts[0]), clip, ""))
        if not rows:
            raise BadInputError(
                root, "no sound in any sub-folder", "give a folder with one sub-folder per class, or a CSV"
            )
        return pd.DataFrame(rows, columns=list(COLUMNS))


class ClipList(Own):
    """A CSV with columns ``path,label[,group,split]``; paths are relative to the CSV's folder or ``--audio-root``.

    A path may be absolute, but a clip's id never is: it is relative to the root or, where clips lie outside of it, to
    the folder that they all share.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path.stem)
        self.path = path

    def clips(self, root: Path) -> pd.DataFrame:
        """Reads the list; every file must exist."""
        table = read_csv(self.path, ("path", "label"))
        table = table.reindex(columns=["path", "label", "group", "split"], fill_value="")
        for column in ("path", "label"):
            empty = table.index[table[column] == ""]
            if len(empty):
                raise BadInputError(self.path, f"line {empty[0]} has no {column}", "fill it or delete the line")
        found = [_find(root, text) for text in table["path"]]
        paths = [path for path in found if path is not None]
        if len(paths) < len(found):
            missing = str(root / table["path"].iloc[found.index(None)])
            if others := len(found) - len(paths) - 1:
                missing += f" and {others} more"
            raise BadInputError(missing, f"named in {self.path.name}, but no such file", "check --audio-root")
        clips = pd.Series(_ids(root, paths), table.index)
        repeated = table.index[clips.duplicated()]
        if len(repeated):
            line = repeated[0]
            raise BadInputError(self.path, f"line {line} repeats {clips[line]}", "list every clip once")
        return pd.DataFrame(
            {
                "clip": clips,
                "path": list(map(str, paths)),
                "label": table["label"].map(_text),
                "group": table["group"].map(_text).where(table["group"] != "", clips),
                "split": table["split"].map(_text),
            }
        )


def read_csv(path: Path, needed: Sequence[str]) -> pd.DataFrame:
    """Reads a comma-separated list with a header line (UTF-8, with or without a byte order mark).

    Args:
        path: The list.
        needed: Columns that it must have.

    Returns:
        All its columns as text, stripped; the index is the number of the line where a row ends.

    Raises:
        BadInputError: It is no such list, lacks a column, has a row of another length, or no row.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, [value.strip() for value in row]) for row in reader if row]
    except OSError as error:
        raise unreadable(path, error) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInputError(path, f"is not a CSV ({error})", "save it as UTF-8, comma-separated") from error
    lacking = [column for column in needed if column not in header]
    if lacking:
        have = ", ".join(header) or "nothing"
        remedy = f"the first line names the columns: {','.join(needed)}"
        raise BadInputError(path, f"has no column '{lacking[0]}' (it has: {have[:200]})", remedy)
    doubled = next((name for name in header if name and header.count(name) > 1), None)
    if doubled:
        raise BadInputError(path, f"has two columns '{doubled[:200]}'", "rename one of them")
    for line, row in rows:
        if len(row) != len(header):
            reason = f"line {line} has {len(row)} fields, the first line {len(header)}"
            raise BadInputError(path, reason, "quote fields that hold a comma")
    if not rows:
        raise BadInputError(path, "lists no clip", "give one line per clip")
    return pd.DataFrame([dict(zip(header, row, strict=True)) for _, row in rows], [line for line, _ in rows])


def _own(path: Path, audio_root: Path | None) -> tuple[Task, Path]:
    if path.is_dir():
        return ClassFolders(path.resolve().name), path
    if not path.exists():
        raise BadInputError(path, "no such file or folder", "check the path of --task")
    if path.suffix.lower() != ".csv":
        raise BadInputError(
            path,
            "is neither a folder nor a .csv file",
            "give a folder with one sub-folder per class, or a CSV",
        )
    return ClipList(path), audio_root or path.parent


def _checked(table: pd.DataFrame, source: object) -> pd.DataFrame:
    """Returns a clip table sorted by clip; refuses one that a reader got wrong, or names that no result can hold."""
    if sorted(table.columns) != sorted(COLUMNS):
        raise BadInputError(source, f"its clip table has the columns {', '.join(table.columns)}", f"want {COLUMNS}")
    for column in ("clip", "label", "group", "split"):
        unfit = next((name for name in table[column].unique() if _UNFIT.search(name)), None)
        if unfit is not None:
            raise BadInputError(source, f"{column} {unfit!a} holds a control or undecodable character", "rename it")
    repeated = table.loc[table["clip"].duplicated(), "clip"]
    if len(repeated):
        raise BadInputError(source, f"lists {repeated.iloc[0]!a} twice", "leave one of the two")
    return table.sort_values("clip", ignore_index=True)


def _find(root: Path, text: str) -> Path | None:
    """Finds a file whose name may be composed one way in a list and another way on the disk."""
    spellings = (text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD")))
    return next((root / name for name in spellings if os.path.isfile(root / name)), None)  # noqa: PTH113


def _ids(root: Path, paths: Sequence[Path]) -> list[str]:
    """Names clips relative to `root`, or to the folder that all share where one of them is outside of it."""
    whole = [os.path.normpath(path.absolute()) for path in paths]
    prefix = os.path.normpath(root.absolute()).rstrip(os.sep) + os.sep
    if not all(path.startswith(prefix) for path in whole):
        prefix = os.path.commonpath([Path(path).parent for path in whole]).rstrip(os.sep) + os.sep
    return [_text(path[len(prefix) :].replace(os.sep, "/")) for path in whole]


def _text(value: str) -> str:
    """The one spelling of a name: file systems differ in how they compose accents."""
    return unicodedata.normalize("NFC", value)


def _decode_all(table: pd.DataFrame, progress: Progress) -> list[Problem]:
    from uamix_bench.audio import read

    problems = []
    with progress.bar("decoding", len(table)) as advance:
        for path in table["path"]:
            try:
                read(Path(path), None)
            except BadInputError as error:
                problems.append(Problem(error.subject, error.reason, error.remedy))
            advance(1, "")
    return problems
