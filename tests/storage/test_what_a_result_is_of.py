"""Digests of weights and sounds, against hashlib over the bytes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from uamix_bench.storage.digests import fingerprint, sounds_sha256, state_sha256, weights_sha256
from uamix_bench.util.errors import BadInputError


def by_hand(pairs: list[tuple[str, bytes]]) -> str:
    listed = [[name, hashlib.sha256(content).hexdigest()] for name, content in sorted(pairs)]
    return hashlib.sha256(json.dumps(listed, separators=(",", ":")).encode()).hexdigest()


def test_of_a_file_it_is_that_of_its_bytes(tmp_path: Path, bench_home: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"weights")
    assert weights_sha256(path) == fingerprint(path) == hashlib.sha256(b"weights").hexdigest()
    large = tmp_path / "large.pth"  # large enough to be remembered
    large.write_bytes(bytes(17 * 2**20))
    for content in (bytes(17 * 2**20), bytes(17 * 2**20 - 1) + b"\1"):
        large.write_bytes(content)
        assert weights_sha256(large) == hashlib.sha256(content).hexdigest()
    with pytest.raises(BadInputError, match="no such file"):
        weights_sha256(tmp_path / "absent.pth")


def test_of_a_folder_it_covers_names_and_bytes(tmp_path: Path, bench_home: Path) -> None:
    folder = tmp_path / "m"
    (folder / "tokens").mkdir(parents=True)
    held = [("model.safetensors", b"one"), ("config.json", b"{}"), ("tokens/map.json", b"[]"), (".settings", b"x")]
    for name, content in held:
        (folder / name).write_bytes(content)
    first = weights_sha256(folder)
    assert first == by_hand(held)
    assert weights_sha256(folder, whole=False) == hashlib.sha256(b"one").hexdigest()
    for passed_over in ("__pycache__", ".git", ".cache"):
        (folder / passed_over).mkdir()
        (folder / passed_over / "x").write_bytes(b"1")
    os.utime(folder / "config.json")
    assert weights_sha256(folder) == first
    (folder / "config.json").rename(folder / "settings.json")
    assert weights_sha256(folder) == by_hand([held[0], ("settings.json", b"{}"), *held[2:]]) != first


def test_links_of_a_folder_are_followed_and_loops_end(tmp_path: Path, bench_home: Path) -> None:
    folder, elsewhere = tmp_path / "m", tmp_path / "blobs"
    folder.mkdir()
    elsewhere.mkdir()
    (elsewhere / "a").write_bytes(b"1")
    (folder / "weights").symlink_to(elsewhere / "a")
    (folder / "more").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(folder)
    assert weights_sha256(folder) == by_hand([("weights", b"1"), ("more/a", b"1")])
    (elsewhere / "a").write_bytes(b"2")
    assert weights_sha256(folder) == by_hand([("weights", b"2"), ("more/a", b"2")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="empty folder"):
        weights_sha256(tmp_path / "empty")


def test_what_stands_beside_weights_counts_where_it_is_read(tmp_path: Path, bench_home: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"weights")
    alone = weights_sha256(path, ("mean.npy",))
    assert alone == hashlib.sha256(b"weights").hexdigest()
    (tmp_path / "mean.npy").write_bytes(b"0 1")
    assert weights_sha256(path, ("mean.npy",)) == by_hand([("", b"weights"), ("mean.npy", b"0 1")])
    assert weights_sha256(path) == alone


def test_sounds_are_digested_in_their_order() -> None:
    digests = [hashlib.sha256(content).digest() for content in (b"a", b"b")]
    text = json.dumps([digest.hex() for digest in digests], separators=(",", ":"))
    assert sounds_sha256(digests) == hashlib.sha256(text.encode()).hexdigest() != sounds_sha256(digests[::-1])


def test_the_state_of_a_module_covers_names_shapes_and_values() -> None:
    module = torch.nn.Linear(2, 2)
    first, quick = state_sha256(module), state_sha256(module, quick=True)
    with torch.no_grad():
        module.bias[0] += 1
    assert state_sha256(module) != first
    assert state_sha256(module, quick=True) != quick
    same = torch.nn.Linear(2, 2)
    same.load_state_dict(module.state_dict())
    assert state_sha256(same) == state_sha256(module)


def test_files_are_digested_without_torch() -> None:
    code = "import sys, uamix_bench.storage.digests, uamix_bench.models.sources; print({'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
