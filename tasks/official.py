"""What the readers of official layouts share: names in a folder, and the refusal of an incomplete copy."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from uamix_bench.data.task import COLUMNS, IncompleteError, Task
from uamix_bench.util.errors import BadInputError
from uamix_bench.util.files import unreadable

_NAMED = 3  # missing files that the error names


class Official(Task):
    """A published data set, of which there is a miniature.

    Attributes:
        elsewhere: Where copies that did not come from the authors' archives have the `marker`, as globs below the root.
    """

    elsewhere: ClassVar[tuple[str, ...]] = ()

    def mark(self, root: Path) -> Path | None:
        """The `marker`, where the archives or other copies have it; None where it is not."""
        return super().mark(root) or first(root, *self.elsewhere)

    def miniature(self, folder: Path, **sizes: Any) -> Path:
        """Makes a small stand-in; see `miniature.make`."""
        from .miniature import make

        return make(self.card.name, folder, **sizes)


def first(root: Path, *patterns: str) -> Path | None:
    """What the first of some globs below a root finds, if any does.

    Raises:
        BadInputError: That glob finds several.
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
    """What a glob below a root finds, but for hidden folders: archives are unpacked in such."""
    found = sorted(root.glob(pattern))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]


def holder(folders: Iterable[Path], wanted: Iterable[str], least_bytes: int = 0) -> tuple[Path, set[str]]:
    """The folder that holds the most of some names, the first of equals, and all names in it.

    Args:
        folders: At least one.
        wanted: The names.
        least_bytes: As for :func:`names`.
    """
    sought = set(wanted)
    found = [(folder, names(folder, least_bytes)) for folder in folders]
    return max(found, key=lambda pair: len(pair[1] & sought))


def names(folder: str | Path, least_bytes: int = 0) -> set[str]:
    """The names in a folder, without a look at each file unless `least_bytes` asks for its size.

    Args:
        folder: A folder; one that is not there holds nothing.
        least_bytes: The size from which a file counts.

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
    """The lines of a published text file (UTF-8, any line ending), empty ones left out.

    Raises:
        BadInputError: The file is not there or is no text.
        MachineError: It cannot be read.
    """
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise BadInputError(path, f"is not UTF-8 text ({error.reason})", "unpack the archive again") from error
    except OSError as error:
        raise unreadable(path, error) from error


def whole(
    task: Task, root: Path, rows: Sequence[tuple[str, ...]], missing: Iterable[str] = (), hint: str = ""
) -> pd.DataFrame:
    """Makes the clip table of a copy that holds every clip.

    Args:
        task: The reader, whose card says how many clips there are.
        root: The data set's root.
        rows: The clips found, in the order of `COLUMNS`.
        missing: What the data set's own lists name and `root` lacks.
        hint: What to do about an incomplete copy; empty to unpack the archives again.

    Raises:
        IncompleteError: The copy lacks clips; the line has the counts.
        BadInputError: It holds more than the data set does.
    """
    expected = task.edition(root).clips
    absent = sorted(missing)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    if not absent and len(rows) == expected:
        return table
    reason = f"{len(rows):,} of {expected:,} clips found"
    if not absent and expected is not None and len(rows) > expected:
        raise BadInputError(root, reason, f"move away what is not of {task.card.name}")
    if absent:
        more = f" and {len(absent) - _NAMED:,} more" if len(absent) > _NAMED else ""
        reason += f" (missing: {', '.join(absent[:_NAMED])}{more})"
    remedy = hint or f"unpack the archives of {task.card.name} again"
    raise IncompleteError(root, reason, f"{remedy}, or evaluate what is there, unranked, with --allow-partial", table)
