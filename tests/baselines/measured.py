"""What the tests of several adapters do: make a sound, embed it alone, measure how far two outputs are apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from uamix_bench.errors import BadInputError
from uamix_bench.model import AudioModel


def sound(samples: int, seed: int = 0) -> Tensor:
    """Noise whose level wavers, so that no mel bin is empty and no column like another."""
    generator = torch.Generator().manual_seed(20_221_218 + seed)
    level = 0.2 + 0.15 * torch.sin(torch.arange(samples) / (300.0 + 100 * seed))
    return level * torch.randn(samples, generator=generator)


def alone(model: Any, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Spectrogram (T, F) and tokens (L, D) of one clip."""
    with torch.inference_mode():
        spectrogram, counts = model.frontend(samples.unsqueeze(0), torch.tensor([len(samples)]))
        tokens, mask = model.tokens(spectrogram, counts)
    assert mask.all()
    assert mask.shape == tokens.shape[:2]
    return spectrogram[0], tokens[0]


def pooled(model: AudioModel, how: str, wave: Tensor, sample_rate: int | None = None) -> npt.NDArray[np.float32]:
    """(D,) embedding of one clip, by default at the model's own rate."""
    model.pooling = how
    return model.embed([wave], sample_rate or model.sample_rate)[0]


def distance(found: Any, expected: Any) -> float:
    """Relative L2."""
    found, expected = (np.asarray(values, np.float64) for values in (found, expected))
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def refused(adapter: type[AudioModel], path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(BadInputError) as caught:
        adapter.from_checkpoint(path)
    assert caught.value.subject == str(path)
    assert caught.value.exit_code == 3
    return str(caught.value)
