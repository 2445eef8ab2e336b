"""What the readers of official layouts share: names in a folder, and the refusal of an incomplete copy."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from uamix_bench.errors import BadInputError
from uamix_bench.files import unreadable
from uamix_bench.task import COLUMNS, Task

_NAMED = 3  # missing files that the error names


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


def whole(task: Task, root: Path, rows: Sequence[tuple[str, ...]], missing: Iterable[str] = ()) -> pd.DataFrame:
    """Makes the clip table of a copy that holds every clip.

    Args:
        task: The reader, whose card says how many clips there are.
        root: The data set's root.
        rows: The clips found, in the order of `COLUMNS`.
        missing: What the data set's own lists name and `root` lacks.

    Raises:
        BadInputError: The copy is incomplete, or holds what the data set does not; the line has the counts.
    """
    expected = task.edition(root).clips
    absent = sorted(missing)
    if absent or len(rows) != expected:
        reason = f"{len(rows):,} of {expected:,} clips found"
        if absent:
            more = f" and {len(absent) - _NAMED:,} more" if len(absent) > _NAMED else ""
            reason += f" (missing: {', '.join(absent[:_NAMED])}{more})"
        raise BadInputError(root, reason, f"unpack the archives of {task.card.name} again")
    return pd.DataFrame(rows, columns=list(COLUMNS))
