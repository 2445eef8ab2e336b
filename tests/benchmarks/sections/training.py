"""A step of the tiny tuning by part, beside the matrix products that it computes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from uamix_bench.models.vit import ViTShape, initialise
from uamix_bench.plugins.registry import models
from uamix_bench.reports.blocks import Prose, Section, Table
from uamix_bench.tuning.contrastive import Network, TuneStage
from uamix_bench.tuning.data import Frames
from uamix_bench.tuning.loop import Batch
from uamix_bench.tuning.recipe import TUNE, TuneRecipe
from uamix_bench.tuning.run import multiply_plainly
from uamix_bench.tuning.views import Spectrograms

from .. import limits, tables
from ..scale import Scale

SHAPE = ViTShape(width=192, depth=6, heads=3)  # audiomae-tiny's
LENGTH = 80  # frames; the recipe has 48 to 112
_PLACES = {torch.ops.aten.mm.default: 0, torch.ops.aten.bmm.default: 0, torch.ops.aten.addmm.default: 1}

Size = tuple[torch.dtype, int, int, int, int]  # so many products of (rows, inner) by (inner, columns)


def section(scale: Scale) -> Section:
    text = f"""
        A step of the second stage of tuning by the recipe tiny, on {scale.train_batch} clips of noise, two views of
        {LENGTH} frames each, of spectrograms in memory. Clean views pass the whole encoder without gradients, and so do
        mixtures its frozen half. The limit is the matrix products that the part computes, one after the other, of the
        same shapes and precision, their operands ready. precision=auto takes bfloat16 where the processor has such
        products. CPU time of one thread, medians of {scale.rounds} rounds.
    """
    precisions = ["float32", *(["bfloat16"] if limits.has_bf16("cpu") else [])]
    return Section("Training", [Prose(text), *(by_part(scale, precision) for precision in precisions)])


def by_part(scale: Scale, precision: str) -> Table:
    """A row for each part of a step, for the encoder's parts together, and for the whole."""
    step = Step(scale.train_batch, precision)
    sizes = step.products()
    operands = {
        size: (torch.randn(size[1:4]).to(size[0]), torch.randn(size[1], *size[3:]).to(size[0]))
        for size in set().union(*sizes.values())
    }
    rounds: dict[str, list[tuple[float, float]]] = {part: [] for part in sizes}
    for number in range(scale.rounds + 1):
        spent = step.seconds(number + 1)
        for part, counted in sizes.items():
            begun = time.process_time()
            for size, count in counted.items():
                left, right = operands[size]
                for _ in range(count):
                    torch.bmm(left, right) if size[1] > 1 else torch.mm(left[0], right[0])
            rounds[part].append((spent[part], time.process_time() - begun))
    times = {part: np.array(found[1:]).T for part, found in rounds.items()}  # (2, rounds): ours, the products alone
    work = {
        part: 2.0 * sum(np.prod(size[1:]) * count for size, count in counted.items()) for part, counted in sizes.items()
    }
    encoder = [part for part in times if part.startswith("encoder")]
    rows = [_row(part, times[part], work[part]) for part in times]
    for name, parts in (("the encoder's parts", encoder), ("the whole step", list(times))):
        rows.append(_row(name, sum(times[part] for part in parts), sum(work[part] for part in parts)))  # type: ignore[arg-type]
    columns = [f"A tiny step, {precision}", "CPU ms>", "GFLOP>", "GFLOP/s>", "limit, GFLOP/s>", tables.SHARE]
    return Table(columns, rows)


def _row(name: str, times: npt.NDArray[np.float64], work: float) -> list[str]:
    ours, least = times
    shown = [name, tables.milliseconds(float(np.median(ours)))]
    if not work:
        return [*shown, "0", "0", "", ""]
    rates = [tables.significant(1e-9 * work / float(np.median(side))) for side in (ours, least)]
    return [*shown, tables.significant(1e-9 * work), *rates, tables.per_cent(float(np.median(least / ours)))]


class Step:
    """Steps of the tiny tuning on noise, part by part."""

    def __init__(self, batch: int, precision: str) -> None:
        clips = 2 * batch
        values = np.random.default_rng(0).normal(-6, 3, (200 * clips, 128)).astype(np.float16)
        frames = Frames(values, 200 * np.arange(clips), np.full(clips, 200), np.arange(clips), "noise")
        changes = {"batch": batch, "queue": 32 * batch, "frames": (LENGTH,), "precision": precision}
        self.recipe: TuneRecipe = TUNE["tiny"].model_copy(update=changes)
        self.model: Any = models()["audiomae"].load()(SHAPE)
        initialise(self.model, torch.Generator().manual_seed(0))
        if precision == "bfloat16":
            multiply_plainly(self.model.encoder)
        made = Spectrograms(self.model.normalise, self.model.fbank.mel_hz, self.recipe.views, torch.device("cpu"))
        self.stage = TuneStage(Network(self.model.encoder, self.recipe), self.recipe, frames, made)
        self.optimizer = torch.optim.AdamW(self.stage.parameter_groups(), lr=1e-6, betas=self.recipe.betas)
        entries = torch.randn(32 * batch, self.recipe.projector[-1], generator=torch.Generator().manual_seed(1))
        self.stage.module.queue.push(normalize(entries, dim=1), torch.full((32 * batch,), clips))

    def run(self, number: int) -> Iterator[str]:
        """Takes a step and yields the name of each part when it is done."""
        stage, rows = self.stage, np.arange(self.recipe.batch)
        batch = Batch(1, 20 * number + 1, rows)  # not a step whose figures are logged
        views = stage.inputs(batch)
        mixed = [stage.mixture(view, batch, rows, side) for side, view in enumerate(views)]
        yield "views and mixtures"
        clean = [stage.features(view, tuned=False) for view in views]
        yield "encoder: clean views"
        keys = stage.keys([stage.project([features], batch) for features in clean], batch)
        yield "projections, look-up of keys"
        anchors = [stage.features(view, tuned=True) for view, _ in mixed]
        yield "encoder: mixtures"
        ends = [anchor.detach().requires_grad_() for anchor in anchors]
        stage.loss(ends, keys, [label for _, label in mixed]).backward()  # type: ignore[no-untyped-call]
        yield "heads and loss, and back"
        torch.autograd.backward(anchors, [end.grad for end in ends])  # type: ignore[arg-type]
        yield "encoder: mixtures, back"
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(trained, self.recipe.clip_gradient or 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        stage.after_step()
        yield "optimiser, moving average"

    def seconds(self, number: int) -> dict[str, float]:
        """Takes a step and returns the CPU time of each part."""
        spent, begun = {}, time.process_time()
        for part in self.run(number):
            spent[part] = time.process_time() - begun
            begun = time.process_time()
        return spent

    def products(self) -> dict[str, Counter[Size]]:
        """Matrix products of each part, counted by size; those within fused attention, too."""
        blocks = self.model.encoder.blocks
        fused = [block.attn.fused_attn for block in blocks]
        multiply_plainly(self.model.encoder)
        try:
            with _Products() as recorder:
                return {part: recorder.take() for part in self.run(0)}
        finally:
            for block, before in zip(blocks, fused, strict=True):
                block.attn.fused_attn = before


class _Products(TorchDispatchMode):
    """Recorder of the matrix products that torch computes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[Size] = Counter()

    def take(self) -> Counter[Size]:
        taken, self.found = self.found, Counter()
        return taken

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in _PLACES:
            left, right = args[_PLACES[func] :][:2]
            self.found[left.dtype, (left.shape[0] if left.ndim == 3 else 1), *left.shape[-2:], right.shape[-1]] += 1
        elif func is torch.ops.aten.convolution.default:  # of patches that do not overlap
            weight = args[1]
            self.found[weight.dtype, 1, made.numel() // len(weight), weight[0].numel(), len(weight)] += 1
        return made
