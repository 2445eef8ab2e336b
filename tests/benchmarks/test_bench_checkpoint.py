"""A converted checkpoint against the official file it came from: wall time of from_checkpoint, both in one run.

Two official files: one with the encoder alone, and one with a decoder besides, as AudioMAE's own has (548 MB, of
which 343 are the encoder). Two ratios of each: of everything, and with the fingerprint (SHA-256 of the file) taken out
on both sides. The second is what the format is worth; the first depends on how fast the processor hashes.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest
import torch
from uamix_bench.baselines.audiomae import AudioMAE

from uamix_bench import checkpoint
from uamix_bench.convert import save
from uamix_bench.vit import ViTShape, initialise

REDUCED = ViTShape(width=384, depth=12, heads=6)  # 87 MB; a ViT-B has 343
ROUNDS = 3
DECODER = 0.6  # of the encoder's size


class Measured(NamedTuple):
    """Medians over the rounds: seconds, and the official file's time over the converted one's."""

    official_s: float
    converted_s: float
    ratio: float
    ratio_unhashed: float


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
    started = time.perf_counter()
    AudioMAE.from_checkpoint(path)
    return time.perf_counter() - started


def measure(shape: ViTShape, decoder: float, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Measured:
    paths = official_and_converted(shape, decoder, folder)

    def rounds() -> list[list[float]]:
        return [[seconds(path) for path in paths] for _ in range(ROUNDS)]

    for path in paths:
        seconds(path)  # the files are in the page cache
    hashed = rounds()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "file_sha256", lambda path: "0" * 64)
        unhashed = rounds()
    return Measured(
        *(median(column) for column in zip(*hashed, strict=True)),
        *(median(official / converted for official, converted in both) for both in (hashed, unhashed)),
    )


@pytest.mark.parametrize("decoder", [0.0, DECODER], ids=["encoder", "as-published"])
@pytest.mark.parametrize(
    "shape", [pytest.param(REDUCED, id="reduced"), pytest.param(ViTShape(), id="vit-b", marks=pytest.mark.slow)]
)
def test_a_converted_file_loads_twice_as_fast(
    shape: ViTShape, decoder: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = measure(shape, decoder, tmp_path, monkeypatch)
    print(measured)
    assert measured.ratio_unhashed > 2
    assert measured.ratio > (1.7 if decoder else 1.1)  # measured 2.3 and 1.5; the rest is the noise of a busy machine
