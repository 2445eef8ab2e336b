"""A converted checkpoint against the official file it came from: CPU time of from_checkpoint, both in one run.

Two official files: one with the encoder alone, and one with a decoder besides, as AudioMAE's own has (548 MB, of
which 343 are the encoder). Two ratios of each: of the first load ever, where both files are digested (SHA-256) and
the processor's hashing decides, and of every later one, which finds the digests of the first.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from uamix_bench.baselines.audiomae import AudioMAE

from uamix_bench import cache, checkpoint, files
from uamix_bench.convert import save
from uamix_bench.vit import ViTShape, initialise

REDUCED = ViTShape(width=384, depth=12, heads=6)  # 87 MB; a ViT-B has 343
ROUNDS = 3
DECODER = 0.6  # of the encoder's size


class Measured(NamedTuple):
    """Medians over the rounds: seconds of the converted file, and the official file's time over it."""

    first_s: float
    later_s: float
    first_ratio: float
    later_ratio: float


def official_and_converted(shape: ViTShape, decoder: float, folder: Path) -> tuple[Path, Path]:
    """The encoder as the authors' torch.save has it, a decoder of this relative size beside it; and converted."""
    model = AudioMAE(shape)
    initialise(model, torch.Generator().manual_seed(0))
    tensors = {name.removeprefix("encoder.").removeprefix("stem."): value for name, value in model.state_dict().items()}
    rest = int(decoder * sum(value.numel() for value in tensors.values()))
    official, converted = folder / "pretrained.pth", folder / "model.safetensors"
    torch.save({"model": {**tensors, "decoder_blocks.0.mlp.fc1.weight": torch.ones(rest)}, "epoch": 32}, official)
    save(model, converted)
    return official, converted


def seconds(path: Path) -> float:
    started = time.process_time()
    AudioMAE.from_checkpoint(path)
    return time.process_time() - started


def measure(shape: ViTShape, decoder: float, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Measured:
    monkeypatch.setattr(cache, "_RACY_S", 0.0)  # files as new as these are otherwise digested each time
    paths = official_and_converted(shape, decoder, folder)
    for path in paths:
        path.read_bytes()  # they are in the page cache
    first, later = [], []
    for number in range(ROUNDS):
        monkeypatch.setenv("UAMIX_BENCH_HOME", str(folder / f"home{number}"))
        first.append([seconds(path) for path in paths])
        later.append([seconds(path) for path in paths])
    return Measured(
        *(median(converted for _, converted in both) for both in (first, later)),
        *(median(official / converted for official, converted in both) for both in (first, later)),
    )


@pytest.mark.parametrize("decoder", [0.0, DECODER], ids=["encoder", "as-published"])
@pytest.mark.parametrize(
    "shape", [pytest.param(REDUCED, id="reduced"), pytest.param(ViTShape(), id="vit-b", marks=pytest.mark.slow)]
)
def test_a_converted_file_loads_twice_as_fast_from_the_second_time_on(
    shape: ViTShape, decoder: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measure(shape, decoder, tmp_path, monkeypatch)
    print(found)
    assert found.later_ratio > 2
    if decoder:  # without one, both files are digested as long, which is most of the first load
        assert found.first_ratio > 1.4
    assert found.first_s > 1.5 * found.later_s


@pytest.mark.usefixtures("bench_home")
def test_the_digest_is_remembered_and_follows_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_RACY_S", 0.0)
    monkeypatch.setattr(checkpoint, "_REMEMBERED_BYTES", 0)
    path, digested = tmp_path / "model.safetensors", []
    real = files.file_sha256
    monkeypatch.setattr(files, "file_sha256", lambda path: digested.append(path) or real(path))
    for value in (1.0, 2.0):  # the second file has the first one's size
        save_file({"weight": torch.full((4,), value)}, path)
        for _ in range(2):
            found = checkpoint.read_checkpoint(path)
            assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
            assert torch.equal(found.tensors["weight"], torch.full((4,), value))
    assert digested == [path, path]
