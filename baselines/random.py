"""Random baseline, a floor for every table: AudioMAE's architecture at the bundled size, weights from a fixed seed."""

from __future__ import annotations

from pathlib import Path

import torch

from uamix_bench.models.vit import ViTShape, initialise, sincos_table
from uamix_bench.plugins.card import ModelCard, read_card

from .audiomae import AudioMAE


class RandomEncoder(AudioMAE):
    """Encoder with random weights, which shows the share of the architecture alone."""

    card = read_card(Path(__file__).with_suffix(".toml"), ModelCard)

    @classmethod
    def untrained(cls) -> RandomEncoder:
        """Builds the encoder from seed 0, with MAE's initialisation and the sine-cosine positions."""
        shape = ViTShape(width=192, depth=6, heads=3)
        with torch.device("meta"):
            model = cls(shape)
        model.to_empty(device="cpu")
        initialise(model, torch.Generator().manual_seed(0))
        model.encoder.stem.pos_embed.copy_(sincos_table(shape.width, shape.columns, shape.rows))
        return model
