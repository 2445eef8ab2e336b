"""Whole trainings: from a recipe, data and initial weights to a folder with model.safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uamix_bench import registry
from uamix_bench.checkpoint import write_safetensors
from uamix_bench.errors import UsageError
from uamix_bench.files import check_writable
from uamix_bench.model import AudioModel, load_model
from uamix_bench.progress import SILENT, Progress
from uamix_bench.provenance import git_state, package_version
from uamix_bench.task import TaskData
from uamix_bench.tuning.contrastive import HeadStage, Network, TuneStage
from uamix_bench.tuning.data import Frames, load_frames
from uamix_bench.tuning.loop import Stage, Training
from uamix_bench.tuning.pretrain import Pretraining
from uamix_bench.tuning.recipe import PretrainRecipe, Recipe, TuneRecipe
from uamix_bench.tuning.views import Spectrograms
from uamix_bench.vit import ViTShape

WEIGHTS = "model.safetensors"


def pretrain(
    recipe: PretrainRecipe,
    data: TaskData,
    folder: Path,
    *,
    device: str = "auto",
    progress: Progress = SILENT,
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Pre-trains an AudioMAE encoder from scratch.

    Args:
        recipe: The hyper-parameters.
        data: The clips.
        folder: Holds the checkpoints, and at the end ``model.safetensors``; a run that was killed continues from it.
        device: As for load_model.
        progress: Is told of every step.
        stop: See :class:`~uamix_bench.tuning.loop.Training`.

    Returns:
        The path of the weights.

    Raises:
        BenchError: See :meth:`~uamix_bench.tuning.loop.Training.run`.
    """
    check_writable(folder)
    adapter = registry.find_model("audiomae")[0].load()
    model = adapter(ViTShape(width=recipe.width, depth=recipe.depth, heads=recipe.heads))
    progress.say(_begins(recipe, data, folder))
    frames = load_frames(data, model.fbank, model.sample_rate, progress)
    stage = Pretraining(model.encoder, recipe, frames, _spectrograms(model, recipe, device))
    return _train(recipe, [stage], model, frames, data, folder, None, progress, stop)


def tune(
    recipe: TuneRecipe,
    data: TaskData,
    init: str,
    folder: Path,
    *,
    head: Path | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Tunes a pretrained encoder by uaMix-MAE's two stages.

    Args:
        recipe: The hyper-parameters.
        data: The clips.
        init: The pretrained model, as load_model takes it: ``audiomae-tiny``, ``audiomae=PATH``.
        folder: As in :func:`pretrain`.
        head: Folder of stage 1 alone, trained there once for all recipes that share it (`TuneRecipe.head_only`), with
            the weights that stage 1 within `folder` gives, bit for bit; None trains it in `folder`.
        device: As for load_model.
        progress: Is told of every step.
        stop: See :class:`~uamix_bench.tuning.loop.Training`.

    Returns:
        The path of the weights.

    Raises:
        UsageError: The model is not a vision transformer that can be tuned.
        BenchError: See :meth:`~uamix_bench.tuning.loop.Training.run`.
    """
    check_writable(folder)
    model: Any = load_model(init, device="cpu")
    if not hasattr(model, "encoder") or not hasattr(model, "normalise"):
        raise UsageError(
            f"--init {init}",
            "cannot be tuned",
            "give audiomae=PATH, audiomae-tiny or another AudioMAE encoder",
        )
    progress.say(_begins(recipe, data, folder))
    frames = load_frames(data, model.fbank, model.sample_rate, progress)
    network = Network(model.encoder, recipe)
    common = (network, recipe, frames, _spectrograms(model, recipe, device))
    stages: list[Stage] = [HeadStage(*common), TuneStage(*common)]
    parent = model.metadata["sha256"]
    before = None
    if head is not None:
        alone = recipe.head_only()
        identity = _identity(alone, frames, parent)
        before = Training(alone, stages[:1], frames, head / "checkpoints", identity, progress, stop)
    return _train(recipe, stages, model, frames, data, folder, parent, progress, stop, before)


def _begins(recipe: Recipe, data: TaskData, folder: Path) -> str:
    return (
        f"recipe '{recipe.name}' on {len(data.clips):,} clips of {data.name}; checkpoints in {folder / 'checkpoints'}"
    )


def _spectrograms(model: Any, recipe: PretrainRecipe | TuneRecipe, device: str) -> Spectrograms:
    chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    return Spectrograms(model.normalise, model.fbank.mel_hz, recipe.views, chosen)


def _train(
    recipe: Recipe,
    stages: list[Stage],
    model: AudioModel,
    frames: Frames,
    data: TaskData,
    folder: Path,
    parent: str | None,
    progress: Progress,
    stop: Callable[[], bool],
    before: Training | None = None,
) -> Path:
    """Runs the stages and writes the encoder with all that says how it was made."""
    device = stages[0].spectrograms.device  # type: ignore[attr-defined]
    for stage in stages:
        stage.module.to(device)
    revision = _revision()  # of the code that trains, which the tree may have left behind by the end
    identity = _identity(recipe, frames, parent)
    training = Training(recipe, stages, frames, folder / "checkpoints", identity, progress, stop, before)
    training.run()
    dtype = torch.float16 if recipe.save_dtype == "float16" else torch.float32
    tensors: dict[str, Tensor] = {name: tensor.detach().to("cpu", dtype) for name, tensor in model.state_dict().items()}
    metadata = {
        "format": "uamix-bench/1",
        "kind": str(getattr(recipe, "kind", "")),
        "recipe": recipe.model_dump_json(),
        "recipe_sha256": recipe.sha256,
        "train_seed": str(recipe.seed),
        "data": f"{data.name}@{data.card.version}",
        "data_sha256": frames.sha256,
        "skipped": str(len(frames.skipped)),
        "history": json.dumps(training.thinned_history()),
        "package": package_version(),
        "git_revision": revision,
    }
    if parent:
        metadata["parent_sha256"] = parent
    write_safetensors(folder / WEIGHTS, tensors, metadata)
    progress.say(f"weights: {folder / WEIGHTS}")
    return folder / WEIGHTS


def _identity(recipe: Recipe, frames: Frames, parent: str | None) -> dict[str, str]:
    """What a resumed training must find unchanged."""
    return {"recipe": recipe.sha256, "data": frames.sha256, "parent": parent or "none"}


def _revision() -> str:
    """The source's git revision, marked where the tree differs from it; ``unknown`` outside a checkout."""
    revision, dirty = git_state()
    return f"{revision}{'+changes' if dirty else ''}" if revision else "unknown"
