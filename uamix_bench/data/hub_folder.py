"""Data sets as the Hugging Face Hub keeps them: audio folders with a metadata file, and parquet files of sounds.

An audio folder has ``metadata.csv``, ``metadata.jsonl`` or ``metadata.parquet`` in its root or in its sub-folders. Its
column ``file_name`` is relative to the metadata file (https://huggingface.co/docs/datasets/audio_dataset). Folders and
parquet files named like splits are splits (https://huggingface.co/docs/hub/datasets-file-names-and-splits).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from uamix_bench.data import columns, folders, own_data, parquet
from uamix_bench.data.clip_table import ROW, ClipTable
from uamix_bench.data.columns import Listed
from uamix_bench.data.folders import SOUND_SUFFIXES, Listing, Remark, Several, composed, names_a_split
from uamix_bench.util.errors import BadInputError
from uamix_bench.util.text import listed, visible

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_FILE_NAME = "file_name"
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(-[0-9a-f]+)?")


def metadata_files(root: Path) -> list[Path]:
    """Metadata files of an audio folder, down to two folders below its root; empty if it is none."""
    found = [path for level in ("", "*/", "*/*/") for name in _METADATA for path in sorted(root.glob(level + name))]
    return [path for path in found if not _hidden(path, root) and _FILE_NAME in own_data.read_list(path).columns]


def audio_folder(root: Path, metadata: Sequence[Path], *, labelled: bool = True) -> Listing:
    """Lists the sounds that metadata files name. A file in a folder named like a split is of that split.

    Metadata without labels are not used if the sounds lie in class folders.

    Args:
        root: Folder of the data set; clips' ids are relative to it.
        metadata: Files from :func:`metadata_files`, at least one.
        labelled: True if every clip needs a label.

    Raises:
        BadInputError: A metadata file is no list, has no labels, names a missing file, or has a wrong time.
    """
    tables = {path: own_data.read_list(path) for path in metadata}
    bare = [path for path, table in tables.items() if not {"label", "labels"}.intersection(table.columns)]
    if labelled and bare:
        try:
            plain = folders.class_folders(root)
        except BadInputError:
            columns.chosen(bare[0], tables[bare[0]], ("label",))  # says what the file has instead
            raise
        names = listed(path.relative_to(root).as_posix() for path in bare)
        text = f"{names} has no column label and is not used; classes are the folders' names"
        return plain._replace(remarks=(*plain.remarks, Remark("metadata", text)))
    found = [
        own_data.clips_of(path, table, path.parent, base=root, labelled=labelled) for path, table in tables.items()
    ]
    whole = _joined(root, found)
    named = [_split(Path(path).relative_to(root).parts[:-1]) for path in whole.clips["path"]]
    clips = whole.clips.assign(split=[own or split for own, split in zip(whole.clips["split"], named, strict=True)])
    known = set(clips["path"])
    others = [parts for parts in folders.walk(root) if Path(parts[-1]).suffix.lower() in SOUND_SUFFIXES]
    unlisted = sum(str(root.joinpath(*parts)) not in known for parts in others)
    if not unlisted:
        return whole._replace(clips=clips)
    text = f"{unlisted:,} sounds of the folder are not in its metadata and left out"
    return whole._replace(clips=clips, remarks=(*whole.remarks, Remark("metadata", text)))


def parquet_files(root: Path) -> list[Path]:
    """Parquet files in a folder, in its sub-folder ``data``, or in sub-folders named like splits; also below a config.

    The files of a data set on the Hub lie in one of these places.
    """
    places = [root, *_folders(root)]
    places += [inner for place in places[1:] for inner in _folders(place)]
    kept = [one for one in places if one == root or one.name in ("data", "default") or names_a_split(one.name)]
    return sorted({path for place in kept for path in place.glob("*.parquet") if not _hidden(path, root)})


def rows(root: Path, paths: Sequence[Path], *, labelled: bool = True) -> Listing:
    """Lists the rows of parquet files; sounds are not read.

    The id of a clip is that of a column ``clip``; else the name that the file gives the sound, if all have one and no
    two share it; else the parquet file's name and the number of the row.

    Args:
        root: Folder that clips' ids are relative to.
        paths: Parquet files, at least one.
        labelled: True if every clip needs a label.

    Raises:
        BadInputError: A file is no parquet file, has no column of sounds, or a row has no label.
        MachineError: A file cannot be opened, or pyarrow is not installed.
    """
    read = {path: parquet.read_table(path) for path in paths}
    for path, (table, audio) in read.items():
        if not audio:
            have = ", ".join(map(str, table.columns))
            remedy = f"name it '{parquet.AUDIO}': a struct with a field bytes, or bytes"
            raise BadInputError(path, f"has no column of sounds (it has: {have[:200]})", remedy)
    own = {path: _names(table, audio) for path, (table, audio) in read.items()}
    every = [name for names in own.values() for name in names]
    distinct = all(every) and len(set(every)) == len(every)
    found = []
    for path, (table, audio) in read.items():
        known = columns.chosen(path, table, ("label",) if labelled else (), sounds=audio)
        place, width = composed(os.path.relpath(path, root).replace(os.sep, "/")), len(str(len(table.numbers) - 1))
        ids = own[path] if distinct else [f"{place}#{row:0{width}}" for row in table.numbers]
        listing = own_data.clip_table(path, known, [str(path)] * len(ids), ids, labelled=labelled)
        split = _split(path.relative_to(root).parts) if len(paths) > 1 else ""  # one file is one set
        splits = [own_split or split for own_split in listing.clips["split"]]
        found.append(listing._replace(clips=listing.clips.assign(split=splits, **{ROW: table.numbers})))
    return _joined(root, found)


def own_list(path: Path, root: Path, *, labelled: bool = True) -> Listing:
    """Lists the clips of a CSV, JSONL or parquet file; a parquet file may hold the sounds themselves.

    Raises: the errors of :func:`rows` and of :func:`uamix_bench.data.own_data.clip_list`.
    """
    if path.suffix.lower() == ".parquet":
        table, audio = parquet.read_table(path)
        if audio or not {"path", _FILE_NAME}.intersection(table.columns):
            return rows(root, [path], labelled=labelled)
    return own_data.clip_list(path, root, labelled)


def _names(table: Listed, audio: str) -> list[str]:
    """Names that a parquet file gives its sounds, without folders; empty where it gives none."""
    column = f"{audio}.path"
    if column not in table.columns:
        return [""] * len(table.numbers)
    return [composed(re.split(r"[/\\]", name)[-1]) if name else "" for name in table.columns[column]]


def _joined(root: Path, parts: Sequence[Listing]) -> Listing:
    several: set[Several | None] = {part.several for part in parts}
    if len(several) > 1:
        raise BadInputError(root, "some of its lists give clips several classes, others one", "give them one by one")
    remarks = tuple(dict.fromkeys(remark for part in parts for remark in part.remarks))
    names: dict[str, str] = {}
    for part in parts:
        for label, name in part.names.items():
            if names.setdefault(label, name) != name:
                reason = f"its lists name the class '{label}' '{names[label]}' and '{name}'"
                raise BadInputError(root, visible(reason), "give a class one name")
    return Listing(ClipTable.joined([part.clips for part in parts]), remarks, (), parts[0].several, names)


def _split(parts: Sequence[str]) -> str:
    """Split that a folder, or a parquet file's name, is named for; empty if none is."""
    for part in parts:
        shard = _SHARD.fullmatch(Path(part).stem)
        if names_a_split(part) or shard:
            return composed(shard[1] if shard else part)
        if part.endswith(".parquet") and (named := _PART.search(Path(part).stem)):
            return named[0]
    return ""


_PART = re.compile(r"(?<![^\W_])(train|training|validation|valid|val|dev|test|testing|eval|evaluation)(?![^\W\d_])")


def _folders(place: Path) -> list[Path]:
    return [one for one in sorted(place.iterdir()) if one.is_dir() and not one.name.startswith(".")]


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
