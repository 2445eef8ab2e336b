"""uaMix-MAE (ICASSP 2024): an AudioMAE encoder after contrastive tuning on mixtures. Reads what ``tune`` writes."""

from __future__ import annotations

from pathlib import Path

from uamix_bench.card import ModelCard, read_card

from .audiomae import AudioMAE


class UaMixMAE(AudioMAE):
    """The tuned encoder: AudioMAE's architecture, front end and pooling."""

    card = read_card(Path(__file__).with_suffix(".toml"), ModelCard)
