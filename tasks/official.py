"""Parts shared by the readers of official layouts: names in a folder, and the refusal of an incomplete copy."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from uamix_bench.data.clip_table import ClipTable
from uamix_bench.data.reader import counted
from uamix_bench.data.task import Task
from uamix_bench.util.errors import BadInputError
from uamix_bench.util.files import unreadable

_NAMED = 3  # missing files that the error names


class Official(Task):
    """Published data set that has a miniature.

    Attributes:
        elsewhere: Globs below the root for the `marker` in copies that did not come from the authors' archives.
    """

    elsewhere: ClassVar[tuple[str, ...]] = ()

    def mark(self, root: Path) -> Path | None:
        """Path of the `marker` in the archives' layout or that of other copies; None if it is missing."""
        return super().mark(root) or first(root, *self.elsewhere)

    def miniature(self, folder: Path, **sizes: Any) -> Path:
        """Makes a small stand-in; see `miniature.make`."""
        from .miniature import make

        return make(self.card.name, folder, **sizes)


def first(root: Path, *patterns: str) -> Path | None:
    """Path found by the first glob below a root that finds any; None if none does.

    Raises:
        BadInputError: The glob matches several paths.
    """
    for pattern in patterns:
        found = below(root, pattern)
        if len(found) > 1:
            reason = f"holds several copies ({', '.join(str(path.relative_to(root)) for path in found[:_NAMED])})"
            raise BadInputError(root, reason, "name the folder of one of them with --data-dir")
        if found:
            return found[0]
    return None


def below(root: Path, pattern: str) -> list[Path]:
    """Paths that a glob below a root finds, without hidden folders, which archives are unpacked in."""
    found = sorted(root.glob(pattern))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]


def holder(folders: Iterable[Path], wanted: Iterable[str], least_bytes: int = 0) -> tuple[Path, set[str]]:
    """Folder that holds the most of some names, the first of equals, and all names in it.

    Args:
        folders: Folders to compare, at least one.
        wanted: Names to look for.
        least_bytes: Size in bytes from which a file counts.
    """
    sought = set(wanted)
    found = [(folder, names(folder, least_bytes)) for folder in folders]
    return max(found, key=lambda pair: len(pair[1] & sought))


def names(folder: str | Path, least_bytes: int = 0) -> set[str]:
    """Names in a folder, without a look at each file unless `least_bytes` asks for its size.

    Args:
        folder: Path of a folder; a missing one holds nothing.
        least_bytes: Size in bytes from which a file counts.

    Raises:
        MachineError: The folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if not least_bytes or entry.stat().st_size >= least_bytes}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise unreadable(Path(folder), error) from error


def lines(path: Path) -> list[str]:
    """Lines of a published text file (UTF-8, any line ending), empty ones left out.

    Raises:
        BadInputError: The file is missing or is no text.
        MachineError: The file cannot be read.
    """
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise BadInputError(path, f"is not UTF-8 text ({error.reason})", "unpack the archive again") from error
    except OSError as error:
        raise unreadable(path, error) from error


def whole(
    task: Task, root: Path, rows: Sequence[tuple[str, ...]], missing: Iterable[str] = (), hint: str = ""
) -> ClipTable:
    """Clip table of a copy that holds every clip, from `rows` in the order of `COLUMNS`.

    The other arguments and the errors are those of :func:`uamix_bench.data.reader.counted`.
    """
    return counted(task, root, ClipTable.of_rows(rows), missing, hint)
