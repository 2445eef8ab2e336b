"""What uaMix-MAE's half-frozen step saves, what mixing costs, and whether the model waits for its data.

CPU time in one thread; ratios within one run.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import pytest
import torch
from torch import Tensor

from uamix_bench.models.frontend import KaldiFbank
from uamix_bench.models.vit import AudioViT, ViTShape, initialise
from uamix_bench.tuning.contrastive import Network, TuneStage
from uamix_bench.tuning.data import Frames
from uamix_bench.tuning.loop import Batch, Training
from uamix_bench.tuning.recipe import TUNE
from uamix_bench.tuning.views import Spectrograms

FRAMES = 512  # 257 tokens
CLIPS = 2
RECIPE = TUNE["paper"].model_copy(
    update={"batch": CLIPS, "frames": (FRAMES,), "queue": 64, "top_k": 5, "precision": "float32", "mix": "none"}
)


@pytest.fixture(scope="module")
def data() -> tuple[Frames, Spectrograms]:
    rng = np.random.default_rng(0)
    count = np.full(160, 600)
    values = rng.normal(-6, 3, (int(count.sum()), 128)).astype(np.float16)
    frames = Frames(values, np.cumsum(count) - count, count, np.arange(160), "noise")
    return frames, Spectrograms(
        lambda x: (x + 6) / 3, KaldiFbank(16_000).mel_hz, TUNE["tiny"].views, torch.device("cpu")
    )


def stage(shape: ViTShape, data: tuple[Frames, Spectrograms], **changes: object) -> TuneStage:
    encoder = AudioViT(shape)
    initialise(encoder, torch.Generator().manual_seed(0))
    recipe = RECIPE.model_copy(update=changes)
    made = TuneStage(Network(encoder, recipe), recipe, *data)
    made.module.queue.push(torch.nn.functional.normalize(torch.randn(64, 256), dim=1), torch.full((64,), 999))
    return made


class Step:
    """One step of a stage: forward, backward, optimiser."""

    def __init__(self, made: TuneStage) -> None:
        self.stage, self.batch = made, Batch(1, 1, np.arange(CLIPS))
        self.optimizer = torch.optim.AdamW(made.parameter_groups(), lr=1e-6)
        self.batch = self.batch._replace(inputs=made.inputs(self.batch))

    def __call__(self) -> None:
        loss, _ = self.stage.step(self.batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def saved_bytes(self) -> int:
        """Activations that autograd keeps for the backward pass, each storage once, parameters not counted."""
        weights = {parameter.untyped_storage().data_ptr() for parameter in self.stage.module.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self.stage.step(self.batch)
        return sum(kept.values())


def spent(run: Callable[[], object]) -> float:
    begun = time.process_time()
    run()
    return time.process_time() - begun


# The reduced form has ViT-B's blocks, and fewer of them.
SHAPES = [
    pytest.param(ViTShape(depth=4), 3, id="reduced"),
    pytest.param(ViTShape(), 3, id="ViT-B", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("shape", "rounds"), SHAPES)
@pytest.mark.over_3s
def test_a_half_frozen_step_is_faster_and_keeps_half(
    shape: ViTShape, rounds: int, data: tuple[Frames, Spectrograms], capsys: pytest.CaptureFixture[str]
) -> None:
    half, full = Step(stage(shape, data)), Step(stage(shape, data, frozen=0.0))
    share = half.saved_bytes() / full.saved_bytes()
    half(), full()
    ratios = [spent(full) / spent(half) for _ in range(rounds)]
    with capsys.disabled():
        print(f"\nhalf frozen, {shape.depth} blocks: {median(ratios):.2f}x as fast, {share:.2f}x the activations")
    assert median(ratios) >= 1.35
    assert share <= 0.55


def test_mixing_is_a_fiftieth_of_a_step(data: tuple[Frames, Spectrograms], capsys: pytest.CaptureFixture[str]) -> None:
    made = stage(ViTShape(depth=4), data, mix="t-cutmix")
    step = Step(made)
    step()
    rows = np.arange(CLIPS)

    def mix() -> None:
        for side, view in enumerate(step.batch.inputs):
            made.mixture(view, step.batch, rows, side)

    mix()
    share = median(spent(lambda: [mix() for _ in range(10)]) / 10 for _ in range(5)) / median(
        spent(step) for _ in range(3)
    )
    with capsys.disabled():
        print(f"\nmixing: {share:.2%} of a step of 4 blocks")
    assert share < 0.02


def test_the_tiny_model_hardly_waits_for_its_data(
    data: tuple[Frames, Spectrograms], tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = TUNE["tiny"].model_copy(
        update={"batch": 32, "queue": 64, "epochs": 3, "head_epochs": 0, "checkpoint_every": 1_000}
    )
    frames, spectrograms = data
    network = Network(AudioViT(ViTShape(width=192, depth=6, heads=3)), recipe)
    training = Training(recipe, [TuneStage(copy.deepcopy(network), recipe, frames, spectrograms)], frames, tmp_path, {})  # type: ignore[arg-type]
    training.run()
    (pace,) = training.paces
    with capsys.disabled():
        print(f"\nwaiting for data: {pace.waiting_s / pace.seconds:.1%} of {pace.seconds:.1f} s")
    assert pace.waiting_s < 0.1 * pace.seconds
