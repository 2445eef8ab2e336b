"""Embeddings as a file: what is written is read again, what another program writes is read, all else is refused."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uamix_bench.embeddings.table import EmbeddingTable, read_table, write_table
from uamix_bench.util.errors import BadInputError, MachineError, UsageError

CLIPS = ("a/1.wav", "a/2.wav", "ä/3.wav")
VECTORS = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
DIGESTS = tuple(64 * digit for digit in "abc")


def needs_pyarrow(suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed (the extra parquet)")


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@pytest.mark.parametrize("digests", [(), DIGESTS])
def test_what_is_written_is_read_again_bit_for_bit(suffix: str, digests: tuple[str, ...], tmp_path: Path) -> None:
    needs_pyarrow(suffix)
    path = write_table(tmp_path / f"e{suffix}", EmbeddingTable(CLIPS, VECTORS, digests, {"segments": "first"}))
    found = read_table(path)
    assert (found.clips, found.sha256, dict(found.about)) == (CLIPS, digests, {"segments": "first"})
    assert found.vectors.dtype == np.float32
    assert np.array_equal(found.vectors, VECTORS)


def test_equal_tables_are_equal_bytes(tmp_path: Path) -> None:
    one, other = (write_table(tmp_path / name, EmbeddingTable(CLIPS, VECTORS)) for name in ("1.npz", "2.npz"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    ("clips", "vectors"),
    [
        (np.array(CLIPS), VECTORS),
        (np.array([clip.encode() for clip in CLIPS]), VECTORS.astype(np.float64)),
        (list(CLIPS), np.asfortranarray(VECTORS)),
        (list(CLIPS), (1000 * VECTORS).astype(np.int16)),
    ],
)
def test_what_numpy_writes_is_read(save: Any, clips: Any, vectors: Any, tmp_path: Path) -> None:
    save(tmp_path / "e.npz", clip=clips, vector=vectors)
    found = read_table(tmp_path / "e.npz")
    assert found.clips == CLIPS
    assert np.array_equal(found.vectors, vectors.astype(np.float32))


def test_what_pyarrow_writes_is_read(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (the extra parquet)")
    import pyarrow.parquet as parquet

    rows = [row.tolist() for row in VECTORS]
    for kind in (arrow.list_(arrow.float64()), arrow.large_list(arrow.float32()), arrow.list_(arrow.float32(), 5)):
        table = arrow.table({"label": [1, 2, 3], "clip": list(CLIPS), "vector": arrow.array(rows, kind)})
        parquet.write_table(table, tmp_path / "e.parquet", row_group_size=2)
        found = read_table(tmp_path / "e.parquet")
        assert found.clips == CLIPS
        assert np.array_equal(found.vectors, VECTORS)
    for name, columns in {
        "no value": {"clip": ["a", None], "vector": [[1.0], [2.0]]},
        "1 to 2 values": {"clip": ["a", "b"], "vector": [[1.0], [2.0, 3.0]]},
        "not as text": {"clip": [1, 2], "vector": [[1.0], [2.0]]},
        "not as lists": {"clip": ["a", "b"], "vector": [1.0, 2.0]},
        "no real numbers": {"clip": ["a", "b"], "vector": [["x"], ["y"]]},
        "no 'vector'": {"clip": ["a", "b"], "vectors": [[1.0], [2.0]]},
        "(0, 0)": {"clip": arrow.array([], arrow.string()), "vector": arrow.array([], arrow.list_(arrow.float32()))},
    }.items():
        parquet.write_table(arrow.table(columns), tmp_path / "bad.parquet")
        with pytest.raises(BadInputError) as caught:
            read_table(tmp_path / "bad.parquet")
        assert name in str(caught.value)
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "e.parquet").read_bytes()[:-9])
    with pytest.raises(BadInputError, match="no whole parquet file"):
        read_table(tmp_path / "cut.parquet")


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_no_pickle_is_opened(tmp_path: Path) -> None:
    clips = np.array([Trap(tmp_path / "sprung")] * 3, object)
    np.savez(tmp_path / "trap.npz", clip=clips, vector=VECTORS)
    with pytest.raises(BadInputError, match="pickled objects, which are not opened"):
        read_table(tmp_path / "trap.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"clips": CLIPS, "vector": VECTORS}, "holds no 'clip' (it has clips, vector)"),
        ({"clip": CLIPS}, "holds no 'vector'"),
        ({"clip": CLIPS, "vector": VECTORS[:2]}, "(2, 5) for 3 clips"),
        ({"clip": CLIPS, "vector": VECTORS[:, 0]}, "(3,) for 3 clips"),
        ({"clip": CLIPS, "vector": VECTORS[:, :0]}, "(3, 0) for 3 clips"),
        ({"clip": ("a", "b", "a"), "vector": VECTORS}, "holds 1 clips twice (a)"),
        ({"clip": (1, 2, 3), "vector": VECTORS}, "'clip' as int64"),
        ({"clip": CLIPS, "vector": VECTORS > 0}, "vectors of bool"),
        ({"clip": CLIPS, "vector": VECTORS + 1j}, "vectors of complex64"),
        ({"clip": CLIPS, "vector": VECTORS, "sha256": DIGESTS[:2]}, "2 digests for 3 clips"),
        ({"clip": CLIPS, "vector": VECTORS, "about": "[]"}, "no JSON object"),
    ],
)
def test_what_is_no_table_is_refused(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", **arrays)
    with pytest.raises(BadInputError) as caught:
        read_table(tmp_path / "e.npz")
    assert words in str(caught.value)
    assert "uamix-bench embed" in str(caught.value) or "once" in str(caught.value)


def test_damage_is_found(tmp_path: Path) -> None:
    path = write_table(tmp_path / "e.npz", EmbeddingTable(CLIPS, VECTORS))
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(BadInputError):
            read_table(path)
    at = whole.index(VECTORS.tobytes()) + 30
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(BadInputError, match="CRC"):
        read_table(path)


def test_a_shape_beyond_the_file_takes_no_memory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
        for name, shape in (("clip", (3,)), ("vector", (2**33, 5))):
            with archive.open(f"{name}.npy", "w") as file:
                kind = "<U9" if name == "clip" else "<f4"
                np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
                file.write(bytes(108))
    with pytest.raises(BadInputError, match="more than it holds"):
        read_table(tmp_path / "e.npz")


def test_other_files_and_endings_are_named(tmp_path: Path) -> None:
    (tmp_path / "e.npz").write_text(json.dumps({"clip": []}))
    with pytest.raises(BadInputError, match="no whole npz file"):
        read_table(tmp_path / "e.npz")
    with pytest.raises(BadInputError, match="no such file"):
        read_table(tmp_path / "none.npz")
    for name in ("e.csv", "e"):
        with pytest.raises(UsageError, match=r"\.npz or \.parquet"):
            read_table(tmp_path / name)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "e.parquet").touch()
    with pytest.raises(MachineError, match=r"uamix-bench\[parquet\]"):
        read_table(tmp_path / "e.parquet")
