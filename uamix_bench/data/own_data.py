"""Clip tables of a user's own lists: CSV, JSONL, text, AudioSet's own; and strict readers of CSV and JSONL."""

from __future__ import annotations

import csv
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from uamix_bench.data import columns, segments
from uamix_bench.data.clip_table import END, START, ClipTable
from uamix_bench.data.columns import Listed
from uamix_bench.data.folders import AUDIO_SUFFIXES, SOUND_SUFFIXES, Listing, Remark, composed, walk
from uamix_bench.util.errors import BadInputError
from uamix_bench.util.files import regular, unreadable
from uamix_bench.util.text import LONGEST, UNFIT, listed, visible

_ABSOLUTE = re.compile(r"/|[A-Za-z]:[\\/]")
_PARTS = "parts of a file have the columns start,end"


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
    return clips_of(path, Listed({"path": list(named.values())}, list(named), "line"), root, labelled=False)


def is_audioset_list(path: Path) -> bool:
    """Test for one of AudioSet's own CSVs, which begin with comments."""
    with suppress(OSError), regular(path).open("rb") as file:
        return b"YTID" in file.read(1_000).partition(b"\n# YTID")[1]
    return False


def audioset_list(path: Path, root: Path) -> tuple[ClipTable, str]:
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
    return ClipTable.of_rows(rows), lacks


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
    """Reads a list with columns ``path,label[,group,split,clip,class_name]``.

    Segments have times, ``start,end`` or ``onset,offset``. The column of paths may be called ``file_name``, that of
    labels ``labels`` if clips have several classes.

    Args:
        path: Path of the list: CSV, JSONL, or parquet without sounds in it.
        root: Folder that the listed paths are relative to. A path may be absolute, but a clip's id never is: it is
            relative to `root` or, if clips lie outside of it, to the folder that they all share.
        labelled: True if every clip needs a label.

    Returns:
        The clip table. A clip without a group is its own group, a segment without one has its file. A remark names
        unused columns.

    Raises:
        BadInputError: The file is no such list, a listed file does not exist, a clip is listed twice, or a time is
            wrong; see :func:`uamix_bench.data.segments.read`.
    """
    return clips_of(path, read_list(path), root, labelled=labelled)


def clips_of(path: Path, given: Listed, root: Path, *, base: Path | None = None, labelled: bool = True) -> Listing:
    """Clip table of the rows of a list; see :func:`clip_list`.

    Args:
        path: Path of the list, for messages.
        given: All columns of the list.
        root: Folder that the listed paths are relative to.
        base: Folder that clips' ids are relative to; default `root`.
        labelled: True if every clip needs a label.
    """
    known = columns.chosen(path, given, ("path", "label") if labelled else ("path",))
    texts = known.listed.columns["path"]
    found = [find(root, text) for text in texts]
    paths = [file for file in found if file is not None]
    if absent := [text for text, file in zip(texts, found, strict=True) if file is None]:
        reason = f"named in {path.name}, but no such file"
        raise BadInputError(listed((str(root / text) for text in absent), 1), reason, _hint(root, absent[0]))
    return clip_table(path, known, list(map(str, paths)), _ids(base or root, paths), labelled=labelled)


def class_names(path: Path, given: Listed) -> dict[str, str]:
    """Names of classes by label, from the columns ``label`` and ``class_name`` of a list; empty names are left out.

    Args:
        path: Path of the list, for errors.
        given: Its rows; see :func:`read_csv`.

    Raises:
        BadInputError: A class has two names, or a name that no record can hold.
    """
    found: dict[str, str] = {}
    rows = zip(given.numbers, given.columns["label"], given.columns[columns.CLASS_NAME], strict=True)
    for line, label, name in rows:
        if not name:
            continue
        if found.setdefault(composed(label), name) != name:
            reason = f"line {line} names the class '{label}' '{name}', an earlier line '{found[composed(label)]}'"
            raise BadInputError(path, visible(reason), "give a class one name")
        if UNFIT.search(name) or len(name) > LONGEST:
            raise BadInputError(path, f"line {line}: the class name holds an invisible character or is too long")
    return found


def clip_table(path: Path, known: columns.Used, files: Sequence[str], ids: Sequence[str], *, labelled: bool) -> Listing:
    """Clip table of listed sounds.

    Args:
        path: Path of the list, for messages.
        known: Columns of the list.
        files: Path of the file that holds each sound.
        ids: Id of each sound, or of the recording that it is a segment of.
        labelled: True if segments of different labels must not overlap.

    Raises:
        BadInputError: A clip is listed twice, or has an absolute path for an id; or a time is wrong.
    """
    given, remarks = known.listed, known.remarks
    table, unit = given.columns, given.unit
    default, groups, times = list(ids), table["group"], dict[str, list[float]]()
    if known.times:
        found, more = segments.read(path, given, files, labelled=labelled and known.several is None)
        times = {START: [start for start, _ in found], END: [end for _, end in found]}
        default = [f"{one}#t={_time(start)},{_time(end)}" for one, (start, end) in zip(ids, found, strict=True)]
        groups = [group or one for group, one in zip(groups, ids, strict=True)]
        words = f"{len(found):,} clips are segments of {len(set(files)):,} files, by the columns of start and end"
        remarks += (*more, Remark("segments", words))
    clips = [composed(own or one) for own, one in zip(table["clip"], default, strict=True)]
    seen: set[str] = set()
    for line, clip in zip(given.numbers, clips, strict=True):
        if _ABSOLUTE.match(clip):
            raise BadInputError(path, f"{unit} {line} has an absolute path for its clip", "give a relative id")
        if clip in seen:
            unused = "; ".join(remark.text for remark in known.remarks).partition(" (used")[0]
            remedy = f"list every clip once{'; ' + unused if unused else ''}; {_PARTS}"
            raise BadInputError(path, f"{unit} {line} repeats {clip}", remedy)
        seen.add(clip)
    rows = {
        "clip": clips,
        "path": files,
        "label": list(map(composed, table["label"])),
        "group": [composed(group) or clip for group, clip in zip(groups, clips, strict=True)],
        "split": list(map(composed, table["split"])),
        **times,
    }
    names = class_names(path, given) if labelled and columns.CLASS_NAME in table else {}
    return Listing(ClipTable(rows), remarks, (), known.several, names)


def _time(seconds: float) -> str:
    """A time in an id: to the microsecond, without trailing zeros."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


def read_list(path: Path) -> Listed:
    """Reads all columns of a list by its ending: ``.jsonl``, ``.parquet``, or CSV.

    Raises:
        BadInputError: The file is no such list, or it has no row.
        MachineError: pyarrow, which reads parquet, is not installed.
    """
    ending = path.suffix.lower()
    if ending == ".parquet":
        from uamix_bench.data import parquet

        return parquet.read_table(path)[0]
    return read_jsonl(path) if ending == ".jsonl" else read_csv(path, ())


def read_jsonl(path: Path) -> Listed:
    """Reads a list of JSON objects, one a line (UTF-8). Empty lines are skipped.

    Returns:
        All columns as Python objects, None where a line lacks one, and the numbers of the lines.

    Raises:
        BadInputError: The file is no such list, or has no row.
    """
    rows = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if line.strip():
            try:
                rows[number] = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise BadInputError(path, f"line {number} is not JSON ({error})", "give one object a line") from error
            if not isinstance(rows[number], dict):
                raise BadInputError(path, f"line {number} is no JSON object", "give one object a line")
    if not rows:
        raise BadInputError(path, "lists no clip", "give one line per clip")
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    values = {name: [row.get(name) for row in rows.values()] for name in names}
    return Listed(values, list(rows), "line")


def read_csv(path: Path, needed: Sequence[str]) -> Listed:
    """Reads a comma-separated list with a header line (UTF-8, with or without a byte order mark).

    Args:
        path: Path of the list.
        needed: Names of the columns that the list must have.

    Returns:
        All columns as text, stripped, and the numbers of the lines where rows end.

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
        remedy = "give one line per clip" if header else "the first line names the columns: path,label"
        raise BadInputError(path, "lists no clip", remedy)
    values = zip(*(row for _, row in rows), strict=True)
    return Listed(dict(zip(header, map(list, values), strict=True)), [line for line, _ in rows], "line")


def _text(path: Path) -> str:
    try:
        return regular(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise BadInputError(path, f"is not text ({error})", "save it as UTF-8") from error


def find(root: Path, text: str) -> Path | None:
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
