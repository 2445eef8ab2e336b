"""Dry run of a training: parameters, steps and data, without weights in memory and without decoding."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uamix_bench.data.audio import probe
from uamix_bench.data.sound import Sound, sounds
from uamix_bench.data.task import Task, TaskData
from uamix_bench.models.vit import AudioViT, ViTShape
from uamix_bench.tuning.contrastive import HeadStage, Network, TuneStage
from uamix_bench.tuning.data import drawn
from uamix_bench.tuning.loop import Stage, ordered
from uamix_bench.tuning.pretrain import Pretraining
from uamix_bench.tuning.recipe import PretrainRecipe, TuneRecipe
from uamix_bench.util.errors import BenchError

_AT_ONCE = 4  # headers


def tuning_on_paper(recipe: TuneRecipe, shape: ViTShape) -> list[Stage]:
    """Stages of a tuning, without memory for their weights and without data."""
    nothing: Any = None
    with torch.device("meta"):
        network = Network(AudioViT(shape), recipe)
    return [stage(network, recipe, nothing, nothing) for stage in (HeadStage, TuneStage)]


def pretraining_on_paper(recipe: PretrainRecipe) -> list[Stage]:
    """Stage of a pre-training, without memory for its weights and without data."""
    nothing: Any = None
    with torch.device("meta"):
        encoder = AudioViT(ViTShape(width=recipe.width, depth=recipe.depth, heads=recipe.heads))
        return [Pretraining(encoder, recipe, nothing, nothing)]


def trained_parameters(stages: Sequence[Stage]) -> dict[str, int]:
    """Number of parameters that each stage trains, by its name."""
    return {
        stage.name: sum(parameter.numel() for group in stage.parameter_groups() for parameter in group["params"])
        for stage in stages
    }


def steps(stages: Sequence[Stage], recipe: PretrainRecipe | TuneRecipe, data: TaskData) -> dict[str, int]:
    """Number of steps of each stage, by its name.

    Raises:
        UsageError: The data has fewer recordings than a batch needs.
    """
    recordings = np.unique(data.table["group"].astype(str), return_inverse=True)[1].astype(np.int64)
    recordings = recordings[drawn(len(recordings), recipe.clips, recipe.seed)]
    return {stage.name: len(ordered(recordings, recipe, number, stage)) for number, stage in enumerate(stages)}


def holdings(data: TaskData) -> dict[str, Any]:
    """Size of the data, from the headers of its sounds, as plain data.

    ``hours`` counts each clip up to the length that training cuts it to. It is None if the sounds are generated on
    first use. ``unreadable`` is the number of clips whose header is refused.
    """
    clips = sounds(data.table)

    def seconds(sound: Sound) -> float | None:
        try:
            return min(probe(sound, max_seconds=data.card.clip_seconds).duration_s, data.card.clip_seconds)
        except BenchError:
            return None

    made = type(data.task).materialise is not Task.materialise  # then what is missing comes with the first use
    there = not made or all(Path(sound.path).exists() for sound in clips)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        lengths = list(pool.map(seconds, clips)) if there else []
    heard = [length for length in lengths if length is not None]
    return {
        "name": data.name,
        "clips": len(clips),
        "recordings": len(set(data.table["group"])),
        "hours": round(sum(heard) / 3_600, 3) if there else None,
        "unreadable": len(lengths) - len(heard),
        "partial": data.partial,
    }
