"""MaskSpec (Chong et al., ICASSP 2023): a ViT pre-trained by masked spectrogram prediction, at 32 kHz.

Reads the pre-trained and fine-tuned ViT files of github.com/WangHelin1997/MaskSpec. Verified by golden files: the
pre-trained file, with 10 s clips and shorter ones; the fine-tuned file with its norm moved behind the pooling, as in
the authors' code. Spectrograms are standardised per mel bin with statistics that no checkpoint holds. AudioSet's come
with this file; the authors' ``mean_std_128.npy`` beside a checkpoint replaces them.
"""

from __future__ import annotations

import json
import pickletools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from uamix_bench.models.checkpoint import load_state, read_checkpoint
from uamix_bench.models.frontend import LogMel
from uamix_bench.models.model import AudioModel
from uamix_bench.models.vit import HEAD_DIM, AudioViT, ViTShape, encoder_keys, find_shape
from uamix_bench.plugins.card import ModelCard, read_card
from uamix_bench.util.errors import BadInputError
from uamix_bench.util.files import unreadable

from .formats import own_checkpoint

# AugmentMelSTFT in models_mae.py: at test time too, filters end half the augmentation's range below Nyquist.
LOG_MEL = LogMel(32_000, 1_024, 800, 320, 128, 0.0, 15_000.0, 1e-5, periodic=False, mel="kaldi", pre_emphasis=0.97)
SHIFT, SCALE = 4.5, 5.0  # its "fast normalization"
SAMPLES = 320_000  # 10 s, to which the authors cut and pad
FRAMES = 1_000
STATISTICS = "mean_std_128.npy"
PATCH, COLUMNS = 16, 62


class MaskSpec(AudioModel):
    """MaskSpec's encoder.

    Every clip is padded with silence, or cut, to 10 s before the transform. ``official`` encodes all 62 time columns.
    ``native`` keeps the clip's own whole ones (one at least), as the authors do when they fine-tune on shorter clips.
    Positions are added first, so a column's own does not depend on the clip's length.

    Args:
        width: Number of features D of a token.
        depth: Number of transformer blocks.
        norm: Whether the file has a LayerNorm over tokens (pre-trained); if False, it has one after pooling
            (fine-tuned).
    """

    card = read_card(Path(__file__).with_suffix(".toml"), ModelCard)
    poolings: tuple[str, ...] = ("mean", "cls", "prenorm-mean")
    sample_rate = LOG_MEL.sample_rate
    frame_statistics: Tensor

    def __init__(self, width: int = 768, depth: int = 12, norm: bool = True) -> None:
        super().__init__()
        shape = ViTShape(width, depth, width // HEAD_DIM, LOG_MEL.num_mel_bins, COLUMNS, PATCH, PATCH, mel_first=True)
        self.encoder = AudioViT(shape, norm=norm)
        if not norm:
            self.fc_norm = nn.LayerNorm(width, eps=1e-6)
            self.poolings = ("fc-norm", "prenorm-mean")
            self.pooling = "fc-norm"
        self.embedding_dim = width
        self.register_buffer("frame_statistics", torch.zeros(2, LOG_MEL.num_mel_bins))  # mean and spread of each bin

    def frontend(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel spectrogram of the clip in silence, standardised per mel bin.

        Args:
            waveforms: (B, S) float32 in [-1, 1] at 32 kHz.
            lengths: (B,) number of samples of each clip.

        Returns:
            (B, T, 128) float32 spectrograms and the frames (B,) that count: 1,000 under ``official``, whole patches of
            the clip's own under ``native``.
        """
        if self.input == "official":
            frames, samples = FRAMES, SAMPLES
            counts = torch.full_like(lengths, FRAMES)
        else:
            counts = _own_columns(lengths) * PATCH
            frames = int(counts.max())
            samples = min(SAMPLES, frames * LOG_MEL.hop_length + LOG_MEL.n_fft)  # past what these frames reach
        inside = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths[:, None]
        padded = pad(waveforms.where(inside, 0.0), (0, max(0, samples - waveforms.shape[1])))[:, :samples]
        log_mel, _ = LOG_MEL(padded.contiguous(), torch.full_like(lengths, samples))
        mean, std = self.frame_statistics
        return ((log_mel[:, :frames] + SHIFT) / SCALE - mean) / std, counts

    def tokens(self, spectrogram: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the tokens before the norm, CLS first, then the lowest mel row: (B, 1 + L, D), and their mask."""
        tokens: tuple[Tensor, Tensor] = self.encoder(spectrogram, lengths)
        return tokens

    def pool(self, tokens: Tensor, mask: Tensor, how: str) -> Tensor:
        """Pools tokens before the norm (B, 1 + L, D) into (B, D).

        ``mean``: patches after the norm; ``cls``: CLS after it; ``prenorm-mean``: patches before it. A fine-tuned file
        has no norm over tokens, so it has ``prenorm-mean`` and ``fc-norm``, that through its fc_norm, which the
        authors classify.
        """
        norm, patches = self.encoder.norm, tokens[:, 1:]
        if how == "cls":
            pooled: Tensor = norm(tokens[:, 0])
            return pooled
        pooled = super().pool(norm(patches) if how == "mean" else patches, mask[:, 1:], how)
        return self.fc_norm(pooled) if how == "fc-norm" else pooled

    def layers(self) -> list[nn.Module]:
        """Layers of the encoder: the stem, then the blocks."""
        return self.encoder.layers()

    def token_columns(self, samples: int) -> int:
        """Number of time columns of a clip of `samples` samples."""
        return COLUMNS if self.input == "official" else int(_own_columns(torch.tensor(samples)))

    @classmethod
    def from_checkpoint(cls, path: Path) -> MaskSpec:
        """Builds the model of a file, with the statistics in it, beside it, or AudioSet's.

        Raises:
            BadInputError: The file is not one of MaskSpec's ViTs, or the statistics beside it are damaged.
        """
        checkpoint = read_checkpoint(path)
        if any("relative_position_bias_table" in key for key in checkpoint.tensors):
            raise BadInputError(path, "is a Swin transformer, which is not supported", "give MaskSpec's ViT")
        checkpoint = own_checkpoint(checkpoint, "maskspec", "MaskSpec")
        tensors = encoder_keys(checkpoint.tensors)
        found = find_shape(tensors, path=path, what="MaskSpec")
        norm = "encoder.norm.weight" in tensors or "fc_norm.weight" not in tensors
        with torch.device("meta"):
            model = cls(found.width, found.depth, norm)
        if "frame_statistics" not in tensors:
            statistics = audioset_statistics()
            beside = checkpoint.path.with_name(STATISTICS)
            if beside.is_file():
                statistics = read_statistics(beside)
            tensors = {**tensors, "frame_statistics": statistics}
        load_state(model, tensors, path=path, what="MaskSpec")
        model.metadata = {**checkpoint.metadata, "sha256": checkpoint.sha256}
        return model


def _own_columns(samples: Tensor) -> Tensor:
    """Number of whole time columns within `samples` (target_t of models_vit.py), at least one, at most 62."""
    return (samples // LOG_MEL.hop_length // PATCH).clamp(1, COLUMNS)


def audioset_statistics() -> Tensor:
    """Mean and spread of each mel bin over AudioSet, (2, 128) float32: the official audioset/mean_std_128.npy."""
    numbers = json.loads(Path(__file__).with_name("maskspec_mean_std.json").read_text(encoding="utf-8"))
    return torch.tensor([numbers["frame_mean"], numbers["frame_std"]])


def read_statistics(path: Path) -> Tensor:
    """Reads frame_mean and frame_std from a file of the authors' get_mean_std.py, (2, 128) float32.

    The file is a pickled dict in an ``.npy`` file. Its opcodes are listed, and none is run: the numbers are the first
    bytes of the right length after each name.

    Raises:
        BadInputError: The file holds no such numbers.
    """
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    found: dict[str, list[bytes]] = {"frame_mean": [], "frame_std": []}
    name = ""
    try:
        for _, argument, _ in pickletools.genops(blob[10 + int.from_bytes(blob[8:10], "little") :]):
            if isinstance(argument, str) and argument in found:
                name = argument
            elif isinstance(argument, bytes) and len(argument) == 4 * LOG_MEL.num_mel_bins and name:
                found[name].append(argument)
    except Exception:  # a crafted pickle can make the reader raise anything
        raise BadInputError(path, "is damaged", "write it again with the authors' get_mean_std.py") from None
    values = np.array([np.frombuffer(numbers[0], "<f4") for numbers in found.values() if numbers], np.float32)
    if len(values) < 2 or not np.isfinite(values).all() or not (values[1] > 0).all():
        reason = "holds no frame_mean and frame_std of 128 float32 numbers"
        raise BadInputError(path, reason, "write it with the authors' get_mean_std.py")
    return torch.from_numpy(values)
