"""kill -9 at random moments, and a full disk: the same training goes on to the same bits."""

from __future__ import annotations

import copy
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from uamix_bench.models.vit import AudioViT
from uamix_bench.tuning.contrastive import HeadStage, Network, TuneStage
from uamix_bench.tuning.data import Frames
from uamix_bench.tuning.loop import Training
from uamix_bench.tuning.recipe import TuneRecipe
from uamix_bench.tuning.views import Spectrograms
from uamix_bench.util.errors import MachineError


def train(
    encoder: AudioViT, recipe: TuneRecipe, frames: Frames, spectrograms: Spectrograms, folder: Path
) -> dict[str, torch.Tensor]:
    network = Network(copy.deepcopy(encoder), recipe)
    stages = [kind(network, recipe, frames, spectrograms) for kind in (HeadStage, TuneStage)]
    Training(recipe, stages, frames, folder, {}).run()
    return network.state_dict()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kills", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_a_training_killed_again_and_again_reaches_the_same_bits(
    kills: int, encoder: AudioViT, tune_recipe: TuneRecipe, frames: Frames, spectrograms: Spectrograms, tmp_path: Path
) -> None:
    recipe = tune_recipe.model_copy(update={"checkpoint_every": 1})
    rng, killed = np.random.default_rng(kills), 0
    while killed < kills:
        child = os.fork()
        if not child:
            try:
                torch.set_num_threads(1)
                train(encoder, recipe, frames, spectrograms, tmp_path / "killed")
            finally:
                os._exit(0)
        time.sleep(float(rng.uniform(0.02, 0.4)))
        os.kill(child, signal.SIGKILL)
        killed += 1
        if os.WIFEXITED(os.waitpid(child, 0)[1]):
            break  # it was done before the signal came
        assert len(list((tmp_path / "killed").glob("*.pt"))) <= 3  # two, and one in passing
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resumed = train(encoder, recipe, frames, spectrograms, tmp_path / "killed")
        whole = train(encoder, recipe, frames, spectrograms, tmp_path / "whole")
    finally:
        torch.set_num_threads(threads)
    assert killed >= 2
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="a small file system needs root")
def test_a_full_disk_keeps_the_checkpoints_before(
    encoder: AudioViT, tune_recipe: TuneRecipe, frames: Frames, spectrograms: Spectrograms, small_disk: Path
) -> None:
    recipe = tune_recipe.model_copy(update={"checkpoint_every": 1})
    with pytest.raises(MachineError, match="no space left on the disk"):
        train(encoder, recipe, frames, spectrograms, small_disk)
    kept = sorted(small_disk.glob("*"))
    assert [path.suffix for path in kept] == [".pt"] * len(kept)
    assert kept
    assert torch.load(kept[-1], weights_only=True)["step"] >= 1
