"""Supervised fine-tuning and linear probes: from an encoder and a task to a record, one run a fold and seed."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from uamix_bench.data.sound import sound_digests, sounds
from uamix_bench.data.task import TaskData
from uamix_bench.embeddings.embedding import embed
from uamix_bench.finetuning.classifier import Classifier, FineTuning, inputs, pooling, scores
from uamix_bench.finetuning.outcomes import Outcome, Run, read_outcome, score
from uamix_bench.finetuning.probe import probe
from uamix_bench.finetuning.recipe import FinetuneRecipe, ProbeRecipe
from uamix_bench.finetuning.splits import FOLDS, Plan, plan, subset, supervised
from uamix_bench.models.model import AudioModel
from uamix_bench.plugins.card import ModelIdentity
from uamix_bench.plugins.overlap import overlap
from uamix_bench.records.finetune_record import FinetuneCost, FinetuneResult, FinetuneSetting
from uamix_bench.records.provenance import collect, peak_memory_mb, scrub
from uamix_bench.records.record import Skipped, Status, TaskIdentity
from uamix_bench.storage.digests import sounds_sha256
from uamix_bench.tuning.data import Frames, load_frames
from uamix_bench.tuning.loop import Training
from uamix_bench.util import files
from uamix_bench.util.arrays import Floats, Ints, Mask
from uamix_bench.util.errors import BadInputError, Stopped
from uamix_bench.util.progress import SILENT, Progress
from uamix_bench.util.text import listed

Freeze = int | Literal["all"]

_HISTORY = 50  # entries of a run's that go into the record
_NAMED = 3  # broken clips that an error names
_PATCH = 16  # frames, where a model does not say


def finetune(model: AudioModel, data: TaskData, recipe: FinetuneRecipe | ProbeRecipe, **options: Any) -> FinetuneResult:
    """Fine-tunes a model on a task, or fits a linear probe to it; see :class:`Finetuning`.

    Args:
        model: Encoder from :func:`uamix_bench.load_model`; it is not changed.
        data: Task from :func:`uamix_bench.load_task`.
        recipe: Recipe of ``FINETUNE`` in `uamix_bench.finetuning.recipe`; its ``PROBE`` makes a linear probe.
        **options: Remaining arguments of :class:`Finetuning`.

    Raises:
        UsageError: The model cannot be trained in this way, or the data has too few classes or groups.
        BadInputError: A split or clip is missing or broken.
        Stopped: `stop` returned True; finished runs are kept.
    """
    if isinstance(recipe, ProbeRecipe):
        options.setdefault("freeze", "all")
    return Finetuning(model, data, recipe, **options).result()


@dataclass
class Finetuning:
    """Fine-tuning or linear probe of one encoder on one task.

    Args:
        model: Encoder from :func:`uamix_bench.load_model`; it is not changed.
        data: Task from :func:`uamix_bench.load_task`.
        recipe: Recipe: a :class:`FinetuneRecipe`, or a :class:`ProbeRecipe` if `freeze` is ``all``.
        freeze: Number of lower blocks to freeze, the stem with them; ``all`` for a linear probe.
        fraction: Share of the training clips; None for all.
        shots: Number of training clips of each class, instead of a share; None for no such number.
        folds: Number of folds for data that have no split of their own.
        seeds: Number of trainings of each fold, with seeds from the recipe's on.
        separator: Text between the classes of a clip that has several; default that of the task, if clips have several.
        folder: Folder of checkpoints and outcomes; default below ``UAMIX_BENCH_HOME/training``.
        workers: Number of decoding processes; None for one a core.
        keep_going: Whether to skip broken clips; if False, one error lists them.
        progress: Progress display.
        stop: Function polled after every step; see :class:`~uamix_bench.tuning.loop.Training`.

    Raises:
        UsageError: The model cannot be trained in this way, or the data has too few classes or groups.
        BadInputError: A split or clip is missing or broken.
    """

    model: AudioModel
    data: TaskData
    recipe: FinetuneRecipe | ProbeRecipe
    freeze: Freeze = 0
    fraction: float | None = None
    shots: int | None = None
    folds: int = FOLDS
    seeds: int = 1
    separator: str | None = None
    folder: Path | None = None
    workers: int | None = None
    keep_going: bool = False
    progress: Progress = SILENT
    stop: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        if self.model.identity is None:
            raise ValueError("the model has no identity: load it with load_model")
        if self.fraction is not None and self.shots is not None:
            raise ValueError("a training takes a share of the clips, or a number of each class")
        if (self.freeze == "all") != isinstance(self.recipe, ProbeRecipe):
            raise ValueError("a linear probe takes a ProbeRecipe, a fine-tuning a FinetuneRecipe")
        self.data = supervised(self.data)
        if self.separator is None and self.data.several is not None:
            self.separator = self.data.several.separator
        self.plan: Plan = plan(self.data, folds=self.folds, seed=self.recipe.seed, separator=self.separator)
        if self.several and isinstance(self.recipe, FinetuneRecipe) and self.recipe.loss != "binary":
            self.recipe = self.recipe.model_copy(update={"loss": "binary", "smoothing": 0.0})
        if isinstance(self.recipe, FinetuneRecipe):
            self.classifier(self.recipe)  # refuses what cannot be trained before anything is decoded

    @property
    def several(self) -> bool:
        """True if a clip may have several classes."""
        return self.separator is not None

    @property
    def runs(self) -> list[Run]:
        """Runs: every fold with every seed."""
        return [Run(fold, self.recipe.seed + seed) for fold in self.plan.folds for seed in range(self.seeds)]

    @property
    def place(self) -> Path:
        """Folder of checkpoints and outcomes."""
        if self.folder is not None:
            return self.folder
        return files.home() / "training" / f"finetune-{self.recipe.name}-{files.digest(self.identity)[:12]}"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Facts, by name, that must be identical to resume a run."""
        assert self.model.identity is not None
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "data": self.data.clips_sha256,
            "model": files.digest(self.model.identity.model_dump(mode="json")),
            "freezing": str(self.freeze),
            "fraction": str(self.fraction) if self.shots is None else f"{self.shots} of each class",
            "labels": files.digest([self.separator, *self.plan.labels.classes]),
            "split": f"{self.plan.scheme}; clips of {self.data.card.clip_seconds:g} s",
        }

    def train_rows(self, run: Run) -> Ints:
        """Rows of the clip table that a run trains on."""
        return subset(run.fold.train, self.plan.labels.targets, self.fraction, run.seed, self.shots)

    def recipe_of(self, run: Run, clips: int) -> FinetuneRecipe:
        """Recipe of one run: its seed, and a batch no larger than its `clips`."""
        assert isinstance(self.recipe, FinetuneRecipe)
        return self.recipe.model_copy(update={"seed": run.seed, "batch": max(1, min(self.recipe.batch, clips))})

    def classifier(self, recipe: FinetuneRecipe) -> Classifier:
        """New classifier on a copy of the encoder."""
        assert self.freeze != "all"
        module = Classifier(copy.deepcopy(self.model), len(self.plan.labels.classes), recipe, self.freeze)
        inputs(self.model, recipe, _PATCH)
        return module.to(self.model.device)

    def result(self) -> FinetuneResult:
        """Carries out the runs that are not finished, and makes the record of all.

        Raises:
            MachineError: Another process works in the folder.
            Stopped: `stop` returned True; finished runs are kept.
        """
        files.check_writable(self.place)
        with files.locked(self.place / files.LOCK, None):
            return self._result()

    def _result(self) -> FinetuneResult:
        provenance = collect(str(self.model.device))
        code = f"version {provenance.package}, revision {provenance.revision}"
        done = [(run, self._outcome(run, code)) for run in self.runs]
        runs, made, notes = score(self.data, self.plan, done, self.several)
        codes = [outcome.facts.get("code", "an earlier version") for _, outcome in done]
        if others := [made_by for made_by in codes if made_by != code]:
            of = listed(dict.fromkeys(others), _NAMED, "; ")
            notes = (*notes, f"{len(others)} of {len(done)} runs were made earlier by other code: {of}")
        first = done[0][1].facts
        broken = tuple(Skipped(clip=scrub(clip), reason=scrub(reason)) for clip, reason in first["skipped"])
        skipped = (*Skipped.unread(self.data), *broken)
        identity = self._identity_as_used()
        return FinetuneResult.create(
            overlap=overlap(identity.pretrained_on, self.data.name, self.data.card.data),
            status=Status(
                complete=not (skipped or self.data.partial),
                partial=scrub(self.data.partial),
                skipped=skipped,
                notes=notes,
            ),
            model=identity,
            task=TaskIdentity.of(self.data, self._sounds_sha256, len(self.plan.labels.classes)),
            setting=FinetuneSetting(
                method="linear-probe" if self.freeze == "all" else "fine-tuning",
                recipe=self.recipe.model_dump(mode="json"),
                recipe_sha256=self.recipe.sha256,
                frozen_blocks=None if self.freeze == "all" else self.freeze,
                trained_parameters=first["trained_parameters"],
                frames=first["frames"],
                fraction=self.fraction,
                shots=self.shots,
                split=self.plan.scheme,
                metric="mAP" if self.several else "accuracy",
            ),
            runs=runs,
            score=made,
            cost=FinetuneCost(
                seconds=sum(outcome.facts["seconds"] for _, outcome in done),
                peak_memory_mb=peak_memory_mb(str(self.model.device)),
            ),
            provenance=provenance.model_copy(update={"content_sha256": self._sounds_sha256}),
        )

    def _outcome(self, run: Run, code: str) -> Outcome:
        """Reads the outcome of a finished run, or carries the run out with `code`, which is this process's."""
        path = self.place / f"{run.name}.npz"
        identity = {**self.identity, "sounds": self._sounds_sha256}
        if kept := read_outcome(path, identity, self.progress):
            return kept
        if self.stop():
            raise Stopped(run.name, "stopped before it began", "repeat the command to resume")
        started = time.perf_counter()
        outcome = self._probe(run) if self.freeze == "all" else self._finetune(run)
        outcome.facts.update(seconds=time.perf_counter() - started, code=code)
        outcome.write(path, identity)
        shutil.rmtree(self.place / run.name, ignore_errors=True)  # checkpoints, of no use once the run is whole
        return outcome

    def _identity_as_used(self) -> ModelIdentity:
        """Identity of the encoder, with the pooling of the fine-tuning."""
        identity = self.model.identity
        assert identity is not None
        if self.freeze == "all":
            return identity
        before = self.model.pooling
        self.model.pooling = how = pooling(self.model)
        width, self.model.pooling = self.model.embedding_dim, before
        return identity.model_copy(update={"pooling": how, "embedding_dim": width})

    # --- the two methods

    def _finetune(self, run: Run) -> Outcome:
        frames, rows_of = self._frames
        train, test = (rows_of[rows][rows_of[rows] >= 0] for rows in (self.train_rows(run), run.fold.test))
        self._must_have(run, train, test)
        recipe = self.recipe_of(run, len(train))
        module = self.classifier(recipe)
        own = replace(frames, first=frames.first[train], count=frames.count[train], recordings=np.arange(len(train)))
        targets = torch.from_numpy(self.plan.labels.targets[self._table_rows[train]])
        feed = inputs(self.model, recipe, self.length)
        device = self.model.device
        stage = FineTuning(module, recipe, own, targets, feed, device)
        stage.name = f"fine-tuning {run.name}"
        checkpoints = self.place / run.name
        unchanged = {**self.identity, "sounds": self._sounds_sha256}
        del unchanged["recipe"]  # the run has its own
        training = Training(recipe, [stage], own, checkpoints, unchanged, self.progress, self.stop)
        training.run()
        found = scores(module, frames, test, feed, device, self.progress)
        stride = max(1, -(-len(training.history) // _HISTORY))
        facts = {
            "train_clips": len(train),
            "batch": recipe.batch,
            "strength": None,
            "trained_parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
            "frames": self.length,
            "history": [{k: round(v, 5) for k, v in entry.items()} for entry in training.history[::stride]],
            "notes": [] if module.drops_paths or not recipe.drop_path else ["drop path: the model's blocks have none"],
            "skipped": [list(clip) for clip in frames.skipped],
        }
        return Outcome(found, self._table_rows[test], facts)

    def _probe(self, run: Run) -> Outcome:
        assert isinstance(self.recipe, ProbeRecipe)
        vectors, valid, skipped = self._embeddings
        train, validation, test = (rows[valid[rows]] for rows in (self.train_rows(run), *run.fold[2:]))
        self._must_have(run, train, test)
        if self.fraction is not None or self.shots is not None:
            validation = validation[:0]  # few labels are few: the others choose nothing either
        self.progress.say(f"linear probe {run.name}: {len(train):,} clips")
        groups = self.data.table["group"].astype(str)
        recipe = self.recipe.model_copy(update={"seed": run.seed})
        targets = self.plan.labels.targets
        found = probe(recipe, vectors, targets, groups, train, validation, test, several=self.several)
        facts = {
            "train_clips": len(train),
            "batch": None,
            "strength": found.strength,
            "trained_parameters": (vectors.shape[1] + 1) * targets.shape[1],
            "frames": None,
            "history": [],
            "notes": [found.note] if found.note else [],
            "skipped": [list(clip) for clip in skipped],
        }
        return Outcome(found.scores, test, facts)

    def _must_have(self, run: Run, train: Ints, test: Ints) -> None:
        if not len(train) or not len(test):
            reason = f"{run.fold.name} has {len(train)} clips to train on and {len(test)} to test that can be read"
            raise BadInputError(self.data.name, reason, "repair the data")

    # --- what the runs share

    @cached_property
    def _needed(self) -> Ints:
        return np.unique(np.concatenate([part for fold in self.plan.folds for part in (fold.train, fold.test)]))

    @cached_property
    def _sounds_sha256(self) -> str:
        """SHA-256 over the sounds of all needed clips."""
        rows = self.data.table.take(self._needed)
        self.data.task.materialise(rows, self.progress)
        return sounds_sha256(sound_digests(sounds(rows), progress=self.progress).digests)

    @cached_property
    def _frames(self) -> tuple[Frames, Ints]:
        """Frames of all needed clips, and the place of each row of the clip table in them, or -1."""
        assert isinstance(self.recipe, FinetuneRecipe)
        needed = replace(self.data, table=self.data.table.take(self._needed))
        feed = inputs(self.model, self.recipe, _PATCH)
        with torch.no_grad():
            frames = load_frames(
                needed,
                feed.raw if feed.is_power else partial(_on_cpu, feed.raw, self.model.device),
                self.model.sample_rate,
                self.progress,
                workers=self.workers,
                stop=self.stop,
            )
        self._refuse_broken(frames.skipped)
        readable = ~needed.table.among("clip", {clip for clip, _ in frames.skipped})
        place = np.full(len(self.data.table), -1, np.int64)
        place[self._needed[readable]] = np.arange(len(frames))
        return frames, place

    @cached_property
    def _table_rows(self) -> Ints:
        """Row of the clip table of each clip in the frames."""
        place = self._frames[1]
        rows = np.flatnonzero(place >= 0)
        return rows[np.argsort(place[rows])]

    @cached_property
    def length(self) -> int:
        """Number of frames of the input: the recipe's, or the longest clip's in whole patches."""
        assert isinstance(self.recipe, FinetuneRecipe)
        return self.recipe.frames[0] if self.recipe.frames else self.whole(int(self._frames[0].count.max()))

    def whole(self, frames: int) -> int:
        """Number of frames rounded up to whole patches, within the positions that the model has."""
        shape: Any = getattr(getattr(self.model, "encoder", None), "shape", None)
        patch = getattr(shape, "patch_frames", _PATCH)
        return int(min(-(-frames // patch), getattr(shape, "columns", 1 << 30))) * patch

    @cached_property
    def _embeddings(self) -> tuple[Floats, Mask, tuple[tuple[str, str], ...]]:
        found = embed(
            self.model, self.data, np.arange(len(self.data.table)), keep_going=self.keep_going, progress=self.progress
        )
        for line in found.warnings:
            self.progress.say(line)
        if not np.isfinite(found.vectors).all():
            raise BadInputError(self.model.card.name, "gives NaN or infinite embeddings", "see 'models check'")
        return found.vectors, found.valid, found.skipped

    def _refuse_broken(self, skipped: Sequence[tuple[str, str]]) -> None:
        if skipped and not self.keep_going:
            shown = listed((f"{clip}: {reason}" for clip, reason in skipped), _NAMED, "; ")
            raise BadInputError(
                f"{len(skipped)} clips of {self.data.name}",
                f"cannot be read ({shown})",
                "repair them, or set them aside with --keep-going",
            )


def _on_cpu(
    raw: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    device: torch.device,
    waveforms: torch.Tensor,
    lengths: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs a front end on the device of its tensors, and returns its output on the CPU."""
    values, counts = raw(waveforms.to(device), lengths.to(device))
    return values.cpu(), counts.cpu()
