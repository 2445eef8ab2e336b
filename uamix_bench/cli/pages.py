"""Between records and pages: reading the ones, writing the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from uamix_bench.errors import BadInputError
from uamix_bench.files import write_atomic
from uamix_bench.progress import Progress

if TYPE_CHECKING:
    from uamix_bench.record import Record
    from uamix_bench.registry import RenderedPage


def read_records(paths: Sequence[Path], keep_going: bool, progress: Progress) -> tuple[list[Record], int]:
    """Reads records of any kind, each id once, in the order of their kinds.

    Args:
        paths: Files, or folders with .json files below them.
        keep_going: Whether what is no sound record is told and set aside; otherwise it is an error.
        progress: Shows how far it is.

    Returns:
        The records, and how many files were set aside.

    Raises:
        BadInputError: A file is no sound record, or there is none at all.
    """
    from uamix_bench.store import load_record

    files: list[Path] = []
    for path in paths:
        files += sorted(path.rglob("*.json")) if path.is_dir() else [path]
    records: dict[str, Record] = {}
    set_aside = 0
    with progress.bar("reading", len(files), "files") as advance:
        for file in files:
            try:
                record = load_record(file)
                records[record.id] = record
            except BadInputError as error:
                if not keep_going:
                    raise
                progress.say(f"set aside: {error}")
                set_aside += 1
            advance(1, "")
    if not records:
        raise BadInputError(", ".join(map(str, paths)), "there is no record", "name what 'uamix-bench fewshot' wrote")
    return sorted(records.values(), key=lambda record: record.kind), set_aside


def write_page(page: RenderedPage, folder: Path, name: str) -> tuple[Path, Path]:
    """Writes a page as ``<name>.html`` and ``<name>.md``, with the files that it links to beside them.

    Returns:
        The paths of the two.

    Raises:
        MachineError: The folder cannot be written.
    """
    for path, text in page.files.items():
        write_atomic(folder / path, text.encode())
    html = write_atomic(folder / f"{name}.html", page.html.encode())
    return html, write_atomic(folder / f"{name}.md", page.markdown.encode())
