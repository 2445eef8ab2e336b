"""Ablation: recipes -> trainings -> few-shot results -> differences to a reference. Torch-free until training."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uamix_bench.data.sound import sound_digests, sounds
from uamix_bench.engines.engine import Engine, Stop, never
from uamix_bench.engines.local import Local
from uamix_bench.evaluation.grid import evaluate
from uamix_bench.evaluation.plan import TaskPlan, plan_task
from uamix_bench.records import record
from uamix_bench.records.provenance import collect, scrub
from uamix_bench.records.results import Result
from uamix_bench.records.store import ResultStore
from uamix_bench.records.training_records import AblationRecord, Arm, SetAside, TrainingRecord, recipe_field
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.storage.digests import sounds_sha256
from uamix_bench.tuning.fields import changed, find_field
from uamix_bench.tuning.forecast import Forecast, forecast
from uamix_bench.tuning.on_engine import tune_all
from uamix_bench.tuning.recipe import HEAD_ALONE, Mixing, TuneRecipe, training_folder
from uamix_bench.tuning.sounds import find_data
from uamix_bench.tuning.trainings import RECORD, WEIGHTS, Job, has_begun, is_finished
from uamix_bench.util.errors import BadInputError, BenchError, UsageError
from uamix_bench.util.progress import SILENT, Progress

if TYPE_CHECKING:  # planning is free of torch
    from uamix_bench.models.model import AudioModel

REFERENCE: Mixing = "t-cutmix"  # the paper's own mixing
PLAIN = "mean"  # the paper's own pooling
CL2N = "simpleshot"  # SimpleShot's own classifier


@dataclass(frozen=True)
class PlannedArm:
    """Arm of an ablation: one recipe of the grid.

    Attributes:
        label: Name made of mixing and varied fields; identical for all seeds.
        reference: Whether the other arms of its seed are compared with this one.
        varied: Values of the fields that the grid varies, as plain data.
        recipe: Hyper-parameters of the arm.
    """

    label: str
    reference: bool
    varied: Mapping[str, Any]
    recipe: TuneRecipe


def plan(
    base: TuneRecipe,
    mixings: Sequence[Mixing] = (),
    vary: Mapping[str, Sequence[Any]] | None = None,
    seeds: Sequence[int] = (0,),
) -> list[PlannedArm]:
    """Plans a grid: every mixing with every combination of the varied fields, and the reference, for every seed.

    The reference is the recipe's own setting with t-cutmix. Combinations that train equally (alpha with no mixing) are
    one arm.

    Args:
        base: Recipe with the values of all fields that are not varied.
        mixings: Mixings of the grid; if empty, tf-cutmix if no field is varied, else t-cutmix.
        vary: Values to try by the name of a recipe's field, as `find_field` reads it.
        seeds: Seeds of the trainings; each trains the whole grid.

    Returns:
        Arms, seed by seed, the reference of the seed first.

    Raises:
        UsageError: A field is unknown or cannot be varied, or a value is not valid.
    """
    fields: dict[str, Sequence[Any]] = {}
    scopes = base.scopes()
    for given, values in (vary or {}).items():
        name = find_field(base, given, "--vary")
        if option := scopes[name.partition(".")[0]].option:
            raise UsageError(f"--vary {given}", "is not varied by this option", f"use {option}")
        if not values:
            raise UsageError(f"--vary {given}", "has no value", "give FIELD=VALUE[,VALUE...]")
        fields[name] = [*fields.get(name, ()), *values]
    mixings = mixings or ((REFERENCE,) if fields else ("tf-cutmix",))
    arms: list[PlannedArm] = []
    for seed in seeds:
        own = changed(base, {"seed": seed, "mix": REFERENCE})
        seen = {own.effective().sha256}
        arms.append(_planned(own, fields, {name: _as_given(own, name, fields[name]) for name in fields}, True))
        for mix, values in itertools.product(mixings, itertools.product(*fields.values())):
            chosen = dict(zip(fields, values, strict=True))
            recipe = changed(own, {"mix": mix, **chosen}).effective()
            if recipe.sha256 not in seen:
                seen.add(recipe.sha256)
                asked, made = changed(own, chosen).whole(), recipe.whole()
                idle = [name for name in chosen if recipe_field(made, name) != recipe_field(asked, name)]
                shown = {name: value for name, value in chosen.items() if name not in idle}
                arms.append(_planned(recipe, fields, shown, reference=False))
    return arms


def _as_given(recipe: TuneRecipe, name: str, values: Sequence[Any]) -> Any:
    """Value of a recipe's field, as it is written among the values to try (``all`` for None) if it is one of them."""
    own = recipe_field(recipe.whole(), name)
    return next((given for given in values if recipe_field(changed(recipe, {name: given}).whole(), name) == own), own)


def _planned(recipe: TuneRecipe, fields: Mapping[str, Any], shown: Mapping[str, Any], reference: bool) -> PlannedArm:
    varied = {name: recipe_field(recipe.whole(), name) for name in fields}
    named = {name: given if isinstance(given, str) else json.dumps(varied[name]) for name, given in shown.items()}
    label = " ".join([recipe.mix, *(f"{name}={value}" for name, value in named.items())])
    return PlannedArm(label, reference, {"mix": recipe.mix, **varied}, recipe)


@dataclass(frozen=True)
class Ablation:
    """Ablation: planned arms, with the model, sounds and machine to train them on.

    Args:
        arms: Arms from :func:`plan`.
        init: Pretrained model, as `load_model` takes it.
        data: Name or path of the sounds, as `find_data` takes it; for a path, the recipes hold the data's name instead.
        data_dir: Folder of the data sets; default ``UAMIX_BENCH_HOME/data``.
        audio_root: Folder that a CSV's paths are relative to.
        engine: Engine that tunes and embeds, in folders that all machines share; default this process.
    """

    arms: Sequence[PlannedArm]
    init: str
    data: str
    data_dir: Path | None = None
    audio_root: Path | None = None
    engine: Engine = field(default_factory=Local)

    def job(self, arm: PlannedArm) -> Job:
        """Training of an arm, in the folder that `tune` would use."""
        head = self._folder(arm.recipe.head_only()) if arm.recipe.trains_head else None
        label = arm.label + (f", seed {arm.recipe.seed}" if self.seeds > 1 else "")
        return self._job(label, arm.recipe, head)

    def heads(self) -> list[Job]:
        """Trainings of stage 1 alone, each shared by the arms with the same stage 1."""
        recipes = {arm.recipe.head_only().sha256: arm.recipe for arm in self.arms if arm.recipe.trains_head}
        return [self._job(f"stage 1, seed {recipe.seed}", recipe.head_only(), None) for recipe in recipes.values()]

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len({arm.recipe.seed for arm in self.arms})

    def _job(self, label: str, recipe: TuneRecipe, head: Path | None) -> Job:
        places = (self.data, self.data_dir, self.audio_root)
        threads = self.engine.threads(len(self.arms))
        return Job(label, recipe, self.init, *places, self._folder(recipe), head, self.engine.device, threads)

    def _folder(self, recipe: TuneRecipe) -> Path:
        return training_folder(recipe.model_copy(update={"data": self.data}), self.init)

    def forecast(self) -> Forecast | None:
        """Estimates the duration of the trainings: stage 1 alone, then the arms, in the order of `heads` and `arms`.

        A training of stage 1 that no arm needs counts as finished. None if only a cluster can tell.
        """
        workers = self.engine.at_once(len(self.arms))
        if workers is None:
            return None
        waiting = {job.head for job in map(self.job, self.arms) if not (is_finished(job) or has_begun(job))}

        def done(job: Job) -> bool:
            return is_finished(job) or (job.recipe.name == HEAD_ALONE and job.folder not in waiting)

        return forecast([*self.heads(), *map(self.job, self.arms)], workers, done)

    def tune(
        self, *, keep_going: bool = False, progress: Progress = SILENT, stop: Stop = never
    ) -> dict[Path, BenchError]:
        """Trains the arms that are not finished; those that have begun are resumed.

        Args:
            keep_going: Whether the other arms go on after a failure.
            progress: Progress display.
            stop: Function polled meanwhile; True ends all trainings.

        Returns:
            Errors by the folder of the failed arm; empty without `keep_going`.

        Raises:
            UsageError: A folder holds the same recipe, tuned from other weights or on other sounds.
            BenchError: See :func:`uamix_bench.tuning.on_engine.tune_all`.
        """
        from uamix_bench.tuning.run import initial_model

        data = find_data(self.data, self.data_dir, self.audio_root)
        data.task.materialise(data.table, progress)  # here, rather than in several workers
        content = sounds_sha256(sound_digests(sounds(data.table), progress=progress).digests)
        same = (initial_model(self.init).metadata["sha256"], data.clips_sha256, content)
        todo = []
        for job in map(self.job, self.arms):
            if not is_finished(job):
                todo.append(job)
                continue
            made = record.load(job.folder / RECORD, {"training": TrainingRecord})
            recorded = made.data.content_sha256
            if (made.parent_sha256, made.data.sha256, recorded or content) != same:
                reason = "holds this recipe, tuned from other weights or on other sounds"
                raise UsageError(job.folder, reason, "delete the folder, or name the weights or sounds differently")
            unsaid = "" if recorded else " (its sounds are not recorded)"
            progress.say(f"{job.label} is there: {job.folder}{unsaid}")
        wanted = {job.head for job in todo if not has_begun(job)}
        heads = [job for job in self.heads() if job.folder in wanted and not is_finished(job)]
        options: dict[str, Any] = {"keep_going": keep_going, "progress": progress, "stop": stop}
        tune_all(self.engine, heads, **options)  # one that fails, fails in its arms
        return tune_all(self.engine, todo, **options)

    def evaluate(
        self,
        plans: Sequence[TaskPlan],
        failed: Mapping[Path, BenchError],
        *,
        keep_going: bool = False,
        batch_size: int = 16,
        progress: Progress = SILENT,
    ) -> AblationRecord:
        """Evaluates the trained arms on the same episodes, with one embedding pass a task; existing results are reused.

        Args:
            plans: Tasks with their protocols.
            failed: Errors that :meth:`tune` returned.
            keep_going: Whether arms that fail the embedding health check are skipped.
            batch_size: Maximum number of clips in a batch.
            progress: Progress display.

        Raises:
            BadInputError: Broken clips or unhealthy embeddings; or a seed's reference was skipped.
            BenchError: See :func:`uamix_bench.evaluation.grid.evaluate`.
        """
        errors = dict(failed)
        tuned = [(arm, job) for arm in self.arms if (job := self.job(arm)).folder not in errors]
        found: list[list[Result]] = [[] for _ in tuned]

        def set_aside(place: int, error: BadInputError) -> None:
            job = tuned[place][1]
            progress.say(f"{job.label} is set aside: {error}")
            errors[job.folder] = error

        for kept in evaluate(
            [partial(_tuned_model, job, self.engine.device_here) for _, job in tuned],
            plans,
            store=[ResultStore(job.folder / "results") for _, job in tuned],
            engine=self.engine,
            set_aside=set_aside if keep_going else None,
            batch_size=batch_size,
            progress=progress,
        ):
            found[kept.model].append(kept.result)
            progress.say(f"evaluated {tuned[kept.model][1].label} on {kept.result.task.name}")
        for arm in self.arms:
            if arm.reference and (error := errors.get(self.job(arm).folder)):
                raise BadInputError(
                    self.job(arm).label, f"the reference failed ({error})", "without it nothing can be compared"
                )
        arms = tuple(
            Arm(
                label=arm.label,
                reference=arm.reference,
                varied=dict(arm.varied),
                training=record.load(job.folder / RECORD, {"training": TrainingRecord}),
                results=tuple(results),
            )
            for (arm, job), results in zip(tuned, found, strict=True)
            if job.folder not in errors
        )
        trained_on = arms[0].training.provenance.device.partition(":")[0] if arms else "cpu"
        return AblationRecord.create(
            init=scrub(self.init),
            assumed=any(len(plan.protocols) > 1 for plan in plans),
            arms=arms,
            set_aside=tuple(
                SetAside(label=arm.label, seed=arm.recipe.seed, reason=scrub(str(errors[self.job(arm).folder])))
                for arm in self.arms
                if self.job(arm).folder in errors
            ),
            beside=tuple(self._beside(plans, batch_size, progress)) if arms else (),
            provenance=collect("cpu" if self.engine.elsewhere else trained_on),
        )

    def _beside(self, plans: Sequence[TaskPlan], batch_size: int, progress: Progress) -> Iterator[Result]:
        """Results beside the arms: of the starting weights in every cell; of the floors and poolings in the first.

        The encoders are under the arms' pooling, `PLAIN`, and `CENTRED` if their weights have it; all by nearest
        centroid and under CL2N.
        """
        from uamix_bench.models.loading import load_model
        from uamix_bench.models.vit import CENTRED
        from uamix_bench.tuning.run import initial_name

        reference = self.job(next(arm for arm in self.arms if arm.reference))
        pooling, device = reference.recipe.pooling, self.engine.device_here

        def first(plan: TaskPlan) -> list[Protocol]:
            return [plan.protocols[0], plan.protocols[0].model_copy(update={"classifier": CL2N})]

        def loader(name: str, how: str, weights: Path | None = None) -> Callable[[], AudioModel]:
            return partial(load_model, name, weights, device=device, pooling=how)

        poolings = dict.fromkeys((pooling, PLAIN))
        start = initial_name(self.init)
        weights = reference.folder / WEIGHTS
        made = load_model("uamix", weights, device="cpu").poolings
        known = load_model(start, device="cpu").poolings  # a user's own class may lack one
        others = [loader("uamix", how, weights) for how in (*poolings, CENTRED) if how in made]
        others += [loader(start, how) for how in (*poolings, CENTRED) if how in known and how != pooling]
        others += [loader("random", how) for how in poolings if start != "random"]
        others += [loader("logmel", how) for how in ("mean-std", "mean-max")]
        options: dict[str, Any] = {
            "store": ResultStore(reference.folder / "results"),
            "engine": self.engine,
            "batch_size": batch_size,
            "progress": progress,
        }
        progress.say("evaluating the untuned encoder and the floors")
        everywhere = [plan_task(plan.task, [*first(plan), *plan.protocols[1:]], limit=plan.limit) for plan in plans]
        alone = [plan_task(plan.task, first(plan), limit=plan.limit) for plan in plans]
        untuned = [loader(start, pooling)] if pooling in known else []
        for models, tasks in ((untuned, everywhere), (others, alone)):
            for kept in evaluate(models, tasks, **options):
                yield kept.result


def _tuned_model(job: Job, device: str) -> AudioModel:
    """Model that a finished job made."""
    from uamix_bench.models.loading import load_model

    return load_model("uamix", job.folder / WEIGHTS, device=device, label="uamix", pooling=job.recipe.pooling)
