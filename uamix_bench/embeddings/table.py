"""Embeddings of clips as a file, for other programs and from them: npz, or parquet with the extra ``parquet``.

Either holds ``clip``, the ids of n clips as text, and ``vector``, their embeddings (n, D). It may also hold ``sha256``,
the digests of the sound files, and ``about``, a JSON object on the embeddings' making.
"""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt

from uamix_bench.util import files
from uamix_bench.util.arrays import Floats
from uamix_bench.util.errors import BadInputError, MachineError, UsageError, optional
from uamix_bench.util.text import listed

SUFFIXES = (".npz", ".parquet")
_FORM = "give an npz or a parquet file with 'clip' (text) and 'vector' (n, D), as 'uamix-bench embed' writes it"
_LARGEST_HEADER = 10_000  # bytes of an array's, in npz
_META = b"uamix_bench"  # of a parquet file's schema
_MOST_VALUES = 2**34  # 64 GiB as float32


@dataclass(frozen=True, eq=False)
class EmbeddingTable:
    """Embeddings of n clips.

    Attributes:
        clips: Ids, each once.
        vectors: Embeddings, (n, D) float32, D at least 1.
        sha256: SHA-256 (hex) of the sound files, one for each clip; empty if not known.
        about: Facts on their making; ``clip_seconds`` and ``segments`` say what of a clip they are of.
    """

    clips: tuple[str, ...]
    vectors: Floats
    sha256: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


def check_suffix(path: Path) -> None:
    """Checks that a file's ending names one of the two forms.

    Raises:
        UsageError: It does not.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(path, f"has the ending '{path.suffix}'", f"use {' or '.join(SUFFIXES)}")


def write_table(path: Path, table: EmbeddingTable) -> Path:
    """Writes embeddings, atomically, in the form of the path's ending. Equal npz tables give equal bytes.

    Raises:
        UsageError: The ending is neither ``.npz`` nor ``.parquet``.
        MachineError: The file cannot be written, or pyarrow is not installed.
    """
    check_suffix(path)
    about = files.canonical_json(table.about).decode()
    if path.suffix == ".parquet":
        arrow, parquet = _pyarrow()
        flat = arrow.array(table.vectors.reshape(-1), arrow.float32())
        columns = {"clip": arrow.array(table.clips, arrow.string())}
        columns["vector"] = arrow.FixedSizeListArray.from_arrays(flat, table.vectors.shape[1])
        columns |= {"sha256": arrow.array(table.sha256, arrow.string())} if table.sha256 else {}
        written = arrow.table(columns).replace_schema_metadata({_META: about})
        return files.write_atomic(path, lambda file: parquet.write_table(written, file))
    arrays = {"clip": np.array(table.clips, np.str_), "vector": table.vectors, "about": np.array(about, np.str_)}
    arrays |= {"sha256": np.array(table.sha256, np.str_)} if table.sha256 else {}

    def content(file: BinaryIO) -> None:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # names are no options of savez

    return files.write_atomic(path, content)


def read_table(path: Path) -> EmbeddingTable:
    """Reads embeddings. No pickle in it is opened.

    Raises:
        BadInputError: The file is missing or damaged, has no such columns, repeats a clip, or holds no numbers.
        UsageError: Its ending is neither ``.npz`` nor ``.parquet``.
        MachineError: The file cannot be read, or pyarrow is not installed.
    """
    check_suffix(path)
    try:
        files.regular(path)
        columns = _parquet_columns(path) if path.suffix == ".parquet" else _npz_columns(path)
    except OSError as error:
        raise files.unreadable(path, error) from error
    except MemoryError:
        raise MachineError(path, "does not fit into memory", "use a machine with more, or fewer clips") from None
    if lacking := [name for name in ("clip", "vector") if name not in columns]:
        _refuse(path, f"holds no {' and no '.join(map(repr, lacking))} (it has {listed(sorted(columns)) or 'nothing'})")
    clips = tuple(map(str, _texts(path, "clip", columns["clip"])))
    vectors = columns["vector"]
    if vectors.ndim != 2 or len(vectors) != len(clips) or not vectors.size:
        _refuse(path, f"holds vectors {vectors.shape} for {len(clips):,} clips, not (n, D)")
    if vectors.dtype.kind not in "fiu":
        _refuse(path, f"holds vectors of {vectors.dtype}, which are no real numbers")
    if twice := [clip for clip, times in Counter(clips).items() if times > 1]:
        raise BadInputError(path, f"holds {len(twice):,} clips twice ({listed(twice, 3)})", "give each clip once")
    sha256 = tuple(map(str, _texts(path, "sha256", columns["sha256"]))) if "sha256" in columns else ()
    if sha256 and len(sha256) != len(clips):
        _refuse(path, f"holds {len(sha256):,} digests for {len(clips):,} clips")
    with np.errstate(over="ignore"):  # what float32 cannot hold is found by the health check
        return EmbeddingTable(clips, vectors.astype(np.float32), sha256, _about(path, columns.get("about")))


def _about(path: Path, stored: Any) -> dict[str, Any]:
    if stored is None:
        return {}
    try:
        about = json.loads(str(stored))
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        _refuse(path, "holds an 'about' that is no JSON object")
    return about


def _texts(path: Path, name: str, values: Any) -> npt.NDArray[Any]:
    """The values of a column (n,), if they are text."""
    found = np.asarray(values)
    if found.dtype.kind == "S":
        try:
            found = np.char.decode(found, "utf-8")
        except UnicodeDecodeError:
            _refuse(path, f"holds a '{name}' that is not UTF-8")
    if found.ndim != 1 or found.dtype.kind != "U":
        _refuse(path, f"holds '{name}' as {found.dtype} {found.shape}, not as n texts")
    return found


def _refuse(path: Path, reason: str) -> NoReturn:
    raise BadInputError(path, reason, _FORM)


# --- npz


def _npz_columns(path: Path) -> dict[str, npt.NDArray[Any]]:
    columns = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in ("clip", "vector", "sha256", "about"):
                    with archive.open(member) as file:
                        columns[name] = _array(path, name, file, member.file_size)  # type: ignore[arg-type]
                else:
                    columns[name] = np.zeros(0)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise BadInputError(path, f"is no whole npz file ({error})", _FORM) from error
    return columns


def _array(path: Path, name: str, file: BinaryIO, size: int) -> npt.NDArray[Any]:
    """Reads an array whose header claims no more than the archive holds."""
    version = np.lib.format.read_magic(file)
    reading = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reading(file, max_header_size=_LARGEST_HEADER)
    if dtype.hasobject:
        what = "its clips as text" if name == "clip" else f"'{name}' as a plain array"
        raise BadInputError(path, f"holds '{name}' as pickled objects, which are not opened", f"save {what}")
    count = int(np.prod(shape, dtype=object))
    if count * dtype.itemsize > size or count > _MOST_VALUES:
        _refuse(path, f"claims a '{name}' of shape {shape}, more than it holds")
    content = file.read(count * dtype.itemsize)
    if len(content) < count * dtype.itemsize:
        raise EOFError(f"'{name}' is cut off")
    if file.read(1):  # to the end, where the checksum is compared
        _refuse(path, f"holds more behind '{name}'")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


# --- parquet


def _pyarrow() -> tuple[Any, Any]:
    parquet = optional("pyarrow.parquet", "a parquet file", "parquet")
    return optional("pyarrow", "a parquet file", "parquet"), parquet


def _parquet_columns(path: Path) -> dict[str, Any]:
    arrow, parquet = _pyarrow()
    try:
        wanted = ("clip", "vector", "sha256")
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            table = file.read([name for name in wanted if name in names]).combine_chunks()
            metadata = file.schema_arrow.metadata or {}
    except (arrow.ArrowException, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())[:200]
        raise BadInputError(path, f"is no whole parquet file ({said})", _FORM) from error
    columns: dict[str, Any] = {name: np.zeros(0) for name in names}
    for name in table.column_names:
        column = table[name]
        if column.null_count:
            _refuse(path, f"has no value of '{name}' in {column.null_count:,} rows")
        columns[name] = _vectors(path, column) if name == "vector" else np.array(column.to_pylist(), np.str_)
        if name != "vector" and not arrow.types.is_string(column.type) and not arrow.types.is_large_string(column.type):
            _refuse(path, f"holds '{name}' as {column.type}, not as text")
    if _META in metadata:
        columns["about"] = metadata[_META].decode("utf-8", "replace")
    return columns


def _vectors(path: Path, column: Any) -> npt.NDArray[Any]:
    """Vectors (n, D) of a column of lists."""
    if not hasattr(column.type, "value_type"):
        _refuse(path, f"holds 'vector' as {column.type}, not as lists of numbers")
    lengths = {int(length) for chunk in column.chunks for length in np.unique(np.asarray(chunk.value_lengths()))}
    if len(lengths) > 1:
        _refuse(path, f"holds vectors of {min(lengths)} to {max(lengths)} values")
    flat = [np.asarray(chunk.flatten()) for chunk in column.chunks]
    return np.concatenate(flat).reshape(len(column), -1) if len(column) else np.zeros((0, 0))
