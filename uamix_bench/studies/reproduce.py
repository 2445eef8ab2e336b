"""Plan of a reproduction: the jobs of the paper's tables and figures, and what they lack on this machine.

Planning is a pure function of the cards and of the files found on this machine. It does not import torch; the jobs do
when they run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from uamix_bench.data.prepare import Copy, look
from uamix_bench.plugins.card import ModelCard, TaskCard
from uamix_bench.plugins.registry import fetched
from uamix_bench.records.results import Result, load_result
from uamix_bench.records.store import ResultStore
from uamix_bench.scoring.protocol import PAPER
from uamix_bench.studies.paper import ARMS, SOURCE, Cell, Settings, Target, architecture
from uamix_bench.util import files
from uamix_bench.util.errors import BenchError


@dataclass(frozen=True)
class Here:
    """Data, weights and results found on this machine.

    Attributes:
        copies: Copies of the data sets, by task.
        weights: Paths of the weights, by model.
        sounds: Name or path of the sounds for tuning, as ``tune --data`` takes it; empty for none.
        kept: Model, task, and pair of ways and shots, of the results that exist.
        data_dir: Folder of the data sets, if the user named one.
    """

    copies: Mapping[str, Copy]
    weights: Mapping[str, Path]
    sounds: str = ""
    kept: frozenset[tuple[str, str, Cell]] = frozenset()
    data_dir: Path | None = None


class Missing(NamedTuple):
    """Missing item: its name, the jobs that need it, and the command that gets it."""

    subject: str
    needed_by: tuple[str, ...]
    remedy: str


@dataclass(frozen=True)
class Step:
    """Job of a reproduction.

    Attributes:
        kind: Kind of job; ``tune`` makes the weights of `model`.
        model: Name of the model that is evaluated or made.
        task: Name of the data set; empty for a tuning.
        cells: Pairs of ways and shots of a few-shot job; empty for other jobs.
        kept: Number of these pairs whose results exist.
        lacks: Names of the missing items that it needs; empty if it can run.
        clips: Expected number of clips to embed, at most; 0 if the job does not embed.
        clip_seconds: Clip length of the task, in seconds.
        parameters: Number of parameters of the encoder, by its card.
    """

    kind: Literal["tune", "few-shot", "fine-tuning", "clusters"]
    model: str
    task: str = ""
    cells: tuple[Cell, ...] = ()
    kept: int = 0
    lacks: tuple[str, ...] = ()
    clips: int = 0
    clip_seconds: float = 0.0
    parameters: int = 0

    def flops(self) -> float:
        """Floating point operations of the embedding: two a parameter and token, 50 tokens a second of sound.

        That is the token rate of a spectrogram of 100 frames a second and 128 mel bins in patches of 16 x 16, as in
        AudioMAE.
        """
        return 2.0 * self.parameters * 50 * self.clip_seconds * self.clips


@dataclass(frozen=True)
class Reproduction:
    """Plan of a target: its jobs in the order in which they run, and the missing items."""

    target: Target
    settings: Settings
    jobs: tuple[Step, ...]
    missing: tuple[Missing, ...]
    miniatures: tuple[str, ...] = ()

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Pairs of ways and shots under the settings."""
        return self.settings.cells(self.target)


_USABLE = ("here", "miniature", "generated")


def plan(
    target: Target,
    models: Mapping[str, ModelCard],
    tasks: Mapping[str, TaskCard],
    here: Here,
    settings: Settings | None = None,
) -> Reproduction:
    """Plans the jobs of a target.

    Args:
        target: Target to reproduce.
        models: The cards of the registered models.
        tasks: The cards of the registered tasks.
        here: Data, weights and results on this machine.
        settings: Settings of the reproduction; default the target's own.
    """
    settings = settings or Settings()
    jobs: list[Step] = []
    waiting: dict[tuple[str, str], list[str]] = {}
    for model in target.models:
        lacks = _lacks(model, here, models)
        if not lacks and model not in here.weights:
            jobs.append(Step("tune", model))
        if lacks and model in ARMS:
            jobs.append(Step("tune", model, lacks=tuple(subject for subject, _ in lacks)))
        for task in target.tasks:
            copy = here.copies[task]
            short = [*lacks, *([] if copy.state in _USABLE else [(task, _get_task(copy, here.data_dir))])]
            for subject in short:
                waiting.setdefault(subject, []).append(f"{model} on {task}")
            cells = settings.cells(target)
            todo = [cell for cell in cells if (model, task, cell) not in here.kept]
            draws = sum(settings.protocol.episodes * n * (k + settings.protocol.n_query) for n, k in todo)
            step = Step(
                target.kind,
                model,
                task,
                cells=cells,
                kept=len(cells) - len(todo),
                lacks=tuple(subject for subject, _ in short),
                clips=expected_clips(tasks[task].clips or 0, draws) if copy.state == "here" else 0,
                clip_seconds=tasks[task].clip_seconds,
                parameters=models[architecture(model)].parameters or 0,
            )
            jobs.append(step)
    missing = tuple(Missing(subject, tuple(by), remedy) for (subject, remedy), by in waiting.items())
    tunings = [job for job in jobs if job.kind == "tune"]
    minis = tuple(task for task in target.tasks if here.copies[task].state == "miniature")
    return Reproduction(target, settings, (*tunings, *(job for job in jobs if job.kind != "tune")), missing, minis)


def _lacks(model: str, here: Here, models: Mapping[str, ModelCard]) -> list[tuple[str, str]]:
    """Missing items of a model's weights, each with the command that gets it."""
    if model in here.weights:
        return []
    if model not in ARMS:
        card = models[model]
        file = f" {card.files[0].name}" if card.files else ""
        return [(f"weights of {model}", f"uamix-bench models fetch {model}{file}, or --checkpoint {model}=PATH")]
    lacks = [] if SOURCE in here.weights else _lacks(SOURCE, here, models)
    if not here.sounds:
        remedy = "--tuning-data FOLDER|CSV of AudioSet-20K; or --checkpoint NAME=PATH of weights that are tuned already"
        lacks.append(("sounds to tune on", remedy))
    return lacks


def _get_task(copy: Copy, data_dir: Path | None) -> str:
    """Command that gets a data set, with the missing parts of an incomplete copy."""
    lacks = f" (the copy here lacks {', '.join(copy.missing[:3])})" if copy.state == "partial" else ""
    return f"uamix-bench tasks prepare {copy.task}" + (f" --data-dir {data_dir}" if data_dir else "") + lacks


def expected_clips(clips: int, draws: int) -> int:
    """Expected number of distinct clips in `draws` uniform draws from `clips`."""
    return round(clips * -math.expm1(-draws / clips)) if clips else 0


def matrix_rate() -> float:
    """Floating point operations a second of this processor's float32 matrix products, measured for 0.1 s."""
    import numpy as np

    table = np.ones((768, 768), np.float32)
    table @ table  # threads start with the first
    started, done = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < 0.1:
        table @ table
        done += 1
    return done * 2.0 * 768**3 / elapsed


# --- what is here


def find_here(
    targets: Iterable[Target],
    models: Mapping[str, ModelCard],
    tasks: Mapping[str, TaskCard],
    *,
    data_dir: Path | None,
    given: Mapping[str, Path],
    sounds: str,
    settings: Settings,
    store: ResultStore,
) -> Here:
    """Looks for the data, weights and results of targets on this machine.

    Args:
        targets: Targets to reproduce.
        models: The cards of the registered models.
        tasks: The cards of the registered tasks.
        data_dir: Folder of the data sets; default ``UAMIX_BENCH_HOME/data``.
        given: Paths of weights that the user names, by model.
        sounds: Name or path of the sounds for tuning, as ``tune --data`` takes it; empty for none.
        settings: Settings of the reproduction.
        store: Store of the results.
    """
    wanted = list(targets)
    names = dict.fromkeys(model for target in wanted for model in (*target.models, SOURCE))
    weights = {name: path for name in names if (path := given.get(name) or _fetched(models.get(name)))}
    copies = {task: look(tasks[task], data_dir or files.home() / "data") for target in wanted for task in target.tasks}
    kept = frozenset(
        found
        for target in wanted
        for model in target.models
        if model in weights
        for task in target.tasks
        for found in _kept(model, weights[model], copies[task], settings, settings.cells(target), store)
    )
    return Here(copies, weights, sounds, kept, data_dir)


def _fetched(card: ModelCard | None) -> Path | None:
    """First of a registered model's files in the folder that ``models fetch`` writes to."""
    return next(iter(fetched(card)[0]), None) if card else None


def _kept(
    model: str, weights: Path, copy: Copy, settings: Settings, cells: Sequence[Cell], store: ResultStore
) -> list[tuple[str, str, Cell]]:
    """Pairs of ways and shots that have a complete result of these weights on this copy."""
    found = []
    sha256 = ""
    versions = "*-miniature" if copy.state == "miniature" else "*[0-9]"
    for path in sorted(store.folder.glob(f"{copy.task}@{versions}/{model}/*.json")):
        try:
            result = load_result(path)
        except BenchError:
            continue  # whoever meets it in earnest is told
        file = weights / "model.safetensors" if weights.is_dir() else weights
        sha256 = sha256 or files.file_sha256(file)
        cell = (result.protocol.n_way, result.protocol.k_shot)
        same = (result.model.weights_sha256, result.model.input, result.protocol)
        kept = result.status.complete and result.sounds_recorded  # else it is not reused
        if kept and cell in cells and same == (sha256, settings.input, settings.of_cell(cell)):
            found.append((model, copy.task, cell))
    return found


# --- what may be held against the paper


def not_comparable(result: Result, model: ModelCard, settings: Settings) -> str:
    """Reason why a result cannot be compared with the paper's 5-way 1-shot numbers; empty if it can.

    Args:
        result: Result on this machine.
        model: Card of the evaluated model.
        settings: Settings of the reproduction.
    """
    if result.task.version.endswith("-miniature"):
        return "a miniature"
    if not result.status.complete:
        return "a part of the data"
    if result.protocol.cell != PAPER.cell:
        return result.protocol.cell
    if result.protocol.min_clips:
        return f"only classes of {result.protocol.min_clips} clips or more"
    if result.protocol.name != PAPER.name:
        return ", ".join(result.protocol.differences("name")) or result.protocol.name
    if model.parameters and abs(result.model.parameters - model.parameters) > 0.05 * model.parameters:
        return f"a model of {result.model.parameters / 1e6:.1f}M parameters, not {model.parameters / 1e6:.0f}M"
    if settings.recipe != "paper" and result.model.recipe_sha256:
        return f"tuned by the recipe '{settings.recipe}'"
    return ""
