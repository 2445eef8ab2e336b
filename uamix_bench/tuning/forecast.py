"""How long tunings will take: from earlier ones that are kept, or from a few steps of the real thing on this machine."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from uamix_bench.tuning import many
from uamix_bench.tuning.many import Job
from uamix_bench.tuning.recipe import TuneRecipe

_STEPS = 3  # that are measured, the first of them to warm up
_HEAD, _TUNING, _DECODING = "stage 1: head", "stage 2: tuning", "decoding"
_NEVER = 2**31

# Fields that change what a step computes, and not how long it takes.
_FREE = {
    *("name", "seed", "data", "views", "epochs", "head_epochs", "warmup", "betas", "clip_gradient"),
    *("weight_decay", "head_weight_decay", "learning_rate", "head_learning_rate", "layer_decay", "ema"),
    *("mix", "alpha", "lambda_per", "lambda_max", "box", "snap", "partner", "keys", "temperature", "top_k"),
    *("save_dtype", "checkpoint_every"),
}

Spent = dict[str, tuple[int, float]]


class Forecast(NamedTuple):
    """What tunings will take.

    Attributes:
        seconds: Of each job, by itself.
        total: Of all, several at once.
        source: Where the figures come from, in words.
    """

    seconds: tuple[float, ...]
    total: float
    source: str


def forecast(
    jobs: Sequence[Job],
    workers: int,
    is_finished: Callable[[Job], bool],
    measure: Callable[[Job], Spent] | None = None,
) -> Forecast:
    """Estimates how long jobs will take, those that were begun from where they are.

    Args:
        jobs: In the order in which they are carried out.
        workers: How many at once.
        is_finished: Whether a job is done.
        measure: Measures what no earlier run tells; default :func:`measured`.
    """
    known: dict[tuple[str, Any], float] = {}
    for job in jobs:
        for what, (units, seconds) in many.read_cost(job.folder, job.device, job.threads).items():
            if units:
                known[what, _shape(job.recipe, what)] = seconds / units
    sources = {"earlier runs"} if known else set()
    took = []
    for job in jobs:
        took.append(0.0)
        if is_finished(job):
            continue
        units = {_DECODING: _clips(job), **_remaining(job)}
        for what, count in units.items():
            if count and (what, _shape(job.recipe, what)) not in known:
                sources.add("a few steps measured here")
                for found, (units_done, seconds) in (measure or measured)(job).items():
                    known[found, _shape(job.recipe, found)] = seconds / max(units_done, 1)
            took[-1] += count * known.get((what, _shape(job.recipe, what)), 0.0)
    longest = max(took, default=0.0)
    total = max(sum(took) / max(1, min(workers, sum(map(bool, took)))), longest)
    return Forecast(tuple(took), total, " and ".join(sorted(sources)) or "nothing is left to tune")


def measured(job: Job) -> Spent:
    """Tunes on a few batches of the job's own sounds, in a folder that is thrown away."""
    import torch

    from uamix_bench.tuning.data import find_data
    from uamix_bench.tuning.run import tune

    recipe, data = job.recipe, find_data(job.data, job.data_dir, job.audio_root)
    first = data.clips.drop_duplicates("group")
    some = np.unique(np.linspace(0, len(first) - 1, _STEPS * recipe.batch).astype(int))
    data = dataclasses.replace(data, clips=first.iloc[some].reset_index(drop=True))
    usual = min(recipe.frames, key=lambda frames: abs(frames - float(np.mean(recipe.frames))))
    short = {"epochs": 1, "head_epochs": 1, "queue": recipe.batch, "frames": (usual,), "checkpoint_every": _NEVER}
    short["top_k"] = min(recipe.top_k, recipe.batch)
    clock = many.Clock()
    threads = torch.get_num_threads()
    torch.set_num_threads(job.threads)
    try:
        with tempfile.TemporaryDirectory(prefix="uamix-bench-") as folder:
            tune(recipe.model_copy(update=short), data, job.init, Path(folder), device=job.device, progress=clock)
    finally:
        torch.set_num_threads(threads)
    return clock.spent


def _remaining(job: Job) -> dict[str, int]:
    """Steps that are left of each stage, by the newest checkpoint."""
    epoch = _clips(job) // job.recipe.batch
    left = {_HEAD: 0 if job.head else epoch * job.recipe.head_epochs, _TUNING: epoch * job.recipe.epochs}
    names = sorted(path.stem for path in (job.folder / "checkpoints").glob("[0-9]-????????.pt"))
    if names:
        stage, _, step = names[-1].partition("-")
        what = (_HEAD, _TUNING)[min(int(stage), 1)]
        left[what] = max(0, left[what] - int(step))
        if what == _TUNING:
            left[_HEAD] = 0
    return left


def _clips(job: Job) -> int:
    return many.clips(job.data, job.data_dir, job.audio_root)


def _shape(recipe: TuneRecipe, what: str) -> Any:
    """What a step's time depends on: a recipe's sizes, and whether its clean views need passes of their own."""
    if what == _DECODING:
        return None
    alone = recipe.head_only() if what == _HEAD else recipe
    sizes = {name: str(value) for name, value in alone.model_dump(mode="json").items() if name not in _FREE}
    return (tuple(sizes.items()), alone.mix == "none")
