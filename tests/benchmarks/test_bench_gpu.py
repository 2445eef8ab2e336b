"""What a GPU makes of the paper's recipe: clips per second, and their share of its rate of bfloat16 products.

The reduced form runs the same code with a small encoder on the CPU, where its figures mean nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from uamix_bench.models.checkpoint import write_safetensors
from uamix_bench.models.frontend import KaldiFbank
from uamix_bench.models.loading import load_model
from uamix_bench.models.vit import AudioViT, ViTShape, initialise
from uamix_bench.plugins.registry import models
from uamix_bench.tuning.contrastive import HeadStage, Network, TuneStage
from uamix_bench.tuning.data import Frames
from uamix_bench.tuning.loop import Training
from uamix_bench.tuning.recipe import TUNE, TuneRecipe
from uamix_bench.tuning.throughput import matrix_rate, wait_for
from uamix_bench.tuning.views import Spectrograms
from uamix_bench.util.progress import Progress

WARM_UP = 4  # steps
SECONDS = 10


class Size(NamedTuple):
    """What is measured, and where."""

    device: str
    shape: ViTShape
    batch: int
    micro_batch: int
    frames: int
    steps: int


NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SMALL = Size("cpu", ViTShape(width=64, depth=2, heads=1), 4, 2, 64, 6)
SIZES = [
    pytest.param(SMALL, id="reduced"),
    pytest.param(Size("cuda", ViTShape(), 256, 128, 1024, 16), id="ViT-B", marks=NEEDS_GPU),
]


class Clock(Progress):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "clips") -> Iterator[Callable[[int, str], None]]:
        def advance(count: int, note: str = "") -> None:
            if unit == "steps" and note:
                self.ends.append(time.perf_counter())

        yield advance


class Measured(NamedTuple):
    """Of steps without the first ones: the rate, its share, the waiting for data, and the loss of the first."""

    clips_s: float
    share: float
    waiting: float
    loss: float


def train(size: Size, kind: type[HeadStage | TuneStage], folder: Path, *, compiled: bool = False) -> Measured:
    """Trains a stage of the paper's recipe on noise, from random weights and a full queue."""
    device, clips = torch.device(size.device), 2 * size.batch
    rng = np.random.default_rng(0)
    values = (3 * rng.standard_normal((100 * clips + 1_000, 128), np.float32) - 6).astype(np.float16)
    frames = Frames(values, 100 * np.arange(clips), np.full(clips, 1_000), np.arange(clips), "noise")
    changes = {"batch": size.batch, "micro_batch": size.micro_batch, "frames": (size.frames,), "checkpoint_every": 999}
    queue = 64 * size.batch
    epochs = {"epochs": size.steps // 2, "head_epochs": size.steps // 2}
    recipe: TuneRecipe = TUNE["paper"].model_copy(update={**changes, **epochs, "queue": queue})
    encoder = AudioViT(size.shape)
    initialise(encoder, torch.Generator().manual_seed(0))
    network = Network(encoder, recipe).to(device)
    entries = torch.randn(queue, recipe.projector[-1], generator=torch.Generator().manual_seed(1))
    network.queue.push(normalize(entries, dim=1).to(device), torch.full((queue,), clips, device=device))
    if compiled:
        for block in encoder.blocks:
            block.compile()
    made = Spectrograms(lambda x: (x + 6) / 3, KaldiFbank(16_000).mel_hz, recipe.views, device)
    stage = kind(network, recipe, frames, made)
    if kind is HeadStage:
        stage.begin = lambda: None  # type: ignore[method-assign] - the queue is full
    clock = Clock()
    training = Training(recipe, [stage], frames, folder, {}, clock)
    training.run()
    (pace,) = training.paces
    clips_s = size.batch / median(np.diff(clock.ends[WARM_UP - 1 :]).tolist())
    operations = pace.operations
    assert operations is not None
    share = clips_s * operations / matrix_rate(device, 8192 if size.device == "cuda" else 512)
    said = f"{stage.name}{', blocks compiled' * compiled}, batch {size.batch} in {size.micro_batch}s, T {size.frames}"
    memory = f"{(pace.peak_memory_mb or 0) / 1e3:.1f} GB at most, {pace.waiting_s / pace.seconds:.1%} waiting"
    print(f"\n{size.device}: {said}: {clips_s:.1f} clips/s, {share:.1%} of the matrix rate, {memory}")
    return Measured(clips_s, share, pace.waiting_s / pace.seconds, training.history[0]["loss"])


@pytest.mark.parametrize("kind", [TuneStage, HeadStage])
@pytest.mark.parametrize("size", SIZES)
def test_the_papers_recipe_uses_the_gpu(size: Size, kind: Any, tmp_path: Path) -> None:
    rate = matrix_rate(torch.device(size.device), 8192 if size.device == "cuda" else 512)
    print(f"\n{size.device}: {rate / 1e12:.3g} bfloat16 teraoperations/s in matrix products")
    found = train(size, kind, tmp_path)
    assert size.device == "cpu" or found.share > 0.1
    assert size.device == "cpu" or kind is HeadStage or found.waiting < 0.25


@pytest.mark.parametrize("size", SIZES)
def test_embedding_uses_the_gpu(size: Size, tmp_path: Path) -> None:
    """Clips in memory, of ten seconds: copied to the device, front end, encoder, pooling, copied back."""
    device, clips = torch.device(size.device), 64 if size.device == "cuda" else 2
    fresh = models()["audiomae"].load()(size.shape)
    initialise(fresh, torch.Generator().manual_seed(0))
    write_safetensors(tmp_path / "model.safetensors", fresh.state_dict(), {"format": "uamix-bench/1"})
    waves = list((0.1 * np.random.default_rng(0).standard_normal((clips, SECONDS * 16_000))).astype(np.float32))
    rates = {}
    for dtype in ("float32", "bf16"):
        model = load_model(f"audiomae={tmp_path / 'model.safetensors'}", device=size.device, dtype=dtype)
        spent = []
        for _ in range(7):
            wait_for(device)
            begun = time.perf_counter()
            vectors = model.embed(waves, 16_000)
            spent.append(time.perf_counter() - begun)
        assert np.isfinite(vectors).all()
        rates[dtype] = clips / median(spent[2:])
        print(f"\n{size.device}: embedding, batch {clips}, {dtype}: {rates[dtype]:.0f} clips/s")
    assert size.device == "cpu" or rates["bf16"] > rates["float32"]


@NEEDS_GPU
def test_compiled_blocks_train_alike(tmp_path: Path) -> None:
    """What torch.compile of the encoder's blocks would bring; the compilation falls into the first steps."""
    size = SIZES[1].values[0]._replace(steps=12)
    plain = train(size, TuneStage, tmp_path / "plain")
    compiled = train(size, TuneStage, tmp_path / "compiled", compiled=True)
    print(f"\ntorch.compile of the blocks: {compiled.clips_s / plain.clips_s:.2f}x as fast")
    assert compiled.loss == pytest.approx(plain.loss, rel=0.02)
