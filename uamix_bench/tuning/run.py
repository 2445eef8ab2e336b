"""Whole trainings: from a recipe, data and initial weights to a folder with model.safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from uamix_bench.data.task import TaskData, is_path
from uamix_bench.models.block import Attention
from uamix_bench.models.checkpoint import write_safetensors
from uamix_bench.models.loading import load_model
from uamix_bench.models.sources import is_own
from uamix_bench.models.tunable import Tunable, lacks
from uamix_bench.models.vit import ViTShape
from uamix_bench.plugins import registry
from uamix_bench.records.provenance import collect
from uamix_bench.records.record import Provenance, Skipped, record_text
from uamix_bench.records.training_records import DataIdentity, StageCost, TrainingRecord
from uamix_bench.storage.digests import state_sha256
from uamix_bench.tuning import distributed
from uamix_bench.tuning.centre import mean_embedding
from uamix_bench.tuning.contrastive import HeadStage, Network, TuneStage
from uamix_bench.tuning.data import Frames, load_frames
from uamix_bench.tuning.loop import Pace, Stage, Training
from uamix_bench.tuning.pretrain import Pretraining
from uamix_bench.tuning.recipe import PretrainRecipe, TuneRecipe
from uamix_bench.tuning.sounds import shareable
from uamix_bench.tuning.throughput import matrix_rate
from uamix_bench.tuning.views import Spectrograms
from uamix_bench.util.errors import UsageError
from uamix_bench.util.files import LOCK, check_writable, digest, locked, write_atomic
from uamix_bench.util.progress import SILENT, Progress

WEIGHTS = "model.safetensors"
RECORD = "training.json"


def pretrain(
    recipe: PretrainRecipe,
    data: TaskData,
    folder: Path,
    *,
    init: str | None = None,
    device: str = "auto",
    compiled: bool = False,
    workers: int | None = None,
    progress: Progress = SILENT,
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Pre-trains an AudioMAE encoder with a new decoder, from scratch or from given weights.

    Args:
        recipe: Hyper-parameters.
        data: Training clips.
        init: Encoder to start from, as in :func:`tune`, of the recipe's size; None from scratch.
        folder: Folder of the checkpoints and, at the end, of ``model.safetensors`` and its record, ``training.json``. A
            killed run resumes from it.
        device: Torch device, as `load_model` takes it.
        compiled: Whether torch.compile makes kernels of the encoder's blocks, on a GPU: 1.18 times as fast on an H200,
            for ViT-B at batch 256 in halves (``tests/benchmarks/test_bench_gpu.py``).
        workers: Number of decoding processes; see :func:`~uamix_bench.tuning.data.load_frames`.
        progress: Progress display, advanced with every step.
        stop: Function polled after every step; see :class:`~uamix_bench.tuning.loop.Training`.

    Returns:
        Path of the weights.

    Raises:
        UsageError: `init` is not a vision transformer, or not of the recipe's size; `compiled` without a GPU.
        MachineError: Another process trains in `folder`.
        BenchError: See :meth:`~uamix_bench.tuning.loop.Training.run`.
    """
    recipe = shareable(recipe, data)
    model = new_model(recipe) if init is None else _of_size(initial_model(init), recipe, init)
    if compiled:
        _compile(model.encoder.blocks, device)
    with _claimed(folder):
        frames = _decoded(recipe, data, folder, model, workers, progress, stop)
        stage = Pretraining(model.encoder, recipe, frames, _spectrograms(model, recipe, device), anew=init is None)
        return _train(recipe, [stage], model, frames, data, folder, model.metadata.get("sha256"), progress, stop)


def tune(
    recipe: TuneRecipe,
    data: TaskData,
    init: str,
    folder: Path,
    *,
    head: Path | None = None,
    wait: bool = False,
    device: str = "auto",
    compiled: bool = False,
    workers: int | None = None,
    progress: Progress = SILENT,
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Tunes a pretrained encoder by uaMix-MAE's two stages.

    Args:
        recipe: Hyper-parameters.
        data: Training clips.
        init: Pretrained model, as `load_model` takes it (``audiomae-tiny``, ``audiomae=PATH``, ``FILE.py:CLASS``), or
            the path of an AudioMAE file.
        folder: Folder of checkpoints, weights and record, as in :func:`pretrain`.
        head: Folder of stage 1 alone, trained there once for all recipes that share it (`TuneRecipe.head_only`). The
            weights are bit for bit those that stage 1 within `folder` gives. None trains it in `folder`.
        wait: Whether to wait if another process trains in `folder`; if False, the training is refused.
        device: Torch device, as `load_model` takes it.
        compiled: Whether torch.compile makes kernels of the encoder's blocks, as in :func:`pretrain`.
        workers: Number of decoding processes; see :func:`~uamix_bench.tuning.data.load_frames`.
        progress: Progress display, advanced with every step.
        stop: Function polled after every step; see :class:`~uamix_bench.tuning.loop.Training`.

    Returns:
        Path of the weights.

    Raises:
        UsageError: The model is not a vision transformer that can be tuned; `compiled` without a GPU.
        MachineError: Another process trains in `folder`, and `wait` is False.
        BenchError: See :meth:`~uamix_bench.tuning.loop.Training.run`.
    """
    recipe = shareable(recipe, data)
    model = initial_model(init)
    if compiled:
        _compile(model.encoder.blocks, device)
    with _claimed(folder, progress.say if wait else None):
        frames = _decoded(recipe, data, folder, model, workers, progress, stop)
        stages = tuning_stages(model, recipe, frames, _spectrograms(model, recipe, device))
        parent = model.metadata["sha256"]
        before = None
        if head is not None:
            identity = _identity(data, frames, parent)
            before = Training(recipe.head_only(), stages[:1], frames, head / "checkpoints", identity, progress, stop)
        return _train(recipe, stages, model, frames, data, folder, parent, progress, stop, before)


def new_model(recipe: PretrainRecipe) -> Tunable:
    """AudioMAE of the recipe's size, with no weights yet."""
    adapter: Callable[[ViTShape], Tunable] = registry.find_model("audiomae")[0].load()
    return adapter(ViTShape(width=recipe.width, depth=recipe.depth, heads=recipe.heads))


def _of_size(model: Tunable, recipe: PretrainRecipe, init: str) -> Tunable:
    """Model checked to have the recipe's sizes."""
    for name in ("width", "depth", "heads"):
        found, asked = getattr(model.encoder.shape, name), getattr(recipe, name)
        if found != asked:
            raise UsageError(f"--init {init}", f"has {name} {found}, the recipe {asked}", f"give --set {name}={found}")
    return model


def initial_name(init: str) -> str:
    """Name for `load_model` of the encoder that a training begins from; a path alone is an AudioMAE file."""
    is_named = "=" in init or ".py:" in init or init.endswith(".py") or not is_path(init)
    return init if is_named else f"audiomae={init}"


def initial_model(init: str) -> Tunable:
    """Loads the encoder that a training begins from; see :func:`tune`.

    Its ``metadata["sha256"]`` is the digest of its weights; that of a user's own class is of weights and code.

    Raises:
        UsageError: The model is not :class:`~uamix_bench.models.tunable.Tunable`; the line names what it lacks.
        BadInputError: The file is missing, damaged or another model's.
        OwnCodeError: A user's own front end or normalisation raises an error.
    """
    model = load_model(initial_name(init), device="cpu")
    if missing := lacks(model):
        remedy = "see Tunable in docs/your-model.md, or give audiomae=PATH or audiomae-tiny"
        raise UsageError(f"--init {init}", f"cannot be tuned: it lacks {missing}", remedy)
    if not is_own(type(model)):
        assert model.identity is not None
        weights = model.identity.weights_sha256 or state_sha256(model)
        model.metadata["sha256"] = digest({"weights": weights, "code": model.identity.source_sha256})
    elif "sha256" not in model.metadata:  # drawn weights, which no file holds
        model.metadata["sha256"] = state_sha256(model)
    return cast(Tunable, model)


def tuning_stages(model: Tunable, recipe: TuneRecipe, frames: Frames, spectrograms: Spectrograms) -> list[Stage]:
    """Stages of a tuning, both on one network around the model's encoder."""
    network = Network(model.encoder, recipe)
    return [stage(network, recipe, frames, spectrograms) for stage in (HeadStage, TuneStage)]


@contextmanager
def _claimed(folder: Path, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Locks a folder against other trainings; of several processes that train as one, the first holds the lock."""
    if distributed.rank():
        yield
        return
    check_writable(folder)
    with locked(folder / LOCK, say):
        yield


def _decoded(
    recipe: PretrainRecipe | TuneRecipe,
    data: TaskData,
    folder: Path,
    model: Tunable,
    workers: int | None,
    progress: Progress,
    stop: Callable[[], bool],
) -> Frames:
    """Decoded frames of the data; one process of a machine decodes, the others wait."""
    checkpoints = folder / "checkpoints"
    progress.say(f"recipe '{recipe.name}' on {len(data.table):,} clips of {data.name}; checkpoints in {checkpoints}")
    if data.partial:
        progress.say(f"{data.name}: {data.partial}")
    for remark in data.remarks:
        progress.say(f"{data.name}: {remark.text}")
    with distributed.leader_first():
        frames = load_frames(data, model.fbank, model.sample_rate, progress, workers=workers, stop=stop)
    return frames.drawn(recipe.clips, recipe.seed)


def _spectrograms(model: Tunable, recipe: PretrainRecipe | TuneRecipe, device: str) -> Spectrograms:
    return Spectrograms(model.normalise, model.fbank.mel_hz, recipe.views, distributed.device(device))


def _train(
    recipe: PretrainRecipe | TuneRecipe,
    stages: list[Stage],
    model: Tunable,
    frames: Frames,
    data: TaskData,
    folder: Path,
    parent: str | None,
    progress: Progress,
    stop: Callable[[], bool],
    before: Training | None = None,
) -> Path:
    """Runs the stages; rank 0 writes the encoder and the record, with its provenance."""
    device: torch.device = stages[0].spectrograms.device  # type: ignore[attr-defined]
    for stage in stages:
        stage.module.to(device)
    if device.type == "cpu" and recipe.precision == "bfloat16":
        multiply_plainly(model.encoder)
    provenance = collect(str(device))  # of the code that trains, which the tree may have left behind by the end
    identity = _identity(data, frames, parent)
    training = Training(recipe, stages, frames, folder / "checkpoints", identity, progress, stop, before)
    training.run()
    if distributed.rank() == 0:
        weights_sha256 = _write_weights(training, model, data, folder, parent, provenance)
        cost = [_cost(pace, device) for pace in training.paces]
        record = TrainingRecord.create(
            recipe=recipe.model_dump(mode="json"),
            recipe_sha256=recipe.sha256,
            data=DataIdentity(
                name=data.name,
                version=data.card.version,
                sha256=frames.sha256,
                content_sha256=frames.sounds_sha256 or None,
            ),
            parent_sha256=parent,
            weights_sha256=weights_sha256,
            train_seed=recipe.seed,
            history=tuple(training.history),
            skipped=(*Skipped.unread(data), *(Skipped(clip=clip, reason=reason) for clip, reason in frames.skipped)),
            partial=data.partial,
            cost=tuple(cost),
            provenance=provenance,
        )
        write_atomic(folder / RECORD, record_text(record).encode())
        for stage_cost in cost:
            share = stage_cost.matrix_share
            of_rate = "" if share is None else f", {share:.0%} of the GPU's bfloat16 matrix rate"
            peak = stage_cost.peak_memory_mb
            held = "" if peak is None else f", {peak / 1e3:.3g} GB at most"
            progress.say(f"{stage_cost.name}: {stage_cost.clips_s:.3g} clips/s{of_rate}{held}")
        progress.say(f"weights: {folder / WEIGHTS}")
    distributed.barrier()
    return folder / WEIGHTS


def _compile(blocks: nn.ModuleList, device: str) -> None:
    """Compiles each block at its first call."""
    found = distributed.device(device)
    if found.type != "cuda":
        raise UsageError("--compile", f"is for a GPU, and the device is {found}", "leave it out")
    for block in blocks:
        block.compile()


def multiply_plainly(model: nn.Module) -> None:
    """Computes attention as plain products: torch's fused kernel goes backward in bfloat16 2 to 4.5 times as slowly.

    Measured with torch 2.11 on a processor with matrix units, 33 to 257 tokens; in float32 the fused one is as fast.
    """
    for part in model.modules():
        if isinstance(part, Attention):
            part.fused_attn = False


def _identity(data: TaskData, frames: Frames, parent: str | None) -> dict[str, Any]:
    """Data and parent that must be identical, as the recipe must, to resume a training."""
    return {
        "data": {
            "name": data.name,
            "clips": len(data.table),
            "clip_table": frames.sha256,
            "files": frames.sounds_sha256,
            "clip_seconds": data.card.clip_seconds,
        },
        "parent": parent,
    }


def _name(data: TaskData) -> str:
    """Name of training data with their splits and version, such as ``synthetic:train@1``."""
    splits = sorted(set(data.table["split"]) - {""})
    return f"{data.name}{':' if splits else ''}{'+'.join(splits)}@{data.card.version}"


def _write_weights(
    training: Training, model: Tunable, data: TaskData, folder: Path, parent: str | None, provenance: Provenance
) -> str:
    """Writes the encoder, and the mean embedding that the recipe keeps; returns the SHA-256 (hex) of the file."""
    recipe, frames = cast(PretrainRecipe | TuneRecipe, training.recipe), training.frames
    dtype = torch.float16 if recipe.save_dtype == "float16" else torch.float32
    state, ours = model.state_dict(), is_own(type(model))
    if ours:
        state.pop("centre", None)  # the parent's
    if recipe.centre and not ours:
        training.progress.say("no mean embedding is kept: your own class reads the weights")
    elif recipe.centre:
        state["centre"] = mean_embedding(model, frames, recipe.pooling, recipe.seed, training.progress)
    tensors: dict[str, Tensor] = {name: tensor.detach().to("cpu", dtype) for name, tensor in state.items()}
    revision = provenance.git_revision or "unknown"
    kept = {} if ours else model.metadata  # a user's own class may be rebuilt from it
    metadata = {
        **{name: text for name, text in kept.items() if name != "sha256"},
        "format": "uamix-bench/1",
        "kind": recipe.kind,
        "recipe": recipe.model_dump_json(),
        "recipe_sha256": recipe.sha256,
        "train_seed": str(recipe.seed),
        "data": _name(data),
        "data_sha256": frames.sha256,
        "skipped": json.dumps([clip for clip, _ in frames.skipped]),
        "history": json.dumps(training.thinned_history()),
        "package": provenance.package,
        "git_revision": f"{revision}+changes" if provenance.git_dirty else revision,
    }
    if parent:
        metadata["parent_sha256"] = parent
    return write_safetensors(folder / WEIGHTS, tensors, metadata)


def _cost(pace: Pace, device: torch.device) -> StageCost:
    share = None
    if device.type == "cuda" and pace.operations:
        share = pace.operations * pace.clips_s / (matrix_rate(device) * distributed.world())
    return StageCost(
        name=pace.name,
        clips=pace.clips,
        seconds=pace.seconds,
        waiting_s=pace.waiting_s,
        clips_s=pace.clips_s,
        matrix_share=share,
        peak_memory_mb=pace.peak_memory_mb,
    )
