"""A user's own data as a clip table: folders of sounds, lists, AudioSet's own list; and reading any CSV."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import NoReturn

import pandas as pd

from uamix_bench.util.errors import BadInputError
from uamix_bench.util.files import regular, unreadable

COLUMNS = ("clip", "path", "label", "group", "split")  # of every clip table; see `task.Task.clips`
AUDIO_SUFFIXES = frozenset(".wav .flac .ogg .oga .opus .mp3".split())  # what audio.py decodes


def class_folders(root: Path) -> pd.DataFrame:
    """Lists every sound below every sub-folder, whose name is the label; names that begin with a dot are passed over.

    Links to folders are followed among the sub-folders, and not below. What is named like a sound and is none (a link
    to nothing, a pipe) is listed too: a data set must not shrink without a word.

    Returns:
        The clip table; every clip is its own group, and there are no splits.

    Raises:
        BadInputError: There is no sound.
        MachineError: A folder cannot be read.
    """
    table = _below(root)
    table = table[table["label"] != ""].reset_index(drop=True)
    if table.empty:
        remedy = "give a folder with one sub-folder per class, or a CSV"
        raise BadInputError(root, "no sound in any sub-folder", remedy)
    return table


def sounds(root: Path) -> pd.DataFrame:
    """Lists every sound anywhere below a folder; the first sub-folder, where there is one, is taken for the label.

    Returns:
        As :func:`class_folders`.

    Raises:
        As :func:`class_folders`.
    """
    table = _below(root)
    if table.empty:
        raise BadInputError(root, "no sound in it", f"sounds end in {', '.join(sorted(AUDIO_SUFFIXES))}")
    return table


def _below(root: Path) -> pd.DataFrame:
    """The clip table of all sounds below a folder, but for hidden ones; the label of those right in it is empty."""

    def refuse(error: OSError) -> NoReturn:
        raise unreadable(Path(error.filename), error) from error

    rows = []
    linked = [path for path in root.iterdir() if path.is_symlink() and path.is_dir() and not path.name.startswith(".")]
    for folder, folders, names in chain.from_iterable(os.walk(top, onerror=refuse) for top in (root, *linked)):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES and not name.startswith("."):  # noqa: PTH122
                path = Path(folder, name)
                parts = path.relative_to(root).parts
                clip = composed("/".join(parts))
                rows.append((clip, str(path), composed(parts[0]) if len(parts) > 1 else "", clip, ""))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def path_list(path: Path, root: Path) -> pd.DataFrame:
    """Reads a text file of paths, one a line; empty lines and lines that begin with ``#`` are passed over.

    Args:
        path: The list.
        root: As for :func:`clip_list`.

    Returns:
        The clip table, without labels; every clip is its own group.

    Raises:
        BadInputError: It is no such list, a file does not exist, or a clip is listed twice.
    """
    lines = enumerate(_text(path).splitlines(), start=1)
    named = {number: line.strip() for number, line in lines if line.strip() and not line.startswith("#")}
    if not named:
        raise BadInputError(path, "lists no clip", "give one path a line")
    return _listed(path, root, pd.DataFrame({"path": list(named.values())}, list(named)))


def is_audioset_list(path: Path) -> bool:
    """Whether a CSV is one of AudioSet's own, which begin with comments."""
    with suppress(OSError), regular(path).open("rb") as file:
        return b"YTID" in file.read(1_000).partition(b"\n# YTID")[1]
    return False


def audioset_list(path: Path, root: Path) -> tuple[pd.DataFrame, int]:
    """Reads AudioSet's own CSV (``# YTID, start_seconds, end_seconds, positive_labels``) and finds its clips.

    A clip's file lies anywhere below `root` and is named by its YTID, with or without a ``Y`` before it, alone or with
    ``_START`` or ``_START_END`` after it, in seconds or milliseconds: the names that the usual download tools give.

    Returns:
        The clip table of what is there (label: the positive labels; group: the YTID), and how many the list names.

    Raises:
        BadInputError: It is no such list, or none of its clips is there.
    """
    lines = [line for line in _text(path).splitlines() if line.strip() and not line.startswith("#")]
    places = {file.stem: file for file in sorted(root.rglob("*")) if file.suffix.lower() in AUDIO_SUFFIXES}
    rows = []
    for number, row in enumerate(csv.reader(lines, skipinitialspace=True), start=1):
        try:
            video, start_s, end_s, labels = row[0], float(row[1]), float(row[2]), row[3]
        except (IndexError, ValueError) as error:
            raise BadInputError(path, f"row {number} is not YTID, start, end, labels", "download it again") from error
        file = next((places[stem] for stem in _audioset_stems(video, start_s, end_s) if stem in places), None)
        if file is not None:
            rows.append((composed(file.relative_to(root).as_posix()), str(file), labels, video, ""))
    if not rows:
        reason = f"holds none of the {len(lines):,} clips of {path.name}"
        raise BadInputError(root, reason, "name their folder with --audio-root; files are named YTID.wav or the like")
    return pd.DataFrame(rows, columns=list(COLUMNS)), len(lines)


def _audioset_stems(video: str, start_s: float, end_s: float) -> Iterator[str]:
    """The names that download tools give to a clip, without the suffix."""
    for name in (video, f"Y{video}"):
        yield name
        for form in ("{:.0f}", "{:.1f}", "{:.3f}"):
            yield f"{name}_{form.format(start_s)}"
            yield f"{name}_{form.format(start_s)}_{form.format(end_s)}"
        yield f"{name}_{1000 * start_s:.0f}"
        yield f"{name}_{1000 * start_s:.0f}_{1000 * end_s:.0f}"


def clip_list(path: Path, root: Path, labelled: bool = True) -> pd.DataFrame:
    """Reads a CSV with columns ``path,label[,group,split]``.

    Args:
        path: The CSV.
        root: What its paths are relative to. A path may be absolute, but a clip's id never is: it is relative to
            `root` or, where clips lie outside of it, to the folder that they all share.
        labelled: Whether every clip needs a label.

    Returns:
        The clip table; a clip without a group is its own.

    Raises:
        BadInputError: It is no such list, a file does not exist, or a clip is listed twice.
    """
    needed = ("path", "label") if labelled else ("path",)
    return _listed(path, root, read_csv(path, needed), needed)


def _listed(path: Path, root: Path, table: pd.DataFrame, needed: Sequence[str] = ("path",)) -> pd.DataFrame:
    """Makes the clip table of the list `path`, whose lines are the index of `table`."""
    table = table.reindex(columns=["path", "label", "group", "split"], fill_value="")
    for column in needed:
        empty = table.index[table[column] == ""]
        if len(empty):
            raise BadInputError(path, f"line {empty[0]} has no {column}", "fill it or delete the line")
    found = [_find(root, text) for text in table["path"]]
    paths = [file for file in found if file is not None]
    if len(paths) < len(found):
        missing = str(root / table["path"].iloc[found.index(None)])
        if others := len(found) - len(paths) - 1:
            missing += f" and {others} more"
        raise BadInputError(missing, f"named in {path.name}, but no such file", "check --audio-root")
    clips = pd.Series(_ids(root, paths), table.index)
    repeated = table.index[clips.duplicated()]
    if len(repeated):
        line = repeated[0]
        raise BadInputError(path, f"line {line} repeats {clips[line]}", "list every clip once")
    return pd.DataFrame(
        {
            "clip": clips,
            "path": list(map(str, paths)),
            "label": table["label"].map(composed),
            "group": table["group"].map(composed).where(table["group"] != "", clips),
            "split": table["split"].map(composed),
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
        with regular(path).open(encoding="utf-8-sig", newline="") as file:
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


def _text(path: Path) -> str:
    try:
        return regular(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise BadInputError(path, f"is not text ({error})", "save it as UTF-8") from error


def composed(name: str) -> str:
    """The one spelling of a name: file systems differ in how they compose accents."""
    return unicodedata.normalize("NFC", name)


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
    return [composed(path[len(prefix) :].replace(os.sep, "/")) for path in whole]
