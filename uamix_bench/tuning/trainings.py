"""Tunings as plain data: what each needs, what is left of it, and how one is carried out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from uamix_bench.tuning.recipe import TuneRecipe
from uamix_bench.tuning.sounds import find_data
from uamix_bench.util.progress import Progress
from uamix_bench.util.threads import computing_with

WEIGHTS, RECORD = "model.safetensors", "training.json"  # what a training leaves in its folder, the record last
HEAD, TUNING = "stage 1: head", "stage 2: tuning"  # as the stages are named


class Job(NamedTuple):
    """A tuning to carry out.

    Attributes:
        label: Name in progress and messages.
        recipe: Hyper-parameters.
        init: Pretrained model, as `load_model` takes it.
        data: Name or path of the sounds, as `find_data` takes it.
        data_dir: Folder of the data sets, for `find_data`.
        audio_root: Folder that a CSV's paths are relative to, for `find_data`.
        folder: Folder of the tuning.
        head: Folder of its stage 1; None within `folder`.
        device: Torch device, as `load_model` takes it.
        threads: Number of processor threads for torch; with one, clips are decoded in the same process, too. None
            leaves both to their defaults.
    """

    label: str
    recipe: TuneRecipe
    init: str
    data: str
    data_dir: Path | None
    audio_root: Path | None
    folder: Path
    head: Path | None
    device: str
    threads: int | None


def carry_out(job: Job, progress: Progress, stop: Callable[[], bool]) -> None:
    """Carries out one tuning in this process.

    Raises:
        BenchError: See :func:`uamix_bench.tuning.run.tune`.
    """
    from uamix_bench.tuning.run import tune

    data = find_data(job.data, job.data_dir, job.audio_root)
    with computing_with(job.threads):
        options: dict[str, Any] = {"device": job.device, "progress": progress, "stop": stop}
        decoders = 1 if job.threads == 1 else None
        tune(job.recipe, data, job.init, job.folder, head=job.head, wait=True, workers=decoders, **options)


def remaining(job: Job) -> dict[str, int]:
    """Number of steps left of each stage, by name; an upper bound if recordings have several clips."""
    recipe = job.recipe
    epoch = (recipe.clips or _clips(job.data, job.data_dir, job.audio_root)) // recipe.batch
    head = epoch * recipe.head_epochs if recipe.head_steps is None else recipe.head_steps
    tuning = epoch * recipe.epochs if recipe.steps is None else recipe.steps
    left = {HEAD: 0 if job.head else head, TUNING: tuning}
    newest = max((path.stem for path in (job.folder / "checkpoints").glob("[0-9]-????????.pt")), default="")
    if newest:
        stage, _, step = newest.partition("-")
        here = HEAD if int(stage) == 0 else TUNING
        left[here] = max(0, left[here] - int(step))
        if here == TUNING:
            left[HEAD] = 0
    return left


def is_finished(job: Job) -> bool:
    """True if a job's folder holds the weights of exactly its recipe and their record, which is written last."""
    return metadata(job).get("recipe_sha256") == job.recipe.sha256 and (job.folder / RECORD).is_file()


def has_begun(job: Job) -> bool:
    """True if a job's folder holds a checkpoint."""
    return any((job.folder / "checkpoints").glob("*.pt"))


def metadata(job: Job) -> dict[str, str]:
    """Metadata of a job's weights file; empty if there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(job.folder / WEIGHTS, "np") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


@cache
def _clips(data: str, data_dir: Path | None, audio_root: Path | None) -> int:
    return len(find_data(data, data_dir, audio_root).table)
