"""Clip tables of a user's own lists: CSVs, text lists, AudioSet's own list; and a strict CSV reader."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from uamix_bench.data.folders import AUDIO_SUFFIXES, COLUMNS, SOUND_SUFFIXES, Listing, Remark, composed, walk
from uamix_bench.util.errors import BadInputError
from uamix_bench.util.files import regular, unreadable
from uamix_bench.util.text import listed, visible

_USED = ("path", "label", "group", "split")  # columns of a list
_LONGEST_NAME = 60  # characters of a column's name that are shown


def path_list(path: Path, root: Path) -> Listing:
    """Reads a text file of paths, one a line. Empty lines and lines that begin with ``#`` are skipped.

    Args:
        path: Path of the list.
        root: Folder that the listed paths are relative to; see :func:`clip_list`.

    Returns:
        The clip table, without labels; every clip is its own group.

    Raises:
        BadInputError: The file is no such list, a listed file does not exist, or a clip is listed twice.
    """
    lines = enumerate(_text(path).splitlines(), start=1)
    named = {number: line.strip() for number, line in lines if line.strip() and not line.startswith("#")}
    if not named:
        raise BadInputError(path, "lists no clip", "give one path a line")
    return Listing(_clip_table(path, root, pd.DataFrame({"path": list(named.values())}, list(named))))


def is_audioset_list(path: Path) -> bool:
    """Test for one of AudioSet's own CSVs, which begin with comments."""
    with suppress(OSError), regular(path).open("rb") as file:
        return b"YTID" in file.read(1_000).partition(b"\n# YTID")[1]
    return False


def audioset_list(path: Path, root: Path) -> tuple[pd.DataFrame, str]:
    """Reads AudioSet's own CSV (``# YTID, start_seconds, end_seconds, positive_labels``) and finds its clips.

    A clip's file lies anywhere below `root` and is named by its YTID, with or without a ``Y`` before it, alone or with
    ``_START`` or ``_START_END`` after it, in seconds or milliseconds: the names that the usual download tools give.

    Returns:
        The clip table of existing clips (label: the positive labels; group: the YTID), and a text on the missing
        ones; empty if none is missing.

    Raises:
        BadInputError: The file is no such list, or none of its clips exists.
    """
    lines = [line for line in _text(path).splitlines() if line.strip() and not line.startswith("#")]
    read, other = {}, set()
    for there in sorted(Path(*parts) for parts in walk(root)):
        if there.suffix.lower() in AUDIO_SUFFIXES:
            read[there.stem] = there
        elif there.suffix.lower() in SOUND_SUFFIXES:
            other.add(there.stem)
    rows, unread = [], 0
    for number, row in enumerate(csv.reader(lines, skipinitialspace=True), start=1):
        try:
            video, start_s, end_s, labels = row[0], float(row[1]), float(row[2]), row[3]
        except (IndexError, ValueError) as error:
            raise BadInputError(path, f"row {number} is not YTID, start, end, labels", "download it again") from error
        stems = list(_audioset_stems(video, start_s, end_s))
        file = next((read[stem] for stem in stems if stem in read), None)
        if file is not None:
            rows.append((composed(file.as_posix()), str(root / file), labels, video, ""))
        else:
            unread += not other.isdisjoint(stems)
    formats = f"; {unread:,} are there in formats that are not read" if unread else ""
    if not rows:
        reason = f"holds none of the {len(lines):,} clips of {path.name}{formats}"
        raise BadInputError(root, reason, "name their folder with --audio-root; files are named YTID.wav or the like")
    lacks = f"holds {len(rows):,} of the {len(lines):,} clips of {path.name}{formats}" if len(rows) < len(lines) else ""
    return pd.DataFrame(rows, columns=list(COLUMNS)), lacks


def _audioset_stems(video: str, start_s: float, end_s: float) -> Iterator[str]:
    """Names that download tools give to a clip, without the suffix."""
    for name in (video, f"Y{video}"):
        yield name
        for form in ("{:.0f}", "{:.1f}", "{:.3f}"):
            yield f"{name}_{form.format(start_s)}"
            yield f"{name}_{form.format(start_s)}_{form.format(end_s)}"
        yield f"{name}_{1000 * start_s:.0f}"
        yield f"{name}_{1000 * start_s:.0f}_{1000 * end_s:.0f}"


def clip_list(path: Path, root: Path, labelled: bool = True) -> Listing:
    """Reads a CSV with columns ``path,label[,group,split]``.

    Args:
        path: Path of the CSV.
        root: Folder that the listed paths are relative to. A path may be absolute, but a clip's id never is: it is
            relative to `root` or, if clips lie outside of it, to the folder that they all share.
        labelled: True if every clip needs a label.

    Returns:
        The clip table; a clip without a group is its own group. A remark names unused columns.

    Raises:
        BadInputError: The file is no such list, a listed file does not exist, or a clip is listed twice.
    """
    needed = ("path", "label") if labelled else ("path",)
    table = read_csv(path, needed)
    unused = [visible(name[:_LONGEST_NAME]) for name in table.columns if name and name not in _USED]
    if not unused:
        return Listing(_clip_table(path, root, table, needed))
    columns = (
        f"column{'s' * (len(unused) > 1)} {listed(unused)} of the list {'are' if len(unused) > 1 else 'is'} not used"
    )
    clips = _clip_table(path, root, table, needed, columns)
    return Listing(
        clips, (Remark("columns", f"{columns} (used: {', '.join(_USED)}); clips are read from their start"),)
    )


def _clip_table(
    path: Path, root: Path, table: pd.DataFrame, needed: Sequence[str] = ("path",), unused: str = ""
) -> pd.DataFrame:
    """Makes the clip table of the list `path`. The index of `table` holds line numbers; `unused` names columns."""
    table = table.reindex(columns=list(_USED), fill_value="")
    for column in needed:
        empty = table.index[table[column] == ""]
        if len(empty):
            raise BadInputError(path, f"line {empty[0]} has no {column}", "fill it or delete the line")
    found = [_find(root, text) for text in table["path"]]
    paths = [file for file in found if file is not None]
    if absent := [text for text, file in zip(table["path"], found, strict=True) if file is None]:
        reason = f"named in {path.name}, but no such file"
        raise BadInputError(listed((str(root / text) for text in absent), 1), reason, _hint(root, absent[0]))
    clips = pd.Series(_ids(root, paths), table.index)
    repeated = table.index[clips.duplicated()]
    if len(repeated):
        line = repeated[0]
        remedy = f"list every clip once; {unused}: parts of a file need files of their own" if unused else ""
        raise BadInputError(path, f"line {line} repeats {clips[line]}", remedy or "list every clip once")
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
        path: Path of the list.
        needed: Names of the columns that the list must have.

    Returns:
        All columns as text, stripped. The index is the number of the line where a row ends.

    Raises:
        BadInputError: The file is no such list, lacks a column, has a row of another length, or has no row.
    """
    try:
        with regular(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
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


def _find(root: Path, text: str) -> Path | None:
    """Finds a listed file that the disk may spell differently: accents, separators, the case of the ending."""
    for spelling in dict.fromkeys((text, text.replace("\\", "/"))):
        stem, ending = os.path.splitext(spelling)  # noqa: PTH122
        for name in dict.fromkeys((spelling, stem + ending.lower(), stem + ending.upper())):
            for form in ("", "NFC", "NFD"):
                path = root / (unicodedata.normalize(form, name) if form else name)  # type: ignore[arg-type]
                if os.path.isfile(path):  # noqa: PTH113
                    return path
    return None


def _hint(root: Path, text: str) -> str:
    """Remedy for a listed file that does not exist: a similar name on the disk, or a Windows path."""
    place = root
    for part in Path(text.replace("\\", "/")).parts:
        with suppress(OSError):
            alike = [name for name in os.listdir(place) if composed(name).casefold() == composed(part).casefold()]  # noqa: PTH208
            place = place / (part if part in alike or not alike else alike[0])
    if place.is_file():
        return f"the file is called {place}: names differ in case or Unicode form, rename one of them"
    if re.match(r"[A-Za-z]:[\\/]|\\\\", text):
        return "this is a Windows path: make it relative, and name its folder with --audio-root"
    return "check --audio-root"


def _ids(root: Path, paths: Sequence[Path]) -> list[str]:
    """Clip ids: paths relative to `root`, or to the folder that all clips share if one lies outside of it."""
    whole = [os.path.normpath(path.absolute()) for path in paths]
    prefix = os.path.normpath(root.absolute()).rstrip(os.sep) + os.sep
    if not all(path.startswith(prefix) for path in whole):
        prefix = os.path.commonpath([Path(path).parent for path in whole]).rstrip(os.sep) + os.sep
    return [composed(path[len(prefix) :].replace(os.sep, "/")) for path in whole]
