"""Trainings on a GPU beside the same on the CPU. Each test runs on the CPU too, where nothing may differ at all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from uamix_bench.models.frontend import KaldiFbank
from uamix_bench.models.vit import AudioViT, ViTShape, initialise, sincos_table
from uamix_bench.tuning.contrastive import HeadStage, Network, TuneStage
from uamix_bench.tuning.data import Frames
from uamix_bench.tuning.loop import Batch, Stage, Training
from uamix_bench.tuning.pretrain import Pretraining
from uamix_bench.tuning.recipe import PretrainRecipe, Recipe, TuneRecipe
from uamix_bench.tuning.views import _WEYL, DRAWS, Spectrograms, Views, hashed_noise, noisy, splitmix64
from uamix_bench.util.errors import MachineError, Stopped
from uamix_bench.util.progress import SILENT, Progress

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_GPU)]
PAIRS = [("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")]
MOVES = [("cpu", "cpu"), *(pytest.param(*pair, marks=NEEDS_GPU) for pair in PAIRS)]
QUIET = Views(noise_p=0)  # noise is drawn otherwise there
Make = Callable[..., Training]


class Losses(Progress):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "clips") -> Iterator[Callable[[int, str], None]]:
        def advance(count: int, note: str = "") -> None:
            if unit == "steps" and note:
                self.values.append(float(note.split()[1]))

        yield advance


@pytest.fixture(params=["tune", "pretrain"])
def make(
    request: pytest.FixtureRequest, tune_recipe: TuneRecipe, pretrain_recipe: PretrainRecipe, frames: Frames
) -> Make:
    """Makes a training of the smallest size: 16 or 20 steps on a device."""

    def training(
        device: str, folder: Path, *, double: bool = False, progress: Progress = SILENT, **options: Any
    ) -> Training:
        shape = ViTShape(width=32, depth=4, heads=2)
        encoder = AudioViT(shape)
        initialise(encoder, torch.Generator().manual_seed(3))
        encoder.stem.pos_embed.copy_(sincos_table(shape.width, shape.columns, shape.rows))
        kind = torch.float64 if double else torch.float32
        made = Spectrograms(lambda x: (x.to(kind) + 6) / 3, KaldiFbank(16_000).mel_hz, QUIET, torch.device(device))
        precision = options.pop("precision", "float32")
        recipe: Recipe
        stages: list[Stage]
        if request.param == "tune":
            recipe = tune_recipe.model_copy(update={"precision": precision, "micro_batch": 4, "views": QUIET})
            network = Network(encoder, recipe)
            network.to(torch.device(device), kind).queue.float()
            stages = [HeadStage(network, recipe, frames, made), TuneStage(network, recipe, frames, made)]
        else:
            recipe = pretrain_recipe.model_copy(update={"precision": precision, "epochs": 4, "views": QUIET})
            stages = [Pretraining(encoder, recipe, frames, made)]
            stages[0].module.to(torch.device(device), kind)
        return Training(recipe, stages, frames, folder, {}, progress, **options)

    return training


def losses(training: Training) -> list[float]:
    progress = Losses()
    training.progress = progress
    training.run()
    assert all(value.isfinite().all() for value in training.stages[-1].module.state_dict().values())
    return progress.values


@pytest.mark.parametrize("device", DEVICES)
def test_the_losses_are_those_of_the_cpu(device: str, make: Make, tmp_path: Path) -> None:
    """In double precision, as single precision lets some weights go their own way (test_distributed.py)."""
    expected = losses(make("cpu", tmp_path / "cpu", double=True))
    found = losses(make(device, tmp_path / "device", double=True))
    assert len(found) >= 16
    assert found == pytest.approx(expected, abs=0 if device == "cpu" else 1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("device", DEVICES)
def test_the_first_losses_are_near_in_every_precision(device: str, precision: str, make: Make, tmp_path: Path) -> None:
    """Before neighbours differ, which a bit of rounding can decide."""
    expected = losses(make("cpu", tmp_path / "cpu"))
    found = losses(make(device, tmp_path / "device", precision=precision))
    assert found[0] == pytest.approx(expected[0], rel=0.02)
    assert np.mean(found) == pytest.approx(np.mean(expected), rel=0.1)


@pytest.mark.parametrize(("begun", "continued"), MOVES)
def test_a_stopped_training_continues_there_and_elsewhere(
    begun: str, continued: str, make: Make, tmp_path: Path
) -> None:
    whole = losses(make("cpu", tmp_path / "whole", double=True))
    asked = iter(range(1, 99))
    with pytest.raises(Stopped, match="repeat the command to resume"):
        make(begun, tmp_path / "parts", double=True, stop=lambda: next(asked) == 11).run()
    rest = losses(make(continued, tmp_path / "parts", double=True))
    assert len(rest) == len(whole) - 11
    assert rest == pytest.approx(whole[11:], abs=0 if begun == continued == "cpu" else 1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_what_does_not_fit_into_memory_is_one_line(device: str, make: Make, tmp_path: Path) -> None:
    training = make(device, tmp_path)
    stage = training.stages[0]

    def inputs(batch: Batch) -> Any:
        return torch.empty(1 << 48, device=device) if batch.step == 4 else type(stage).inputs(stage, batch)

    stage.inputs = inputs  # type: ignore[method-assign]
    with pytest.raises(
        MachineError, match=r"a step does not fit into memory; take .* --set (micro_)?batch=N$"
    ) as error:
        training.run()
    assert error.value.exit_code == 4
    assert list(tmp_path.glob("*.pt"))  # what was done before is kept


# --- noise


def steele(seed: int, count: int) -> list[int]:
    """SplitMix64 as its authors wrote it, in whole numbers."""
    state, words = seed, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        word = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) % 2**64
        words.append(word ^ (word >> 31))
    return words


def test_the_oracle_gives_the_published_words() -> None:
    assert steele(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", [0, 1234567, (1 << 62) + 5])
def test_the_words_are_splitmix64s(device: str, seed: int) -> None:
    words = splitmix64(torch.tensor(seed, device=device) + torch.arange(1, 1_000, device=device) * _WEYL)
    assert [word % 2**64 for word in words.tolist()] == steele(seed, 999)


@pytest.mark.parametrize("device", DEVICES)
def test_hashed_noise_is_exponential_and_its_rows_are_strangers(device: str) -> None:
    from scipy.stats import kstest

    noise = hashed_noise(torch.arange(40, device=device), 100, 128)
    power = noise.cpu().double().exp()
    assert kstest(power.flatten().numpy()[::7], "expon").pvalue > 1e-3
    rows = torch.corrcoef(power.flatten(1)).fill_diagonal_(0)
    assert rows.abs().max() < 5 / power[0].numel() ** 0.5
    assert hashed_noise(torch.tensor([7], device=device), 100, 128)[0].equal(noise[7])


@pytest.mark.parametrize("device", DEVICES)
def test_a_view_depends_on_its_own_clip_and_draws_alone(device: str, frames: Frames) -> None:
    made = Spectrograms(lambda x: (x + 6) / 3, KaldiFbank(16_000).mel_hz, Views(), torch.device(device))
    clips, draws, seeds = np.arange(12), np.random.default_rng(0).random((12, DRAWS)), np.arange(12) + (1 << 61)
    assert 0 < noisy(draws, Views()).sum() < 12
    whole, some = made(frames, clips, draws, 48, seeds), np.array([7, 2, 3])
    assert whole.device.type == device
    torch.testing.assert_close(made(frames, clips[some], draws[some], 48, seeds[some]), whole[some], atol=1e-4, rtol=0)


@NEEDS_GPU
def test_a_view_without_noise_is_that_of_the_cpu(frames: Frames) -> None:
    clips, draws, seeds = np.arange(12), np.random.default_rng(0).random((12, DRAWS)), np.arange(12)
    here, there = (
        Spectrograms(lambda x: (x + 6) / 3, KaldiFbank(16_000).mel_hz, QUIET, torch.device(device))(
            frames, clips, draws, 48, seeds
        ).cpu()
        for device in ("cpu", "cuda")
    )
    torch.testing.assert_close(there, here, atol=1e-3, rtol=0)


# --- several processes

COLLECTIVES = """
import sys, torch, torch.distributed as dist
from uamix_bench.tuning import distributed
device = torch.device(sys.argv[1])
dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", rank=0, world_size=1)
dist.barrier()
dist.all_gather_object([None], {"host": "here"})
sums = torch.arange(6.0, dtype=torch.float64, device=device).requires_grad_()
total = distributed._Sum.apply(sums)
total.square().sum().backward()
assert total.equal(sums) and sums.grad.equal(2 * sums)
parts = [torch.empty(3, device=device)]
dist.all_gather(parts, torch.ones(3, device=device))
assert parts[0].sum().item() == 3
stop = torch.ones(2, dtype=torch.float64)
dist.all_reduce(stop)
dist.barrier(group=dist.new_group(backend="gloo"))
dist.destroy_process_group()
print("done")
"""


@pytest.mark.parametrize("device", DEVICES)
def test_the_backends_can_do_what_a_training_asks_of_them(device: str) -> None:
    """NCCL refuses two processes on one GPU: here each collective in a group of one."""
    from .test_distributed import free_port

    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COLLECTIVES, device], capture_output=True, text=True, env={**os.environ, **place}
    )
    assert done.stdout == "done\n", done.stderr
