"""Vision transformer on spectrograms, shared by the masked-autoencoder models, for clips of any length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from uamix_bench.models.block import Block, PatchEmbed
from uamix_bench.util.errors import BadInputError

HEAD_DIM = 64  # features of an attention head, in every published encoder of the family
# Statistics over time that each mel row's tokens are pooled into, by pooling. Stacking is M2D's (Niizumi et al., 2022);
# the maximum beside the mean is the project's own.
STACKED = {"stacked": 1, "stacked-mean-max": 2}
# Pooling of weights that keep the mean embedding of their training clips: the recipe's pooling less that mean, at unit
# length. SimpleShot's CL2N (Wang et al., 2019) with the mean of its base classes; the project's own for an encoder.
CENTRED = "centred"
_STEM = ("cls_token", "pos_embed", "patch_embed.")
_WIDTHS = range(HEAD_DIM, 4_097, HEAD_DIM)


@dataclass(frozen=True)
class ViTShape:
    """Sizes of an :class:`AudioViT`.

    Args:
        width: Number of features of a token, D.
        depth: Number of transformer blocks.
        heads: Number of attention heads of a block.
        mel_bins: Number of mel bins of the spectrogram, F.
        columns: Number of time columns in the position table; longer input is cut there.
        patch_mel: Height of a patch in mel bins.
        patch_frames: Width of a patch in frames.
        mel_first: True for images (mel, time), so that tokens are frequency-major (MaskSpec, M2D). False for images
            (time, mel), so that they are time-major (AudioMAE).
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    mel_bins: int = 128
    columns: int = 64
    patch_mel: int = 16
    patch_frames: int = 16
    mel_first: bool = False

    @property
    def rows(self) -> int:
        """Number of patches along the mel axis."""
        return self.mel_bins // self.patch_mel

    def patches(self, frames: int) -> int:
        """Number of whole patches of a clip of `frames` frames."""
        return frames // self.patch_frames * self.rows

    def stem_operations(self, frames: int) -> float:
        """Multiplications and additions of the patch embedding for one clip of `frames` frames."""
        return 2.0 * self.patches(frames) * self.width * self.patch_frames * self.patch_mel

    def block_operations(self, frames: int) -> float:
        """Multiplications and additions of a block for one clip: 24 L D^2 (linear layers) + 4 L^2 D (attention)."""
        tokens = 1 + self.patches(frames)
        return 24.0 * tokens * self.width**2 + 4.0 * tokens**2 * self.width


class Stem(nn.Module):
    """Patch embedding of a spectrogram: patch tokens with positions, CLS first.

    It holds ``patch_embed``, ``cls_token`` (1, 1, D) and the table ``pos_embed`` (1, 1 + rows * columns, D), under the
    names of MAE's state dict. The table is a buffer: it is fixed, and always comes from the file.
    """

    cls_token: Tensor
    pos_embed: Tensor

    def __init__(self, shape: ViTShape) -> None:
        super().__init__()
        self.shape = shape
        frames, mel = shape.patch_frames, shape.patch_mel
        self.patch_embed = PatchEmbed((mel, frames) if shape.mel_first else (frames, mel), shape.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.register_buffer("pos_embed", torch.zeros(1, 1 + shape.rows * shape.columns, shape.width))

    def positions(self, columns: int) -> Tensor:
        """Returns the positions of the first `columns` time columns, (1, rows * columns, D), in token order."""
        shape = self.shape
        table = self.pos_embed[:, 1:]
        if shape.mel_first:
            return table.reshape(1, shape.rows, shape.columns, -1)[:, :, :columns].flatten(1, 2)
        return table[:, : columns * shape.rows]

    def patches(self, spectrogram: Tensor) -> Tensor:
        """Cuts and embeds a spectrogram.

        Args:
            spectrogram: Spectrograms, (B, T, F) float, T a multiple of the patch's frames and at most the table's.

        Returns:
            Patch tokens with their positions, without CLS, (B, rows * columns, D).
        """
        image = spectrogram.transpose(1, 2) if self.shape.mel_first else spectrogram
        grid: Tensor = self.patch_embed(image.unsqueeze(1))  # (B, D, T/p, F/p); F/p before T/p where mel comes first
        columns = spectrogram.shape[1] // self.shape.patch_frames
        return grid.flatten(2).transpose(1, 2) + self.positions(columns)

    def with_cls(self, patches: Tensor) -> Tensor:
        """Puts the CLS token with its position (row 0 of the table) before `patches`, (B, L, D) -> (B, 1 + L, D)."""
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(patches), -1, -1)
        return torch.cat([cls, patches], dim=1)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Embeds spectrograms (B, T, F) into tokens (B, 1 + rows * columns, D): CLS, then the patch tokens."""
        return self.with_cls(self.patches(spectrogram))


class AudioViT(nn.Module):
    """A pre-norm ViT over spectrogram patches (LayerNorm eps 1e-6, fused qkv with bias, exact GELU, ratio 4).

    The architecture of MAE (He et al. 2022, models_mae.py), as AudioMAE, MaskSpec and M2D use it. Its state dict has
    MAE's names, with ``stem.`` before ``patch_embed``, ``cls_token`` and ``pos_embed``.

    Args:
        shape: Sizes of the encoder.
        norm: True for a LayerNorm over the final tokens. Pretrained files have one; AudioMAE's and MaskSpec's
            fine-tuned files pool first and use a ``fc_norm`` instead.
    """

    def __init__(self, shape: ViTShape, norm: bool = True) -> None:
        super().__init__()
        self.shape = shape
        self.stem = Stem(shape)
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, eps=1e-6) if norm else nn.Identity()

    def layers(self) -> list[nn.Module]:
        """Layers in the order of freezing and layer-wise decay: the stem first, the last block last."""
        return [self.stem, *self.blocks]

    def mask(self, lengths: Tensor, columns: int) -> Tensor:
        """Mask of each clip's own tokens in a padded batch.

        Args:
            lengths: Number of frames of each clip, (B,).
            columns: Number of time columns of the batch.

        Returns:
            Mask, (B, 1 + rows * columns) bool: True for CLS and for every column with at least one whole frame of the
            clip.
        """
        own = -(-lengths // self.shape.patch_frames).clamp(max=-1)  # ceiling division, at least one column
        valid = torch.arange(columns, device=lengths.device) < own[:, None]  # (B, columns)
        rows = self.shape.rows
        tokens = valid.repeat(1, rows) if self.shape.mel_first else valid.repeat_interleave(rows, dim=1)
        return torch.cat([torch.ones_like(tokens[:, :1]), tokens], dim=1)

    def run(self, tokens: Tensor, mask: Tensor | None = None, first: int = 0, last: int | None = None) -> Tensor:
        """Runs blocks `first` to `last` (exclusive) over tokens (B, L, D); `mask` (B, L) hides keys where False."""
        keys = None if mask is None or bool(mask.all()) else mask[:, None, None, :]
        for block in self.blocks[first:last]:
            tokens = block(tokens, attn_mask=keys)
        return tokens

    def forward(self, spectrogram: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encodes a batch.

        Args:
            spectrogram: Spectrograms, (B, T, F) float32; T is cut to whole patches and to the position table.
            lengths: Number of frames of each clip, (B,); None if all fill T.

        Returns:
            Tokens before the final norm, CLS first, (B, 1 + L, D); mask of the clips' own tokens, (B, 1 + L) bool.
        """
        columns = min(spectrogram.shape[1] // self.shape.patch_frames, self.shape.columns)
        spectrogram = spectrogram[:, : columns * self.shape.patch_frames]
        if lengths is None:
            lengths = torch.full((len(spectrogram),), spectrogram.shape[1], device=spectrogram.device)
        mask = self.mask(lengths, columns)
        return self.run(self.stem(spectrogram), mask), mask


def encoder_keys(tensors: Mapping[str, Tensor], beside: str = "fc_norm.") -> dict[str, Tensor]:
    """Maps MAE's names to those of an :class:`AudioViT` that is an attribute ``encoder`` of a model.

    Args:
        tensors: State dict under MAE's names. One under the mapped names is returned unchanged.
        beside: Prefix of the keys that are not part of the encoder.
    """
    if any(key.startswith("encoder.stem.") for key in tensors):
        return dict(tensors)
    return {
        key if key.startswith(beside) else f"encoder.{'stem.' * key.startswith(_STEM)}{key}": value
        for key, value in tensors.items()
    }


class FoundShape(NamedTuple):
    """Sizes of an encoder found in a file's tensors: width D and number of blocks."""

    width: int
    depth: int


def find_shape(tensors: Mapping[str, Tensor], *, path: Path, what: str, published: bool = True) -> FoundShape:
    """Reads the sizes of an encoder from its tensors. `load_state` reports missing tensors later.

    Args:
        tensors: State dict from :func:`encoder_keys`.
        path: Path of the file that holds the tensors, for the error line.
        what: Name of the model that the file should be of, for the error line (``MaskSpec``).
        published: True for a file by the model's authors. Theirs have one depth, so a missing last block is an error.

    Raises:
        BadInputError: The width is not one of such an encoder.
    """
    named = ("stem.cls_token", "stem.pos_embed", "blocks.0.norm1.weight", "norm.weight")
    patch, *others = (tensors.get(f"encoder.{name}") for name in ("stem.patch_embed.proj.weight", *named))
    widths = [other.shape[-1] for other in others if other is not None and other.ndim]
    width = (patch.shape[0] if patch.ndim else 0) if patch is not None else widths[0] if widths else ViTShape.width
    if width not in _WIDTHS:
        reason = f"is {width} wide, no multiple of {HEAD_DIM} up to {_WIDTHS[-1]:,}"
        raise BadInputError(path, reason, f"this is not a checkpoint of {what}")
    depth = len({key.split(".")[2] for key in tensors if key.startswith("encoder.blocks.")})
    return FoundShape(width, max(depth, ViTShape.depth) if published and width == ViTShape.width else depth)


def sincos_table(width: int, columns: int, rows: int) -> Tensor:
    """Returns the two-dimensional sine-cosine table for time-major tokens, (1, 1 + columns * rows, width) float32.

    Half of the features encode the mel row, half the time column (MAE, util/pos_embed.py); row 0, for CLS, is zero.
    The official AudioMAE table is permuted against its tokens (its ``patch_hw`` is swapped), so it is never rebuilt
    by formula. This table serves encoders pre-trained here.
    """
    frequency = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))

    def encode(position: Tensor) -> Tensor:
        angle = position.double()[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    column, row = torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="ij")
    table = torch.cat([encode(row.flatten()), encode(column.flatten())], dim=1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), table]).float().unsqueeze(0)


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draws weights as MAE does: Xavier-uniform linear layers (the patch conv as one), LayerNorm at 1 and 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(part.weight.data.view(part.weight.shape[0], -1), generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
        elif isinstance(part, Stem):
            nn.init.normal_(part.cls_token, std=0.02, generator=generator)
