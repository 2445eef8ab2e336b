"""A converted checkpoint against the official file it came from: CPU time of from_checkpoint, both in one run.

Two official files: one with the encoder alone, and one with a decoder besides, as AudioMAE's own has (548 MB, of
which 343 are the encoder). `models convert` leaves the digest (SHA-256) of what it wrote, and every first load leaves
that of its file, so only a file that comes from elsewhere is read for its digest before it is read for its weights: of
that load most is hashing, which no format saves, and an encoder alone wins less.
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
from uamix_bench.models import checkpoint
from uamix_bench.models.convert import convert
from uamix_bench.models.vit import ViTShape, initialise
from uamix_bench.storage import digests
from uamix_bench.util import files

REDUCED = ViTShape(width=384, depth=12, heads=6)  # 87 MB; a ViT-B has 343
ROUNDS = 3
DECODER = 0.6  # of the encoder's size


class Measured(NamedTuple):
    """The official file's time over the converted one's, medians over the rounds.

    `first`: on the machine that converted it, each file's first load; `later`: every other one; `elsewhere`: both files
    loaded for the first time on a machine that knows neither.
    """

    first: float
    later: float
    elsewhere: float


def official_and_converted(shape: ViTShape, decoder: float, folder: Path) -> tuple[Path, Path]:
    """The encoder as the authors' torch.save has it, a decoder of this relative size beside it; and converted."""
    model = AudioMAE(shape).eval().requires_grad_(False)
    initialise(model, torch.Generator().manual_seed(0))
    tensors = {name.removeprefix("encoder.").removeprefix("stem."): value for name, value in model.state_dict().items()}
    rest = int(decoder * sum(value.numel() for value in tensors.values()))
    official, converted = folder / "pretrained.pth", folder / "model.safetensors"
    torch.save({"model": {**tensors, "decoder_blocks.0.mlp.fc1.weight": torch.ones(rest)}, "epoch": 32}, official)
    convert(model, converted)
    return official, converted


def seconds(path: Path) -> float:
    started = time.process_time()
    AudioMAE.from_checkpoint(path)
    return time.process_time() - started


def measure(shape: ViTShape, decoder: float, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Measured:
    monkeypatch.setenv("UAMIX_BENCH_HOME", str(folder / "here"))
    official, converted = official_and_converted(shape, decoder, folder)
    for path in (official, converted):
        path.read_bytes()  # they are in the page cache
    first = seconds(official) / seconds(converted)
    later = median(seconds(official) / seconds(converted) for _ in range(ROUNDS))
    elsewhere = []
    for number in range(ROUNDS):
        monkeypatch.setenv("UAMIX_BENCH_HOME", str(folder / f"elsewhere{number}"))
        elsewhere.append(seconds(official) / seconds(converted))
    return Measured(first, later, median(elsewhere))


@pytest.mark.parametrize("decoder", [0.0, DECODER], ids=["encoder", "as-published"])
@pytest.mark.parametrize(
    "shape", [pytest.param(REDUCED, id="reduced"), pytest.param(ViTShape(), id="vit-b", marks=pytest.mark.slow)]
)
@pytest.mark.over_3s
def test_a_converted_file_loads_twice_as_fast(
    shape: ViTShape, decoder: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measure(shape, decoder, tmp_path, monkeypatch)
    print(found)
    assert found.first > 2
    assert found.later > 2
    assert found.elsewhere > (1.6 if decoder else 1.2)


@pytest.mark.usefixtures("bench_home")
def test_the_digest_is_remembered_and_follows_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_RACY_S", -60.0)
    monkeypatch.setattr(digests, "_REMEMBERED_BYTES", 0)
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
