"""uaMix-MAE's two stages: the head alone on a frozen encoder, then head and upper half on mixtures.

Source: the paper (ICASSP 2024, section 3), and MAE-CT's recipe for the choices that it leaves open. docs/method.md has
the equations.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy.special
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uamix_bench.models.vit import STACKED, AudioViT
from uamix_bench.tuning import distributed
from uamix_bench.tuning.data import Frames, batches, random
from uamix_bench.tuning.loop import Batch, Stage, decayed_groups
from uamix_bench.tuning.mixing import boxes, mix, partners, together, virtual_labels
from uamix_bench.tuning.nnclr import (
    Queue,
    contrastive_loss,
    effective_rank,
    predictor,
    projector,
    update_average,
)
from uamix_bench.tuning.recipe import Mixing, TuneRecipe
from uamix_bench.tuning.views import DRAWS, Spectrograms
from uamix_bench.util.arrays import Ints
from uamix_bench.util.errors import UsageError

_LOG_EVERY = 20  # steps
_SIDES = (0, 1)  # the two views of a clip
_FILL = 9  # the stage number whose draws fill the queue


class Network(nn.Module):
    """Encoder f, projector g, predictor h, the moving average g' of g, and the queue.

    Args:
        encoder: Encoder f; its stem and the lower `recipe.frozen` share of its blocks never change.
        recipe: Recipe with the sizes of projector, predictor and queue.
    """

    def __init__(self, encoder: AudioViT, recipe: TuneRecipe) -> None:
        super().__init__()
        generator_state = torch.get_rng_state()
        torch.manual_seed(recipe.seed)  # nn.Linear's own initialisation takes no generator
        self.encoder = encoder
        self.pooling = recipe.pooling
        width = encoder.shape.width * (encoder.shape.rows * STACKED[self.pooling] if self.pooling in STACKED else 1)
        self.projector = projector(width, recipe.projector)
        self.predictor = predictor(recipe.projector[-1], recipe.predictor)
        torch.set_rng_state(generator_state)
        self.average = copy.deepcopy(self.projector).requires_grad_(False)
        self.queue = Queue(recipe.queue, recipe.projector[-1])
        self.frozen = int(encoder.shape.depth * recipe.frozen + 0.5)

    def features(self, spectrogram: Tensor, tuned: bool) -> Tensor:
        """Features f: normalised patch tokens, pooled: (B, T, F) -> (B, D), or (B, rows x D) a statistic if stacked.

        The frozen part runs without gradients. If `tuned` is False, all parts do.
        """
        with torch.no_grad():
            tokens = self.encoder.run(self.encoder.stem(spectrogram), last=self.frozen)
        with torch.set_grad_enabled(tuned and torch.is_grad_enabled()):
            tokens = self.encoder.run(tokens, first=self.frozen)
            patches: Tensor = self.encoder.norm(tokens[:, 1:])
        if self.pooling == "mean":
            return patches.mean(dim=1)
        batch, _, width = patches.shape
        steps = patches.view(batch, -1, self.encoder.shape.rows * width)
        mean = steps.mean(dim=1)
        return mean if self.pooling == "stacked" else torch.cat([mean, steps.amax(dim=1)], dim=1)


class _Contrastive(Stage):
    """Base of the two stages. They differ in the trained layers, the mixing, and the writer of the queue.

    Args:
        module: Network that is trained.
        recipe: Hyper-parameters.
        frames: Training data.
        spectrograms: Function from frames to the model's input.
    """

    mix: Mixing
    tuned: bool  # whether the upper half of the encoder is trained
    writer: nn.Module  # of the queue, and of the projections that are looked up in it

    def __init__(self, module: Network, recipe: TuneRecipe, frames: Frames, spectrograms: Spectrograms) -> None:
        self.module: Network = module
        self.recipe, self.frames, self.spectrograms = recipe, frames, spectrograms

    def inputs(self, batch: Batch) -> list[Tensor]:
        """Two augmented views of this process's clips, each (b, T, F), of one length drawn for the step."""
        return self.views(batch, _SIDES)

    def views(self, batch: Batch, sides: Sequence[int]) -> list[Tensor]:
        """Augmented views of some sides: (b, T, F) each, in the order of this process's rows."""
        rows = self.rows(batch)[distributed.rank()].flatten()
        length = int(random(self.recipe.seed, batch.stage, batch.step, len(_SIDES)).choice(self.recipe.frames))
        views = []
        for side in sides:
            draw = random(self.recipe.seed, batch.stage, batch.step, side)
            draws = draw.random((len(batch.clips), DRAWS))
            seed = int(draw.integers(1 << 62))
            views.append(self.spectrograms(self.frames, batch.clips[rows], draws[rows], length, seed + rows))
        return views

    def rows(self, batch: Batch) -> list[Ints]:
        """Rows of the batch that each process works on, (micro-batches, m), partners together.

        Raises:
            UsageError: The processes cannot have equal shares, or partners cross them.
        """
        size, micro = len(batch.clips), self.recipe.micro_batch
        if distributed.world() == 1 and micro in (None, size):
            return [np.arange(size)[None]]
        if self.recipe.partner == "permutation":
            raise UsageError("partner permutation", "crosses processes", "take neighbour or flip")
        return distributed.shares(together(partners(size, self.recipe.partner)), micro)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch that is one micro-batch."""
        ((loss, figures),) = self.parts(batch)
        return loss, figures

    def parts(self, batch: Batch) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Losses of each micro-batch, both directions, one view mixed, against the keys of the whole batch."""
        views = self.inputs(batch) if batch.inputs is None else batch.inputs
        rows = self.rows(batch)[distributed.rank()]
        micro = [slice(first, first + rows.shape[1]) for first in range(0, rows.size, rows.shape[1])]
        # Unmixed views need one pass of the encoder for keys and predictions, unless its graph must not outlive a part.
        shared = self.mix == "none" and (len(micro) == 1 or not self.tuned)
        clean = [[self.features(view[part], self.tuned and shared) for part in micro] for view in views]
        projections = [self.project(parts, batch) for parts in clean]
        keys = self.keys(projections, batch)
        figures = self.figures(batch, projections[0], torch.cat(clean[0]).detach().float())
        for number, part in enumerate(micro):
            anchors, labels = [], []
            for side, view in zip(_SIDES, views, strict=True):
                mixed, label = self.mixture(view[part], batch, rows[number], side)
                anchors.append(clean[side][number] if shared else self.features(mixed, self.tuned))
                labels.append(label)
            loss = self.loss(anchors, keys, labels)
            if self.recipe.plain_weight and self.mix != "none":
                plain = [self.features(view[part], self.tuned) for view in views]
                unmixed = self.one_hot(rows[number], len(batch.clips))
                loss = loss + self.recipe.plain_weight * self.loss(plain, keys, [unmixed, unmixed])
            yield loss / len(micro), figures

    def features(self, view: Tensor, tuned: bool) -> Tensor:
        """Features f in the recipe's precision: (m, T, F) -> (m, D)."""
        with self.autocast():
            return self.module.features(view, tuned)

    @torch.no_grad()
    def project(self, features: list[Tensor], batch: Batch) -> Tensor:
        """Clean projections u of all processes: normalised outputs of the writer.

        Args:
            features: (m, D) clean features of each of this process's micro-batches.
            batch: The global batch.

        Returns:
            (B, d) float32 projections, in the order of the batch, identical in every process.
        """
        with self.autocast():
            own = torch.cat([F.normalize(self.writer(part.detach()).float(), dim=1) for part in features])
        place = np.argsort(np.concatenate([rows.flatten() for rows in self.rows(batch)]))
        return distributed.gather(own)[torch.from_numpy(place).to(own.device)]

    @torch.no_grad()
    def write(self, batch: Batch) -> None:
        """Writes the clean projections of side 0 into the queue."""
        (view,) = self.views(batch, _SIDES[:1])
        features = [self.features(part, tuned=False) for part in view.chunk(len(self.rows(batch)[0]))]
        self.module.queue.push(self.project(features, batch), self.recordings(batch.clips))

    def loss(self, anchors: list[Tensor], keys: list[Tensor], labels: list[Tensor]) -> Tensor:
        """Mean loss of both directions: each side's anchors (m, D) against the other side's keys (B, d)."""
        with self.autocast():
            predictions = [self.module.predictor(self.module.projector(anchor)) for anchor in anchors]
        losses = [
            contrastive_loss(predictions[side], keys[1 - side], labels[side], self.recipe.temperature)
            for side in _SIDES
        ]
        return torch.stack(losses).mean()

    def keys(self, projections: list[Tensor], batch: Batch) -> list[Tensor]:
        """Keys of the whole batch, (B, d) a side, for its (B, d) projections; then side 0's enter the queue."""
        recordings = self.recordings(batch.clips)
        queue, top_k = self.module.queue, self.recipe.top_k
        draws = random(self.recipe.seed, batch.stage, batch.step, len(_SIDES) + 1).random(
            (len(_SIDES), len(batch.clips))
        )
        keys = projections
        if self.recipe.keys == "neighbours":
            keys = [queue.neighbours(u, recordings, top_k, draw) for u, draw in zip(projections, draws, strict=True)]
        queue.push(projections[0], recordings)
        return keys

    def operations(self) -> float:
        """Multiplications and additions of the encoder for one clip of a step; backward counts as twice forward."""
        shape, depth = self.module.encoder.shape, self.module.encoder.shape.depth
        length = int(np.mean(self.recipe.frames))
        frozen = self.module.frozen if self.tuned else depth
        block = shape.block_operations(length)
        clean = shape.stem_operations(length) + depth * block
        with_gradient = clean + 2 * (depth - frozen) * block
        shared = self.mix == "none" and (not self.tuned or self.recipe.micro_batch is None)
        passes = [with_gradient] if shared else [clean, with_gradient]
        if self.recipe.plain_weight and self.mix != "none":
            passes.append(with_gradient)
        return len(_SIDES) * sum(passes)

    def recordings(self, clips: Ints) -> Tensor:
        """Recordings (B,) of the clips, on the device."""
        return torch.from_numpy(self.frames.recordings[clips]).to(self.module.queue.entries.device)

    def autocast(self) -> torch.autocast:
        """Autocast context of the recipe's precision."""
        device = self.module.queue.entries.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.recipe.precision == "bfloat16")

    def figures(self, batch: Batch, projections: Tensor, features: Tensor) -> dict[str, float]:
        """Logged figures, every few steps: effective rank of features and projections, mean cosine of different clips.

        Args:
            batch: The global batch.
            projections: (B, d) projections of all processes.
            features: (b, D) features of this process.
        """
        if batch.step % _LOG_EVERY:
            return {}
        features = distributed.gather(features)
        size = len(projections)
        cosine = (projections @ projections.T).fill_diagonal_(0).sum() / (size * (size - 1))
        return {
            "rank": effective_rank(features - features.mean(0)),
            "projection_rank": effective_rank(projections),
            "cosine": float(cosine),
        }

    def partners(self, batch: Batch, side: int) -> Ints:
        """Partner of each row, (B,)."""
        u = random(self.recipe.seed, batch.stage, batch.step, 2 * len(_SIDES) + 2 + side).random(len(batch.clips))
        return partners(len(batch.clips), self.recipe.partner, u)

    def mixture(self, view: Tensor, batch: Batch, rows: Ints, side: int) -> tuple[Tensor, Tensor]:
        """Mixes rows of one side's views with their partners.

        Args:
            view: (m, T, F) views of `rows`.
            batch: The global batch.
            rows: (m,) rows of the batch, each with its partner among them.
            side: Side of the views, 0 or 1.

        Returns:
            (m, T, F) mixtures and their virtual labels (m, B).
        """
        recipe, size = self.recipe, len(batch.clips)
        if self.mix == "none":
            return view, self.one_hot(rows, size)
        u = random(recipe.seed, batch.stage, batch.step, len(_SIDES) + 2 + side).random((3, size))
        lam = scipy.special.betaincinv(
            recipe.alpha, recipe.alpha, u[0] if recipe.lambda_per == "sample" else np.repeat(u[0, :1], size)
        )
        lam = np.maximum(lam, 1 - lam) if recipe.lambda_max else lam
        partner = self.partners(batch, side)
        box = boxes(self.mix, lam, u[1], u[2], view.shape[1], view.shape[2], recipe.box, recipe.snap)
        labels = virtual_labels(partner, box.lam)[rows].to(view.device)
        place = np.argsort(rows)
        nearby = place[np.searchsorted(rows, partner[rows], sorter=place)]
        return mix(self.mix, view, nearby, box.of(rows)), labels

    def one_hot(self, rows: Ints, size: int) -> Tensor:
        """Labels of unmixed rows, (m, size)."""
        return torch.eye(size, device=self.module.queue.entries.device)[rows]


class HeadStage(_Contrastive):
    """Stage 1: encoder f frozen, g and h trained with NNCLR, nothing mixed; g itself writes the queue."""

    name = "stage 1: head"
    mix = "none"
    tuned = False

    @property
    def epochs(self) -> int:  # type: ignore[override]
        """Passes over the data."""
        return self.recipe.head_epochs

    @property
    def steps(self) -> int | None:  # type: ignore[override]
        """Steps in place of the passes, if the recipe has them."""
        return self.recipe.head_steps

    @property
    def writer(self) -> nn.Module:  # type: ignore[override]
        """Writer of the queue: the projector g."""
        return self.module.projector

    @torch.no_grad()
    def begin(self) -> None:
        """Fills the queue with projections of clean views."""
        fill_queue(self)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of g and h."""
        self.module.train()
        self.module.encoder.eval()
        heads = [*self.module.projector.parameters(), *self.module.predictor.parameters()]
        return decayed_groups(heads, self.recipe.head_learning_rate, self.recipe.head_weight_decay)


class TuneStage(_Contrastive):
    """Stage 2: upper half, final norm, g and h trained on mixtures; g' is the queue's reader and writer."""

    name = "stage 2: tuning"
    tuned = True

    @property
    def mix(self) -> Mixing:  # type: ignore[override]
        """Mixing of the recipe."""
        return self.recipe.mix

    @property
    def epochs(self) -> int:  # type: ignore[override]
        """Passes over the data."""
        return self.recipe.epochs

    @property
    def steps(self) -> int | None:  # type: ignore[override]
        """Steps in place of the passes, if the recipe has them."""
        return self.recipe.steps

    @property
    def writer(self) -> nn.Module:  # type: ignore[override]
        """Writer of the queue: the moving average g'."""
        return self.module.average

    @torch.no_grad()
    def begin(self) -> None:
        """Copies g to g'; fills the queue if stage 1 was skipped."""
        self.module.average.load_state_dict(self.module.projector.state_dict())
        if not int(self.module.queue.written):
            fill_queue(self)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups: upper blocks with layer-wise decay, final norm, g and h."""
        module, recipe = self.module, self.recipe
        module.train()
        module.encoder.eval()
        module.encoder.requires_grad_(False)
        depth = module.encoder.shape.depth
        groups = []
        for index in range(module.frozen, depth):
            block = module.encoder.blocks[index].requires_grad_(True).train()
            rate = recipe.learning_rate * recipe.layer_decay ** (depth - index)
            groups += decayed_groups(list(block.parameters()), rate, recipe.weight_decay)
        norm = module.encoder.norm.requires_grad_(True)
        groups += decayed_groups(list(norm.parameters()), recipe.learning_rate, recipe.weight_decay)
        heads = [*module.projector.parameters(), *module.predictor.parameters()]
        return groups + decayed_groups(heads, recipe.head_learning_rate, recipe.head_weight_decay)

    def after_step(self) -> None:
        """Moves g' towards g."""
        update_average(self.module.average, self.module.projector, self.recipe.ema)


def fill_queue(stage: _Contrastive) -> None:
    """Writes |Q| projections of clean views, so that no lookup meets an empty entry."""
    recipe, queue = stage.recipe, stage.module.queue
    stage.module.train()
    stage.module.encoder.eval()
    needed, epoch, step = len(queue.entries), 0, 0
    while int(queue.written) < needed:
        for clips in batches(stage.frames.recordings, recipe.batch, recipe.seed, _FILL, epoch):
            stage.write(Batch(_FILL, step, clips))
            step += 1
            if int(queue.written) >= needed:
                return
        epoch += 1
