"""BEATs (Chen et al., ICML 2023): a post-norm transformer with gated relative positions, taught by acoustic tokenizers.

Reads the official files of microsoft/unilm (folder beats): BEATs_iter1 to iter3+, pre-trained and fine-tuned. Their
``cfg`` holds settings that the tensors do not show (above all ``max_distance``), so a bare state dict is refused. A
fine-tuned file's predictor is ignored: its tokens are embedded like those of a pre-trained one.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from uamix_bench.models.checkpoint import load_state, read_checkpoint, read_settings, with_remark
from uamix_bench.models.frontend import KaldiFbank
from uamix_bench.models.model import AudioModel
from uamix_bench.plugins.card import ModelCard, read_card
from uamix_bench.util.errors import BadInputError

from .formats import own_checkpoint

# BEATs.py, preprocess: the filterbank is taken of a waveform at the scale of 16-bit integers (in [-1, 1], quiet bins
# would meet the filterbank's floor), and the spread is doubled when dividing.
SCALE = 2.0**15
MEAN, STD = 15.41663, 6.55582
MEL_BINS = 128

Size = Annotated[int, Field(ge=1, le=100_000)]


class Config(BaseModel):
    """Settings in a file's ``cfg`` that embeddings depend on; defaults are those of BEATs.py, class BEATsConfig.

    Other values of that class (pre-norm, other activations, ungated or absent relative positions) are refused.
    """

    model_config = ConfigDict(frozen=True)

    input_patch_size: int = Field(ge=1, le=MEL_BINS)
    embed_dim: Size = 512
    encoder_layers: int = Field(default=12, ge=1, le=100)
    encoder_embed_dim: Size = 768
    encoder_ffn_embed_dim: Size = 3072
    encoder_attention_heads: Size = 12
    conv_pos: Size = 128
    conv_pos_groups: Size = 16
    num_buckets: int = Field(default=320, ge=4, le=100_000, multiple_of=4)
    max_distance: int = 1280  # the published files say 800: never leave it to this default where a cfg speaks
    deep_norm: bool = False
    activation_fn: Literal["gelu"] = "gelu"
    layer_norm_first: Literal[False] = False
    conv_bias: Literal[False] = False
    relative_position_embedding: Literal[True]
    gru_rel_pos: Literal[True]

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.encoder_embed_dim % self.encoder_attention_heads or self.encoder_embed_dim % self.conv_pos_groups:
            raise ValueError("encoder_embed_dim does not divide into its heads or conv_pos_groups")
        if self.max_distance <= self.num_buckets // 4:
            raise ValueError("max_distance lies within the buckets that are exact")
        return self


class Stem(nn.Module):
    """Stem: patches with a LayerNorm at their own width, projection, convolutional positions, LayerNorm.

    It also holds the table of relative positions, which all blocks share.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        patch, width = config.input_patch_size, config.encoder_embed_dim
        self.patch_embedding = nn.Conv2d(1, config.embed_dim, patch, stride=patch, bias=False)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        same = config.embed_dim == width
        self.post_extract_proj = nn.Identity() if same else nn.Linear(config.embed_dim, width)
        kernel = config.conv_pos
        self.pos_conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=config.conv_pos_groups)
        self.encoder_layer_norm = nn.LayerNorm(width)
        self.relative_attention_bias = nn.Embedding(config.num_buckets, config.encoder_attention_heads)

    def forward(self, spectrogram: Tensor, mask: Tensor) -> Tensor:
        """Embeds whole patches.

        Args:
            spectrogram: (B, T, F) float32 spectrograms, T a multiple of the patch.
            mask: (B, L) bool mask of the tokens that are a clip's own.

        Returns:
            (B, L, D) tokens, time-major: all mel rows of the first time column, then those of the second.
        """
        patches = self.patch_embedding(spectrogram.unsqueeze(1)).flatten(2).transpose(1, 2)
        tokens: Tensor = self.post_extract_proj(self.layer_norm(patches))
        # The convolution runs over the tokens and reaches 64 past a clip's end, where a clip alone has zeros.
        tokens = tokens.masked_fill(~mask.unsqueeze(-1), 0.0)
        # An even kernel gives one output too many, and the last is dropped (modules.py, SamePad).
        positions = self.pos_conv(tokens.transpose(1, 2))[..., : tokens.shape[1]].transpose(1, 2)
        out: Tensor = self.encoder_layer_norm(tokens + functional.gelu(positions))
        return out

    def relative_positions(self, length: int) -> Tensor:
        """Bias of relative positions, added to the logits before gating: (heads, length, length), a row per query.

        Source: backbone.py, _relative_positions_bucket. In each direction half of its buckets hold one distance each,
        the others logarithmic bands up to `max_distance`; keys that come later have buckets of their own. Distances are
        computed on the CPU in float32, as there, so that one on the edge of two bands falls to the same side.
        """
        direction = self.config.num_buckets // 2
        exact = direction // 2
        offset = torch.arange(1 - length, length)  # of key from query
        distance = offset.abs()
        bands = (distance.clamp(min=exact).float() / exact).log() / math.log(self.config.max_distance / exact)
        far = (exact + (bands * (direction - exact)).long()).clamp(max=direction - 1)
        bucket = torch.where(distance < exact, distance, far) + direction * (offset > 0)
        bias: Tensor = self.relative_attention_bias(bucket.to(self.relative_attention_bias.weight.device))
        return bias.T.unfold(1, length, 1).flip(1)


class Attention(nn.Module):
    """Self-attention whose relative positions are gated by the query (backbone.py, MultiheadAttention)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.grep_linear = nn.Linear(width // heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, heads, 1, 1))

    def forward(self, tokens: Tensor, relative: Tensor, mask: Tensor | None) -> Tensor:
        """Applies attention: tokens (B, L, D), relative (heads, L, L), mask (B, L) bool or None -> (B, L, D)."""
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (proj(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in projections)
        # The gate sees the query before the logits' scaling. The reference divides by 32 and multiplies by it again
        # to keep half precision in range, which cancels out.
        a, b = self.grep_linear(q).unflatten(-1, (2, 4)).sum(-1).sigmoid().chunk(2, dim=-1)  # (B, heads, L, 1) each
        bias = ((a * (b * self.grep_a - 1.0) + 2.0) * relative).to(q.dtype)  # (B, heads, L, L)
        if mask is not None:
            bias = bias.masked_fill(~mask[:, None, None], -math.inf)
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Post-norm block, LayerNorm(alpha x + f(x)) twice; under deep-norm alpha is (2 layers)^(1/4), otherwise 1."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.encoder_embed_dim
        self.alpha = (2 * config.encoder_layers) ** 0.25 if config.deep_norm else 1.0
        self.self_attn = Attention(width, config.encoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.encoder_ffn_embed_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_embed_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, relative: Tensor, mask: Tensor | None) -> Tensor:
        """Transforms (B, L, D) tokens; see :class:`Attention` for the rest."""
        tokens = self.self_attn_layer_norm(self.alpha * tokens + self.self_attn(tokens, relative, mask))
        out: Tensor = self.final_layer_norm(self.alpha * tokens + self.fc2(functional.gelu(self.fc1(tokens))))
        return out


class BEATs(AudioModel):
    """BEATs' encoder.

    The authors neither crop nor pad, so ``native`` and ``official`` input are identical: a clip's own length, without
    the last frames that fill no patch. A clip too short for one patch is padded with silence, as the authors pad
    waveforms. In a batch whole time columns are masked. The authors' padding mask is spread over the flattened tokens
    and may cut a column in two, which gives a clip another embedding than it gets alone; models of this package never
    do that.

    Args:
        config: Sizes and settings from the file.
    """

    card = read_card(Path(__file__).with_suffix(".toml"), ModelCard)
    sample_rate = 16_000

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding_dim = config.encoder_embed_dim
        # Kaldi's default window, povey: preprocess sets none.
        self.fbank = KaldiFbank(self.sample_rate, MEL_BINS, window="povey")
        self.stem = Stem(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.encoder_layers))

    def frontend(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Kaldi filterbank of the waveform at 16-bit scale, normalised with AudioSet's statistics, whatever the data.

        Args:
            waveforms: (B, S) float32 in [-1, 1] at 16 kHz.
            lengths: (B,) number of samples of each clip.

        Returns:
            (B, T, F) float32 spectrograms and the frames (B,) of each clip, at least one patch.
        """
        shortest = self.fbank.window_length + (self.config.input_patch_size - 1) * self.fbank.hop_length
        waveforms = functional.pad(waveforms, (0, max(0, shortest - waveforms.shape[1])))
        past = torch.arange(waveforms.shape[1], device=waveforms.device) >= lengths[:, None]
        frames, counts = self.fbank((waveforms * SCALE).masked_fill(past, 0.0), lengths.clamp(min=shortest))
        return (frames - MEAN) / (2 * STD), counts

    def tokens(self, spectrogram: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the last layer's tokens, (B, L, D), eight for each whole time column, and their mask (B, L)."""
        patch = self.config.input_patch_size
        columns = lengths // patch
        longest = int(columns.max())
        own = torch.arange(longest, device=lengths.device) < columns[:, None]
        mask = own.repeat_interleave(MEL_BINS // patch, dim=1)
        tokens: Tensor = self.stem(spectrogram[:, : longest * patch], mask)
        relative = self.stem.relative_positions(tokens.shape[1])
        keys = None if bool(mask.all()) else mask
        for block in self.blocks:
            tokens = block(tokens, relative, keys)
        return tokens, mask  # no final norm: the last layer ends in one

    def layers(self) -> list[nn.Module]:
        """Layers of the encoder: the stem, then the blocks."""
        return [self.stem, *self.blocks]

    def token_columns(self, samples: int) -> int:
        """Number of time columns of a clip of `samples` samples."""
        frames = self.fbank.frames(samples)
        return max(1, frames // self.config.input_patch_size)

    @classmethod
    def from_checkpoint(cls, path: Path) -> BEATs:
        """Builds the model of a file by its cfg."""
        checkpoint = read_checkpoint(path)
        if any(key.startswith("quantize") for key in checkpoint.tensors):  # Tokenizers.py: quantize, quantize_layer
            raise BadInputError(path, "this is a BEATs tokenizer, not a BEATs model", "name a BEATs_iter*.pt file")
        checkpoint = own_checkpoint(checkpoint, "beats", "BEATs")
        tensors = checkpoint.tensors
        if not any(key.endswith("patch_embedding.weight") for key in tensors):
            raise BadInputError(path, "holds no patch_embedding.weight, so it is no checkpoint of BEATs", _SEE)
        cfg = checkpoint.extras.get("cfg")
        official = cfg if isinstance(cfg, dict) else None
        config = read_settings(checkpoint, Config, official, what="BEATs", see=_SEE)
        with torch.device("meta"):
            model = cls(config)
        load_state(model, encoder_keys(tensors), path=path, what="BEATs")
        metadata = checkpoint.metadata
        if "cfg" not in metadata and "deep_norm" not in (official or {}):
            metadata = with_remark(metadata, "the cfg lacks deep_norm, so it is taken as false, BEATsConfig's default")
        model.metadata = {**metadata, "cfg": config.model_dump_json(), "sha256": checkpoint.sha256}
        return model


_SEE = "see 'uamix-bench models info beats'"


def encoder_keys(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Maps official keys to this model's; unused keys keep names that the model does not have.

    It folds the weight norm of the positional convolution, and takes the table of relative positions from layer 0, as
    the file repeats that shared table under every layer. Files written by this package already have these names.
    """
    if any(key.startswith("stem.") for key in tensors):
        return tensors
    renamed = {}
    for key, value in tensors.items():
        if key == "encoder.layers.0.self_attn.relative_attention_bias.weight":
            renamed["stem.relative_attention_bias.weight"] = value
        elif key.startswith("encoder.layers."):
            renamed["blocks." + key.removeprefix("encoder.layers.")] = value
        elif key.startswith("encoder."):
            name = key.removeprefix("encoder.").replace("layer_norm", "encoder_layer_norm")
            renamed["stem." + name.replace("pos_conv.0.", "pos_conv.")] = value
        else:
            renamed["stem." + key] = value
    gain, direction = (renamed.get(f"stem.pos_conv.weight_{part}") for part in "gv")
    # Where they do not fit, load_state names the missing weight.
    if gain is not None and direction is not None and direction.ndim == 3 and gain.numel() == direction.shape[2]:
        # weight_norm(dim=2): one gain for each tap of the kernel, and the norm over both channel axes.
        norm = direction.float().norm(dim=(0, 1), keepdim=True)
        renamed["stem.pos_conv.weight"] = gain.float().view(1, 1, -1) * direction.float() / norm
    return renamed
