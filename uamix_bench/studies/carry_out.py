"""Execution of planned jobs: tunings, few-shot evaluations, fine-tunings. Results are reused, failures are skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from uamix_bench.data.task import TaskData, load_task
from uamix_bench.engines.local import Local
from uamix_bench.evaluation.fewshot import Options
from uamix_bench.evaluation.grid import evaluate
from uamix_bench.evaluation.plan import draw_episodes, plan_task
from uamix_bench.records.record import Record
from uamix_bench.records.store import ResultStore
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.scoring.sweep import sweep
from uamix_bench.studies.paper import ARMS, SOURCE, Settings, architecture
from uamix_bench.studies.reproduce import Here, Reproduction, Step
from uamix_bench.util.errors import BadInputError, UsageError
from uamix_bench.util.progress import SILENT, Progress

if TYPE_CHECKING:
    from uamix_bench.models.model import AudioModel


@dataclass
class Work:
    """Execution of jobs on this machine, with its settings.

    Attributes:
        here: Data, weights and results found on this machine.
        settings: Settings of the plans.
        store: Store of the results.
        device: Torch device, as `load_model` takes it.
        batch_size: Maximum number of clips in a batch.
        progress: Progress display.
        stoppable: Context manager around every training. It yields the function polled after each step; True ends the
            training with its state saved.
        set_aside: Lines that name the failures, one each.
    """

    here: Here
    settings: Settings
    store: ResultStore
    device: str = "auto"
    batch_size: int = 16
    progress: Progress = SILENT
    stoppable: Callable[[], AbstractContextManager[Callable[[], bool]]] = lambda: nullcontext(lambda: False)
    set_aside: list[str] = field(default_factory=list)

    def carry_out(self, plans: Iterable[Reproduction]) -> list[Record]:
        """Carries out the jobs that can run, each once, model by model.

        Raises:
            Stopped: A training was asked to stop; the same call resumes it.
            MachineError: The store cannot be written, or the device does not exist.
        """
        jobs = [job for plan in plans for job in plan.jobs if not job.lacks]
        weights = {**self.here.weights, **self._tune([job.model for job in jobs if job.kind == "tune"])}
        evaluated = [job for job in jobs if job.kind != "tune" and job.model in weights]
        tasks = {task: found for task in dict.fromkeys(job.task for job in evaluated) if (found := self._load(task))}
        records: dict[str, Record] = {}
        for model in dict.fromkeys(job.model for job in evaluated):
            try:
                encoder = self._encoder(model, weights[model])
            except (BadInputError, UsageError) as error:
                self._leave(str(error))
                continue
            for task, data in tasks.items():
                of_task = [job for job in evaluated if (job.model, job.task) == (model, task)]
                try:
                    for record in self._evaluate(encoder, data, of_task):
                        records[record.id] = record
                except (BadInputError, UsageError) as error:
                    self._leave(f"{model} on {task}: {error}")
        return list(records.values())

    def _evaluate(self, encoder: AudioModel, data: TaskData, jobs: Sequence[Step]) -> Iterable[Record]:
        cells = dict.fromkeys(cell for job in jobs for cell in job.cells)
        alone = [protocol for cell in cells if self._can_draw(data, protocol := self.settings.of_cell(cell))]
        protocols = [protocol for protocol in sweep(alone, data.sorted_clips) if self._can_draw(data, protocol)]
        kinds = {job.kind for job in jobs}
        if "clusters" in kinds:  # draws some of the clips, and shows any
            from uamix_bench.embeddings.embedding import embed

            embed(encoder, data, np.arange(len(data.table)), batch_size=self.batch_size, progress=self.progress)
        if protocols:
            plan = plan_task(data, protocols)
            for remark in plan.remarks(sounds=False):
                self.progress.say(f"{data.name}: {remark.text}")
            options: Options = {"batch_size": self.batch_size, "progress": self.progress}
            for kept in evaluate([encoder], [plan], store=self.store, **options):
                self.progress.say(f"{kept.how} {kept.path}")
                yield kept.result
        if "fine-tuning" in kinds:
            yield self._finetune(encoder, data)

    def _tune(self, models: Sequence[str]) -> dict[str, Path]:
        """Tunes the models that have no weights yet, in the same way and folders as ``uamix-bench ablate``."""
        if not models:
            return {}
        from uamix_bench.studies.ablation import Ablation, plan
        from uamix_bench.tuning.recipe import TUNE
        from uamix_bench.tuning.sounds import find_data, shareable
        from uamix_bench.tuning.trainings import WEIGHTS

        wanted = {ARMS[model]: model for model in models}
        sounds = self.here.sounds
        base = TUNE[self.settings.recipe].model_copy(update={"data": sounds})
        base = shareable(base, find_data(sounds, self.here.data_dir, None))
        arms = [arm for arm in plan(base, list(wanted)) if arm.recipe.mix in wanted]
        init = f"{SOURCE}={self.here.weights[SOURCE]}"
        ablation = Ablation(arms, init, sounds, self.here.data_dir, engine=Local(self.device))
        with self.stoppable() as stop:
            failed = ablation.tune(keep_going=True, progress=self.progress, stop=stop)
        made = {}
        for arm in arms:
            folder = ablation.job(arm).folder
            if folder in failed:
                self._leave(str(failed[folder]))
            else:
                made[wanted[arm.recipe.mix]] = folder / WEIGHTS
        return made

    def _finetune(self, encoder: AudioModel, data: TaskData) -> Record:
        from uamix_bench.finetuning.finetune import Finetuning
        from uamix_bench.finetuning.recipe import FINETUNE

        recipe = FINETUNE["tiny" if self.settings.recipe == "tiny" else f"{SOURCE}-{data.name}"]
        with self.stoppable() as stop:
            result = Finetuning(encoder, data, recipe, progress=self.progress, stop=stop).result()
        self.progress.say(f"kept {self.store.write(result)}")
        return result

    def _encoder(self, model: str, weights: Path) -> AudioModel:
        from uamix_bench.models.loading import load_model

        named = f"{architecture(model)}={weights}"
        return load_model(named, device=self.device, input=self.settings.input, label=model)

    def _load(self, task: str) -> TaskData | None:
        try:
            return load_task(task, self.here.data_dir)
        except (BadInputError, UsageError) as error:
            self._leave(str(error))
            return None

    def _can_draw(self, data: TaskData, protocol: Protocol) -> bool:
        try:
            draw_episodes(data, protocol)
        except UsageError as error:
            self._leave(f"{protocol.cell} on {error}")
            return False
        return True

    def _leave(self, line: str) -> None:
        if line not in self.set_aside:
            self.progress.say(f"set aside: {line}")
            self.set_aside.append(line)
