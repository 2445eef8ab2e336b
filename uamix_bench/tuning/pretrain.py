"""Masked-autoencoder pre-training: AudioMAE's objective (Huang et al., NeurIPS 2022, models_mae.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uamix_bench.models.vit import AudioViT, initialise, sincos_table
from uamix_bench.tuning import distributed
from uamix_bench.tuning.data import Frames, random
from uamix_bench.tuning.loop import Batch, Stage, decayed_groups
from uamix_bench.tuning.nnclr import effective_rank
from uamix_bench.tuning.recipe import PretrainRecipe
from uamix_bench.tuning.views import DRAWS, Spectrograms

_LOG_EVERY = 20  # steps
_WINDOW = (4, 4)  # patches: columns x rows


class Decoder(nn.Module):
    """AudioMAE's decoder: Swin-v2 blocks over the grid of patches, windows of 4 x 4, every other one shifted in time.

    Args:
        encoder_width: Number of features of a latent token.
        width: Number of features of a decoder token.
        depth: Number of blocks.
        heads: Number of attention heads of a block.
        columns: Number of time columns of the position table.
        rows: Number of patches along the mel axis, a multiple of 4.
        patch: Number of values in a patch.
    """

    position: Tensor

    def __init__(
        self, encoder_width: int, width: int, depth: int, heads: int, columns: int, rows: int, patch: int
    ) -> None:
        super().__init__()
        self.rows = rows
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("position", sincos_table(width, columns, rows)[:, 1:], persistent=False)
        self.blocks = nn.ModuleList(_swin(width, heads, (columns, rows), shifted=bool(i % 2)) for i in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.predict = nn.Linear(width, patch)

    def forward(self, latent: Tensor, restore: Tensor) -> Tensor:
        """Fills the masked places and predicts every patch.

        Args:
            latent: (B, K, D) encoded visible patches, without CLS.
            restore: (B, L) place of each patch in the shuffled order, the K visible ones first.

        Returns:
            (B, L, patch) predicted patches.
        """
        visible = self.embed(latent)
        batch, length = restore.shape
        masked = self.mask_token.expand(batch, length - visible.shape[1], -1)
        shuffled = torch.cat([visible, masked], dim=1)
        tokens = shuffled.gather(1, restore[:, :, None].expand(-1, -1, shuffled.shape[2]))
        # (B, columns, rows, width)
        grid = (tokens + self.position[:, :length]).view(batch, -1, self.rows, tokens.shape[2])
        for block in self.blocks:
            grid = block(grid)
        return self.predict(self.norm(grid.flatten(1, 2)))  # type: ignore[no-any-return]


class MaskedAutoencoder(nn.Module):
    """Masked autoencoder: encoder over the visible patches, decoder over all, loss on the masked ones."""

    def __init__(self, encoder: AudioViT, decoder: Decoder, mask_ratio: float) -> None:
        super().__init__()
        self.encoder, self.decoder, self.mask_ratio = encoder, decoder, mask_ratio

    def forward(self, spectrogram: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Masks, encodes and decodes spectrograms.

        Args:
            spectrogram: (B, T, F) normalised spectrograms.
            order: (B, L) uniforms that order the patches: the int(L (1 - mask_ratio)) smallest stay visible.

        Returns:
            Loss, the mean squared error on masked patches, each normalised by its own mean and unbiased variance (eps
            1e-6); and the (B, D) mean visible token, after the norm.
        """
        patches = self.encoder.stem.patches(spectrogram)
        length = patches.shape[1]
        keep = int(length * (1 - self.mask_ratio))
        shuffle = order.argsort(dim=1)
        restore = shuffle.argsort(dim=1)
        visible = patches.gather(1, shuffle[:, :keep, None].expand(-1, -1, patches.shape[2]))
        latent = self.encoder.norm(self.encoder.run(self.encoder.stem.with_cls(visible)))[:, 1:]
        prediction = self.decoder(latent, restore)
        error = (prediction - normalised_patches(spectrogram, self.encoder.shape.patch_frames)).square().mean(dim=2)
        masked = restore >= keep
        return (error * masked).sum() / masked.sum(), latent.mean(dim=1)


def normalised_patches(spectrogram: Tensor, patch: int) -> Tensor:
    """Standardised patches, (B, T, F) -> (B, L, patch * patch), time-major, each with its unbiased variance."""
    batch, frames, bins = spectrogram.shape
    grid = spectrogram.view(batch, frames // patch, patch, bins // patch, patch)
    target = grid.transpose(2, 3).flatten(3).flatten(1, 2)
    mean, variance = target.mean(dim=2, keepdim=True), target.var(dim=2, keepdim=True)
    return (target - mean) / (variance + 1e-6).sqrt()


class Pretraining(Stage):
    """Stage of a pre-training, its only one.

    Args:
        encoder: Encoder to be trained.
        recipe: Hyper-parameters.
        frames: Training data.
        spectrograms: Function from frames to the model's input.
        anew: Whether the encoder gets initial weights; if False, it keeps its own.
    """

    name = "pre-training"

    def __init__(
        self,
        encoder: AudioViT,
        recipe: PretrainRecipe,
        frames: Frames,
        spectrograms: Spectrograms,
        anew: bool = True,
    ) -> None:
        self.recipe, self.frames, self.spectrograms = recipe, frames, spectrograms
        self.epochs = recipe.epochs
        shape = encoder.shape
        decoder = Decoder(
            shape.width,
            recipe.decoder_width,
            recipe.decoder_depth,
            recipe.decoder_heads,
            shape.columns,
            shape.rows,
            shape.patch_frames * shape.patch_mel,
        )
        generator = torch.Generator().manual_seed(recipe.seed)
        if anew:
            initialise_encoder(encoder, generator)
        initialise_decoder(decoder, generator)
        encoder.requires_grad_(True).train()  # one that was loaded is frozen
        self.module: MaskedAutoencoder = MaskedAutoencoder(encoder, decoder, recipe.mask_ratio)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups with one learning rate for everything."""
        return decayed_groups(list(self.module.parameters()), self.recipe.learning_rate, self.recipe.weight_decay)

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Views (b, T, F) of this process's clips, and the (b, L) uniforms that order their patches."""
        (share,) = distributed.shares(np.arange(len(batch.clips)), None)[distributed.rank()]
        draw = random(self.recipe.seed, batch.stage, batch.step, 0)
        frames = int(draw.choice(self.recipe.frames))
        draws = draw.random((len(batch.clips), DRAWS))
        seed = int(draw.integers(1 << 62))
        view = self.spectrograms(self.frames, batch.clips[share], draws[share], frames, seed + share)
        length = frames // self.module.encoder.shape.patch_frames * self.module.encoder.shape.rows
        order = torch.from_numpy(draw.random((len(batch.clips), length))[share])
        return view, order.to(view.device)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Loss of one masked reconstruction, and the figures to log."""
        view, order = self.inputs(batch) if batch.inputs is None else batch.inputs
        with torch.autocast(view.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            loss, pooled = self.module(view, order)
        figures = {"rank": effective_rank(pooled.detach())} if batch.step % _LOG_EVERY == 0 else {}
        return loss, figures


def initialise_encoder(encoder: AudioViT, generator: torch.Generator) -> None:
    """Initialises an encoder as MAE does, with sine-cosine positions and CLS from N(0, .02)."""
    shape = encoder.shape
    initialise(encoder, generator)
    encoder.stem.pos_embed.copy_(sincos_table(shape.width, shape.columns, shape.rows))


def initialise_decoder(decoder: Decoder, generator: torch.Generator) -> None:
    """Initialises a decoder as MAE does, with the mask token from N(0, .02)."""
    initialise(decoder, generator)
    nn.init.normal_(decoder.mask_token, std=0.02, generator=generator)


def _swin(width: int, heads: int, grid: tuple[int, int], shifted: bool) -> nn.Module:
    from timm.models.swin_transformer_v2_cr import SwinTransformerV2CrBlock  # timm takes longer to import than torch

    block = SwinTransformerV2CrBlock(
        dim=width, num_heads=heads, feat_size=grid, window_size=_WINDOW, dynamic_mask=True, init_values=None
    )
    block.shift_size = (_WINDOW[0] // 2, 0) if shifted else (0, 0)  # in time only, as the official decoder has it
    for name, part in block.attn.meta_mlp.named_children():
        if isinstance(part, nn.Dropout):  # the one source of randomness that no seed and step would determine
            setattr(block.attn.meta_mlp, name, nn.Identity())
    return block
