"""Task, the contract of a data set's reader; load_task; a user's own folder or CSV."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

import pandas as pd

from uamix_bench import registry
from uamix_bench.card import TaskCard
from uamix_bench.errors import BadInputError, UsageError
from uamix_bench.files import canonical_json, home, unreadable
from uamix_bench.progress import SILENT, Progress

COLUMNS = ("clip", "path", "label", "group", "split")
AUDIO_SUFFIXES = frozenset(".wav .flac .ogg .oga .opus .mp3".split())  # what audio.py decodes
OWN_CLIP_SECONDS = 10.0


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
            BadInputError: The copy is incomplete or not what it claims.
        """
        raise NotImplementedError

    def materialise(self, rows: pd.DataFrame, progress: Progress = SILENT) -> None:
        """Makes sure that the files of these `rows` of the clip table exist (generated data sets make them here)."""

    def verify(self, root: Path, deep: bool = False) -> list[Problem]:
        """Checks a copy of the data set; `deep` also decodes every file."""
        try:
            table = self.clips(root)
        except BadInputError as error:
            return [Problem(error.subject, error.reason, error.remedy)]
        return _decode_all(table) if deep else []

    def locate(self, data_dir: Path) -> Path:
        """Finds the data set's root: ``data_dir/<name>``, or `data_dir` itself.

        Raises:
            BadInputError: It is in neither; the line says where was looked and where to get it.
        """
        places = (data_dir / self.card.name, data_dir)
        for place in places:
            if (place / self.marker).exists():
                return place
        where = f"unpack {self.card.home or 'its archives'} into {places[0]}, or name another folder with --data-dir"
        raise BadInputError(self.card.name, f"no {self.marker} in {places[0]} or {places[1]}", where)


@dataclass(frozen=True)
class TaskData:
    """A data set that is there: its reader, its root, and its clip table, sorted by clip."""

    task: Task
    card: TaskCard
    root: Path
    clips: pd.DataFrame

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
            UsageError: No clip is in them.
        """
        chosen = self.clips[self.clips["split"].isin(names)].reset_index(drop=True)
        if not len(chosen):
            known = ", ".join(sorted(self.clips["split"].unique())) or "none"
            raise UsageError(f"{self.name}:{','.join(names)}", "no such split", f"the splits are: {known}")
        return TaskData(self.task, self.card, self.root, chosen)


def load_task(
    name: str,
    data_dir: str | Path | None = None,
    *,
    audio_root: str | Path | None = None,
    clip_seconds: float | None = None,
    splits: tuple[str, ...] | None = None,
) -> TaskData:
    """Loads a task's clip table; no sound is read.

    Args:
        name: A registered task, ``FILE.py:CLASS``, or the path of a folder (one sub-folder a class) or of a CSV
            (columns ``path,label[,group,split]``). A path is what has a separator, a suffix or a leading dot.
        data_dir: Where data sets are; default ``UAMIX_BENCH_HOME/data``.
        audio_root: What a CSV's paths are relative to; default the CSV's own folder.
        clip_seconds: Crop length instead of the card's.
        splits: The splits to keep instead of the card's.

    Raises:
        UsageError: Unknown task or split.
        BadInputError: The data is missing, incomplete, or not what it claims.
    """
    if ".py:" in name:
        task: Task = registry.from_file(name, "--task")()
        root = task.locate(Path(data_dir) if data_dir else home() / "data")
    elif is_path(name):
        task, root = _own(Path(name), Path(audio_root) if audio_root else None)
    else:
        task = registry.find_task(name).load()()
        root = task.locate(Path(data_dir) if data_dir else home() / "data")
    table = task.clips(root)
    card = task.card
    if isinstance(task, Own):
        card = card.model_copy(
            update={"version": table_sha256(table)[:12], "clip_seconds": clip_seconds or OWN_CLIP_SECONDS}
        )
    elif clip_seconds:
        card = card.model_copy(update={"clip_seconds": clip_seconds})
    data = TaskData(task, card, root, table.sort_values("clip", ignore_index=True))
    wanted = splits or card.splits
    return data.split(*wanted) if wanted else data


def is_path(name: str) -> bool:
    """Whether a --task value names a user's own data: it has a separator, a suffix or a leading dot."""
    return "/" in name or "\\" in name or name.startswith(".") or Path(name).suffix != ""


def table_sha256(table: pd.DataFrame) -> str:
    """SHA-256 over the rows (clip, label, group, split), sorted by clip."""
    state = hashlib.sha256()
    for row in table[["clip", "label", "group", "split"]].sort_values("clip").itertuples(index=False):
        state.update(canonical_json(list(row)) + b"\n")
    return state.hexdigest()


class Own(Task):
    """A user's own data: its card is made from its path."""

    def __init__(self, path: Path) -> None:
        stem = re.sub(r"[^A-Za-z0-9._+-]+", "-", path.resolve().stem).strip("-._") or "data"
        # the card of an instance, where the readers of published data sets have one per class
        self.card = TaskCard(  # type: ignore[misc]
            name=f"local/{stem[:70]}",
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
        """Lists every sound below every sub-folder; names that begin with a dot are passed over."""
        rows = []
        for folder in sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
            for path in sorted(folder.rglob("*")):
                if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith("."):
                    clip = _clip_id(path.relative_to(root))
                    rows.append((clip, str(path), _text(folder.name), clip, ""))
        if not rows:
            raise BadInputError(
                root, "no sound in any sub-folder", "give a folder with one sub-folder per class, or a CSV"
            )
        return pd.DataFrame(rows, columns=list(COLUMNS))


class ClipList(Own):
    """A CSV with columns ``path,label[,group,split]``; paths are relative to the CSV's folder or ``--audio-root``."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path

    def clips(self, root: Path) -> pd.DataFrame:
        """Reads the list; every file must exist."""
        table = self._read()
        table = table.apply(lambda column: column.map(lambda value: _text(str(value).strip())))
        for column in ("path", "label"):
            empty = table.index[table[column] == ""]
            if len(empty):
                raise BadInputError(self.path, f"row {empty[0] + 2} has no {column}", "fill it or delete the row")
        paths = [root / Path(value) for value in table["path"]]
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise BadInputError(missing[0] + more, f"named in {self.path.name}, but no such file", "check --audio-root")
        clips = [_clip_id(Path(value)) for value in table["path"]]
        repeated = pd.Series(clips).duplicated()
        if repeated.any():
            row = int(repeated.idxmax())
            raise BadInputError(self.path, f"row {row + 2} repeats {clips[row]}", "list every clip once")
        group = table["group"].where(table["group"] != "", clips) if "group" in table else clips
        split = table["split"] if "split" in table else ""
        return pd.DataFrame(
            {
                "clip": clips,
                "path": [str(p) for p in paths],
                "label": table["label"],
                "group": group,
                "split": split,
            }
        )

    def _read(self) -> pd.DataFrame:
        try:
            table: pd.DataFrame = pd.read_csv(self.path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        except OSError as error:
            raise unreadable(self.path, error) from error
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise BadInputError(self.path, f"is not a CSV ({reason})", "save it as UTF-8, comma-separated") from error
        lacking = [column for column in ("path", "label") if column not in table.columns]
        if lacking:
            have = ", ".join(map(str, table.columns))
            raise BadInputError(
                self.path,
                f"has no column '{lacking[0]}' (it has: {have})",
                "name the columns path,label[,group,split]",
            )
        if not len(table):
            raise BadInputError(self.path, "lists no clip", "give one row per clip")
        return table


def _own(path: Path, audio_root: Path | None) -> tuple[Task, Path]:
    if path.is_dir():
        return ClassFolders(path), path
    if not path.exists():
        raise BadInputError(path, "no such file or folder", "check the path of --task")
    if path.suffix.lower() != ".csv":
        raise BadInputError(
            path,
            "is neither a folder nor a .csv file",
            "give a folder with one sub-folder per class, or a CSV",
        )
    return ClipList(path), audio_root or path.parent


def _clip_id(path: Path) -> str:
    return _text(path.as_posix())


def _text(value: str) -> str:
    """The one spelling of a name: file systems differ in how they compose accents."""
    return unicodedata.normalize("NFC", value)


def _decode_all(table: pd.DataFrame) -> list[Problem]:
    from uamix_bench.audio import read

    problems = []
    for path in table["path"]:
        try:
            read(Path(path), None)
        except BadInputError as error:
            problems.append(Problem(error.subject, error.reason, error.remedy))
    return problems
