"""Sounds to be classified: files, folders and lists, as one clip table without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from uamix_bench.data.clip_table import PLACES, ClipTable
from uamix_bench.data.folders import Listing, Unread
from uamix_bench.data.own import Own
from uamix_bench.data.task import TaskData, load_task
from uamix_bench.util.errors import BadInputError, UsageError
from uamix_bench.util.files import expanded

_LISTS = frozenset({".csv", ".txt", ".parquet"})


def sound_files(given: Sequence[str | Path], clip_seconds: float, keep_going: bool = False) -> TaskData:
    """Clip table of sounds, each once; a clip's id is its path as given.

    Args:
        given: Paths of sound files, of folders that hold sounds at any depth, and of lists (CSV or text).
        clip_seconds: Crop length in seconds.
        keep_going: Whether sounds whose format is not read are left out; `TaskData.unread` then lists them.

    Raises:
        BadInputError: A path does not exist, or holds no sound.
        UsageError: No path is given.
    """
    if not given:
        raise UsageError("SOUNDS", "none is given", "name files, folders or lists")
    paths: list[str] = []
    unread: list[Unread] = []
    for one in given:
        path = expanded(str(one))
        if path.is_dir() or path.suffix.lower() in _LISTS:
            name = str(path) if path.is_absolute() else f"./{path}"
            found = load_task(name, labelled=False, allow_partial=True, keep_going=keep_going)
            if not set(PLACES).isdisjoint(found.table.columns):
                remedy = "name the recordings themselves: they are labelled in windows"
                raise UsageError(str(one), "lists segments or rows of files, and whole files are labelled", remedy)
            paths += map(str, map(Path, found.table["path"]))
            unread += found.unread
        elif path.exists():
            paths.append(str(path))
        else:
            raise BadInputError(path, "no such file or folder", "name sound files, folders of them, or lists")
    kept = sorted(dict.fromkeys(paths))
    table = ClipTable.of_rows((path, path, "", path, "") for path in kept)
    task = Own("sounds", lambda _: Listing(table))
    card = task.card.model_copy(update={"clip_seconds": clip_seconds})
    return TaskData(task, card, Path(), table, unread=tuple(unread))
