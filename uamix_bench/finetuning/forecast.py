"""Duration forecast of a fine-tuning, from the time of a small batch."""

from __future__ import annotations

import contextlib
import math
import time

import torch

from uamix_bench.data import audio
from uamix_bench.data.sound import sounds
from uamix_bench.finetuning.classifier import inputs
from uamix_bench.finetuning.finetune import Finetuning
from uamix_bench.finetuning.recipe import FinetuneRecipe
from uamix_bench.tuning.throughput import wait_for
from uamix_bench.util.errors import BenchError

_TIMED = 8  # clips of the batch
_LOOKED_AT = 32  # clips that its length is taken from
_FRAMES_S = 100  # a second, of every front end here


def estimate(work: Finetuning) -> tuple[int, float | None]:
    """Training steps of all runs, and the seconds that training and tests take.

    The time is measured under the machine's current load and excludes decoding. It is None for a linear probe.
    """
    recipe, model = work.recipe, work.model
    if not isinstance(recipe, FinetuneRecipe):
        return 0, None
    clips = [len(work.train_rows(run)) for run in work.runs]
    recipes = [work.recipe_of(run, count) for run, count in zip(work.runs, clips, strict=True)]
    steps = [own.epochs * (count // own.batch) for own, count in zip(recipes, clips, strict=True)]
    size = min(_TIMED, min(own.batch for own in recipes))
    module = work.classifier(recipes[0])
    length = recipe.frames[0] if recipe.frames else work.whole(_longest_of_a_few(work))
    device = model.device
    second = torch.zeros(1, model.sample_rate, device=device), torch.tensor([1], device=device)
    bins = inputs(model, recipe, length).raw(*second)[0].shape[2]
    view = torch.zeros(size, length, bins, device=device)
    for _ in range(2):  # the first one warms up
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            module(view).sum().backward()
        module.zero_grad()
        wait_for(device)
        step_s = time.perf_counter() - started
    tested = sum(len(run.fold.test) for run in work.runs)
    trained = sum(count * own.batch for count, own in zip(steps, recipes, strict=True))
    return sum(steps), (trained + tested / 3) * step_s / size  # a test is the forward third of a step


def _longest_of_a_few(work: Finetuning) -> int:
    """Number of frames of the longest of a few clips, spread over the table."""
    data = work.data
    rows = data.table.take(slice(None, None, max(1, len(data.table) // _LOOKED_AT)))
    data.task.materialise(rows, work.progress)
    seconds = []
    for sound in sounds(rows):
        with contextlib.suppress(BenchError):  # the training names it
            info = audio.probe(sound, max_seconds=data.card.clip_seconds)
            seconds.append(min(info.duration_s, data.card.clip_seconds))
    return math.ceil(_FRAMES_S * max(seconds, default=data.card.clip_seconds))
