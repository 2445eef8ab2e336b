"""uaMix-MAE's two stages: the head alone on a frozen encoder, then head and upper half on mixtures.

The paper (ICASSP 2024, section 3) with MAE-CT's recipe where it is silent; DESIGN.md, "uaMix-MAE", has the equations.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import scipy.special
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uamix_bench.tuning.data import Frames, Ints, batches, random
from uamix_bench.tuning.loop import Batch, Stage, decayed_groups
from uamix_bench.tuning.mixing import boxes, mix, partners, virtual_labels
from uamix_bench.tuning.nnclr import (
    Queue,
    contrastive_loss,
    effective_rank,
    predictor,
    projector,
    update_average,
)
from uamix_bench.tuning.recipe import TuneRecipe
from uamix_bench.tuning.views import DRAWS, Spectrograms
from uamix_bench.vit import AudioViT

_LOG_EVERY = 20  # steps
_SIDES = (0, 1)  # the two views of a clip
_FILL = 9  # the stage number whose draws fill the queue


class Network(nn.Module):
    """Encoder f, projector g, predictor h, the moving average g' of g, and the queue.

    Args:
        encoder: f; its lower `recipe.frozen` share of blocks, and its stem, never change.
        recipe: Sizes and rates.
    """

    def __init__(self, encoder: AudioViT, recipe: TuneRecipe) -> None:
        super().__init__()
        generator_state = torch.get_rng_state()
        torch.manual_seed(recipe.seed)  # nn.Linear's own initialisation takes no generator
        self.encoder = encoder
        self.projector = projector(encoder.shape.width, recipe.projector)
        self.predictor = predictor(recipe.projector[-1], recipe.predictor)
        torch.set_rng_state(generator_state)
        self.average = copy.deepcopy(self.projector).requires_grad_(False)
        self.queue = Queue(recipe.queue, recipe.projector[-1])
        self.frozen = int(encoder.shape.depth * recipe.frozen + 0.5)

    def features(self, spectrogram: Tensor, tuned: bool) -> Tensor:
        """f: the mean of the normalised patch tokens, (B, T, F) -> (B, D).

        The frozen part runs without gradients; with `tuned` False all of it does.
        """
        with torch.no_grad():
            tokens = self.encoder.run(self.encoder.stem(spectrogram), last=self.frozen)
        with torch.set_grad_enabled(tuned and torch.is_grad_enabled()):
            tokens = self.encoder.run(tokens, first=self.frozen)
            return self.encoder.norm(tokens[:, 1:]).mean(dim=1)  # type: ignore[no-any-return]


class _Contrastive(Stage):
    """What the two stages share.

    Args:
        module: The network.
        recipe: The hyper-parameters.
        frames: The data.
        spectrograms: Makes the model's input from frames.
    """

    def __init__(self, module: Network, recipe: TuneRecipe, frames: Frames, spectrograms: Spectrograms) -> None:
        self.module: Network = module
        self.recipe, self.frames, self.spectrograms = recipe, frames, spectrograms

    def views(self, batch: Batch) -> list[Tensor]:
        """The two augmented views of a batch, each (B, T, F), of one length drawn for the step."""
        length = int(random(self.recipe.seed, batch.stage, batch.step, len(_SIDES)).choice(self.recipe.frames))
        views = []
        for side in _SIDES:
            draw = random(self.recipe.seed, batch.stage, batch.step, side)
            draws = draw.random((len(batch.clips), DRAWS))
            views.append(self.spectrograms(self.frames, batch.clips, draws, length, draw))
        return views

    def neighbours(self, clean: list[Tensor], batch: Batch) -> list[Tensor]:
        """Looks up a key for each clean projection of each side; then side 0's projections enter the queue."""
        recordings = self.recordings(batch.clips)
        queue, top_k = self.module.queue, self.recipe.top_k
        draws = random(self.recipe.seed, batch.stage, batch.step, len(_SIDES) + 1).random(
            (len(_SIDES), len(batch.clips))
        )
        keys = [queue.neighbours(u, recordings, top_k, draw) for u, draw in zip(clean, draws, strict=True)]
        queue.push(clean[0], recordings)
        return keys

    def recordings(self, clips: Ints) -> Tensor:
        """The (B,) recording of each clip, on the device."""
        return torch.from_numpy(self.frames.recordings[clips]).to(self.module.queue.entries.device)

    def autocast(self) -> torch.autocast:
        """The recipe's precision."""
        device = self.module.queue.entries.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.recipe.precision == "bfloat16")

    def figures(self, batch: Batch, clean: Tensor, features: Tensor) -> dict[str, float]:
        """Every few steps: effective rank of features and projections, and mean cosine between different clips."""
        if batch.step % _LOG_EVERY:
            return {}
        cosine = (clean @ clean.T).fill_diagonal_(0).sum() / (len(clean) * (len(clean) - 1))
        return {
            "rank": effective_rank(features - features.mean(0)),
            "projection_rank": effective_rank(clean),
            "cosine": float(cosine),
        }


class HeadStage(_Contrastive):
    """Stage 1: f frozen, g and h trained with NNCLR, nothing mixed; g itself writes the queue."""

    name = "stage 1: head"

    @property
    def epochs(self) -> int:  # type: ignore[override]
        """Passes over the data."""
        return self.recipe.head_epochs

    @torch.no_grad()
    def begin(self) -> None:
        """Fills the queue with projections of clean views."""
        fill_queue(self, self.module.projector)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """g and h."""
        self.module.train()
        self.module.encoder.eval()
        heads = [*self.module.projector.parameters(), *self.module.predictor.parameters()]
        return decayed_groups(heads, self.recipe.head_learning_rate, self.recipe.head_weight_decay)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Both directions of plain NNCLR."""
        with self.autocast():
            features = [self.module.features(view, tuned=False) for view in self.views(batch)]
            projections = [self.module.projector(feature) for feature in features]
            predictions = [self.module.predictor(projection) for projection in projections]
        clean = [F.normalize(projection.detach().float(), dim=1) for projection in projections]
        keys = self.neighbours(clean, batch)
        labels = torch.eye(len(clean[0]), device=clean[0].device)
        losses = [
            contrastive_loss(predictions[side], keys[1 - side], labels, self.recipe.temperature) for side in _SIDES
        ]
        return torch.stack(losses).mean(), self.figures(batch, clean[0], features[0].float())


class TuneStage(_Contrastive):
    """Stage 2: upper half, final norm, g and h trained on mixtures; g' looks up and writes the queue."""

    name = "stage 2: tuning"

    @property
    def epochs(self) -> int:  # type: ignore[override]
        """Passes over the data."""
        return self.recipe.epochs

    @torch.no_grad()
    def begin(self) -> None:
        """Copies g to g'; fills the queue where stage 1 was left out."""
        self.module.average.load_state_dict(self.module.projector.state_dict())
        if not int(self.module.queue.written):
            fill_queue(self, self.module.average)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Upper blocks with layer-wise decay, final norm, g and h."""
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

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Both directions: one view mixed, the other clean."""
        module, recipe = self.module, self.recipe
        views = self.views(batch)
        with self.autocast():
            mixed, labels = zip(
                *(self.mixture(view, batch, side) for side, view in zip(_SIDES, views, strict=True)),
                strict=True,
            )
            anchors = [module.features(view, tuned=True) for view in mixed]
            predictions = [module.predictor(module.projector(anchor)) for anchor in anchors]
            with torch.no_grad():
                if recipe.mix == "none":
                    features = [anchor.detach() for anchor in anchors]
                else:
                    features = [module.features(view, tuned=False) for view in views]
                clean = [F.normalize(module.average(feature).float(), dim=1) for feature in features]
        keys = self.neighbours(clean, batch)
        losses = [
            contrastive_loss(predictions[side], keys[1 - side], labels[side], recipe.temperature) for side in _SIDES
        ]
        return torch.stack(losses).mean(), self.figures(batch, clean[0], features[0].float())

    def after_step(self) -> None:
        """Moves g' towards g."""
        update_average(self.module.average, self.module.projector, self.recipe.ema)

    def mixture(self, view: Tensor, batch: Batch, side: int) -> tuple[Tensor, Tensor]:
        """Mixes one side's views with their partners; returns (B, T, F) and the virtual labels (B, B)."""
        recipe, size = self.recipe, len(view)
        u = random(recipe.seed, batch.stage, batch.step, len(_SIDES) + 2 + side).random((3, size))
        lam = scipy.special.betaincinv(
            recipe.alpha, recipe.alpha, u[0] if recipe.lambda_per == "sample" else np.repeat(u[0, :1], size)
        )
        partner = partners(size, recipe.partner)
        box = boxes(recipe.mix, lam, u[1], u[2], view.shape[1], view.shape[2])
        return mix(recipe.mix, view, partner, box), virtual_labels(partner, box.lam).to(view.device)


def fill_queue(stage: _Contrastive, writer: nn.Module) -> None:
    """Writes |Q| projections of clean views, so that no lookup ever meets an empty or a random entry."""
    recipe, queue = stage.recipe, stage.module.queue
    stage.module.train()
    stage.module.encoder.eval()
    needed, epoch, step = len(queue.entries), 0, 0
    while int(queue.written) < needed:
        for clips in batches(stage.frames.recordings, recipe.batch, recipe.seed, _FILL, epoch):
            batch = Batch(_FILL, step, clips)
            with stage.autocast():
                projection = writer(stage.module.features(stage.views(batch)[0], tuned=False))
            queue.push(F.normalize(projection.float(), dim=1), stage.recordings(clips))
            step += 1
            if int(queue.written) >= needed:
                return
        epoch += 1
