"""Recipes: their digests, which name the folders of trainings, and the scopes of their fields."""

from __future__ import annotations

import pytest

from uamix_bench.finetuning.recipe import FINETUNE
from uamix_bench.tuning.recipe import MIXINGS, PRETRAIN, TUNE, Recipe, Scope, TuneRecipe

# Another digest would hide the trainings, weights and results that users have under this one.
DIGESTS = {
    ("pretrain", "tiny"): "4b8de64ebb49b373ba25b0129347aab216936c6dfb706266cd168f8c53f33676",
    ("tune", "tiny"): "9f76c170f4a05c4bfd1623a3e8d3198edae5c648c266fef5ff1659f49929f1f3",
    ("tune", "paper"): "5aa2eccb38888ca6943dc33bb3054e866c59728b391e7d0005814c90ad465972",
    ("head", "tiny"): "79e85f01e69d7326e070b4bf274f36a346e6757a05b9ed59a5285785ec3fb128",
    ("head", "paper"): "f64a2ebd8dc2ff13fc0db3dd1d295eb2887622d7748c992c1e531a80a9c93b00",
    ("finetune", "audiomae-esc50"): "d460630c6f553f02503db9f7b9b2e989bc64ef0ad42d3aaa992b4b6c37b716ef",
    ("finetune", "audiomae-speech-commands"): "bacb10deae68112d91d2d1c8772b188310d0cab00d99ed85d82c84587f3e05cf",
    ("finetune", "audiomae-voxceleb1"): "e1e11a5d519170560ffe883a99ea0929639d9b547367a740f3e1ca0916416e55",
    ("finetune", "audiomae-audioset20k"): "1170b83415c6830490a387d7b2aebed8d83fea271eefcaf8a0ae281ded340af5",
    ("finetune", "audiomae"): "e4f3f6fc5074f01f7464ccd10d4827611e2127d3058d86615cb2359e35d4b36c",
    ("finetune", "tiny"): "6de37d1be31c77f88eb06c4e40f2c0e006e6536453ea9921c92b1569f31bf16b",
}
# Digests of the tiny recipe with every field of the mixtures changed, by mixing: ablations share arms by them.
MIXED = {
    "none": "b5e8a912a21d39c9e49dd6e6757312d3eb28eb261ecdfc2651d0cc9f78c92afc",
    "mixup": "2d51185a303495f8bee2b4d6737c2fbfb8687a326777043a83c16ff28388c518",
    "t-cutmix": "b41f33052621b7ff30f0b49da730f5d5c96830b0ca21ab030dcf45069330ed4c",
    "tf-cutmix": "b8d74ced8875b26c6d69bdc4efb15d2a958d6556f7f63279dde3becc42b13878",
}


def test_the_digests_of_bundled_recipes_stay() -> None:
    recipes: dict[str, dict[str, Recipe]] = {"pretrain": {**PRETRAIN}, "tune": {**TUNE}, "finetune": {**FINETUNE}}
    recipes["head"] = {name: recipe.head_only() for name, recipe in TUNE.items()}
    assert {(kind, name): made.sha256 for kind, group in recipes.items() for name, made in group.items()} == DIGESTS


@pytest.mark.parametrize("mix", MIXINGS)
def test_the_digests_of_arms_stay(mix: str) -> None:
    fields = {
        **{"alpha": 0.5, "lambda_per": "batch", "lambda_max": True, "plain_weight": 0.5, "box": "clipped", "snap": 16},
        **{"ema": 0.9, "frozen": 0.25, "layer_decay": 0.7, "save_dtype": "float32", "epochs": 7, "learning_rate": 0.1},
        **{"weight_decay": 0.3, "partner": "flip", "mix": mix},
    }
    assert TUNE["tiny"].model_copy(update=fields).effective().sha256 == MIXED[mix]


def test_a_new_field_is_read_everywhere_until_it_says_less() -> None:
    class Longer(TuneRecipe):
        patience: int = 3

    assert Longer.scopes()["patience"] == Scope(last_stage=False, mixings=MIXINGS)
    longer = [Longer.model_validate({**TUNE["tiny"].model_dump(), "patience": value}) for value in (3, 4)]
    assert len({recipe.head_only().sha256 for recipe in longer}) == 2
    assert len({recipe.effective().sha256 for recipe in longer}) == 2
