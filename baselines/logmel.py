"""Log-mel baseline, a floor for every table: two statistics over time of each of 128 log-mel bins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uamix_bench.models.frontend import KaldiFbank
from uamix_bench.models.model import AudioModel
from uamix_bench.plugins.card import ModelCard, read_card


class LogMelStatistics(AudioModel):
    """Statistics of the spectrogram that AudioMAE sees, with no encoder at all."""

    card = read_card(Path(__file__).with_suffix(".toml"), ModelCard)
    poolings = ("mean-std", "mean-max")
    sample_rate = 16_000
    embedding_dim = 256

    def __init__(self) -> None:
        super().__init__()
        self.fbank = KaldiFbank(self.sample_rate, 128, window="hanning")

    @classmethod
    def untrained(cls, **arguments: Any) -> LogMelStatistics:
        """Builds the model, which has no weights."""
        return cls(**arguments)

    def frontend(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel frames (B, T, 128) of (B, S) waveforms, and their counts."""
        return self.fbank(waveforms, lengths)

    def tokens(self, spectrogram: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens, which are the frames themselves, and their mask."""
        return spectrogram, torch.arange(spectrogram.shape[1], device=lengths.device) < lengths[:, None]

    def token_columns(self, samples: int) -> int:
        """Number of frames of a clip."""
        return self.fbank.frames(samples)

    def pool(self, tokens: Tensor, mask: Tensor, how: str) -> Tensor:
        """Means, then population standard deviations or maxima, over the clip's own frames: (B, T, 128) to (B, 256)."""
        mean = super().pool(tokens, mask, how)
        if how == "mean-max":
            return torch.cat([mean, tokens.masked_fill(~mask[:, :, None], -torch.inf).amax(dim=1)], dim=1)
        variance = super().pool((tokens - mean[:, None]).square(), mask, how)
        return torch.cat([mean, variance.sqrt()], dim=1)
