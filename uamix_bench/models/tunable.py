"""Contract of a model that can be tuned: what `tune`, `pretrain --init` and `ablate` need besides `AudioModel`."""

from __future__ import annotations

from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from uamix_bench.models.model import AudioModel, Source
from uamix_bench.models.vit import AudioViT
from uamix_bench.util.errors import own_code

_TRIED_S = 1.0  # of noise


class LogMelPower(Protocol):
    """Front end that gives log-mel power in nepers, before any normalisation, such as `KaldiFbank`."""

    @property
    def num_mel_bins(self) -> int:
        """Number of mel bins, F."""

    @property
    def mel_hz(self) -> Tensor:
        """Centre frequencies of the mel bins, (F,) float32, Hz."""

    def __call__(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, T, F) and their counts (B,) of waveforms (B, S) float32 and lengths (B,) in samples."""


@runtime_checkable
class Spectral(Protocol):
    """Model whose log-mel power can be mixed and augmented before it is normalised.

    Attributes:
        fbank: Front end up to the log-mel power.
    """

    fbank: LogMelPower

    def normalise(self, spectrogram: Tensor) -> Tensor:
        """Input of the encoder, (B, T, F) float32, for log-mel power (B, T, F) float32."""


@runtime_checkable
class Tunable(Spectral, Protocol):
    """Model that can be tuned by uaMix-MAE's two stages, or pre-trained further.

    Attributes:
        encoder: Encoder of `normalise`'s output, with time-major tokens; its weights are trained in place.
        sample_rate: Sample rate of `fbank`, in Hz.
        metadata: Texts of the weights file. ``sha256`` is the digest that tuned weights name as their parent's.
        source: Arguments that loaded the model.
    """

    encoder: AudioViT
    sample_rate: int
    metadata: dict[str, str]
    source: Source

    def state_dict(self) -> dict[str, Any]:
        """Tensors of the whole model by name, which the tuned weights file holds."""


def lacks(model: AudioModel) -> str:
    """Parts of `Tunable` that a model does not have, in words; empty if it can be tuned.

    Raises:
        OwnCodeError: A user's own `fbank` or `normalise` raises an error on a second of noise.
    """
    found: Any = model
    encoder, fbank = getattr(found, "encoder", None), getattr(found, "fbank", None)
    missing = []
    if not isinstance(encoder, AudioViT):
        missing.append("encoder (an AudioViT)")
    elif encoder.shape.mel_first:
        missing.append("an encoder with time-major tokens")
    if not callable(fbank) or not hasattr(fbank, "mel_hz") or not hasattr(fbank, "num_mel_bins"):
        missing.append("fbank (a front end with num_mel_bins and mel_hz)")
    if not callable(getattr(found, "normalise", None)):
        missing.append("normalise (a method)")
    return ", ".join(missing) or _misfit(cast(Tunable, model))


def _misfit(model: Tunable) -> str:
    """Difference between what `fbank` and `normalise` give and what the encoder takes, in words; empty if none."""
    samples = round(_TRIED_S * model.sample_rate)
    noise = 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        with own_code("fbank", type(model)):
            frames, _ = model.fbank(noise, torch.tensor([samples]))
        with own_code("normalise", type(model)):
            given = model.normalise(frames)
    bins = model.encoder.shape.mel_bins
    if frames.ndim != 3 or frames.shape[2] != bins or model.fbank.num_mel_bins != bins:
        return f"an fbank of the encoder's {bins} mel bins (it gives {tuple(frames.shape)})"
    if given.shape != frames.shape:
        return f"a normalise that keeps the shape (it gives {tuple(given.shape)} for {tuple(frames.shape)})"
    return ""
