"""A user's own data by its path: a folder, a list, parquet files, or a card."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from uamix_bench.data import folders, hub_folder, own_data
from uamix_bench.data.by_card import ByCard
from uamix_bench.data.clip_table import ClipTable
from uamix_bench.data.folders import Listing
from uamix_bench.data.reader import IncompleteError, Task
from uamix_bench.plugins import registry
from uamix_bench.plugins.card import TaskCard
from uamix_bench.util.errors import BadInputError, similar

OWN_CLIP_SECONDS = 10.0
_LISTS = (".csv", ".jsonl", ".parquet")
_WANTED = "give a folder with one sub-folder per class, a CSV, a parquet file with sounds, or a card (.toml)"


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

    def clips(self, root: Path) -> ClipTable:
        """Reads the clip table. Every file of a list must exist."""
        return self._read(root).clips

    def listing(self, root: Path) -> Listing:
        """Reads the clip table with the remarks on it."""
        return self._read(root)


def own_task(path: Path, data_dir: Path, audio_root: Path | None = None, *, labelled: bool = True) -> tuple[Task, Path]:
    """Reader of a user's own data, and its root.

    Args:
        path: Path of a folder, a list, a parquet file or a card.
        data_dir: Folder of the data sets, where a card's may lie too.
        audio_root: Folder that a list's paths are relative to, or root of a card's data set; default that of the file.
        labelled: True if every clip needs a label.

    Raises:
        BadInputError: There is no such file or folder, or it is none of these.
    """
    if path.is_dir():
        return Own(path.resolve().name, partial(_folder, labelled=labelled)), path
    if not path.exists():
        near = similar(path.name, [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else [])
        forms = _WANTED if labelled else "give a folder of sounds, a CSV, a parquet file or a text list"
        raise BadInputError(path, "no such file or folder", f"did you mean '{path.parent / near}'?" if near else forms)
    ending = path.suffix.lower()
    if ending == ".toml":
        task = ByCard.of_file(path)
        if task.card.name in registry.tasks():
            raise BadInputError(path, f"is the card of '{task.card.name}', a published data set", "rename it")
        return task, audio_root or task.locate(data_dir)
    root = audio_root or path.parent
    if not labelled and own_data.is_audioset_list(path):
        return Own(path.stem, partial(_audioset, path)), root
    if ending in _LISTS:
        return Own(path.stem, partial(hub_folder.own_list, path, labelled=labelled)), root
    if labelled:
        raise BadInputError(path, "is no folder, list or card", _WANTED)
    return Own(path.stem, partial(own_data.path_list, path)), root


def _folder(root: Path, *, labelled: bool) -> Listing:
    """Lists a folder: by its metadata files, by its parquet files, or by its class folders."""
    if metadata := hub_folder.metadata_files(root):
        return hub_folder.audio_folder(root, metadata, labelled=labelled)
    if files := hub_folder.parquet_files(root):
        return hub_folder.rows(root, files, labelled=labelled)
    return folders.class_folders(root) if labelled else folders.sounds(root)


def _audioset(path: Path, root: Path) -> Listing:
    """Reads AudioSet's own list. Copies are rarely whole, as videos vanish."""
    table, lacks = own_data.audioset_list(path, root)
    if lacks:
        raise IncompleteError(root, lacks, "fetch the others", table)
    return Listing(table)
