"""Whole trainings at the smallest size: what moves, what must not, and that a killed run loses nothing."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from uamix_bench.models.frontend import KaldiFbank
from uamix_bench.models.vit import AudioViT
from uamix_bench.tuning.contrastive import HeadStage, Network, TuneStage
from uamix_bench.tuning.data import Frames, batches, drawn, random
from uamix_bench.tuning.loop import Batch, Stage, Training, ordered, schedule
from uamix_bench.tuning.pretrain import Pretraining, normalised_patches
from uamix_bench.tuning.recipe import MIXINGS, TUNE, VIEWS, PretrainRecipe, Recipe, TuneRecipe
from uamix_bench.tuning.views import DRAWS, Spectrograms, Views, augment, crop
from uamix_bench.util.errors import MachineError, Stopped, UsageError

MEL_HZ = KaldiFbank(16_000).mel_hz


def tuning(encoder: AudioViT, recipe: TuneRecipe, frames: Frames, spectrograms: Spectrograms) -> list[Stage]:
    network = Network(copy.deepcopy(encoder), recipe)
    return [HeadStage(network, recipe, frames, spectrograms), TuneStage(network, recipe, frames, spectrograms)]


def run(
    stages: list[Stage], recipe: TuneRecipe | PretrainRecipe, frames: Frames, folder: Path, **options: object
) -> dict:
    training = Training(recipe, stages, frames, folder, {"data": "noise"}, **options)  # type: ignore[arg-type]
    training.run()
    return copy.deepcopy(stages[-1].module.state_dict())


def after(count: int) -> Callable[[], bool]:
    """A stop that becomes true at the count-th step, however often a step asks."""
    asked = {"times": 0}

    def stop() -> bool:
        asked["times"] += 1
        return asked["times"] >= count

    return stop


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_smaller_draw_of_clips_is_part_of_a_larger_one(frames: Frames) -> None:
    some, more = (set(drawn(40, count, 3).tolist()) for count in (12, 30))
    assert (len(some), len(more)) == (12, 30)
    assert some < more
    assert some != set(drawn(40, 12, 4).tolist())
    assert drawn(40, None, 3).tolist() == list(range(40))
    taken = frames.drawn(12, 3)
    assert taken.first.tolist() == [frames.first[row] for row in sorted(some)]
    assert taken.sounds_sha256 == frames.sounds_sha256
    with pytest.raises(UsageError, match="clips 41: the data holds only 40"):
        frames.drawn(41, 3)


@pytest.mark.parametrize(("steps", "epochs"), [(0, 2), (3, 2), (17, 1)])
def test_steps_stand_for_epochs(
    steps: int, epochs: int, encoder: AudioViT, tune_recipe: TuneRecipe, frames: Frames, spectrograms: Spectrograms
) -> None:
    recipe = tune_recipe.model_copy(update={"steps": steps, "epochs": epochs})
    _, tune = tuning(encoder, recipe, frames, spectrograms)
    rows = ordered(frames.recordings, recipe, 1, tune)
    assert rows.shape == (steps, recipe.batch)
    passes = [batches(frames.recordings, recipe.batch, recipe.seed, 1, epoch) for epoch in range(20)]
    assert np.array_equal(rows, np.concatenate(passes)[:steps])


@pytest.mark.parametrize("stop_at", [2, 5, 9, 12, 15])
def test_a_stopped_tuning_continues_to_identical_weights(
    stop_at: int, encoder: AudioViT, tune_recipe: TuneRecipe, frames: Frames, spectrograms: Spectrograms, tmp_path: Path
) -> None:
    whole = run(tuning(encoder, tune_recipe, frames, spectrograms), tune_recipe, frames, tmp_path / "a")
    stages = tuning(encoder, tune_recipe, frames, spectrograms)
    with pytest.raises(Stopped, match="repeat the command to resume"):
        run(stages, tune_recipe, frames, tmp_path / "b", stop=after(stop_at))
    resumed = run(tuning(encoder, tune_recipe, frames, spectrograms), tune_recipe, frames, tmp_path / "b")
    assert equal(whole, resumed)
    assert len(list((tmp_path / "b").glob("*.pt"))) <= 2


def flip(content: bytes) -> bytes:
    """A byte in the middle of the tensors, which torch alone would not notice."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [lambda content: content[:-1000], flip, lambda _: b""], ids=["cut", "flip", "empty"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    damage: Callable[[bytes], bytes],
    encoder: AudioViT,
    pretrain_recipe: PretrainRecipe,
    frames: Frames,
    spectrograms: Spectrograms,
    tmp_path: Path,
) -> None:
    def stage() -> list[Stage]:
        return [Pretraining(copy.deepcopy(encoder), pretrain_recipe, frames, spectrograms)]

    whole = run(stage(), pretrain_recipe, frames, tmp_path / "a")
    with pytest.raises(Stopped):
        run(stage(), pretrain_recipe, frames, tmp_path / "b", stop=after(8))
    newest = max((tmp_path / "b").glob("*.pt"))
    newest.write_bytes(damage(newest.read_bytes()))
    assert equal(whole, run(stage(), pretrain_recipe, frames, tmp_path / "b"))


def test_another_recipe_is_refused_by_the_names_of_its_fields(
    encoder: AudioViT, tune_recipe: TuneRecipe, frames: Frames, spectrograms: Spectrograms, tmp_path: Path
) -> None:
    recipe = tune_recipe.model_copy(update={"head_epochs": 1, "epochs": 0})
    run(tuning(encoder, recipe, frames, spectrograms), recipe, frames, tmp_path)
    other = recipe.model_copy(update={"alpha": 0.5, "views": Views(stretch=0.1)})
    with pytest.raises(UsageError, match=r"differs in recipe \(alpha was 1.0, is 0.5, views.stretch was 0.2, is 0.1\)"):
        run(tuning(encoder, other, frames, spectrograms), other, frames, tmp_path)
    training = Training(recipe, tuning(encoder, recipe, frames, spectrograms), frames, tmp_path, {"data": {"clips": 7}})
    with pytest.raises(UsageError, match="differs in data"):
        training.run()


@pytest.mark.parametrize("mix", MIXINGS)
def test_only_the_upper_half_and_the_heads_move(
    mix: str, encoder: AudioViT, tune_recipe: TuneRecipe, frames: Frames, spectrograms: Spectrograms
) -> None:
    recipe = tune_recipe.model_copy(update={"mix": mix})
    _, stage = tuning(encoder, recipe, frames, spectrograms)
    groups = stage.parameter_groups()
    stage.begin()
    before = copy.deepcopy(stage.module.state_dict())
    optimizer = torch.optim.SGD(groups, momentum=0.0)
    loss, _ = stage.step(Batch(1, 0, np.arange(0, 16, 2)))
    loss.backward()
    network = stage.module
    assert isinstance(network, Network)
    assert all(p.grad is None for p in network.average.parameters())
    optimizer.step()
    after_step = stage.module.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after_step[key])}
    fixed = ("encoder.stem.", "encoder.blocks.0.", "encoder.blocks.1.")
    assert not [key for key in moved if key.startswith(fixed)]
    for part in ("encoder.blocks.2.", "encoder.blocks.3.", "encoder.norm.", "projector.", "predictor."):
        assert [key for key in moved if key.startswith(part)], part


def test_learning_rates_decay_from_the_last_block_down(
    encoder: AudioViT, tune_recipe: TuneRecipe, frames: Frames, spectrograms: Spectrograms
) -> None:
    _, stage = tuning(encoder, tune_recipe, frames, spectrograms)
    rate_of = {id(p): group["lr"] for group in stage.parameter_groups() for p in group["params"]}
    network = stage.module
    assert isinstance(network, Network)
    peak, decay = tune_recipe.learning_rate, tune_recipe.layer_decay
    assert rate_of[id(network.encoder.norm.weight)] == peak
    assert rate_of[id(network.encoder.blocks[3].mlp.fc1.weight)] == pytest.approx(peak * decay)
    assert rate_of[id(network.encoder.blocks[2].attn.qkv.weight)] == pytest.approx(peak * decay**2)
    assert rate_of[id(network.projector[0].weight)] == tune_recipe.head_learning_rate


def test_the_paper_recipe_trains_fifty_million_parameters() -> None:
    from uamix_bench.models.vit import ViTShape

    with torch.device("meta"):
        network = Network(AudioViT(ViTShape()), TUNE["paper"])
    stage = TuneStage(network, TUNE["paper"], None, None)  # type: ignore[arg-type]
    trained = sum(p.numel() for group in stage.parameter_groups() for p in group["params"])
    assert trained == 50_934_272


def test_stage_one_leaves_the_encoder_as_it_was(
    encoder: AudioViT, tune_recipe: TuneRecipe, frames: Frames, spectrograms: Spectrograms, tmp_path: Path
) -> None:
    recipe = tune_recipe.model_copy(update={"epochs": 0})
    state = run(tuning(encoder, recipe, frames, spectrograms), recipe, frames, tmp_path)
    assert all(torch.equal(state[f"encoder.{key}"], value) for key, value in encoder.state_dict().items())


def test_swapping_the_views_leaves_the_loss(
    encoder: AudioViT, tune_recipe: TuneRecipe, frames: Frames, spectrograms: Spectrograms
) -> None:
    """The loss is symmetric: with the neighbours fixed, exchanging view 0 and view 1 changes nothing."""
    recipe = tune_recipe.model_copy(update={"mix": "none"})
    _, stage = tuning(encoder, recipe, frames, spectrograms)
    assert isinstance(stage, TuneStage)
    stage.parameter_groups()
    stage.begin()
    batch = Batch(1, 0, np.arange(0, 16, 2))
    views = stage.inputs(batch)
    stage.keys = lambda projections, _: projections  # type: ignore[method-assign]
    losses = [stage.step(batch._replace(inputs=order))[0].item() for order in (views, views[::-1])]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run(
    encoder: AudioViT, pretrain_recipe: PretrainRecipe, frames: Frames, spectrograms: Spectrograms, tmp_path: Path
) -> None:
    class Poisoned(Pretraining):
        def step(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
            loss, figures = super().step(batch)
            return (loss * torch.nan if batch.step == 7 else loss), figures

    with pytest.raises(MachineError, match="step 7: the loss is nan"):
        run([Poisoned(encoder, pretrain_recipe, frames, spectrograms)], pretrain_recipe, frames, tmp_path)
    assert [path.name for path in sorted(tmp_path.glob("*.pt"))] == ["0-00000003.pt", "0-00000006.pt"]


def test_pretraining_lowers_its_loss(
    encoder: AudioViT, pretrain_recipe: PretrainRecipe, frames: Frames, spectrograms: Spectrograms, tmp_path: Path
) -> None:
    # a pattern that neighbours predict: every clip a ramp over the mel axis
    ramp = np.broadcast_to(np.linspace(-9, -3, 128).astype(np.float16), frames.values.shape)
    smooth = Frames(np.ascontiguousarray(ramp), frames.first, frames.count, frames.recordings, "ramp")
    recipe = pretrain_recipe.model_copy(update={"epochs": 12, "learning_rate": 3e-3})
    training = Training(recipe, [Pretraining(encoder, recipe, smooth, spectrograms)], smooth, tmp_path, {})
    history = training.run()
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]


def test_patches_are_time_major_and_standardised() -> None:
    spectrogram = torch.randn(2, 32, 48, generator=torch.Generator().manual_seed(0))
    target = normalised_patches(spectrogram, 16)
    assert target.shape == (2, 6, 256)
    patch = spectrogram[1, 16:32, 32:48]  # column 1, row 2 of 3: token 1 * 3 + 2
    torch.testing.assert_close(target[1, 5], ((patch - patch.mean()) / (patch.var() + 1e-6).sqrt()).flatten())


@pytest.mark.parametrize("batch", [4, 7, 20])
def test_a_batch_never_holds_two_clips_of_one_recording(batch: int, frames: Frames) -> None:
    order = batches(frames.recordings, batch, seed=1, stage=0, epoch=0)
    for clips in order:
        assert len(np.unique(frames.recordings[clips])) == batch
    flat = order.flatten().tolist()
    assert len(set(flat)) == len(flat)
    assert order.tolist() != batches(frames.recordings, batch, seed=1, stage=0, epoch=1).tolist()


def test_too_few_recordings_are_named(frames: Frames) -> None:
    with pytest.raises(UsageError, match="only 20 recordings"):
        batches(frames.recordings, 21, 0, 0, 0)


def test_draws_depend_on_seed_stage_step_and_view_alone() -> None:
    first = random(5, 1, 7, 0).random(4)
    assert np.array_equal(first, random(5, 1, 7, 0).random(4))
    others = [random(6, 1, 7, 0), random(5, 2, 7, 0), random(5, 1, 8, 0), random(5, 1, 7, 1)]
    assert all(not np.array_equal(first, other.random(4)) for other in others)


def test_the_schedule_rises_then_falls_to_nothing() -> None:
    rates = [schedule(step, 100, 0.2) for step in range(100)]
    assert np.argmax(rates) == 20
    assert rates[20] == 1.0
    assert np.all(np.diff(rates[:21]) > 0)
    assert np.all(np.diff(rates[20:]) < 0)
    assert schedule(100, 100, 0.2) == pytest.approx(0)


def test_short_clips_loop_and_long_ones_are_cut_inside(frames: Frames) -> None:
    still = Views(stretch=0.0)
    rows = np.arange(len(frames))
    draws = np.random.default_rng(1).random((len(rows), DRAWS))
    window = crop(frames.values, frames.first[rows], frames.count[rows], draws, 64, still).numpy()
    for row in rows:
        clip = frames.values[frames.first[row] : frames.first[row] + frames.count[row]].astype(np.float32)
        low, high = np.minimum(clip, np.roll(clip, -1, 0)), np.maximum(clip, np.roll(clip, -1, 0))
        fits = [
            np.all(
                (window[row] >= np.roll(low, -s, 0)[np.arange(64) % len(clip)] - 1e-3)
                & (window[row] <= np.roll(high, -s, 0)[np.arange(64) % len(clip)] + 1e-3)
            )
            for s in range(len(clip))
        ]
        assert sum(fits) >= 1


def test_a_view_without_strengths_is_the_window() -> None:
    off = Views(
        stretch=0, mel_shift=0, gain_db=0, tilt_db=0, noise_p=0, low_pass_p=0, fade_p=0, time_mask_p=0, mel_mask_p=0
    )
    generator = torch.Generator().manual_seed(0)
    window = torch.randn(3, 20, 128, generator=generator) - 6
    draws = np.random.default_rng(0).random((3, DRAWS))
    noise = torch.empty(3, 20, 128).exponential_(generator=generator).log_()
    torch.testing.assert_close(augment(window, draws, noise, MEL_HZ, off), window, rtol=0, atol=1e-5)


def test_added_noise_has_the_drawn_signal_to_noise_ratio() -> None:
    loud = Views(
        stretch=0,
        mel_shift=0,
        gain_db=0,
        tilt_db=0,
        noise_p=1,
        noise_snr_db=(10, 10),
        low_pass_p=0,
        fade_p=0,
        time_mask_p=0,
        mel_mask_p=0,
    )
    window = torch.zeros(1, 400, 128)
    draws = np.full((1, DRAWS), 0.5)  # a slope of zero
    noise = torch.empty(1, 400, 128).exponential_(generator=torch.Generator().manual_seed(0)).log_()
    view = augment(window, draws, noise, MEL_HZ, loud)
    assert view.exp().mean().item() == pytest.approx(1.1, abs=0.005)


@pytest.mark.parametrize("semitones", [-9.0, -2.5, 4.0, 12.0])
def test_a_pitch_shift_moves_a_tone_by_so_many_semitones(semitones: float) -> None:
    still = dict.fromkeys(("stretch", "mel_shift", "gain_db", "tilt_db", "noise_p", "low_pass_p", "fade_p"), 0)
    views = Views(**still, time_mask_p=0, mel_mask_p=0, pitch=abs(semitones), pitch_p=1)
    tone = 70  # a bin around 2 kHz
    window = torch.full((1, 4, 128), -9.0)
    window[:, :, tone] = 0.0
    draws = np.full((1, DRAWS), 0.9999 if semitones > 0 else 0.0)  # the ends of the range
    view = augment(window, draws, torch.zeros(1, 4, 128), MEL_HZ, views)
    weight = (view[0, 0] + 9.0).double()
    heard_mel = float((1127 * torch.log1p(MEL_HZ.double() / 700) * weight).sum() / weight.sum())
    expected_mel = 1127 * np.log1p(MEL_HZ[tone].item() * 2 ** (semitones / 12) / 700)
    assert heard_mel == pytest.approx(expected_mel, abs=15)  # half a bin


def test_noise_depends_on_the_clip_s_own_seed_alone(frames: Frames) -> None:
    loud = Spectrograms(lambda x: x, MEL_HZ, Views(noise_p=1.0), torch.device("cpu"))
    rows = np.arange(6)
    draws, seeds = np.random.default_rng(0).random((6, DRAWS)), np.arange(100, 106)
    whole = loud(frames, rows, draws, 32, seeds)
    part = loud(frames, rows[2:5], draws[2:5], 32, seeds[2:5])
    torch.testing.assert_close(part, whole[2:5], rtol=0, atol=1e-5)


def test_every_choice_that_the_paper_leaves_open_says_whose_it_is() -> None:
    own = set(TuneRecipe.model_fields) - set(Recipe.model_fields) - {"kind"}
    assert [name for name in own if not TuneRecipe.model_fields[name].description] == []


@pytest.mark.parametrize("name", VIEWS)
def test_a_preset_of_views_is_named_in_the_recipe(name: str) -> None:
    recipe = TuneRecipe.model_validate({**TUNE["tiny"].model_dump(), "views": name})
    assert recipe.views == VIEWS[name]
    assert recipe.views.preset == name
    assert recipe.views.model_copy(update={"stretch": 0.123}).preset == "own"


def test_the_model_s_wait_for_its_data_is_counted(
    encoder: AudioViT, pretrain_recipe: PretrainRecipe, frames: Frames, spectrograms: Spectrograms, tmp_path: Path
) -> None:
    class Slow(Pretraining):
        def inputs(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            time.sleep(0.3 if batch.step < 2 else 0)
            return super().inputs(batch)

    stage = Slow(encoder, pretrain_recipe, frames, spectrograms)
    training = Training(pretrain_recipe, [stage], frames, tmp_path, {})
    training.run()
    (pace,) = training.paces
    assert 0.3 <= pace.waiting_s <= pace.seconds
    assert pace.clips == 8 * (training.history[-1]["step"] + 1)
