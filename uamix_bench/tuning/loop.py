"""What every training shares: schedule, precision, checkpoint and resume, history, progress."""

from __future__ import annotations

import io
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from uamix_bench import files
from uamix_bench.errors import BenchError, MachineError, UsageError
from uamix_bench.progress import SILENT, Progress
from uamix_bench.tuning.data import Frames, Ints, batches
from uamix_bench.tuning.recipe import Recipe

_POINTS = 200  # of the history that goes into the weights file


class Batch(NamedTuple):
    """What a step works on: its number in the stage, and the (B,) rows of its clips."""

    stage: int
    step: int
    clips: Ints


class Stage(ABC):
    """One part of a training, with its own trained parameters and schedule.

    Attributes:
        name: Shown and recorded.
        epochs: Passes over the data.
        module: Everything whose state a checkpoint must hold.
    """

    name: str
    epochs: int
    module: nn.Module

    def begin(self) -> None:  # noqa: B027 - most stages need none
        """Prepares the stage; called once, before its first step, and not on resume."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns AdamW's groups, each with ``params``, ``lr`` (the peak) and ``weight_decay``."""

    @abstractmethod
    def step(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Returns the loss (a scalar with gradient) and figures to log."""

    def after_step(self) -> None:  # noqa: B027 - most stages need none
        """Runs after the optimiser's step (moving averages)."""


class Stopped(BenchError):
    """The training was asked to stop, and its state is saved: the same command continues it."""

    exit_code = 130


@dataclass
class Training:
    """A run of stages over data, resumable at any step.

    Args:
        recipe: The hyper-parameters.
        stages: Run one after the other.
        frames: The data.
        folder: Where checkpoints go.
        identity: What a resumed run must find unchanged, by name (recipe, data, parent, ...).
        progress: Is told of every step.
        stop: Asked after every step; True saves a checkpoint and raises :class:`Stopped`.
    """

    recipe: Recipe
    stages: Sequence[Stage]
    frames: Frames
    folder: Path
    identity: dict[str, str]
    progress: Progress = SILENT
    stop: Callable[[], bool] = lambda: False
    history: list[dict[str, float]] = field(default_factory=list)

    def run(self) -> list[dict[str, float]]:
        """Trains to the end, from the newest checkpoint where there is one.

        Returns:
            The history: one entry per logged step, with ``stage``, ``step``, ``loss``, ``lr`` and the stage's figures.

        Raises:
            UsageError: The folder holds another training; the line names the difference.
            MachineError: The loss is not finite, or the disk is full; the last good checkpoint is kept.
            Stopped: `stop` said so.
        """
        saved = self._newest()
        start_stage = int(saved["stage"]) if saved else 0
        self.history = list(saved["history"]) if saved else []
        if saved:
            self.stages[start_stage].module.load_state_dict(saved["module"])
            self.progress.say(f"continuing from {self.stages[start_stage].name}, step {saved['step']}")
        for number, stage in enumerate(self.stages):
            if number < start_stage:
                continue
            self._run_stage(number, stage, saved if saved and number == start_stage else None)
        return self.history

    def _run_stage(self, number: int, stage: Stage, saved: dict[str, Any] | None) -> None:
        if not stage.epochs:
            return
        recordings, size, seed = self.frames.recordings, self.recipe.batch, self.recipe.seed
        order = np.concatenate([batches(recordings, size, seed, number, epoch) for epoch in range(stage.epochs)])
        total = len(order)
        optimizer = torch.optim.AdamW(stage.parameter_groups(), lr=0.0, betas=self.recipe.betas)
        peaks = [group["lr"] for group in optimizer.param_groups]
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        done = 0
        if saved:
            optimizer.load_state_dict(saved["optimizer"])
            done = int(saved["step"])
        else:
            stage.begin()
        with self.progress.bar(stage.name, total, "steps") as advance:
            advance(done, "")
            started = time.monotonic()
            for step in range(done, total):
                rate = schedule(step, total, self.recipe.warmup, self.recipe.floor)
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * rate
                loss, figures = stage.step(Batch(number, step, order[step]))
                if not math.isfinite(loss.item()):
                    raise MachineError(
                        f"{stage.name}, step {step}",
                        f"the loss is {loss.item()}",
                        f"the last good checkpoint is in {self.folder}; lower the learning rate",
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                if self.recipe.clip_gradient:
                    nn.utils.clip_grad_norm_(trained, self.recipe.clip_gradient)
                optimizer.step()
                stage.after_step()
                entry = {"stage": number, "step": step, "loss": loss.item(), "lr": rate, **figures}
                if figures or step == total - 1:
                    self.history.append(entry)
                clips_s = (step + 1 - done) * self.recipe.batch / (time.monotonic() - started)
                advance(1, _note(self.history[-1] if self.history else entry, loss.item(), clips_s))
                last = step == total - 1
                if last or (step + 1) % self.recipe.checkpoint_every == 0 or self.stop():
                    self._save(number, step + 1, stage, optimizer)
                if self.stop() and not (last and number == len(self.stages) - 1):
                    raise Stopped(stage.name, f"stopped after step {step + 1} of {total}", "the same command continues")

    def _save(self, number: int, step: int, stage: Stage, optimizer: torch.optim.Optimizer) -> None:
        state = {
            "identity": self.identity,
            "stage": number,
            "step": step,
            "module": stage.module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "history": self.history,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        files.write_atomic(self.folder / f"{number}-{step:08d}.pt", buffer.getvalue())
        for old in self._checkpoints()[:-2]:
            old.unlink(missing_ok=True)

    def _checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]-????????.pt"))

    def _newest(self) -> dict[str, Any] | None:
        """Reads the newest whole checkpoint."""
        for path in reversed(self._checkpoints()):
            try:
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # torch raises many kinds for a damaged file
                self.progress.say(f"{path.name} is damaged ({type(error).__name__}); trying the one before")
                continue
            for what, value in self.identity.items():
                if state["identity"].get(what) != value:
                    raise UsageError(
                        self.folder,
                        f"holds a training with another {what} ({state['identity'].get(what)}, now {value})",
                        "choose another --out, or delete the folder",
                    )
            return state
        return None

    def thinned_history(self) -> list[dict[str, float]]:
        """At most some 200 entries, evenly spread, rounded: what goes into the weights file."""
        stride = max(1, len(self.history) // _POINTS)
        return [{key: round(value, 5) for key, value in entry.items()} for entry in self.history[::stride]]


def schedule(step: int, total: int, warmup: float, floor: float = 0.0) -> float:
    """The share of the peak learning rate at a step: linear over `warmup` of the steps, then a cosine to `floor`."""
    rising = warmup * total
    if step < rising:
        return (step + 1) / (rising + 1)
    falling = 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))
    return floor + (1 - floor) * falling


def decayed_groups(parameters: Sequence[nn.Parameter], lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Splits parameters into those that decay and those that do not (biases, norms, tokens: fewer than 2 real axes)."""
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    plain = [p for p in parameters if p.squeeze().ndim < 2]
    heavy = [p for p in parameters if p.squeeze().ndim >= 2]
    groups = [
        {"params": heavy, "lr": lr, "weight_decay": weight_decay},
        {"params": plain, "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _note(entry: dict[str, float], loss: float, clips_s: float) -> str:
    rank = f"  rank {entry['rank']:.1f}" if "rank" in entry else ""
    return f"loss {loss:.4f}{rank}  {clips_s:.0f} clips/s"
