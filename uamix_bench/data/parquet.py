"""Rows of parquet files whose sounds lie in a column of bytes, as the Hugging Face Hub keeps data sets.

The column is named ``audio`` or is the only one of its kind: a struct with a field ``bytes``, or bytes alone. Sounds
stay in the file; a row is read when it is asked for, with the row group that holds it.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import OrderedDict
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

from uamix_bench.data.columns import Listed
from uamix_bench.util.errors import BadInputError, optional
from uamix_bench.util.files import regular, unreadable

AUDIO = "audio"
_HELD_BYTES = 256 << 20  # of row groups in memory; the last one is held however large it is

Stamp = tuple[str, int, int, int, int]  # of a file: path, size, times of change, inode


def sound_bytes(path: str, row: int) -> bytes:
    """Bytes of the sound file in a row, counted from 0.

    Raises:
        BadInputError: The file has no such row or column, is damaged, or the row holds no bytes.
        MachineError: The file cannot be opened, or pyarrow is not installed.
    """
    content = _GROUPS.value(path, row)
    if content is None:
        raise BadInputError(f"{path} row {row}", "holds no bytes of a sound", "give files that hold their sounds")
    return content


def read_table(path: Path) -> tuple[Listed, str]:
    """Reads all columns but the sounds.

    Numbers of classes become the names that the Hub's metadata in the file gives them.

    Returns:
        All other columns as Python objects, None for a null, with the numbers of the rows, from 0. And the name of the
        column of sounds, empty if there is none; its paths are the column ``audio.path``.

    Raises:
        BadInputError: The file is no parquet file, has several columns of sounds, or has no row.
        MachineError: The file cannot be opened, or pyarrow is not installed.
    """
    with _Opened(path) as file:
        schema = file.schema_arrow
        audio = _audio(path, schema)
        names = [name for name in schema.names if name != audio]
        has_path = audio and "path" in _fields(schema.field(audio).type)
        read = file.read(columns=names + [f"{audio}.path"] * bool(has_path))
        columns = {name: _named(read.column(name).to_pylist(), schema, name) for name in names}
        if has_path:
            columns["audio.path"] = [one and one["path"] for one in read.column(audio).to_pylist()]
        count = file.metadata.num_rows
    if not count:
        raise BadInputError(path, "lists no clip", "give one row per clip")
    return Listed(columns, range(count), "row"), audio


def _named(values: list[Any], schema: Any, column: str) -> list[Any]:
    """Values of a column, with the names of classes for their numbers where the Hub's metadata has them."""
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        feature = json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]
        if isinstance(feature, list):
            (feature,) = feature
        names = (feature if feature.get("names") else feature["feature"])["names"]
        return [_name(value, names) for value in values]
    return values


def _name(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_name(one, names) for one in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def _audio(path: object, schema: Any) -> str:
    """Name of the column of sounds; empty if there is none."""
    types = _pyarrow().types
    found = []
    for field in schema:
        inner = _fields(field.type).get("bytes", field.type)
        if types.is_binary(inner) or types.is_large_binary(inner) or types.is_binary_view(inner):
            found.append(field.name)
    if len(found) > 1 and AUDIO not in found:
        reason = f"has several columns of bytes ({', '.join(found)[:200]})"
        raise BadInputError(path, reason, f"name the one that holds the sounds '{AUDIO}'")
    return AUDIO if AUDIO in found else "".join(found)


def _fields(kind: Any) -> dict[str, Any]:
    """Types of a struct's fields by name; empty for another type."""
    return {one.name: one.type for one in kind} if _pyarrow().types.is_struct(kind) else {}


def _pyarrow() -> Any:
    for module in ("pyarrow.parquet", "pyarrow.compute", "pyarrow"):
        found = optional(module, "a parquet file", "parquet")
    return found


class _Opened:
    """A parquet file, open for reading. Errors of pyarrow become the project's, with the file's name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Any:
        arrow = _pyarrow()
        self._errors = arrow.ArrowException
        try:
            self._file = regular(self.path).open("rb")
        except OSError as error:
            raise unreadable(self.path, error) from error
        try:
            return arrow.parquet.ParquetFile(self._file)
        except BaseException as error:
            self.__exit__(type(error), error)
            raise

    def __exit__(self, _: object, error: BaseException | None, *rest: object) -> None:
        self._file.close()
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(self.path, error) from error
        if isinstance(error, (self._errors, OSError)):
            reason = f"is damaged or no parquet file ({' '.join(str(error).split())[:120]})"
            raise BadInputError(self.path, reason, "download or export it again") from error


class _Groups:
    """Row groups in memory, the latest last. One thread reads at a time."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._lock = Lock()
        self._ends: dict[Stamp, tuple[list[int], str]] = {}  # rows up to the end of each group, and the column
        self._held: OrderedDict[tuple[Stamp, int], tuple[Any, int]] = OrderedDict()

    def value(self, path: str, row: int) -> bytes | None:
        """Bytes of a row; None if it is null."""
        with self._lock:
            try:
                status = regular(Path(path)).stat()
            except OSError as error:
                raise unreadable(Path(path), error) from error
            stamp = (path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            ends, column = self._shape(stamp)
            if not column or not 0 <= row < ends[-1]:
                reason = f"has {ends[-1]} rows" if column else "has no column of sounds"
                raise BadInputError(f"{path} row {row}", reason, "list its rows again")
            group = bisect_right(ends, row)
            cells = self._group(stamp, group, column)
            content: bytes | None = cells[row - (ends[group - 1] if group else 0)].as_py()
            return content

    def _shape(self, stamp: Stamp) -> tuple[list[int], str]:
        if stamp not in self._ends:
            with _Opened(Path(stamp[0])) as file:
                counts = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
                self._ends[stamp] = list(accumulate(counts)) or [0], _audio(stamp[0], file.schema_arrow)
        return self._ends[stamp]

    def _group(self, stamp: Stamp, group: int, column: str) -> Any:
        key = (stamp, group)
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key][0]
        with _Opened(Path(stamp[0])) as file:
            leaf = f"{column}.bytes" if _fields(file.schema_arrow.field(column).type) else column
            cells = file.read_row_group(group, columns=[leaf]).column(column).combine_chunks()
            if leaf != column:
                cells = _pyarrow().compute.struct_field(cells, "bytes")
        while self._held and sum(size for _, size in self._held.values()) + cells.nbytes > self.most_bytes:
            self._held.popitem(last=False)
        self._held[key] = (cells, cells.nbytes)
        return cells


_GROUPS = _Groups(_HELD_BYTES)
