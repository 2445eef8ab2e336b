"""Duration forecast of tunings, from earlier runs or from a few measured steps."""

from __future__ import annotations

import dataclasses
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from uamix_bench.data.clip_table import earlier_equals
from uamix_bench.records.record import load
from uamix_bench.records.training_records import TrainingRecord
from uamix_bench.tuning.recipe import TuneRecipe
from uamix_bench.tuning.sounds import find_data
from uamix_bench.tuning.trainings import HEAD, RECORD, Job, remaining
from uamix_bench.util.errors import BadInputError
from uamix_bench.util.progress import Progress
from uamix_bench.util.threads import computing_with

_STEPS = 4  # that are measured, the first of them to warm up
_NEVER = 2**31
_SMALL = 8  # clips of the batch by which a whole training is estimated
_BYTES = 4  # of a number in float32

if TYPE_CHECKING:  # planning is free of torch
    from torch import Tensor

Rates = dict[str, float]  # seconds a step, by stage


class Forecast(NamedTuple):
    """Expected duration of tunings, without decoding and evaluation.

    Attributes:
        seconds: Duration of each job by itself, in seconds.
        total: Duration of all jobs with several at once, in seconds.
        source: Source of the figures, in words.
    """

    seconds: tuple[float, ...]
    total: float
    source: str


def forecast(
    jobs: Sequence[Job],
    workers: int,
    is_finished: Callable[[Job], bool],
    measure: Callable[[Job], Rates] | None = None,
) -> Forecast:
    """Estimates the duration of jobs; jobs that have begun count from their newest checkpoint.

    Args:
        jobs: Jobs in the order in which they are carried out.
        workers: Number of jobs at once.
        is_finished: Function that tells if a job is done.
        measure: Function that measures a job if no earlier run is like it; default :func:`measured`.
    """
    known: dict[Any, float] = {}
    for job in jobs:
        known |= {_shape(job.recipe, stage): rate for stage, rate in _earlier(job).items()}
    sources = {"earlier runs"} if known else set()
    took = []
    for job in jobs:
        left = {} if is_finished(job) else remaining(job)
        for stage, steps in left.items():
            if steps and _shape(job.recipe, stage) not in known:
                sources.add("a few steps measured here")
                known |= {_shape(job.recipe, found): rate for found, rate in (measure or measured)(job).items()}
        took.append(sum(steps * known.get(_shape(job.recipe, stage), 0.0) for stage, steps in left.items()))
    total = max(sum(took) / max(1, min(workers, sum(map(bool, took)))), max(took, default=0.0))
    return Forecast(tuple(took), total, " and ".join(sorted(sources)) or "nothing is left to tune")


def measured(job: Job) -> Rates:
    """Seconds of a step of each stage, measured on a few batches of the job's own sounds; nothing is stored."""
    from uamix_bench.tuning import distributed
    from uamix_bench.tuning.data import load_frames
    from uamix_bench.tuning.loop import Training
    from uamix_bench.tuning.run import initial_model, tuning_stages
    from uamix_bench.tuning.views import Spectrograms

    recipe, data = job.recipe, find_data(job.data, job.data_dir, job.audio_root)
    some = np.flatnonzero(earlier_equals(data.table["group"]) == 0)
    some = some[:: max(1, len(some) // (_STEPS * recipe.batch))][: _STEPS * recipe.batch]
    mean = sum(recipe.frames) / len(recipe.frames)
    usual = min(recipe.frames, key=lambda frames: abs(frames - mean))
    short = {"epochs": 1, "head_epochs": 1, "queue": recipe.batch, "frames": (usual,), "checkpoint_every": _NEVER}
    unset = dict.fromkeys(("clips", "steps", "head_steps"))
    recipe = recipe.model_copy(update={**short, **unset, "top_k": min(recipe.top_k, recipe.batch)})
    clock = _Clock()
    with computing_with(job.threads), tempfile.TemporaryDirectory(prefix="uamix-bench-") as folder:
        model = initial_model(job.init)
        sample = dataclasses.replace(data, table=data.table.take(some))
        # A front end that is no dataclass: its frames are not kept.
        frames = load_frames(sample, lambda *waves: model.fbank(*waves), model.sample_rate, workers=1)
        spectrograms = Spectrograms(model.normalise, model.fbank.mel_hz, recipe.views, distributed.device(job.device))
        stages = tuning_stages(model, recipe, frames, spectrograms)
        stages[0].module.to(spectrograms.device)
        Training(recipe, stages, frames, Path(folder), {}, clock).run()
    return clock.rates


class _Clock(Progress):
    """Progress that measures the seconds of a step, the first step of each stage left out."""

    def __init__(self) -> None:
        self.rates: Rates = {}

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "clips") -> Iterator[Callable[[int, str], None]]:
        """See :meth:`Progress.bar`."""
        ends: list[float] = []

        def advance(count: int, note: str = "") -> None:
            if unit == "steps" and note:
                ends.append(time.perf_counter())
                if len(ends) > 1:
                    self.rates[what] = (ends[-1] - ends[0]) / (len(ends) - 1)

        yield advance


class Need(NamedTuple):
    """Time and memory that a tuning takes on this machine, without decoding.

    Attributes:
        seconds: Duration of all steps in seconds.
        memory_bytes: Weights, gradients, moments of the optimiser, queue, and what a batch keeps for its gradients.
    """

    seconds: float
    memory_bytes: int


def need(job: Job, steps: Mapping[str, int], trained: Mapping[str, int], parameters: int) -> Need:
    """Estimates a tuning from a few steps of a small batch of its own sounds, scaled to the recipe's batch.

    Args:
        job: Tuning to estimate; nothing is written to its folder.
        steps: Number of steps of each stage, by its name.
        trained: Number of parameters that each stage trains, by its name.
        parameters: Number of all parameters, of encoder and head.
    """
    recipe = job.recipe
    small = min(recipe.batch, _SMALL)
    with _Kept() as kept:
        rates = measured(job._replace(recipe=recipe.model_copy(update={"batch": small, "micro_batch": None})))
    seconds = sum(count * rates.get(stage, 0.0) for stage, count in steps.items()) * recipe.batch / small
    at_once = recipe.micro_batch or recipe.batch
    state = _BYTES * (parameters + 3 * max(trained.values()) + recipe.queue * recipe.projector[-1])
    return Need(seconds, state + kept.most * at_once // small)


class _Kept:
    """Largest number of bytes that autograd keeps for gradients at one time, parameters left out."""

    def __init__(self) -> None:
        self.most = self._now = 0
        self._holders: dict[int, int] = {}

    def __enter__(self) -> Self:
        from torch.autograd.graph import saved_tensors_hooks

        self._hooks = saved_tensors_hooks(self._pack, lambda held: held.tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> _Held:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), 0 if tensor.is_leaf and tensor.requires_grad else storage.nbytes()
        self._holders[place] = self._holders.get(place, 0) + 1
        if self._holders[place] == 1:
            self._now += size
            self.most = max(self.most, self._now)
        held = _Held(tensor)
        weakref.finalize(held, self._free, place, size)
        return held

    def _free(self, place: int, size: int) -> None:
        self._holders[place] -= 1
        if not self._holders[place]:
            self._now -= size


class _Held:
    """A tensor that autograd keeps."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _earlier(job: Job) -> Rates:
    """Seconds of a step of each stage, from the record of a finished training in the job's folder."""
    try:
        record = load(job.folder / RECORD, {"training": TrainingRecord})
    except BadInputError:
        return {}
    return {cost.name: job.recipe.batch / cost.clips_s for cost in record.cost if cost.clips_s}


def _shape(recipe: TuneRecipe, stage: str) -> Any:
    """Key of all that a step's time depends on: a recipe's sizes, and whether it mixes."""
    alone = recipe.head_only() if stage == HEAD else recipe
    sizes = [str(getattr(alone, name)) for name, scope in alone.scopes().items() if scope.timed]
    return (stage, alone.mix == "none" and stage != HEAD, *sizes)
