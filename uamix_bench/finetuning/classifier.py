"""Encoder with a linear head, trained on labels as AudioMAE is (models_vit.py, dataset.py, util/lr_decay.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uamix_bench.finetuning.recipe import FinetuneRecipe
from uamix_bench.models.model import AudioModel
from uamix_bench.models.tunable import Spectral
from uamix_bench.tuning.data import Frames, random
from uamix_bench.tuning.loop import Batch, Stage, decayed_groups
from uamix_bench.util.arrays import Doubles, Floats, Ints
from uamix_bench.util.errors import OwnCodeError, UsageError
from uamix_bench.util.progress import Progress

_LOG_EVERY = 20  # steps
_MIXTURE = 10.0  # lambda ~ Beta(10, 10), as dataset.py has it
_NOISE = 0.1  # the largest, as dataset.py has it
_TURN = 10  # frames, likewise
_EPSILON = 1e-6  # of the norm after pooling
_POOLING = "prenorm-mean"  # the mean of patches before the final norm, which the authors delete


class Classifier(nn.Module):
    """Classifier: encoder, mean over tokens, LayerNorm, linear head.

    A model that offers ``prenorm-mean`` is pooled by it, without its final norm, as the authors do. Other models keep
    their own pooling and final norm.

    Args:
        model: Encoder; training changes it, so pass a copy.
        classes: Number of classes C.
        recipe: Hyper-parameters.
        frozen: Number of lower blocks to freeze; the stem is frozen with them.

    Raises:
        UsageError: The model cannot be trained, or has fewer blocks than `frozen`.
    """

    def __init__(self, model: AudioModel, classes: int, recipe: FinetuneRecipe, frozen: int = 0) -> None:
        super().__init__()
        layers = model.call_layers()
        if not layers:
            raise UsageError(
                f"--model {model.card.name}", "has no layers to train", "give --freeze all for a linear probe of it"
            )
        if frozen >= len(layers):
            raise UsageError(
                f"--freeze {frozen}", f"the model has {len(layers) - 1} blocks", "give fewer, or --freeze all"
            )
        self.recipe = recipe
        self.frozen = frozen + 1 if frozen else 0  # layers: the stem and the blocks
        self.pooling = pooling(model)
        model.pooling = self.pooling
        width = model.embedding_dim
        self.encoder = model
        self.fc_norm = nn.LayerNorm(width, eps=_EPSILON)
        if recipe.fc_norm_from == "norm":
            self.fc_norm.load_state_dict(_final_norm(model, width).state_dict())
        self.head = nn.Linear(width, classes)
        generator = torch.Generator().manual_seed(recipe.seed)
        nn.init.trunc_normal_(
            self.head.weight, std=recipe.head_std, a=-2 * recipe.head_std, b=2 * recipe.head_std, generator=generator
        )
        nn.init.zeros_(self.head.bias)
        self.drops_paths = _drop_paths(layers[1:], recipe.drop_path)
        self.requires_grad_(False)
        for part in self.trained():
            part.requires_grad_(True)
        self.train()

    def trained(self) -> list[nn.Module]:
        """Trained modules: unfrozen layers, the encoder's other parts if they are used, LayerNorm and head."""
        rest = [] if self.pooling == _POOLING else [_Rest(self.encoder)]
        return [*self.encoder.layers()[self.frozen :], *rest, self.fc_norm, self.head]

    def train(self, mode: bool = True) -> Classifier:
        """Sets the training mode; frozen layers stay in eval mode."""
        super().train(mode)
        for layer in self.encoder.layers()[: self.frozen]:
            layer.eval()
        return self

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Logits of normalised input, (B, T, F) -> (B, C); padding counts as any frame, as in the authors' code."""
        lengths = torch.full((len(spectrogram),), spectrogram.shape[1], device=spectrogram.device)
        tokens, mask = self.encoder.call_tokens(spectrogram, lengths)
        pooled, width = self.encoder.call_pool(tokens.float(), mask), self.fc_norm.normalized_shape[0]
        if pooled.shape[1] != width:
            due = f"returns {tuple(pooled.shape)} where {(len(tokens), width)} is due"
            raise OwnCodeError(f"pool of {type(self.encoder).__name__}", due, "correct its pool() or embedding_dim")
        return self.head(self.fc_norm(pooled))  # type: ignore[no-any-return]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """AdamW's groups: layer i of the stem (0) and L blocks at decay ** (L + 1 - i) of the head's rate."""
        recipe = self.recipe
        layers = self.encoder.layers()
        groups: list[dict[str, Any]] = []
        for number, layer in enumerate(layers[self.frozen :], start=self.frozen):
            rate = recipe.learning_rate * recipe.layer_decay ** (len(layers) - number)
            groups += decayed_groups(list(layer.parameters()), rate, recipe.weight_decay)
        above = self.trained()[len(layers) - self.frozen :]
        parameters = [parameter for part in above for parameter in part.parameters()]
        return groups + decayed_groups(parameters, recipe.learning_rate, recipe.weight_decay)


class _Rest(nn.Module):
    """Parameters of a model outside its layers, such as a final norm, as one module."""

    def __init__(self, model: AudioModel) -> None:
        super().__init__()
        layered = {parameter for layer in model.layers() for parameter in layer.parameters()}
        self.parts = nn.ParameterList(p for p in model.parameters() if p not in layered)


def pooling(model: AudioModel) -> str:
    """Pooling that a model is fine-tuned with."""
    return _POOLING if _POOLING in model.poolings else model.pooling


def _final_norm(model: AudioModel, width: int) -> nn.LayerNorm:
    encoder = getattr(model, "encoder", None)
    for norm in (getattr(model, "fc_norm", None), getattr(encoder, "norm", None)):
        if isinstance(norm, nn.LayerNorm) and norm.normalized_shape == (width,):
            return norm
    raise UsageError("--set fc_norm_from=norm", "the model has no final norm of this width", "leave it fresh")


def _drop_paths(blocks: Sequence[nn.Module], largest: float) -> bool:
    """Sets the drop path rates of ViT blocks, from 0 to `largest`; returns True if all are such blocks."""
    known = all(hasattr(block, "drop_path1") and hasattr(block, "drop_path2") for block in blocks)
    if known and largest:
        from timm.layers.drop import DropPath  # timm takes longer to import than torch

        for block, rate in zip(blocks, np.linspace(0, largest, len(blocks)).tolist(), strict=True):
            block.drop_path1, block.drop_path2 = DropPath(rate), DropPath(rate)
    return known


@dataclass(frozen=True)
class Inputs:
    """Conversion of clips' frames into a model's input.

    Attributes:
        raw: Front end: (B, S) waveforms and (B,) lengths -> (B, T, F) values before normalisation and (B,) counts.
        normalise: Function from (B, T, F) values to the model's input.
        is_power: Whether the values are log power in nepers, so that two sounds can be mixed; if False, they are the
            adapter's own, already normalised input.
        length: Number of frames T.
    """

    raw: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    normalise: Callable[[Tensor], Tensor]
    is_power: bool
    length: int

    def windows(self, frames: Frames, clips: Ints, turn: Ints | None = None) -> tuple[Tensor, Tensor]:
        """Cuts clips to T frames from their start, or zero-pads them.

        Args:
            frames: Frames of all clips.
            clips: (B,) rows of the clips.
            turn: (B,) number of frames by which each clip is rotated first.

        Returns:
            (B, T, F) float32 values, and (B, T, 1) bool mask of the clip's own frames.
        """
        position = np.arange(self.length)[None, :]  # (1, T)
        count = frames.count[clips][:, None]
        own = position < count
        source = (position + (0 if turn is None else turn[:, None])) % count
        values = torch.from_numpy(frames.values[frames.first[clips][:, None] + source].astype(np.float32))
        mask = torch.from_numpy(own)[:, :, None]
        return values.masked_fill(~mask, 0.0), mask


def inputs(model: AudioModel, recipe: FinetuneRecipe, length: int) -> Inputs:
    """Inputs of a model for a recipe.

    Raises:
        UsageError: The recipe needs log-mel power before normalisation, and the adapter has none.
    """
    if not isinstance(model, Spectral):
        wanted = {"mixup": recipe.mixup, "roll": recipe.roll, "statistics": recipe.statistics}
        if asked := [name for name, value in wanted.items() if value]:
            off = " ".join(f"--set {name}={'null' if name == 'statistics' else 0}" for name in asked)
            reason = f"gives no log-mel power before normalisation, which the recipe's {', '.join(asked)} work on"
            raise UsageError(f"--model {model.card.name}", reason, off)
        return Inputs(model.call_frontend, lambda values: values, False, length)
    if recipe.statistics is None:
        return Inputs(model.fbank, model.normalise, True, length)
    mean, spread = recipe.statistics
    return Inputs(model.fbank, lambda values: (values - mean) / (2 * spread), True, length)


def spans(u: Doubles, size: int, largest: int) -> tuple[Ints, Ints]:
    """SpecAugment's interval, as torchaudio draws it: a width below `largest`, then a place; both rounded down.

    Args:
        u: (2, B) uniforms in [0, 1).
        size: Length of the axis.
        largest: Largest width of the interval.

    Returns:
        First index of the interval and one past its last, (B,) each.
    """
    width = u[0] * min(largest, size)
    start = (u[1] * (size - width)).astype(np.int64)
    return start, start + width.astype(np.int64)


def mask_out(values: Tensor, u: Doubles, mask_frames: int, mask_mel: int) -> Tensor:
    """Sets one run of frames and one band of bins of each clip to zero, (B, T, F) -> (B, T, F).

    Args:
        values: (B, T, F) values before normalisation, so that the mask is zero as in the authors' code.
        u: (4, B) uniforms in [0, 1): two for the frames, two for the bins.
        mask_frames: Longest masked run, in frames.
        mask_mel: Widest masked band, in bins.
    """
    hidden = torch.zeros(values.shape, dtype=torch.bool)
    for axis, largest, draws in ((1, mask_frames, u[:2]), (2, mask_mel, u[2:])):
        if largest:
            size = values.shape[axis]
            first, end = (torch.from_numpy(edge)[:, None] for edge in spans(draws, size, largest))
            place = torch.arange(size)[None, :]
            inside = (place >= first) & (place < end)
            hidden |= inside[:, :, None] if axis == 1 else inside[:, None, :]
    return values.masked_fill(hidden, 0.0)


def mix_power(values: Tensor, other: Tensor, lam: Tensor) -> Tensor:
    """Log power of lam a + (1 - lam) b, for sounds that are not in phase: their powers add.

    Args:
        values: (B, T, F) log power of a, in nepers.
        other: (B, T, F) log power of b, in nepers; minus infinity after the end of the sound.
        lam: (B,) weights of a; 1 leaves a clip as it is.
    """
    share = lam.clamp(1e-12, 1)[:, None, None].log() * 2
    rest = (1 - lam).clamp_min(0)[:, None, None].log() * 2
    return torch.where(lam[:, None, None] < 1, torch.logaddexp(values + share, other + rest), values)


def loss_of(logits: Tensor, targets: Tensor, recipe: FinetuneRecipe) -> Tensor:
    """Loss of the recipe for (B, C) logits and (B, C) targets, which are shares for mixed clips."""
    logits = logits.float()
    if recipe.loss == "binary":
        return F.binary_cross_entropy_with_logits(logits, targets)
    smooth = targets * (1 - recipe.smoothing) + recipe.smoothing / targets.shape[1]
    return -(smooth * logits.log_softmax(dim=1)).sum(dim=1).mean()


class FineTuning(Stage):
    """Stage of a fine-tuning, its only one.

    Args:
        module: Classifier of encoder and head.
        recipe: Hyper-parameters.
        frames: Frames of the training clips.
        targets: (n, C) bool classes of the training clips.
        feed: Conversion of frames into the model's input.
        device: Torch device of the training.
    """

    name = "fine-tuning"

    def __init__(
        self,
        module: Classifier,
        recipe: FinetuneRecipe,
        frames: Frames,
        targets: Tensor,
        feed: Inputs,
        device: torch.device,
    ) -> None:
        self.module: Classifier = module
        self.recipe, self.frames, self.targets, self.feed, self.device = recipe, frames, targets, feed, device
        self.epochs = recipe.epochs

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the classifier."""
        self.module.train()
        return self.module.parameter_groups()

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Loss of one batch of augmented clips, and the figures to log."""
        views, targets = batch.inputs if batch.inputs is not None else self.inputs(batch)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # drop path draws from torch's own stream: here a function of the step
            torch.manual_seed(int(random(self.recipe.seed, batch.stage, batch.step, 1).integers(1 << 62)))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
                logits = self.module(views)
        loss = loss_of(logits, targets, self.recipe)
        if batch.step % _LOG_EVERY:
            return loss, {}
        best = targets.gather(1, logits.argmax(dim=1, keepdim=True))  # its share of the clip: 1, or less of a mixture
        return loss, {"accuracy": float((best > 0).float().mean())}

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Input (B, T, F) and targets (B, C) of a step: rotated, mixed, masked, normalised, with noise."""
        recipe, clips, size = self.recipe, batch.clips, len(batch.clips)
        draw = random(recipe.seed, batch.stage, batch.step, 0)
        turn = draw.integers(0, 1 << 31, size) if recipe.roll else None
        gain = torch.from_numpy(2 * np.log(draw.beta(_MIXTURE, _MIXTURE, (2, size)) + 0.5)).float()[:, :, None, None]
        values, own = self.feed.windows(self.frames, clips, turn)
        if recipe.roll:
            values = torch.where(own, values + gain[0], values)
        targets = self.targets[torch.from_numpy(clips)].float()
        if recipe.mixup:
            lam = torch.from_numpy(
                np.where(draw.random(size) < recipe.mixup, draw.beta(_MIXTURE, _MIXTURE, size), 1.0)
            ).float()
            partner = draw.integers(0, len(self.frames), size)
            other_turn = draw.integers(0, 1 << 31, size) if recipe.roll else None
            other, there = self.feed.windows(self.frames, partner, other_turn)
            other = (other + gain[1] if recipe.roll else other).masked_fill(~there, -math.inf)
            values = torch.where(own, mix_power(values, other, lam), values)
            targets = lam[:, None] * targets + (1 - lam[:, None]) * self.targets[torch.from_numpy(partner)].float()
        values = mask_out(values, draw.random((4, size)), recipe.mask_frames, recipe.mask_mel)
        view = self.feed.normalise(values.to(self.device))
        if recipe.noise:
            level = torch.from_numpy(_NOISE * draw.random(size)).float()[:, None, None]
            generator = torch.Generator().manual_seed(int(draw.integers(1 << 62)))
            view = view + (torch.rand(values.shape, generator=generator) * level).to(self.device)
            rows = np.arange(self.feed.length)[None, :] - draw.integers(-_TURN, _TURN, size)[:, None]
            index = torch.from_numpy(rows % self.feed.length)[:, :, None].to(self.device)
            view = view.gather(1, index.expand_as(view))
        return view, targets.to(self.device)


@torch.no_grad()
def scores(
    module: Classifier, frames: Frames, clips: Ints, inputs: Inputs, device: torch.device, progress: Progress
) -> Floats:
    """Logits of clips, (n, C) float32, neither augmented nor mixed."""
    module.eval()
    parts = []
    recipe = module.recipe
    with progress.bar("testing", len(clips)) as advance:
        for begin in range(0, len(clips), recipe.batch):
            rows = clips[begin : begin + recipe.batch]
            view = inputs.normalise(inputs.windows(frames, rows)[0].to(device))
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                parts.append(module(view).float().cpu().numpy())
            advance(len(rows), "")
    return np.concatenate(parts)
