"""MAE-AST (Baade et al., Interspeech 2022): a masked autoencoder over spectrogram patches, or over whole frames.

Reads the official fairseq files (AlanBaade/MAE-AST-Public), patch and frame, float32 or float16. Their ``cfg`` holds
settings that the tensors do not show (patches of 16 x 16 and of 2 x 128 have as many pixels), so a bare state dict is
refused. Decoder and pre-training heads are ignored.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from uamix_bench.models.checkpoint import load_state, read_checkpoint, read_settings
from uamix_bench.models.frontend import KaldiFbank
from uamix_bench.models.model import AudioModel
from uamix_bench.plugins.card import ModelCard, read_card
from uamix_bench.util.errors import BadInputError

from .formats import own_checkpoint

MEL_BINS = 128
EPSILON = 1e-5  # of nn.BatchNorm2d, which mae_ast.py leaves at its default
SPREAD = 0.5  # mae_ast.py, forward: batch norm to a standard deviation of one half

Size = Annotated[int, Field(ge=1, le=100_000)]


class Config(BaseModel):
    """Settings in a file's ``cfg``, model and task in one, that embeddings depend on.

    Defaults are those of mae_ast.py, class MAE_AST_Config. Other values of that class (overlapping patches, pre-norm,
    other activations, convolutional positions) are refused.
    """

    model_config = ConfigDict(frozen=True)

    ast_kernel_size_time: int = Field(ge=1, le=1_000)
    ast_kernel_size_chan: int = Field(ge=1, le=MEL_BINS)
    ast_kernel_stride_time: int
    ast_kernel_stride_chan: int
    encoder_layers: int = Field(default=12, ge=1, le=100)
    encoder_embed_dim: Size = 768
    encoder_ffn_embed_dim: Size = 3072
    encoder_attention_heads: Size = 12
    max_token_length: int = Field(default=48_000, ge=MEL_BINS, le=10_000_000)
    activation_fn: Literal["gelu"] = "gelu"
    layer_norm_first: Literal[False] = False
    enc_sine_pos: Literal[True]
    enc_conv_pos: Literal[False] = False
    sample_rate: Literal[16_000] = 16_000
    feature_type: Literal["fbank"] = "fbank"
    feature_dim: Literal[128] = 128

    @property
    def rows(self) -> int:
        """Number of tokens of a time column."""
        return MEL_BINS // self.ast_kernel_size_chan

    @model_validator(mode="after")
    def _fits(self) -> Config:
        kernel = self.ast_kernel_size_time, self.ast_kernel_size_chan
        if kernel != (self.ast_kernel_stride_time, self.ast_kernel_stride_chan):
            raise ValueError("patches overlap or leave gaps")
        if self.encoder_embed_dim % self.encoder_attention_heads:
            raise ValueError("encoder_embed_dim does not divide into its heads")
        return self


class Stem(nn.Module):
    """Stem: patches, projection, sinusoidal positions, LayerNorm.

    The table ``positions`` (1, max_token_length, D) is a buffer: it is fixed, and always comes from the file.
    """

    positions: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.kernel = config.ast_kernel_size_time, config.ast_kernel_size_chan
        width = config.encoder_embed_dim
        self.post_extract_proj = nn.Linear(self.kernel[0] * self.kernel[1], width)
        self.register_buffer("positions", torch.zeros(1, config.max_token_length, width))
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Embeds the whole patches of (B, T, F) float32 as (B, L, D) tokens.

        Tokens are time-major, and so are the pixels of a patch. A position belongs to the flattened token number, not
        to a time column.
        """
        pixels = functional.unfold(spectrogram.unsqueeze(1), self.kernel, stride=self.kernel).transpose(1, 2)
        tokens: Tensor = self.layer_norm(self.post_extract_proj(pixels) + self.positions[:, : pixels.shape[1]])
        return tokens


class MAEAST(AudioModel):
    """MAE-AST's encoder: post-norm layers, exact GELU, LayerNorm eps 1e-5, no CLS, no final norm.

    The authors pad no single clip, so ``native`` and ``official`` input are identical: a clip's own length, without the
    last frames that fill no patch. A clip too short for one patch gets zero frames before batch norm, as in the
    authors' code. In a batch whole time columns are masked. The authors keep a partly padded column that they drop for
    a clip alone, which gives it another embedding; models of this package never do that.

    Args:
        config: Sizes and settings from the file.
    """

    card = read_card(Path(__file__).with_suffix(".toml"), ModelCard)
    poolings = ("mean", "layer-mean")
    sample_rate = 16_000

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding_dim = config.encoder_embed_dim
        # s3prl/mae_ast/expert.py: Kaldi's default window, povey, and the waveform in [-1, 1], not at 16-bit scale.
        self.fbank = KaldiFbank(self.sample_rate, MEL_BINS, window="povey")
        self.register_buffer("running_mean", torch.zeros(1))
        self.register_buffer("running_var", torch.ones(1))
        self.stem = Stem(config)
        # fairseq's layer with separate projections is torch's own, whose qkv is one matrix.
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.encoder_embed_dim,
                config.encoder_attention_heads,
                config.encoder_ffn_embed_dim,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
            )
            for _ in range(config.encoder_layers)
        )

    def frontend(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Kaldi filterbank, normalised with the batch norm statistics of the file.

        Args:
            waveforms: (B, S) float32 in [-1, 1] at 16 kHz.
            lengths: (B,) number of samples of each clip.

        Returns:
            (B, T, F) float32 spectrograms and the frames (B,) of each clip, at least one patch.
        """
        frames, counts = self.fbank(waveforms, lengths)  # zero frames after each clip's own
        shortest = self.config.ast_kernel_size_time
        frames = functional.pad(frames, (0, 0, 0, max(0, shortest - frames.shape[1])))
        return SPREAD * (frames - self.running_mean) / (self.running_var + EPSILON).sqrt(), counts.clamp(min=shortest)

    def tokens(self, spectrogram: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes whole time columns, at most as many as there are positions for (16 minutes in the official files).

        Returns:
            Tokens (B, L, D) of the last layer, or under ``layer-mean`` the mean of all layers' tokens (without the
            embedding before them: s3prl's weighted sum with equal weights), and their mask (B, L).
        """
        frames, rows = self.config.ast_kernel_size_time, self.config.rows
        columns = (lengths // frames).clamp(max=self.config.max_token_length // rows)
        longest = int(columns.max())
        mask = (torch.arange(longest, device=lengths.device) < columns[:, None]).repeat_interleave(rows, dim=1)
        tokens: Tensor = self.stem(spectrogram[:, : longest * frames])
        hidden = None if bool(mask.all()) else ~mask
        mean = torch.zeros_like(tokens)
        for block in self.blocks:
            tokens = block(tokens, src_key_padding_mask=hidden)
            mean = mean + tokens / len(self.blocks)
        return (mean if self.pooling == "layer-mean" else tokens), mask

    def layers(self) -> list[nn.Module]:
        """Layers of the encoder: the stem, then the blocks."""
        return [self.stem, *self.blocks]

    def token_columns(self, samples: int) -> int:
        """Number of time columns of a clip of `samples` samples."""
        frames = self.fbank.frames(samples)
        columns = max(1, frames // self.config.ast_kernel_size_time)
        return min(columns, self.config.max_token_length // self.config.rows)

    @classmethod
    def from_checkpoint(cls, path: Path) -> MAEAST:
        """Builds the model of a file by its cfg."""
        checkpoint = own_checkpoint(read_checkpoint(path), "mae-ast", "MAE-AST")
        tensors = checkpoint.tensors
        if not tensors.keys() & {"enc_sine_pos_embed.pe", "stem.positions"}:
            raise BadInputError(path, "holds no enc_sine_pos_embed.pe, so it is no checkpoint of MAE-AST", _SEE)
        cfg: Any = checkpoint.extras.get("cfg")
        whole = isinstance(cfg, dict) and all(isinstance(cfg.get(part), dict) for part in ("model", "task"))
        official = {**cfg["model"], **cfg["task"]} if whole else None
        config = read_settings(checkpoint, Config, official, what="MAE-AST", see=_SEE)
        with torch.device("meta"):
            model = cls(config)
        load_state(model, encoder_keys(tensors), path=path, what="MAE-AST")
        model.metadata = {**checkpoint.metadata, "cfg": config.model_dump_json(), "sha256": checkpoint.sha256}
        return model


_SEE = "see 'uamix-bench models info mae-ast'"


_STEM = {
    "post_extract_proj.": "stem.post_extract_proj.",
    "enc_sine_pos_embed.pe": "stem.positions",
    "encoder.layer_norm.": "stem.layer_norm.",
    "batch_norm.": "",
}
_BLOCK = {
    "self_attn_layer_norm.": "norm1.",
    "final_layer_norm.": "norm2.",
    "fc1.": "linear1.",
    "fc2.": "linear2.",
}


def encoder_keys(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Maps fairseq's keys to this model's, with the three projections of each attention as one matrix; drops the rest.

    Dropped, too, is a ``layer_norm`` of 128 features, which the authors' code never uses. Files written by this package
    already have these names.
    """
    if "stem.positions" in tensors:
        return tensors
    renamed: dict[str, Tensor] = {}
    projections: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, value in tensors.items():
        stem = next((old for old in _STEM if key.startswith(old)), None)
        if stem is not None:
            renamed[_STEM[stem] + key.removeprefix(stem)] = value
        elif key.startswith("encoder.layers."):
            index, _, name = key.removeprefix("encoder.layers.").partition(".")
            part = name.removeprefix("self_attn.")
            if part.startswith(("q_proj.", "k_proj.", "v_proj.")):
                projections[f"blocks.{index}.self_attn.in_proj_{part[7:]}"][part[0]] = value
                continue
            old = next((old for old in _BLOCK if name.startswith(old)), "")
            renamed[f"blocks.{index}.{_BLOCK.get(old, '')}{name.removeprefix(old)}"] = value
    for key, parts in projections.items():
        # Where they are not three alike, load_state names the missing matrix.
        if parts.keys() == set("qkv") and len({value.shape for value in parts.values()}) == 1 and parts["q"].ndim:
            renamed[key] = torch.cat([parts[name] for name in "qkv"])
    return renamed
