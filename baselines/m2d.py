"""M2D, Masked Modeling Duo (Niizumi et al., ICASSP 2023; TASLP 2024): a ViT that predicts another encoder's tokens.

Reads the releases of github.com/nttcslab/m2d: training checkpoints, ``_enconly`` files, fine-tuned files and whole
runtimes, of M2D, M2D-AS, M2D-S, M2D-X and the audio side of M2D-CLAP. Constants and rules are those of the official
``examples/portable_m2d.py``. Verified against that code's own output: 80x608p16x16 at 16 kHz, training and ``_enconly``
files. Other sizes and 32 kHz use the same code. They are compared with an independent implementation, but with no
official output.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from uamix_bench.models.checkpoint import WRAPPERS, Checkpoint, load_state, read_checkpoint
from uamix_bench.models.frontend import LogMel
from uamix_bench.models.model import AudioModel
from uamix_bench.models.vit import HEAD_DIM, AudioViT, ViTShape, encoder_keys, find_shape
from uamix_bench.plugins.card import ModelCard, read_card
from uamix_bench.util.errors import BadInputError

from .formats import own_checkpoint

MEL_BINS = 80
EPS = torch.finfo(torch.float32).eps  # added to a mel energy before the logarithm
FRONT_ENDS = {
    "16k": LogMel(16_000, 400, 400, 160, MEL_BINS, 50.0, 8_000.0, log_offset=EPS),
    "32k": LogMel(32_000, 800, 800, 320, MEL_BINS, 50.0, 16_000.0, log_offset=EPS),
}
NORM_STATS = (-7.1, 4.2)  # mean and spread of AudioSet, of the files of 2022, which hold none
PREFIXES = (*WRAPPERS, "ar.runtime.", "backbone.")  # of files fine-tuned in EVAR, and of whole runtimes
FIELD = re.compile(r"80x(?P<frames>\d{1,5})p(?P<mel>\d{1,2})x(?P<width>\d{1,4})(p(?P<rate>[^p]*)(p.*)?)?")


class Sizes(NamedTuple):
    """Sizes in a release's name: frames of a chunk, mel bins and frames of a patch, and the sample rate (``16k``)."""

    frames: int
    patch_mel: int
    patch_frames: int
    rate: str

    def __str__(self) -> str:
        """Field of the name, ``80x608p16x16p16k``."""
        return f"{MEL_BINS}x{self.frames}p{self.patch_mel}x{self.patch_frames}p{self.rate}"


class M2D(AudioModel):
    """M2D's encoder.

    A long clip is encoded in chunks, each alone. ``official`` zero-pads the last one, after normalising, to whole
    patches, and the padded last step counts like any other. ``native`` drops frames that do not fill a patch, unless
    the clip has no others.

    Args:
        sizes: Sizes of the chunk and the patch, and the sample rate.
        width: Number of features D of a token.
        depth: Number of transformer blocks.
    """

    card = read_card(Path(__file__).with_suffix(".toml"), ModelCard)
    adapter_version = "2"  # 1 zero-padded a clip shorter than a window before it was reflected
    poolings = ("stacked", "mean")
    norm_stats: Tensor

    def __init__(self, sizes: Sizes, width: int = 768, depth: int = 12) -> None:
        super().__init__()
        self.chunk = sizes.frames
        self.encoder = AudioViT(
            ViTShape(
                width=width,
                depth=depth,
                heads=width // HEAD_DIM,
                mel_bins=MEL_BINS,
                columns=sizes.frames // sizes.patch_frames,
                patch_mel=sizes.patch_mel,
                patch_frames=sizes.patch_frames,
                mel_first=True,
            )
        )
        self.log_mel = FRONT_ENDS[sizes.rate]
        self.sample_rate = self.log_mel.sample_rate
        self.register_buffer("norm_stats", torch.tensor(NORM_STATS))

    @property
    def embedding_dim(self) -> int:  # type: ignore[override]
        """Embedding size: D, or rows x D with the mel rows stacked."""
        shape = self.encoder.shape
        return shape.width * (shape.rows if self.pooling == "stacked" else 1)

    def frontend(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel spectrogram, normalised with the file's statistics.

        Args:
            waveforms: (B, S) float32 in [-1, 1] at the model's rate.
            lengths: (B,) number of samples of each clip.

        Returns:
            (B, T, 80) float32 spectrograms, zero past a clip's own frames, and the frames (B,) that count.
        """
        frames, counts = self.log_mel(waveforms, lengths)
        mean, std = self.norm_stats
        counts = self._kept(counts)
        past = torch.arange(int(counts.max()), device=counts.device) >= counts[:, None]
        return ((frames[:, : past.shape[1]] - mean) / std).masked_fill(past[..., None], 0.0), counts

    def tokens(self, spectrogram: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes spectrograms chunk by chunk.

        Args:
            spectrogram: (B, T, 80) float32 spectrograms, zero past a clip's own frames.
            lengths: (B,) number of frames of each clip.

        Returns:
            Tokens (B, L, D) after the final norm, without CLS, one chunk after the other, in each the lowest mel row
            first; and their mask (B, L) bool.
        """
        tokens, masks = [], []
        for start in range(0, int(lengths.max()), self.chunk):
            there = lengths > start  # a clip that ended before takes no part, and gets zeros
            chunk = spectrogram[there, start : start + self.chunk]
            chunk = pad(chunk, (0, 0, 0, -chunk.shape[1] % self.encoder.shape.patch_frames))
            part, own = self.encoder(chunk, (lengths[there] - start).clamp(max=self.chunk))
            part, own = self.encoder.norm(part[:, 1:]), own[:, 1:]
            tokens.append(part.new_zeros(len(lengths), *part.shape[1:]).index_put((there,), part))
            masks.append(own.new_zeros(len(lengths), own.shape[1]).index_put((there,), own))
        return torch.cat(tokens, dim=1), torch.cat(masks, dim=1)

    def pool(self, tokens: Tensor, mask: Tensor, how: str) -> Tensor:
        """Pools tokens (B, L, D) into (B, D').

        ``stacked``: the mel rows of a time step side by side, lowest first, averaged over time (the authors' scene
        embedding; D' = rows x D); ``mean``: over all tokens (the authors' flat features).
        """
        if how == "mean":
            return super().pool(tokens, mask, how)
        shape = self.encoder.shape
        chunk = shape.rows * shape.columns
        steps, owns = [], []
        for start in range(0, tokens.shape[1], chunk):
            part = tokens[:, start : start + chunk]
            grid = part.reshape(len(part), shape.rows, -1, shape.width)  # (B, rows, columns, D)
            steps.append(grid.transpose(1, 2).flatten(2))
            owns.append(mask[:, start : start + grid.shape[2]])  # the lowest row's: all rows have the same
        return super().pool(torch.cat(steps, dim=1), torch.cat(owns, dim=1), how)

    def layers(self) -> list[torch.nn.Module]:
        """Layers of the encoder: the stem, then the blocks."""
        return self.encoder.layers()

    def token_columns(self, samples: int) -> int:
        """Number of time columns, of all chunks, of a clip of `samples` samples."""
        shape = self.encoder.shape
        frames = 1 + max(samples, self.log_mel.shortest) // self.log_mel.hop_length
        chunks, rest = divmod(int(self._kept(torch.tensor(frames))), self.chunk)
        return chunks * shape.columns + min(-(-rest // shape.patch_frames), shape.columns)

    def _kept(self, frames: Tensor) -> Tensor:
        """Number of `frames` that count: all, or under ``native`` those that fill the last chunk's patches."""
        if self.input == "official":
            return frames
        whole = frames - frames % self.chunk % self.encoder.shape.patch_frames
        return torch.where(whole > 0, whole, frames)

    @classmethod
    def from_checkpoint(cls, path: Path) -> M2D:
        """Builds the model of a file in the folder it was released in, whose name holds the sizes.

        Raises:
            BadInputError: The file is not one of M2D's, or neither its folder's name nor its own holds the sizes.
        """
        checkpoint = read_checkpoint(path)
        own = own_checkpoint(checkpoint, "m2d", "M2D", PREFIXES)
        tensors = encoder_keys(own.tensors, beside="norm_stats")
        found = find_shape(tensors, path=path, what="M2D")
        sizes = read_sizes(checkpoint)
        with torch.device("meta"):
            model = cls(sizes, found.width, found.depth)
        stats = checkpoint.tensors.get("norm_stats", torch.tensor(NORM_STATS))  # some releases have it beside
        tensors = {"norm_stats": stats, **tensors}
        load_state(model, tensors, path=path, what=f"M2D {sizes}")
        model.metadata = {**own.metadata, "sizes": str(sizes), "sha256": checkpoint.sha256}
        return model


def read_sizes(checkpoint: Checkpoint) -> Sizes:
    """Reads the sizes from a file's own metadata, its folder's name or its stem, in this order.

    The second field between dashes holds them: ``80x608p16x16`` is mel bins x frames and the patch in both. The rate
    may follow (``p32k``, default 16k), and letters for a text encoder.

    Raises:
        BadInputError: None of them holds sizes, or the sizes are not those of any M2D.
    """
    file = checkpoint.path.absolute()
    names = [f"-{checkpoint.metadata.get('sizes', '')}", file.parent.name, file.stem]
    fields = [name.split("-")[1] for name in names if "-" in name]
    match = next(filter(None, map(FIELD.fullmatch, fields)), None)
    if match is None:
        raise BadInputError(
            checkpoint.path,
            "neither its folder's name nor its own says M2D's sizes (such as -80x608p16x16-)",
            "keep it in the folder that the release unpacks to",
        )
    sizes = Sizes(int(match["frames"]), int(match["mel"]), int(match["width"]), match["rate"] or "16k")
    if sizes.rate not in FRONT_ENDS:
        raise BadInputError(checkpoint.path, f"is named for {sizes.rate}", f"M2D comes at {' and '.join(FRONT_ENDS)}")
    if not 0 < sizes.patch_frames <= sizes.frames or not sizes.patch_mel or MEL_BINS % sizes.patch_mel:
        raise BadInputError(checkpoint.path, f"is named {sizes}, which no patches fill", "restore the folder's name")
    return sizes
