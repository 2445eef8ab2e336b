"""uaMix-MAE (ICASSP 2024): an AudioMAE encoder after contrastive tuning on mixtures. Reads what ``tune`` writes."""

from __future__ import annotations

from pathlib import Path

from uamix_bench.plugins.card import ModelCard, read_card
from uamix_bench.util.errors import BadInputError

from .audiomae import AudioMAE


class UaMixMAE(AudioMAE):
    """Tuned encoder with AudioMAE's architecture and front end, pooled as in its tuning."""

    card = read_card(Path(__file__).with_suffix(".toml"), ModelCard)

    @classmethod
    def from_checkpoint(cls, path: Path) -> AudioMAE:
        """Builds the model of a file that ``uamix-bench tune`` wrote, by its metadata."""
        model = super().from_checkpoint(path)
        if model.metadata.get("kind") != "tune":
            raise BadInputError(path, "was not written by 'uamix-bench tune'", f"give it as audiomae={path}")
        return model
