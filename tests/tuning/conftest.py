"""A small encoder, its spectrograms, and the smallest recipes."""

from __future__ import annotations

import pytest
import torch

from uamix_bench.models.frontend import KaldiFbank
from uamix_bench.models.vit import AudioViT, ViTShape, initialise, sincos_table
from uamix_bench.tuning.recipe import PRETRAIN, TUNE, PretrainRecipe, TuneRecipe
from uamix_bench.tuning.views import Spectrograms, Views

SHORT = {"checkpoint_every": 3, "precision": "float32"}


@pytest.fixture
def encoder() -> AudioViT:
    shape = ViTShape(width=32, depth=4, heads=2)
    vit = AudioViT(shape)
    initialise(vit, torch.Generator().manual_seed(3))
    vit.stem.pos_embed.copy_(sincos_table(shape.width, shape.columns, shape.rows))
    return vit


@pytest.fixture(scope="session")
def spectrograms() -> Spectrograms:
    return Spectrograms(lambda x: (x + 6) / 3, KaldiFbank(16_000).mel_hz, Views(), torch.device("cpu"))


@pytest.fixture(scope="session")
def tune_recipe() -> TuneRecipe:
    small = {"batch": 8, "frames": (32, 48), "queue": 16, "top_k": 3, "projector": (24, 24, 16), "predictor": 24}
    return TUNE["tiny"].model_copy(update={**small, "pooling": "mean", "head_epochs": 2, "epochs": 2, **SHORT})


@pytest.fixture(scope="session")
def pretrain_recipe() -> PretrainRecipe:
    small = {"width": 32, "depth": 4, "heads": 2, "decoder_width": 24, "decoder_depth": 2, "batch": 8, "frames": (64,)}
    return PRETRAIN["tiny"].model_copy(update={**small, "epochs": 2, **SHORT})
