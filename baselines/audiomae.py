"""AudioMAE (Huang et al., NeurIPS 2022): a ViT pre-trained by masked spectrogram modelling.

Reads the official ``pretrained.pth`` and fine-tuned files (facebookresearch/AudioMAE), timm's state dicts of
``vit_base_patch16_1024_128``, and what ``uamix-bench pretrain`` and ``tune`` write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uamix_bench.models.checkpoint import load_state, read_checkpoint
from uamix_bench.models.frontend import KaldiFbank
from uamix_bench.models.model import AudioModel
from uamix_bench.models.vit import CENTRED, HEAD_DIM, STACKED, AudioViT, ViTShape, encoder_keys, find_shape
from uamix_bench.plugins.card import ModelCard, read_card

from .formats import own_checkpoint

# AudioSet's statistics: dataset.py and main_pretrain.py of the official code; the spread is doubled when dividing.
MEAN, STD = -4.2677393, 4.5689974
FRAMES = 1024  # target_length of pre-training


class AudioMAE(AudioModel):
    """AudioMAE's encoder.

    Args:
        shape: Sizes of the encoder.
        norm: Whether the file has a LayerNorm over tokens (pre-trained); if False, it has one after pooling
            (fine-tuned).

    Attributes:
        centre: Mean embedding of the training clips under `centred`, (D',) float32; None if the file keeps none.
        centred: Pooling that the mean is of.
    """

    centre: Tensor | None
    card = read_card(Path(__file__).with_suffix(".toml"), ModelCard)
    poolings: tuple[str, ...] = ("mean", "cls", *STACKED, "prenorm-mean")
    sample_rate = 16_000

    def __init__(self, shape: ViTShape, norm: bool = True) -> None:
        super().__init__()
        self.encoder = AudioViT(shape, norm=norm)
        if not norm:
            self.fc_norm = nn.LayerNorm(shape.width, eps=1e-6)
            self.poolings = ("fc-norm", "prenorm-mean")
            self.pooling = "fc-norm"
        self.fbank = KaldiFbank(self.sample_rate, shape.mel_bins, window="hanning")
        self.register_buffer("centre", None)
        self.centred = self.pooling

    @property
    def embedding_dim(self) -> int:  # type: ignore[override]
        """Embedding size: D, or rows x D a statistic with the mel rows stacked."""
        how = self.centred if self.pooling == CENTRED else self.pooling
        shape = self.encoder.shape
        return shape.width * (shape.rows * STACKED[how] if how in STACKED else 1)

    @staticmethod
    def normalise(spectrogram: Tensor) -> Tensor:
        """Normalised spectrogram, (x - mean) / (2 std), with AudioSet's statistics, whatever the data."""
        return (spectrogram - MEAN) / (2 * STD)

    def frontend(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Kaldi filterbank of the waveform less its mean, zero rows appended, then normalised.

        Args:
            waveforms: (B, S) float32 in [-1, 1] at 16 kHz.
            lengths: (B,) number of samples of each clip.

        Returns:
            (B, T, F) float32 spectrograms and their (B,) frames that count: all 1,024 under ``official``, whole patches
            of the clip's own frames under ``native`` (at least one, zero-padded; an incomplete last patch is dropped,
            as in BEATs and MAE-AST).
        """
        inside = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths[:, None]
        mean = (waveforms * inside).sum(dim=1) / lengths.clamp_min(1)
        frames, counts = self.fbank(torch.where(inside, waveforms - mean[:, None], 0.0), lengths)
        if self.input == "official":
            length, counts = FRAMES, torch.full_like(counts, FRAMES)
        else:
            counts = self._whole(counts)
            length = int(counts.max())
        frames = nn.functional.pad(frames[:, :length], (0, 0, 0, max(0, length - frames.shape[1])))
        return self.normalise(frames), counts

    def tokens(self, spectrogram: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the final tokens before the norm, CLS first: (B, 1 + L, D), and their mask (B, 1 + L)."""
        tokens: tuple[Tensor, Tensor] = self.encoder(spectrogram, lengths)
        return tokens

    def pool(self, tokens: Tensor, mask: Tensor, how: str) -> Tensor:
        """Pools tokens before the norm (B, 1 + L, D) into (B, D').

        ``mean``: patches after the norm; ``cls``: CLS after it; ``prenorm-mean``: patches before it; ``stacked``:
        patches after the norm, the mel rows side by side, averaged over time (as M2D pools; D' = rows x D);
        ``stacked-mean-max``: that mean, and beside it the maximum over time (the project's own; D' = 2 x rows x D);
        ``centred``: the pooling that `centre` is of, less `centre`, at unit length (the project's own). A fine-tuned
        file has no norm over tokens, so it has ``prenorm-mean`` and ``fc-norm``, that through its fc_norm.
        """
        if how == CENTRED:
            assert self.centre is not None  # or the model has no such pooling
            return nn.functional.normalize(self.pool(tokens, mask, self.centred) - self.centre, dim=1)
        patches, own = tokens[:, 1:], mask[:, 1:]
        if how == "cls":
            first: Tensor = self.encoder.norm(tokens[:, 0])
            return first
        if how == "prenorm-mean":
            return super().pool(patches, own, how)
        if how == "fc-norm":
            normed: Tensor = self.fc_norm(super().pool(patches, own, how))
            return normed
        patches = self.encoder.norm(patches)
        if how not in STACKED:
            return super().pool(patches, own, how)
        rows = self.encoder.shape.rows
        steps, own = patches.unflatten(1, (-1, rows)).flatten(2), own[:, ::rows]
        mean = super().pool(steps, own, how)
        if how == "stacked":
            return mean
        return torch.cat([mean, steps.masked_fill(~own[:, :, None], -torch.inf).amax(dim=1)], dim=1)

    def layers(self) -> list[nn.Module]:
        """Layers of the encoder: the stem, then the blocks."""
        return self.encoder.layers()

    def token_columns(self, samples: int) -> int:
        """Number of time columns of a clip of `samples` samples."""
        if self.input == "official":
            return FRAMES // self.encoder.shape.patch_frames
        frames = self.fbank.frames(samples)
        return int(self._whole(torch.tensor(frames))) // self.encoder.shape.patch_frames

    def _whole(self, frames: Tensor) -> Tensor:
        """Number of frames of whole patches within `frames`, at least one patch, at most the position table."""
        shape = self.encoder.shape
        return (frames // shape.patch_frames).clamp(1, shape.columns) * shape.patch_frames

    @classmethod
    def from_checkpoint(cls, path: Path) -> AudioMAE:
        """Builds the model of a file: width and depth from its tensors, pooling from the recipe that made it."""
        what = "AudioMAE"
        checkpoint = own_checkpoint(read_checkpoint(path), "audiomae", what)
        stored = checkpoint.tensors
        tensors = encoder_keys(stored)
        found = find_shape(tensors, path=path, what=what, published=not _any(stored, "encoder.stem."))
        norm = _any(tensors, "encoder.norm.") or not _any(tensors, "fc_norm.")
        with torch.device("meta"):
            model = cls(ViTShape(found.width, found.depth, found.width // HEAD_DIM), norm)
        pooling = _recipe(checkpoint.metadata).get("pooling")
        if pooling in model.poolings:
            model.prefer(pooling)
            if "centre" in stored:
                model.centre, model.centred = torch.empty(model.embedding_dim, device="meta"), pooling
                model.prefer(CENTRED)
        load_state(model, tensors, path=path, what=what)
        model.metadata = {**checkpoint.metadata, "sha256": checkpoint.sha256}
        return model


def _any(tensors: dict[str, Tensor], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in tensors)


def _recipe(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Recipe in a file's metadata; empty if there is none that can be read."""
    try:
        recipe = json.loads(metadata.get("recipe", ""))
    except ValueError:
        return {}
    return recipe if isinstance(recipe, dict) else {}
