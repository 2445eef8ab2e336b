"""M2D against the goldens of the authors' code, and against torchaudio and timm on files made here."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import timm
import torch
import torchaudio
from torch import Tensor

from uamix_bench.baselines.m2d import M2D, Sizes, read_sizes
from uamix_bench.models.checkpoint import Checkpoint, write_safetensors
from uamix_bench.models.loading import load_model
from uamix_bench.models.vit import encoder_keys

from .measured import assert_tokens_alike_in_a_batch, distance, pooled, refused, sound
from .official import State, vit_state

refusal = partial(refused, M2D)

WIDTH, DEPTH = 64, 2
TRAINING = "m2d_vit_base-80x608p16x16-221006-mr7"
ENCODER_ONLY = "m2d_vit_base-80x608p16x16-230101-stats_enconly"
PATCHES = Sizes(608, 16, 16, "16k")
LONG = Sizes(1001, 16, 16, "16k")
RELEASES = {
    TRAINING: PATCHES,
    "m2d_vit_base-80x608p16x16-221006-mr6": PATCHES,
    "m2d_vit_base-80x608p16x16-221006-mr7_enconly": PATCHES,
    "m2d_vit_base-80x608p16x16-220930-mr7_enconly": PATCHES,
    "m2d_vit_base-80x1001p16x16-221006-mr7_as_46ab246d": LONG,
    "m2d_vit_base-80x200p16x4-230529": Sizes(200, 16, 4, "16k"),
    "m2d_as_vit_base-80x608p16x16-240213": PATCHES,
    "m2d_as_vit_base-80x1001p16x16-240213_AS-FT_enconly": LONG,
    "m2d_as_vit_base-80x608p16x16p32k-240413_enconly": Sizes(608, 16, 16, "32k"),
    "m2d_as_vit_base-80x1001p16x16p32k-240413_AS-FT_enconly": Sizes(1001, 16, 16, "32k"),
    "m2d_s_vit_base-80x608p80x2-230220": Sizes(608, 80, 2, "16k"),
    "m2d_s_vit_base-80x512p80x2-230301": Sizes(512, 80, 2, "16k"),
    "m2d_s_vit_base-80x400p80x2-230201": Sizes(400, 80, 2, "16k"),
    "m2d_clap_vit_base-80x608p16x16-240128": PATCHES,
    "m2d_clap_vit_base-80x1001p16x16-240128_AS-FT_enconly": LONG,
    "m2d_clap_vit_base-80x1001p16x16p16kpBpTI-2025": LONG,
}
OF_EACH_SIZE = list({sizes: release for release, sizes in reversed(RELEASES.items())}.values())


def state_of(sizes: Sizes) -> State:
    """An encoder's state dict under official names."""
    positions = 80 // sizes.patch_mel * (sizes.frames // sizes.patch_frames)
    return vit_state(WIDTH, DEPTH, (sizes.patch_mel, sizes.patch_frames), positions)


def saved(folder: Path, state: dict[str, Tensor], prefix: str = "", **extra: Tensor) -> Path:
    """A file as the authors save it: the state dict with what it is trained with, beside optimiser and arguments."""
    folder.mkdir(parents=True)
    model = {prefix + key: value for key, value in state.items()} | extra
    torch.save({"model": model, "epoch": 300, "args": argparse.Namespace(seed=3)}, folder / "checkpoint-300.pth")
    return folder / "checkpoint-300.pth"


def timm_vit(sizes: Sizes, columns: int) -> timm.models.VisionTransformer:
    return timm.models.VisionTransformer(
        img_size=(80, columns * sizes.patch_frames),
        patch_size=(sizes.patch_mel, sizes.patch_frames),
        in_chans=1,
        num_classes=0,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=WIDTH // 64,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    ).eval()


@torch.no_grad()
def reference(state: dict[str, Tensor], sizes: Sizes, wave: Tensor, stats: tuple[float, float], whole: bool) -> Tensor:
    """Stacked steps (T', rows x D) of one clip, by torchaudio's mel spectrogram and timm's transformer.

    `whole` drops what does not fill the last chunk's patches, which are otherwise filled with zeros.
    """
    rate = {"16k": 16_000, "32k": 32_000}[sizes.rate]
    mel = torchaudio.transforms.MelSpectrogram(
        rate,
        n_fft=rate // 40,
        hop_length=rate // 100,
        f_min=50.0,
        f_max=rate / 2,
        n_mels=80,
        norm="slaney",
        mel_scale="slaney",
    )
    image = ((mel(wave) + 2.0**-23).log() - stats[0]) / stats[1]  # (80, T)
    rows, all_columns, width = 80 // sizes.patch_mel, sizes.frames // sizes.patch_frames, sizes.patch_frames
    steps = []
    for start in range(0, image.shape[1], sizes.frames):
        chunk = image[:, start : start + sizes.frames]
        columns = min(chunk.shape[1] // width if whole else -(-chunk.shape[1] // width), all_columns)
        if columns == 0 and steps:
            continue
        columns = max(columns, 1)
        filled = torch.zeros(80, columns * width)
        part = chunk[:, : columns * width]
        filled[:, : part.shape[1]] = part
        vit = timm_vit(sizes, columns)
        kept = [0] + [1 + row * all_columns + column for row in range(rows) for column in range(columns)]
        vit.load_state_dict({**state, "pos_embed": state["pos_embed"][:, kept]})
        tokens = vit.forward_features(filled[None, None])[0, 1:]
        steps += [torch.cat([tokens[row * columns + column] for row in range(rows)]) for column in range(columns)]
    return torch.stack(steps)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("release", [TRAINING, ENCODER_ONLY])
def test_goldens(test_data: Path, release: str, number: int) -> None:
    goldens = test_data / "goldens"
    model = load_model(M2D, goldens / "m2d" / release / "checkpoint-300.pth", device="cpu", input="official")
    expected = np.load(goldens / "m2d" / ("expected.npz" if release == TRAINING else "expected_enconly.npz"))
    samples, rate = soundfile.read(next((goldens / "waves").glob(f"w{number}_*.wav")), dtype="float32", always_2d=True)
    wave = torchaudio.functional.resample(torch.from_numpy(samples.mean(axis=1)), rate, 16_000)
    if release == TRAINING:
        spectrogram, counts = model.frontend(wave[None], torch.tensor([len(wave)]))
        error = np.abs(spectrogram[0].numpy().T - expected[f"w{number}__frontend"])
        assert error.max() < 1e-3
        assert error.mean() < 1e-5
        with torch.inference_mode():
            tokens, mask = model.tokens(spectrogram, counts)
        assert mask.all()
        assert distance(tokens[0], expected[f"w{number}__tokens"]) < 1e-3
    assert distance(pooled(model, "stacked", wave), expected[f"w{number}__emb_scene"]) < 1e-3
    assert distance(pooled(model, "mean", wave), expected[f"w{number}__emb_mean_tokens"]) < 1e-3


def test_every_released_file_is_named_for_its_sizes() -> None:
    assert {file.name.removesuffix(".zip") for file in M2D.card.files} == RELEASES.keys()
    for release, sizes in RELEASES.items():
        assert read_sizes(Checkpoint(Path(release) / "checkpoint-300.pth", "", {})) == sizes


@pytest.mark.parametrize("release", OF_EACH_SIZE)
@pytest.mark.parametrize("given", ["native", "official"])
def test_every_size_is_what_torchaudio_and_timm_give(tmp_path: Path, release: str, given: str) -> None:
    sizes = RELEASES[release]
    state = state_of(sizes)
    stats = (-7.1, 4.2) if release == TRAINING else (-6.5, 4.0)
    extra = {} if release == TRAINING else {"norm_stats": torch.tensor(stats)}
    extra |= {"mask_token": torch.zeros(1, 1, 32), "target_blocks.0.norm1.weight": torch.ones(WIDTH)}
    model = load_model(M2D, saved(tmp_path / release, state, **extra), device="cpu", input=given)  # type: ignore[arg-type]
    assert model.sample_rate == (32_000 if sizes.rate == "32k" else 16_000)
    hop = model.sample_rate // 100
    half = model.log_mel.n_fft // 2  # from one more sample on the authors' code reflects a clip, and before it cannot
    whole = [hop * (frames - 1) + 7 for frames in (4, 101, sizes.frames, sizes.frames + 1, sizes.frames + 45)]
    for samples in (half + 1, half + 37, 2 * half - 1, *whole):
        wave = sound(samples)
        steps = reference(state, sizes, wave, stats, whole=given == "native")
        assert model.token_columns(len(wave)) == len(steps), samples
        assert distance(pooled(model, "stacked", wave), steps.mean(dim=0)) < 1e-5, samples
        flat = steps.unflatten(1, (-1, WIDTH)).mean(dim=(0, 1))
        assert distance(pooled(model, "mean", wave), flat) < 1e-5, samples


@pytest.mark.parametrize("prefix", ["backbone.", "module.ar.runtime.backbone."])
def test_prefixes_of_runtimes_and_fine_tuned_files(tmp_path: Path, prefix: str) -> None:
    state = {**state_of(RELEASES[TRAINING]), "norm_stats": torch.tensor([-6.5, 4.0])}
    plain = load_model(M2D, saved(tmp_path / "a" / TRAINING, state), device="cpu")
    others = {"module.head.norm.running_mean": torch.ones(3), "text_encoder.norm.weight": torch.ones(3)}
    wrapped = load_model(M2D, saved(tmp_path / "b" / TRAINING, state, prefix, **others), device="cpu")
    assert np.array_equal(pooled(plain, "stacked", sound(20_000)), pooled(wrapped, "stacked", sound(20_000)))


@pytest.mark.parametrize("given", ["native", "official"])
def test_a_clip_gets_in_a_batch_what_it_gets_alone(tmp_path: Path, given: str) -> None:
    model = load_model(M2D, saved(tmp_path / TRAINING, state_of(RELEASES[TRAINING])), device="cpu", input=given)  # type: ignore[arg-type]
    lengths = (160, 237, 399, 1_600, 16_000, 52_803, 97_280, 97_290, 160_000, 210_000)
    waves = [sound(length, seed=length) for length in lengths]
    assert_tokens_alike_in_a_batch(model, waves, rows=5)
    for how in model.poolings:
        model.pooling = how
        together = model.embed(waves * 2, 16_000)
        alone = np.concatenate([model.embed([wave], 16_000) for wave in waves])
        assert np.abs(together - np.concatenate([alone, alone])).max() < 1e-5


def test_the_sizes_stand_in_the_folders_name_the_files_or_its_metadata(tmp_path: Path) -> None:
    path = saved(tmp_path / "m2d-80x608p16x16-x", state_of(RELEASES[TRAINING]))
    model = load_model(M2D, path, device="cpu")
    renamed = path.rename(tmp_path / f"{TRAINING}.pth")
    again = load_model(M2D, renamed, device="cpu")
    write_safetensors(tmp_path / "mine" / "model.safetensors", model.state_dict(), {"sizes": model.metadata["sizes"]})
    own = load_model(M2D, tmp_path / "mine", device="cpu")
    wave = sound(20_000)
    for other in (again, own):
        assert np.array_equal(pooled(model, "stacked", wave), pooled(other, "stacked", wave))


def test_what_no_m2d_is_named_is_refused(tmp_path: Path) -> None:
    state = state_of(RELEASES[TRAINING])
    assert "says M2D's sizes" in refusal(saved(tmp_path / "downloads", state))
    assert "named for 48k" in refusal(saved(tmp_path / "m2d-80x608p16x16p48k", state))
    assert "no patches fill" in refusal(saved(tmp_path / "m2d-80x608p0x16", state))
    assert "no patches fill" in refusal(saved(tmp_path / "m2d-80x608p16x700", state))
    assert "pos_embed is [1, 191, 64], expected [1, 311, 64]" in refusal(saved(tmp_path / "m2d-80x1001p16x16", state))


def test_what_lacks_tensors_is_refused(tmp_path: Path) -> None:
    state = state_of(RELEASES[TRAINING])
    lacking = {key: value for key, value in state.items() if not key.startswith("blocks.1.mlp")}
    assert "lacks 4 of 31 encoder tensors (encoder.blocks.1.mlp" in refusal(saved(tmp_path / "a" / TRAINING, lacking))
    blocks = {key: value for key, value in state.items() if key.startswith("blocks")}
    assert "lacks 6 of 31 encoder tensors" in refusal(saved(tmp_path / "b" / TRAINING, blocks))  # counts are the file's
    assert "no checkpoint of M2D" in refusal(saved(tmp_path / "c" / TRAINING, {"lm_head.weight": torch.ones(2)}))
    for width in (0, 100):
        odd = {**state, "patch_embed.proj.weight": torch.zeros(width, 1, 16, 16)}
        assert "not a checkpoint of M2D" in refusal(saved(tmp_path / f"c{width}" / TRAINING, odd))


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("audiomae/audiomae_small.pth", "is a checkpoint of audiomae"),
        ("maskspec/maskspec_small.pth", "is a checkpoint of maskspec"),
        ("beats/beats_small.pt", "is a checkpoint of beats"),
        ("mae_ast/mae_ast_small.pt", "is a checkpoint of mae-ast"),
    ],
)
def test_other_models_are_named(test_data: Path, file: str, reason: str) -> None:
    assert reason in refusal(test_data / "goldens" / file)


def test_the_full_size(test_data: Path) -> None:
    listed = json.loads((test_data / "goldens/full_keys/keys_full_m2d.json").read_text())["keys"]
    with torch.device("meta"):
        model = M2D(RELEASES[TRAINING])
        tensors = encoder_keys({entry["key"]: torch.empty(entry["shape"]) for entry in listed})
    own = {key: value.shape for key, value in model.state_dict().items() if key != "norm_stats"}
    assert own == {key: tensors[key].shape for key in own}
    rest = {key.removeprefix("encoder.").split(".")[0].split("_")[0] for key in tensors.keys() - own.keys()}
    assert rest == {"decoder", "mask", "target"}


def test_the_card() -> None:
    with torch.device("meta"):
        model = M2D(RELEASES[TRAINING])
    assert sum(parameter.numel() for parameter in model.parameters()) == M2D.card.parameters
    assert model.embedding_dim == M2D.card.embedding_dim == 3_840
    assert model.sample_rate == M2D.card.sample_rate
    assert len(model.layers()) == 13
