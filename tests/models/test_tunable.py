"""What a model lacks for tuning is named part by part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from uamix_bench import AudioModel, load_model
from uamix_bench.models.frontend import KaldiFbank
from uamix_bench.models.tunable import Spectral, Tunable, lacks
from uamix_bench.models.vit import AudioViT, ViTShape
from uamix_bench.util.errors import OwnCodeError


class Whole(AudioModel):
    sample_rate, embedding_dim = 16_000, 64

    def __init__(self, **parts: Any) -> None:
        super().__init__()
        self.encoder = parts.get("encoder", AudioViT(ViTShape(width=64, depth=1, heads=1)))
        self.fbank = parts.get("fbank", KaldiFbank(16_000, 128))

    def normalise(self, spectrogram: Tensor) -> Tensor:
        return spectrogram / 10


class Shortens(Whole):
    def normalise(self, spectrogram: Tensor) -> Tensor:
        return spectrogram[:, 1:]


class Raises(Whole):
    def normalise(self, spectrogram: Tensor) -> Tensor:
        raise ValueError("out of order")


@pytest.mark.parametrize(
    ("model", "missing"),
    [
        (Whole(), ""),
        (Whole(encoder=torch.nn.Linear(2, 2)), "encoder (an AudioViT)"),
        (Whole(encoder=None, fbank=None), "encoder (an AudioViT), fbank (a front end with num_mel_bins and mel_hz)"),
        (
            Whole(encoder=AudioViT(ViTShape(width=64, depth=1, heads=1, mel_first=True))),
            "an encoder with time-major tokens",
        ),
        (Whole(fbank=KaldiFbank(16_000, 80)), "an fbank of the encoder's 128 mel bins (it gives (1, 98, 80))"),
        (Shortens(), "a normalise that keeps the shape (it gives (1, 97, 128) for (1, 98, 128))"),
    ],
)
def test_what_is_missing_is_named(model: AudioModel, missing: str) -> None:
    assert lacks(model) == missing


def test_a_fault_of_one_s_own_code_is_one() -> None:
    with pytest.raises(OwnCodeError, match="normalise of Raises raises ValueError: out of order"):
        lacks(Raises())


def test_bundled_models_say_which_can_be_tuned() -> None:
    tunable = {name: not lacks(load_model(name, device="cpu")) for name in ("uamix-tiny", "audiomae-tiny", "logmel")}
    assert tunable == {"uamix-tiny": True, "audiomae-tiny": True, "logmel": False}
    assert isinstance(load_model("uamix-tiny"), Tunable)
    assert not isinstance(load_model("logmel"), Spectral)
