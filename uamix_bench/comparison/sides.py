"""A side of a comparison on the disk: few-shot results, and a file of pytest-benchmark beside them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from uamix_bench.comparison.timings import Timings, parse
from uamix_bench.records.record import read_json
from uamix_bench.records.results import Result
from uamix_bench.records.store import load_record
from uamix_bench.util.errors import BadInputError, UsageError

_LARGEST_TIMINGS = 64 * 2**20  # bytes; pytest-benchmark writes the time of every round


class Side(NamedTuple):
    """Contents of a folder or file for a comparison.

    Attributes:
        results: Few-shot results; records of other kinds are skipped.
        timings: Benchmarks of a pytest-benchmark file; None without such a file.
    """

    results: tuple[Result, ...]
    timings: Timings | None


def read_side(path: Path) -> Side:
    """Reads a file, or all ``.json`` files of a folder and those below.

    Raises:
        BadInputError: The path does not exist or holds nothing to compare, or files are damaged; the line counts them.
        UsageError: The folder holds two files of pytest-benchmark.
        MachineError: A file cannot be read.
    """
    if not path.exists():
        raise BadInputError(path, "no such file or folder", "give two files of results, or two folders of -o")
    paths = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    results, timings, bad = [], None, []
    for file in paths:
        try:
            _, document = read_json(file, _LARGEST_TIMINGS)
            if isinstance(document, dict) and "benchmarks" in document:
                if timings is not None:
                    raise UsageError(file, "is a second file of pytest-benchmark", "compare one with one")
                timings = parse(document, file)
            elif isinstance(record := load_record(file), Result):
                results.append(record)
        except BadInputError as error:
            bad.append(error)
    if len(bad) > 1:
        reason = f"{bad[0].reason}; {len(bad) - 1} more files are refused"
        raise BadInputError(bad[0].subject, reason, "'uamix-bench results verify' lists them")
    if bad:
        raise bad[0]
    return Side(tuple(results), timings)
