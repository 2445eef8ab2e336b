"""What the tests of several adapters do: make a sound, embed it alone, measure how far two outputs are apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from uamix_bench.models.model import AudioModel
from uamix_bench.util.errors import BadInputError


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


def assert_alike_in_any_batch(model: AudioModel) -> None:
    """Clips of many lengths, and 16 of one, get in a batch what each gets alone."""
    lengths = [52_803, 10, 16_000, 2_799, 2_800, 5_360, 40_000, 16_000]
    for clips in (
        [sound(samples, seed) for seed, samples in enumerate(lengths)],
        [sound(16_000, seed) for seed in range(16)],
    ):
        own = np.concatenate([model.embed([clip], model.sample_rate) for clip in clips])
        np.testing.assert_allclose(model.embed(clips, model.sample_rate), own, atol=1e-5, rtol=0)


def assert_end_is_its_own(model: Any, lengths: Sequence[int]) -> None:
    """What stands past a clip's end changes no frame of it."""
    for samples in lengths:
        with torch.inference_mode():
            found, counts = model.frontend(sound(20_000).unsqueeze(0), torch.tensor([samples]))
        own = alone(model, sound(20_000)[:samples])[0]
        torch.testing.assert_close(found[0, : counts[0]], own, atol=0, rtol=0)


def assert_tokens_alike_in_a_batch(
    model: Any, waves: Sequence[Tensor], rows: int, before: int = 0, rtol: float = 0.0
) -> None:
    """A clip has in a batch the tokens that it has alone: `before`, then so many `rows` for each time column."""
    padded = torch.nn.utils.rnn.pad_sequence(list(waves), batch_first=True)
    with torch.inference_mode():
        tokens, mask = model.tokens(*model.frontend(padded, torch.tensor([len(wave) for wave in waves])))
    for row, wave in enumerate(waves):
        own = alone(model, wave)[1]
        assert mask[row].sum() == len(own) == before + rows * model.token_columns(len(wave))
        torch.testing.assert_close(tokens[row, mask[row]], own, atol=1e-5, rtol=rtol)
