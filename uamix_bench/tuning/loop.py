"""Training loop: schedule, precision, checkpoint and resume, history, progress."""

from __future__ import annotations

import itertools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from uamix_bench.records.provenance import peak_memory_mb
from uamix_bench.tuning import distributed
from uamix_bench.tuning.checkpoints import Checkpoints
from uamix_bench.tuning.data import Frames, batches
from uamix_bench.tuning.recipe import Recipe
from uamix_bench.util import files
from uamix_bench.util.arrays import Ints
from uamix_bench.util.errors import MachineError, Stopped, is_out_of_memory
from uamix_bench.util.progress import SILENT, Progress

_POINTS = 200  # of the history that goes into the weights file


class Batch(NamedTuple):
    """Batch of clips that a step works on.

    `step` is the number of the step in its stage. `clips` are the (B,) rows of the global batch's clips. `inputs` are
    the stage's inputs, made ahead of the step.
    """

    stage: int
    step: int
    clips: Ints
    inputs: Any = None


class Stage(ABC):
    """Stage of a training, with its own trained parameters and schedule.

    Attributes:
        name: Name in progress and record.
        epochs: Number of passes over the data.
        steps: Number of steps, in place of whole passes; None for the passes.
        module: Module with all state that a checkpoint must hold.
    """

    name: str
    epochs: int
    steps: int | None = None
    module: nn.Module

    def begin(self) -> None:  # noqa: B027 - most stages need none
        """Prepares the stage; called once, before its first step, and not on resume."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns AdamW's groups, each with ``params``, ``lr`` (the peak) and ``weight_decay``."""

    def inputs(self, batch: Batch) -> Any:
        """Makes a step's inputs from the data, in another thread during the step before; draws depend on `batch` alone.

        The default makes nothing.
        """
        return None

    @abstractmethod
    def step(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Returns the loss (a scalar with gradient, the mean over this process's clips) and figures to log."""

    def parts(self, batch: Batch) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Yields the loss in parts that add up to it, each with a graph of its own, and the figures with the last.

        The loop goes backward through one part before it asks for the next. The default is the whole step.
        """
        yield self.step(batch)

    def after_step(self) -> None:  # noqa: B027 - most stages need none
        """Runs after the optimiser's step (moving averages)."""

    def operations(self) -> float | None:
        """Multiplications and additions for one clip of a step, or None if they are not counted."""
        return None


def ordered(recordings: Ints, recipe: Recipe, number: int, stage: Stage) -> Ints:
    """Batches of a stage, (steps, batch) rows of clips: whole passes over the data, or cut at the stage's steps.

    Args:
        recordings: (n,) recording of each clip.
        recipe: Recipe with the batch and the seed.
        number: Number of the stage in its training.
        stage: Stage to order.

    Raises:
        UsageError: The data has fewer recordings than a batch needs.
    """
    order = [np.zeros((0, recipe.batch), np.int64)]
    for epoch in range(stage.epochs) if stage.steps is None else itertools.count():
        if stage.steps is not None and sum(map(len, order)) >= stage.steps:
            break
        order.append(batches(recordings, recipe.batch, recipe.seed, number, epoch))
    return np.concatenate(order)[: stage.steps]


@dataclass
class Pace:
    """Speed of a stage in this process, since the stage began or was resumed.

    Attributes:
        name: Name of the stage.
        clips: Number of clips trained on, by all processes.
        seconds: Duration of the steps, in seconds.
        waiting_s: Seconds of these in which the model waited for its inputs.
        operations: Multiplications and additions for one clip of a step; None if they are not counted.
        peak_memory_mb: Largest memory, in MB, that the process (or its share of the GPU) has held by the stage's end.
    """

    name: str
    operations: float | None = None
    clips: int = 0
    seconds: float = 0.0
    waiting_s: float = 0.0
    peak_memory_mb: float | None = None

    @property
    def clips_s(self) -> float:
        """Clips per second."""
        return self.clips / max(self.seconds, 1e-9)


@dataclass
class Training:
    """Training: stages run over data, resumable at any step.

    Args:
        recipe: Hyper-parameters.
        stages: Stages, in the order in which they run.
        frames: Training data.
        folder: Folder of the checkpoints.
        identity: Plain data by name (data, parent, ...) that must be identical, as the recipe must, to resume.
        progress: Progress display, advanced with every step.
        stop: Function polled after every step; True, in any process, saves a checkpoint and raises :class:`Stopped`.
        before: Training of the first stages alone, on the same modules, that other trainings share; None trains them
            here.
        history: Logged steps so far.
        paces: Speeds of the stages that ran in this process.
    """

    recipe: Recipe
    stages: Sequence[Stage]
    frames: Frames
    folder: Path
    identity: dict[str, Any]
    progress: Progress = SILENT
    stop: Callable[[], bool] = lambda: False
    before: Training | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    paces: list[Pace] = field(default_factory=list)

    def __post_init__(self) -> None:
        recipe = self.recipe.model_dump(mode="json")
        self._checkpoints = Checkpoints(self.folder, {"recipe": recipe, **self.identity})

    def run(self) -> list[dict[str, float]]:
        """Trains to the end, from the newest checkpoint if there is one.

        Returns:
            History: one entry per logged step, with ``stage``, ``step``, ``loss``, ``lr`` and the stage's figures.

        Raises:
            UsageError: The folder holds another training; the line names every difference.
            MachineError: The loss is not finite, memory or disk is full, or another process is lost; the last good
                checkpoint is kept.
            Stopped: `stop` returned True.
        """
        saved = self._checkpoints.newest(self.progress)
        at = f"{saved['stage']}-{saved['step']}" if saved else "none"
        distributed.agree({"training": files.digest(self._checkpoints.identity), "checkpoint": at})
        start_stage = int(saved["stage"]) if saved else 0
        self.history = list(saved["history"]) if saved else []
        if saved:
            self.stages[start_stage].module.load_state_dict(saved["module"])
            self.progress.say(f"continuing from {self.stages[start_stage].name}, step {saved['step']}")
        elif self.before is not None:
            self.history = list(self.before.run())
            start_stage = len(self.before.stages)
        for number, stage in enumerate(self.stages):
            if number >= start_stage and (stage.epochs if stage.steps is None else stage.steps):
                try:
                    self._run_stage(number, stage, saved if saved and number == start_stage else None)
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    raise MachineError(stage.name, "a step does not fit into memory", _smaller(self.recipe)) from error
        return self.history

    def _run_stage(self, number: int, stage: Stage, saved: dict[str, Any] | None) -> None:
        order = ordered(self.frames.recordings, self.recipe, number, stage)
        total = len(order)
        optimizer = torch.optim.AdamW(stage.parameter_groups(), lr=0.0, betas=self.recipe.betas)
        peaks = [group["lr"] for group in optimizer.param_groups]
        done = 0
        if saved:
            optimizer.load_state_dict(saved["optimizer"])
            done = int(saved["step"])
        else:
            stage.begin()
        pace = Pace(stage.name, stage.operations())
        self.paces.append(pace)
        with (
            self.progress.bar(stage.name, total, "steps") as advance,
            closing(_ahead(stage, number, order, done, pace)) as ahead,
        ):
            advance(done, "")
            begun = time.monotonic()
            for batch in ahead:
                rate = schedule(batch.step, total, self.recipe.warmup, self.recipe.floor)
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * rate
                loss, figures, stop = self._step(stage, batch, optimizer)
                pace.clips += self.recipe.batch
                pace.seconds = time.monotonic() - begun
                last = batch.step == total - 1
                if figures or last:
                    self.history.append({"stage": number, "step": batch.step, "loss": loss, "lr": rate, **figures})
                advance(1, _note(self.history, loss, pace))
                if last or stop or (batch.step + 1) % self.recipe.checkpoint_every == 0:
                    self._save(number, batch.step + 1, stage, optimizer)
                if stop and not (last and number == len(self.stages) - 1):
                    reason = f"stopped after step {batch.step + 1} of {total}"
                    raise Stopped(stage.name, reason, "repeat the command to resume")
        pace.peak_memory_mb = peak_memory_mb(str(_device(stage.module)))

    def _step(
        self, stage: Stage, batch: Batch, optimizer: torch.optim.Optimizer
    ) -> tuple[float, dict[str, float], bool]:
        """Updates the weights; returns the loss over all processes, the figures, and True if a process is to stop."""
        optimizer.zero_grad(set_to_none=True)
        losses = []
        figures: dict[str, float] = {}
        for loss, figures in stage.parts(batch):  # noqa: B007 - those of the last part stay
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        own = sum(torch.stack(losses).tolist())  # all parts were queued: a GPU is waited for once
        shared = torch.tensor([own, float(self.stop())], dtype=torch.float64)
        total, stop = distributed.mean(shared).tolist()
        if not math.isfinite(total):
            raise MachineError(
                f"{stage.name}, step {batch.step}",
                f"the loss is {total}",
                f"the last good checkpoint is in {self.folder}; lower the learning rate",
            )
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        distributed.average_gradients(trained)
        if self.recipe.clip_gradient:
            nn.utils.clip_grad_norm_(trained, self.recipe.clip_gradient)
        optimizer.step()
        stage.after_step()
        return total, figures, stop > 0

    def _save(self, number: int, step: int, stage: Stage, optimizer: torch.optim.Optimizer) -> None:
        """Writes a checkpoint on rank 0; all processes wait until it is complete."""
        if distributed.rank() == 0:
            state = {"module": stage.module.state_dict(), "optimizer": optimizer.state_dict(), "history": self.history}
            self._checkpoints.save(number, step, state)
        distributed.barrier()

    def thinned_history(self) -> list[dict[str, float]]:
        """History thinned for the weights file: at most some 200 entries, evenly spread, rounded."""
        stride = max(1, len(self.history) // _POINTS)
        return [{key: round(value, 5) for key, value in entry.items()} for entry in self.history[::stride]]


def schedule(step: int, total: int, warmup: float, floor: float = 0.0) -> float:
    """Share of the peak learning rate at a step: linear over `warmup` of the steps, then a cosine to `floor`."""
    rising = warmup * total
    if step < rising:
        return (step + 1) / (rising + 1)
    falling = 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))
    return floor + (1 - floor) * falling


def decayed_groups(parameters: Sequence[nn.Parameter], lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Splits parameters by weight decay: none for biases, norms and tokens, which have fewer than 2 real axes."""
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    plain = [p for p in parameters if p.squeeze().ndim < 2]
    heavy = [p for p in parameters if p.squeeze().ndim >= 2]
    groups = [
        {"params": heavy, "lr": lr, "weight_decay": weight_decay},
        {"params": plain, "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _ahead(stage: Stage, number: int, order: Ints, done: int, pace: Pace) -> Generator[Batch, None, None]:
    """Yields the batches from step `done` on; a thread makes the next batch's inputs during a step."""
    if done == len(order):
        return
    stream = _own_stream(stage.module)

    def make(step: int) -> Batch:
        batch = Batch(number, step, order[step])
        with _queued(stream):
            return batch._replace(inputs=stage.inputs(batch))

    with ThreadPoolExecutor(1, "inputs") as pool:
        coming = pool.submit(make, done)
        for step in range(done, len(order)):
            begun = time.monotonic()
            batch = coming.result()
            pace.waiting_s += time.monotonic() - begun
            if step + 1 < len(order):
                coming = pool.submit(make, step + 1)
            yield batch


def _device(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def _own_stream(module: nn.Module) -> torch.cuda.Stream | None:
    """CUDA stream of the module's GPU for work in parallel with the model; None on a CPU."""
    device = _device(module)
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]


@contextmanager
def _queued(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Runs a GPU's work on a stream of its own, so that no copy waits for the model; waits for the stream at the end.

    The memory of such tensors may be reused as soon as nobody holds them, even if the model still reads them. This is
    safe, as the loop holds a batch until its step is over, and a step waits for the model.
    """
    if stream is None:
        yield
        return
    with torch.cuda.stream(stream):
        yield
        stream.synchronize()


def _smaller(recipe: Recipe) -> str:
    """Remedy for a recipe's step that does not fit into memory."""
    if "micro_batch" not in type(recipe).model_fields:
        return f"take a smaller batch than {recipe.batch}: --set batch=N"
    size = getattr(recipe, "micro_batch", None) or recipe.batch
    return f"take fewer than {size} clips at once, of the same batch: --set micro_batch=N"


def _note(history: list[dict[str, float]], loss: float, pace: Pace) -> str:
    rank = f"  rank {history[-1]['rank']:.1f}" if history and "rank" in history[-1] else ""
    return f"loss {loss:.4f}{rank}  {pace.clips_s:.3g} clips/s"
