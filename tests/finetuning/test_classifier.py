"""Fine-tuning's parts against the published arithmetic, timm, torchaudio and mixed waveforms."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchaudio
from timm.data.mixup import mixup_target
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import param_groups_layer_decay

from uamix_bench.finetuning.classifier import (
    Classifier,
    FineTuning,
    Inputs,
    inputs,
    loss_of,
    mask_out,
    mix_power,
    spans,
)
from uamix_bench.finetuning.recipe import FINETUNE, FinetuneRecipe
from uamix_bench.models.frontend import KaldiFbank
from uamix_bench.models.loading import load_model
from uamix_bench.models.model import AudioModel
from uamix_bench.models.vit import ViTShape
from uamix_bench.plugins import registry
from uamix_bench.tuning.data import Frames
from uamix_bench.tuning.loop import Batch, schedule
from uamix_bench.util.errors import OwnCodeError, UsageError

ESC50 = FINETUNE["audiomae-esc50"]


def audiomae(width: int = 64, depth: int = 3) -> AudioModel:
    model: AudioModel = registry.find_model("audiomae")[0].load()(ViTShape(width, depth, width // 64))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(parameter.numel()))
    return model


def small(**changes: Any) -> FinetuneRecipe:
    return FINETUNE["tiny"].model_copy(update={"batch": 8, "frames": (64,), **changes})


def stage(recipe: FinetuneRecipe, frames: Frames, model: AudioModel | None = None, frozen: int = 0) -> FineTuning:
    encoder = model or audiomae()
    targets = torch.eye(5)[torch.arange(len(frames)) % 5]
    module = Classifier(encoder, 5, recipe, frozen)
    return FineTuning(module, recipe, frames, targets, inputs(encoder, recipe, 64), torch.device("cpu"))


# --- the arithmetic of the recipe


def test_the_published_rates() -> None:
    assert ESC50.learning_rate == pytest.approx(2.5e-4)  # 1e-3 x 64 / 256
    assert FINETUNE["audiomae-speech-commands"].learning_rate == pytest.approx(1e-3)
    assert FINETUNE["audiomae-audioset20k"].learning_rate == pytest.approx(1.25e-4)
    rates = [ESC50.learning_rate * schedule(step, 1_250, ESC50.warmup, ESC50.floor) for step in range(1_250)]
    assert int(np.argmax(rates)) == 125  # after five of fifty epochs of 25 steps
    assert rates[125] == pytest.approx(2.5e-4)
    assert rates[-1] == pytest.approx(1e-6, rel=0.01)
    middle = 1e-6 + (2.5e-4 - 1e-6) * 0.5 * (1 + math.cos(math.pi * 0.5))
    assert rates[125 + 1_125 // 2] == pytest.approx(middle, rel=5e-3)


def test_masks_are_narrower_than_their_axes() -> None:
    for recipe in FINETUNE.values():
        assert recipe.mask_mel < 128
        assert not recipe.frames or recipe.mask_frames < recipe.frames[0]


def test_layer_decay_has_the_values_of_the_published_rule() -> None:
    with torch.device("meta"):
        model = registry.find_model("audiomae")[0].load()(ViTShape())
        module = Classifier(model, 50, ESC50)
    rate = {id(p): group["lr"] / 2.5e-4 for group in module.parameter_groups() for p in group["params"]}
    table = [0.0237573, 0.0316764, 0.0422351, 0.0563135, 0.0750847, 0.1001129]  # 0.75 ** 13 ... 0.75 ** 8, by hand
    layers = model.layers()
    for number, expected in enumerate(table):
        assert all(rate[id(p)] == pytest.approx(expected, rel=1e-5) for p in layers[number].parameters())
    assert rate[id(layers[12].mlp.fc1.weight)] == pytest.approx(0.75)
    assert rate[id(module.head.weight)] == rate[id(module.fc_norm.bias)] == pytest.approx(1.0)
    assert not any(id(p) in rate for p in model.encoder.norm.parameters())  # the authors delete it


def test_groups_agree_with_timms_layer_decay() -> None:
    depth = 4
    module = Classifier(audiomae(64, depth), 7, ESC50)
    oracle = timm.create_model(
        "vit_tiny_patch16_224", embed_dim=64, depth=depth, num_heads=1, num_classes=7, global_pool="avg", in_chans=1
    )
    groups = param_groups_layer_decay(
        oracle, weight_decay=0.05, no_weight_decay_list={"pos_embed", "cls_token"}, layer_decay=0.75
    )
    name_of = {id(parameter): name for name, parameter in oracle.named_parameters()}
    expected = {name_of[id(p)]: (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    expected.pop("pos_embed")  # fixed here, and a buffer
    name_of = {id(p): n.removeprefix("encoder.encoder.").removeprefix("stem.") for n, p in module.named_parameters()}
    found = {
        name_of[id(p)]: (pytest.approx(g["lr"] / ESC50.learning_rate), g["weight_decay"])
        for g in module.parameter_groups()
        for p in g["params"]
    }
    assert found == expected


def test_the_head_begins_small_and_the_norm_fresh_or_copied() -> None:
    model = audiomae()
    fresh = Classifier(copy.deepcopy(model), 400, ESC50)
    assert fresh.head.weight.std().item() == pytest.approx(0.88 * 2e-5, rel=0.05)  # truncated at two deviations
    assert not fresh.head.bias.any()
    assert torch.equal(fresh.fc_norm.weight, torch.ones(64))
    copied = Classifier(copy.deepcopy(model), 400, ESC50.model_copy(update={"fc_norm_from": "norm"}))
    assert torch.equal(copied.fc_norm.weight, model.encoder.norm.weight)


def test_it_classifies_the_mean_of_patches_before_the_norm() -> None:
    model = audiomae()
    module = Classifier(copy.deepcopy(model), 3, ESC50).eval()
    module.head.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    view = torch.randn(2, 64, 128, generator=torch.Generator().manual_seed(2))
    tokens, _ = model.encoder(view)
    mean = tokens[:, 1:].mean(dim=1)
    centred = (mean - mean.mean(1, keepdim=True)) / (mean.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(module(view), centred @ module.head.weight.T, rtol=1e-4, atol=1e-5)


# --- augmentation


def test_masks_are_torchaudios() -> None:
    values = torch.randn(1, 1, 128, 64, generator=torch.Generator().manual_seed(0)) + 20
    for seed in range(20):
        torch.manual_seed(seed)
        u = torch.rand(2).double().numpy()[:, None]
        torch.manual_seed(seed)
        expected = torchaudio.functional.mask_along_axis(values, 48, 0.0, axis=2)[0, 0].T
        draws = np.concatenate([np.zeros((2, 1)), u])
        assert torch.equal(mask_out(values[0].transpose(1, 2), draws, 0, 48)[0], expected)


def test_a_mask_never_leaves_its_axis() -> None:
    u = np.random.default_rng(0).random((2, 1_000))
    for size, largest in ((64, 192), (128, 96), (8, 8)):
        first, end = spans(u, size, largest)
        assert (first >= 0).all()
        assert (end <= size).all()
        assert (end - first).max() == min(size, largest) - 1


def test_spec_augment_sets_zero_before_normalisation(frames: Frames) -> None:
    recipe = small(mask_mel=64, mask_frames=40, statistics=(-6.0, 2.0))
    views, targets = stage(recipe, frames).inputs(Batch(0, 0, np.arange(8)))
    plain, _ = stage(recipe.model_copy(update={"mask_mel": 0, "mask_frames": 0}), frames).inputs(
        Batch(0, 0, np.arange(8))
    )
    changed = views != plain
    assert 0.1 < changed.float().mean() < 0.9
    assert (views[changed] == (0 + 6.0) / 4.0).all()  # what a zero becomes; masked after it would be zero itself
    assert torch.equal(targets, torch.eye(5)[torch.arange(8) % 5])


def test_short_clips_are_zero_padded_and_long_ones_cut(frames: Frames) -> None:
    feed = Inputs(KaldiFbank(16_000), lambda values: values, True, 48)
    values, own = feed.windows(frames, np.arange(20))
    for row in range(20):
        first, count = frames.first[row], min(48, frames.count[row])
        assert torch.equal(values[row, :count], torch.from_numpy(frames.values[first : first + count]).float())
        assert not values[row, count:].any()
        assert own[row].sum() == count
    turned, _ = feed.windows(frames, np.arange(20), np.full(20, 7))
    row = int(np.argmin(frames.count[:20]))
    count = frames.count[row]
    assert torch.equal(turned[row, :count], values[row, :count].roll(-7, 0))


def test_mixed_power_is_that_of_mixed_waveforms() -> None:
    fbank = KaldiFbank(16_000, window="hanning")
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 1, 160_000, generator=generator) * torch.tensor([0.1, 0.02])[:, None, None]
    lengths = torch.tensor([160_000])
    for lam in (0.2, 0.5, 0.9):
        expected = fbank(lam * first + (1 - lam) * second, lengths)[0].exp().mean(dim=1).log()
        mixed = mix_power(fbank(first, lengths)[0], fbank(second, lengths)[0], torch.tensor([lam]))
        found = mixed.exp().mean(dim=1).log()  # the lowest bins hold one line of the spectrum, and average less
        torch.testing.assert_close(found[:, 8:], expected[:, 8:], rtol=0, atol=0.15)
        assert (found - expected).mean().abs() < 0.02
    clean = fbank(first, lengths)[0]
    assert torch.equal(mix_power(clean, torch.full_like(clean, -math.inf), torch.tensor([1.0])), clean)


def test_mixed_targets_are_timms_mixtures(frames: Frames) -> None:
    recipe = small(mixup=0.5, smoothing=0.1)
    made = stage(recipe, frames)
    clean = torch.eye(5)[torch.arange(len(frames)) % 5]
    rows = np.arange(40)
    _, targets = made.inputs(Batch(0, 3, rows))
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(40))
    mixed = (targets != clean).any(dim=1)
    assert 0.2 < mixed.float().mean() < 0.8  # half of them, less those mixed with their own class
    assert ((targets[mixed] > 0).sum(dim=1) == 2).all()
    logits = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    row = int(mixed.int().argmax())
    lam, pair = targets[row].topk(2)
    smooth = mixup_target(pair, 5, float(lam[0]), 0.1)[:1]  # timm mixes the labels of a batch with its reverse's
    expected = SoftTargetCrossEntropy()(logits[row : row + 1], smooth)
    torch.testing.assert_close(loss_of(logits[row : row + 1], targets[row : row + 1], recipe), expected)
    hard = LabelSmoothingCrossEntropy(0.1)(logits, clean.argmax(dim=1))
    torch.testing.assert_close(loss_of(logits, clean, recipe), hard)
    binary = recipe.model_copy(update={"loss": "binary", "smoothing": 0.0})
    torch.testing.assert_close(loss_of(logits, targets, binary), torch.nn.BCEWithLogitsLoss()(logits, targets))


def test_noise_turns_and_adds_little(frames: Frames) -> None:
    plain, _ = stage(small(mask_mel=0, mask_frames=0), frames).inputs(Batch(0, 0, np.arange(8)))
    noisy, _ = stage(small(mask_mel=0, mask_frames=0, noise=True), frames).inputs(Batch(0, 0, np.arange(8)))
    for one, other in zip(plain, noisy, strict=True):
        differences = [(other - one.roll(turn, 0)) for turn in range(-10, 10)]
        best = min(differences, key=lambda difference: float(difference.abs().max()))
        assert best.min() + 1e-6 >= 0
        assert best.max() < 0.1


# --- what is trained


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_frozen_blocks_stay_and_the_others_move(frozen: int, frames: Frames) -> None:
    made = stage(small(drop_path=0.0), frames, frozen=frozen)
    before = copy.deepcopy(made.module.state_dict())
    optimizer = torch.optim.AdamW(made.parameter_groups(), lr=1e-3)
    for step in range(2):  # the first moves the head, which begins at nearly nothing
        optimizer.zero_grad()
        made.step(Batch(0, step, np.arange(8)))[0].backward()
        optimizer.step()
    moved = {name for name, value in made.module.state_dict().items() if not torch.equal(value, before[name])}
    names = ["encoder.stem.", "encoder.blocks.0.", "encoder.blocks.1.", "encoder.blocks.2."]
    for number, name in enumerate(names):
        assert any(name in key for key in moved) == (not frozen or number > frozen), name
    assert {"head.weight", "head.bias", "fc_norm.weight"} <= moved
    assert not any("encoder.norm" in key for key in moved)


def test_drop_path_rises_over_the_blocks_and_depends_on_the_step_alone(frames: Frames) -> None:
    made = stage(small(drop_path=0.4), frames)
    assert [block.drop_path1.drop_prob for block in made.module.encoder.layers()[1:]] == pytest.approx([0, 0.2, 0.4])
    made.module.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    first = [made.step(Batch(0, step, np.arange(8)))[0].item() for step in (4, 5)]
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(7)
    assert [made.step(Batch(0, step, np.arange(8)))[0].item() for step in (4, 5)] == first


SPECTROGRAMS = torch.zeros(2, 64, 128)


@pytest.mark.parametrize(
    ("method", "body", "said"),
    [
        ("layers", "raise OSError('gone')", "layers of Own raises OSError: gone"),
        ("layers", "return [self.lin, 1]", "layers of Own: returns a int, not modules alone"),
        ("tokens", "return {}['gain']", "tokens of Own raises KeyError: 'gain'"),
        ("tokens", "return given[0]", "tokens of Own: returns (2, 64, 128) float32, not tokens and mask"),
        ("pool", "raise ValueError('no')", "pool of Own raises ValueError: no"),
        ("pool", "return given[0].mean(1)[:, :5]", "pool of Own: returns (2, 5) where (2, 128) is due"),
        ("frontend", "return given[0]", "frontend of Own: returns (2, 64) float32, not spectrogram and frame counts"),
    ],
)
def test_own_code_is_named_in_training_too(method: str, body: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import torch\nfrom uamix_bench import AudioModel\n\nclass Own(AudioModel):\n"
        "    sample_rate, embedding_dim = 16_000, 128\n"
        "    def __init__(self):\n        super().__init__()\n        self.lin = torch.nn.Linear(128, 128)\n"
        "    def layers(self):\n        return [self.lin]\n"
        "    def tokens(self, x, lengths):\n        return self.lin(x), torch.ones(x.shape[:2], dtype=torch.bool)\n"
        f"    def {method}(self, *given):\n        {body}\n"
    )
    model, recipe = load_model(f"{tmp_path / 'own.py'}:Own"), small(mixup=0.0, roll=False, statistics=None)
    waves = torch.zeros(2, 64), torch.tensor([64, 64])
    with pytest.raises(OwnCodeError, match=re.escape(said)):
        inputs(model, recipe, 64).raw(*waves) if method == "frontend" else Classifier(model, 3, recipe)(SPECTROGRAMS)


def others() -> dict[str, Callable[[Any], AudioModel]]:
    """Small members of the other families."""

    def maskspec(module: Any) -> AudioModel:
        model: AudioModel = module.MaskSpec(64, 2)
        model.frame_statistics[1] = 1.0
        return model

    return {
        "maskspec": maskspec,
        "m2d": lambda module: module.M2D(module.Sizes(608, 16, 16, "16k"), 64, 2),
        "mae-ast": lambda module: module.MAEAST(
            module.Config(
                ast_kernel_size_time=16,
                ast_kernel_size_chan=16,
                ast_kernel_stride_time=16,
                ast_kernel_stride_chan=16,
                encoder_layers=2,
                encoder_embed_dim=64,
                encoder_ffn_embed_dim=128,
                encoder_attention_heads=2,
                enc_sine_pos=True,
            )
        ),
        "beats": lambda module: module.BEATs(
            module.Config(
                input_patch_size=16,
                embed_dim=64,
                encoder_embed_dim=64,
                encoder_ffn_embed_dim=128,
                encoder_layers=2,
                encoder_attention_heads=2,
                relative_position_embedding=True,
                gru_rel_pos=True,
                deep_norm=True,
            )
        ),
    }


@pytest.mark.parametrize("name", ["maskspec", "m2d", "beats", "mae-ast"])
def test_the_other_families_are_trained_as_far_as_their_adapters_allow(name: str, frames: Frames) -> None:
    import sys

    adapter = registry.find_model(name)[0].load()
    model = others()[name](sys.modules[adapter.__module__])
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(1))
    recipe = small(mask_mel=8, mask_frames=8)
    feed = inputs(model, recipe, 64)
    wave = torch.randn(4, 16_000, generator=torch.Generator().manual_seed(0)) * 0.1
    values, counts = feed.raw(wave, torch.full((4,), 16_000))
    data = Frames(
        values.flatten(0, 1).to(torch.float16).numpy(),
        np.arange(4) * values.shape[1],
        counts.numpy(),
        np.arange(4),
        "data",
    )
    made = FineTuning(Classifier(model, 2, recipe), recipe, data, torch.eye(2)[[0, 1, 0, 1]], feed, torch.device("cpu"))
    made.module.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    groups = made.parameter_groups()
    made.step(Batch(0, 0, np.arange(4)))[0].backward()
    missing = [p.shape for group in groups for p in group["params"] if p.grad is None]
    assert not missing
    with pytest.raises(UsageError, match=r"mixup.*--set mixup=0"):
        inputs(model, recipe.model_copy(update={"mixup": 0.5}), 64)


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(UsageError, match="no layers to train; give --freeze all"):
        Classifier(load_model("logmel", device="cpu"), 3, small())
    with pytest.raises(UsageError, match="the model has 3 blocks"):
        Classifier(audiomae(), 3, small(), frozen=4)


def test_named_recipes_validate_and_round_trip(tmp_path: Path) -> None:
    for name, recipe in FINETUNE.items():
        assert recipe.name == name
        assert FinetuneRecipe.model_validate_json(recipe.model_dump_json()) == recipe
    with pytest.raises(ValueError, match="belongs to cross-entropy"):
        FinetuneRecipe.model_validate({**ESC50.model_dump(), "loss": "binary"})
