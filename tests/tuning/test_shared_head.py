"""Stage 1 trained once for several recipes: the weights of each are those that it gets alone, bit for bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from uamix_bench.models.vit import AudioViT
from uamix_bench.tuning.contrastive import HeadStage, Network, TuneStage
from uamix_bench.tuning.data import Frames
from uamix_bench.tuning.loop import Training
from uamix_bench.tuning.recipe import MIXINGS, TuneRecipe
from uamix_bench.tuning.views import Spectrograms
from uamix_bench.util.errors import Stopped

STAGE_2 = {
    "mix": "mixup",
    "alpha": 0.3,
    "lambda_per": "batch",
    "lambda_max": True,
    "plain_weight": 1.0,
    "box": "clipped",
    "snap": 16,
    "ema": 0.5,
    "frozen": 0.25,
    "layer_decay": 0.5,
    "save_dtype": "float32",
    "learning_rate": 1e-2,
    "weight_decay": 0.7,
    "epochs": 1,
    "centre": False,
    "steps": 3,
}
STAGE_1 = {
    "seed": 1,
    "head_epochs": 1,
    "head_learning_rate": 1e-2,
    "head_weight_decay": 0.5,
    "temperature": 0.5,
    "top_k": 1,
    "queue": 32,
    "batch": 4,
    "frames": (32,),
    "warmup": 0.0,
    "clip_gradient": None,
    "betas": (0.5, 0.5),
    "views": "crop",
}


class Trial:
    """Trains recipes on copies of one encoder."""

    def __init__(self, encoder: AudioViT, frames: Frames, spectrograms: Spectrograms, folder: Path) -> None:
        self.encoder, self.frames, self.spectrograms, self.folder = encoder, frames, spectrograms, folder

    def train(self, recipe: TuneRecipe, name: str, head: str | None = None, **options: Any) -> tuple[dict, list]:
        network = Network(copy.deepcopy(self.encoder), recipe)
        stages = [cls(network, recipe, self.frames, self.spectrograms) for cls in (HeadStage, TuneStage)]
        before = None
        if head is not None:
            alone = recipe.head_only()
            before = Training(alone, stages[:1], self.frames, self.folder / head, {"recipe": alone.sha256}, **options)
        identity = {"recipe": recipe.sha256}
        training = Training(recipe, stages, self.frames, self.folder / name, identity, before=before, **options)
        return copy.deepcopy(network.state_dict()) if training.run() else {}, training.history


@pytest.fixture
def trial(encoder: AudioViT, frames: Frames, spectrograms: Spectrograms, tmp_path: Path) -> Trial:
    return Trial(encoder, frames, spectrograms, tmp_path)


def changed(recipe: TuneRecipe, **fields: Any) -> TuneRecipe:
    return TuneRecipe.model_validate(recipe.model_dump(mode="json") | fields)


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_every_mixing_gets_the_weights_it_gets_alone(trial: Trial, tune_recipe: TuneRecipe) -> None:
    for mix in MIXINGS:
        recipe = changed(tune_recipe, mix=mix)
        alone, history = trial.train(recipe, f"{mix}-alone")
        shared, told = trial.train(recipe, f"{mix}-shared", head="head")
        assert equal(alone, shared)
        assert history == told
    assert [path.name[0] for path in (trial.folder / "head").glob("*.pt")] == ["0", "0"]


def test_a_shared_head_may_be_stopped_and_so_may_what_follows(trial: Trial, tune_recipe: TuneRecipe) -> None:
    alone, _ = trial.train(tune_recipe, "alone")
    for limit in (3, 9):
        asked = iter(range(1_000))
        with pytest.raises(Stopped):
            trial.train(tune_recipe, "arm", head="head", stop=lambda asked=asked, limit=limit: next(asked) > limit)
    assert equal(alone, trial.train(tune_recipe, "arm", head="head")[0])


@pytest.mark.parametrize("field", STAGE_2)
def test_what_belongs_to_stage_2_leaves_stage_1_as_it_was(trial: Trial, tune_recipe: TuneRecipe, field: str) -> None:
    other = changed(tune_recipe, **{field: STAGE_2[field]})
    assert other != tune_recipe
    assert other.head_only() == tune_recipe.head_only()
    heads = [
        trial.train(recipe.model_copy(update={"epochs": 0, "steps": 0}), str(index))[0]
        for index, recipe in enumerate((tune_recipe, other))
    ]
    assert equal(*heads)


@pytest.mark.parametrize("field", STAGE_1)
def test_what_stage_1_looks_at_keeps_its_digest_apart(tune_recipe: TuneRecipe, field: str) -> None:
    other = changed(tune_recipe, **{field: STAGE_1[field]})
    assert other.head_only().sha256 != tune_recipe.head_only().sha256


def test_the_fields_of_stage_2_are_all_tried() -> None:
    assert {name for name, scope in TuneRecipe.scopes().items() if scope.last_stage} == set(STAGE_2)


@pytest.mark.parametrize("mix", ["none", "mixup"])
def test_what_a_mixing_never_looks_at_changes_nothing(trial: Trial, tune_recipe: TuneRecipe, mix: str) -> None:
    recipe = changed(tune_recipe, mix=mix)
    unread = [name for name, scope in TuneRecipe.scopes().items() if mix not in scope.mixings]
    other = changed(recipe, **{name: STAGE_2[name] for name in unread})
    assert unread
    assert other.effective() == recipe.effective() == recipe
    assert equal(trial.train(recipe, "one")[0], trial.train(other, "other")[0])
