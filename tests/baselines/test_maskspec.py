"""MaskSpec against the goldens of the authors' code, and against torch.stft and timm on files made here."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import timm
import torch
import torchaudio
from torch import Tensor
from torchaudio.compliance import kaldi

from uamix_bench.baselines.maskspec import STATISTICS, MaskSpec, audioset_statistics, read_statistics
from uamix_bench.data.audio import resample
from uamix_bench.models.checkpoint import read_checkpoint, write_safetensors
from uamix_bench.models.loading import load_model
from uamix_bench.models.model import AudioModel
from uamix_bench.models.vit import encoder_keys
from uamix_bench.util.errors import BadInputError

from .measured import assert_tokens_alike_in_a_batch, distance, pooled, refused, sound
from .official import State, vit_state

refusal = partial(refused, MaskSpec)

WIDTH, DEPTH = 64, 2
WAVES = [1, 2, 3, 4, 5]
KAISER_BEST = {  # librosa's filter of this name, in torchaudio's terms
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}


def timm_vit() -> timm.models.VisionTransformer:
    norm = partial(torch.nn.LayerNorm, eps=1e-6)
    options: dict[str, Any] = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": 1, "norm_layer": norm}
    return timm.models.VisionTransformer(img_size=(128, 992), in_chans=1, num_classes=0, **options).eval()


def state_of() -> State:
    """An encoder's state dict under official names."""
    return vit_state(WIDTH, DEPTH, positions=8 * 62)


def saved(folder: Path, state: dict[str, Tensor]) -> Path:
    """A file as the authors save it, with a part of the decoder."""
    folder.mkdir(parents=True, exist_ok=True)
    model = {**state, "mask_token": torch.zeros(1, 1, 32), "decoder_blocks.0.norm1.weight": torch.ones(32)}
    torch.save({"model": model, "epoch": 75, "args": argparse.Namespace(seed=3)}, folder / "checkpoint-75.pth")
    return folder / "checkpoint-75.pth"


def fine_tuned(state: dict[str, Tensor], fresh: bool = False) -> dict[str, Tensor]:
    """What fine-tuning makes of it: `norm` stands behind the pooling, as fc_norm, or gives way to a new one."""
    kept = {key: value for key, value in state.items() if not key.startswith("norm.")}
    weight, bias = state["norm.weight"], state["norm.bias"]
    if fresh:
        weight, bias = torch.ones_like(weight), torch.zeros_like(bias)
    return {**kept, "fc_norm.weight": weight, "fc_norm.bias": bias, "head.weight": torch.zeros(527, len(weight))}


@torch.no_grad()
def reference(state: dict[str, Tensor], wave: Tensor, columns: int) -> Tensor:
    """Tokens (1 + 8 x columns, D) before the norm, the authors' way: the clip in ten seconds of silence, then cut."""
    clip = torch.zeros(320_000)
    clip[: len(wave)] = wave[:320_000]
    emphasised = clip[1:] - 0.97 * clip[:-1]
    window = torch.hann_window(800, periodic=False)
    power = torch.stft(emphasised, 1_024, 320, 800, window, return_complex=True).abs() ** 2
    filters, _ = kaldi.get_mel_banks(128, 1_024, 32_000.0, 0.0, 15_000.0, 100.0, -500.0, 1.0)
    image = ((filters @ power[:-1] + 1e-5).log() + 4.5) / 5
    mean, std = audioset_statistics()
    image = (image - mean[:, None]) / std[:, None]
    vit = timm_vit()
    vit.load_state_dict(state)
    grid = vit.patch_embed(image[None, None, :, :992]) + vit.pos_embed[:, 1:]
    kept = [row * 62 + column for row in range(8) for column in range(columns)]
    return vit.blocks(torch.cat([vit.cls_token + vit.pos_embed[:, :1], grid[:, kept]], dim=1))[0]


# --- the goldens


@pytest.fixture
def goldens(test_data: Path) -> Path:
    return test_data / "goldens"


@pytest.fixture
def expected(goldens: Path) -> Any:
    return np.load(goldens / "maskspec" / "expected.npz")


def loaded(path: Path, given: str = "official") -> AudioModel:
    return load_model(MaskSpec, path, device="cpu", input=given)  # type: ignore[arg-type]


def recording(goldens: Path, number: int) -> tuple[Tensor, int]:
    path = next((goldens / "waves").glob(f"w{number}_*.wav"))
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.mean(axis=1)), rate


def exact_frontend(wave: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The authors' front end (1000, 128) of float64 samples, by numpy in float64 throughout."""
    clip = np.zeros(320_000)
    clip[: len(wave)] = wave[:320_000]
    emphasised = np.pad(clip[1:] - 0.97 * clip[:-1], 512, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(emphasised, 1_024)[::320]
    power = np.abs(np.fft.rfft(frames * np.pad(np.hanning(800), 112))) ** 2
    filters, _ = kaldi.get_mel_banks(128, 1_024, 32_000.0, 0.0, 15_000.0, 100.0, -500.0, 1.0)
    log_mel = np.log(power[:, :-1] @ filters.T.double().numpy() + 1e-5)
    mean, std = audioset_statistics().double().numpy()
    exact: npt.NDArray[np.float64] = ((log_mel + 4.5) / 5 - mean) / std
    return exact


class Error(NamedTuple):
    """Largest and mean absolute difference of two arrays."""

    max: float
    mean: float


def error(found: npt.ArrayLike, wanted: npt.ArrayLike) -> Error:
    apart = np.abs(np.asarray(found, np.float64) - np.asarray(wanted, np.float64))
    return Error(float(apart.max()), float(apart.mean()))


FRONT_END = Error(max=1e-3, mean=1e-5)


@pytest.mark.parametrize("number", WAVES)
def test_goldens(goldens: Path, expected: Any, number: int) -> None:
    """Every stage; where the golden's own rounding passes the front end's limit, we may be as far from float64.

    The top bins are divided by 0.043, and those of an upsampled sound are all but empty: there the rounding of a
    float32 transform, which no two processors share, becomes 4e-3 (w1) and 1.3e-3 (w3) in the golden itself.
    """
    model = loaded(goldens / "maskspec" / "maskspec_small.pth")
    wave = torchaudio.functional.resample(*recording(goldens, number), 32_000)
    spectrogram, counts = model.frontend(wave[None], torch.tensor([len(wave)]))
    golden, exact = expected[f"w{number}__frontend"].T, exact_frontend(wave.double().numpy())
    apart, ours, theirs = error(spectrogram[0], golden), error(spectrogram[0], exact), error(golden, exact)
    for measure, limit in FRONT_END._asdict().items():
        if getattr(theirs, measure) < limit:
            assert getattr(apart, measure) < limit
        else:
            assert getattr(ours, measure) < 1.5 * getattr(theirs, measure)  # this processor's rounding, of that size
    std = audioset_statistics()[1].numpy()
    before_division = error(spectrogram[0].numpy() * std, golden * std)
    assert before_division.max < 1e-3
    assert before_division.mean < 1e-5
    with torch.inference_mode():
        tokens, mask = model.tokens(spectrogram, counts)
        tokens = model.encoder.norm(tokens)  # type: ignore[operator, union-attr]
    assert mask.all()
    if number != 5:
        assert distance(tokens[0], expected[f"w{number}__tokens"]) < 1e-3
    for how, key in (("mean", "mean_patches"), ("cls", "cls"), ("prenorm-mean", "prenorm_mean_patches")):
        assert distance(pooled(model, how, wave), expected[f"w{number}__emb_{key}"]) < 1e-3


def test_rounding_its_input_moves_an_exact_front_end_past_the_limit(goldens: Path) -> None:
    """Why w1 is held to float64 rather than to 1e-3: its waveform is itself a rounded one."""
    wave, rate = recording(goldens, 1)
    exact = torchaudio.functional.resample(wave.double(), rate, 32_000)
    moved = error(exact_frontend(exact.float().double().numpy()), exact_frontend(exact.numpy()))
    assert moved.max > FRONT_END.max
    assert moved.mean > FRONT_END.mean


@pytest.mark.parametrize("number", WAVES[1:])
def test_goldens_of_short_clips(goldens: Path, expected: Any, number: int) -> None:
    model = loaded(goldens / "maskspec" / "maskspec_small.pth", "native")
    wave = torchaudio.functional.resample(*recording(goldens, number), 32_000)
    assert model.token_columns(len(wave)) == expected[f"w{number}__crop_time_patches"]
    for how, key in (("mean", "mean_patches"), ("cls", "cls")):
        assert distance(pooled(model, how, wave), expected[f"w{number}__emb_crop_{key}"]) < 1e-3


@pytest.mark.parametrize("number", WAVES)
def test_goldens_of_the_better_resampler(goldens: Path, expected: Any, number: int) -> None:
    model = loaded(goldens / "maskspec" / "maskspec_small.pth")
    wave, rate = recording(goldens, number)
    resampled = torchaudio.functional.resample(wave, rate, 32_000, **KAISER_BEST)
    for how, key in (("mean", "mean_patches"), ("cls", "cls")):
        assert distance(pooled(model, how, resampled), expected[f"w{number}__emb_{key}_kaiserbest"]) < 1e-3
    if number != 1:  # noise up to Nyquist: see the next test
        assert distance(pooled(model, "mean", wave, rate), expected[f"w{number}__emb_mean_patches_kaiserbest"]) < 0.01


@pytest.mark.parametrize("number", WAVES)
def test_soxr_differs_from_the_better_resampler_at_the_old_nyquist_alone(
    goldens: Path, expected: Any, number: int
) -> None:
    """With five of 128 bins, at 7.2 to 8.2 kHz, taken from the golden's resampler, 2.9% of w1 become 0.14%.

    Between what they pass and what they stop, the two filters fall along different lines, and w1 is noise up to there.
    """
    model: Any = loaded(goldens / "maskspec" / "maskspec_small.pth")
    wave, rate = recording(goldens, number)
    spectrograms = []
    for resampled in (
        torch.from_numpy(resample(wave.numpy(), rate, 32_000)),
        torchaudio.functional.resample(wave, rate, 32_000, **KAISER_BEST),
    ):
        spectrogram, counts = model.frontend(resampled[None], torch.tensor([len(resampled)]))
        spectrograms.append(spectrogram)
    _, centres = kaldi.get_mel_banks(128, 1_024, 32_000.0, 0.0, 15_000.0, 100.0, -500.0, 1.0)
    falling = ((centres > 7_200) & (centres < 8_200)).flatten()
    with torch.inference_mode():
        tokens, mask = model.tokens(torch.where(falling, spectrograms[1], spectrograms[0]), counts)
        found = model.pool(tokens, mask, "mean")[0]
    assert distance(found, expected[f"w{number}__emb_mean_patches_kaiserbest"]) < 2e-3


@pytest.mark.parametrize("number", WAVES)
@pytest.mark.parametrize("fresh", [False, True])
def test_goldens_of_a_fine_tuned_file(goldens: Path, expected: Any, tmp_path: Path, number: int, fresh: bool) -> None:
    state = read_checkpoint(goldens / "maskspec" / "maskspec_small.pth").tensors
    path = saved(tmp_path, fine_tuned(state, fresh))
    key = "ft_fcnorm_fresh" if fresh else "ft_fcnorm_from_norm"
    wave = torchaudio.functional.resample(*recording(goldens, number), 32_000)
    model = loaded(path)
    assert model.pooling == "fc-norm"
    assert distance(pooled(model, "fc-norm", wave), expected[f"w{number}__emb_{key}"]) < 1e-3
    if fresh and number != 1:
        crop = pooled(loaded(path, "native"), "fc-norm", wave)
        assert distance(crop, expected[f"w{number}__emb_crop_{key}"]) < 1e-3


def test_the_statistics_are_the_authors(goldens: Path) -> None:
    plain = np.load(goldens / "maskspec" / "mean_std_128_plain.npz")
    numbers = np.stack([plain["frame_mean"], plain["frame_std"]])
    assert np.array_equal(audioset_statistics().numpy(), numbers)
    assert np.array_equal(read_statistics(goldens / "maskspec" / STATISTICS).numpy(), numbers)


# --- files made here


@pytest.mark.parametrize("given", ["native", "official"])
def test_what_torch_stft_and_timm_give(tmp_path: Path, given: str) -> None:
    state = state_of()
    pretrained, tuned = (
        loaded(saved(tmp_path / "a", state), given),
        loaded(saved(tmp_path / "b", fine_tuned(state)), given),
    )
    for samples in (500, 32_000, 105_606, 317_000, 319_990, 400_000):
        wave = sound(samples)
        columns = min(max(samples // 320 // 16, 1), 62) if given == "native" else 62
        assert pretrained.token_columns(samples) == columns
        tokens = reference(state, wave, columns)
        normed = torch.nn.functional.layer_norm(tokens, (WIDTH,), state["norm.weight"], state["norm.bias"], 1e-6)
        assert distance(pooled(pretrained, "mean", wave), normed[1:].mean(dim=0)) < 1e-4, samples
        assert distance(pooled(pretrained, "cls", wave), normed[0]) < 1e-4, samples
        mean = tokens[1:].mean(dim=0)
        assert distance(pooled(pretrained, "prenorm-mean", wave), mean) < 1e-4, samples
        wanted = torch.nn.functional.layer_norm(mean, (WIDTH,), state["norm.weight"], state["norm.bias"], 1e-6)
        assert distance(pooled(tuned, "fc-norm", wave), wanted) < 1e-4, samples


@pytest.mark.parametrize("given", ["native", "official"])
def test_a_clip_gets_in_a_batch_what_it_gets_alone(tmp_path: Path, given: str) -> None:
    model = loaded(saved(tmp_path, state_of()), given)
    waves = [sound(length, seed=length) for length in (100, 5_119, 16_000, 32_000, 105_606, 319_990, 330_000)]
    assert_tokens_alike_in_a_batch(model, waves, rows=8, before=1, rtol=1e-6)  # before the norm: up to 30
    for how in ("mean", "cls", "prenorm-mean"):
        model.pooling = how
        together = model.embed(waves, 32_000)
        alone = np.concatenate([model.embed([wave], 32_000) for wave in waves])
        assert np.abs(together - alone).max() < 1e-5 * max(1, np.abs(alone).max())  # before the norm: up to 30


def test_each_file_has_the_poolings_it_can_do(tmp_path: Path) -> None:
    assert loaded(saved(tmp_path, state_of())).poolings == ("mean", "cls", "prenorm-mean")
    assert loaded(saved(tmp_path, fine_tuned(state_of()))).poolings == ("fc-norm", "prenorm-mean")


def test_statistics_beside_the_checkpoint_go_before_audiosets(tmp_path: Path) -> None:
    path = saved(tmp_path, state_of())
    wave = sound(320_000)[None], torch.tensor([320_000])
    audioset = loaded(path)
    mean, std = audioset_statistics().numpy()
    np.save(
        tmp_path / STATISTICS, {"all_mean": np.float64(0.1), "frame_mean": mean, "frame_std": std}, allow_pickle=True
    )
    same = loaded(path)
    assert np.array_equal(same.frontend(*wave)[0], audioset.frontend(*wave)[0])
    np.save(tmp_path / STATISTICS, {"frame_mean": mean + 1, "frame_std": 2 * std}, allow_pickle=True)
    other = loaded(path)
    assert len({model.identity and model.identity.weights_sha256 for model in (audioset, same, other)}) == 3
    found = other.frontend(*wave)[0] * torch.from_numpy(2 * std) + torch.from_numpy(mean + 1)
    torch.testing.assert_close(found, audioset.frontend(*wave)[0] * torch.from_numpy(std) + torch.from_numpy(mean))

    written = write_safetensors(tmp_path / "own" / "model.safetensors", other.state_dict(), {})
    own = loaded(tmp_path / "own")
    assert own.metadata["sha256"] == (own.identity and own.identity.weights_sha256) == written
    assert np.array_equal(pooled(own, "mean", wave[0][0]), pooled(other, "mean", wave[0][0]))


class _Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_no_statistics_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)

    head = (
        np.lib.format.magic(1, 0)
        + b"v\x00"
        + b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117)
        + b"\n"
    )
    Path(STATISTICS).write_bytes(head + pickle.dumps({"frame_mean": _Harmful()}, protocol=protocol))
    with pytest.raises(BadInputError, match="holds no frame_mean and frame_std"):
        read_statistics(Path(STATISTICS))
    assert not Path("harm").exists()


def test_damaged_statistics_are_refused(tmp_path: Path) -> None:
    mean, std = audioset_statistics().numpy()
    path = tmp_path / STATISTICS
    for content in ({"frame_mean": mean}, {"frame_mean": mean, "frame_std": 0 * std}, {"frame_mean": mean[:64]}):
        np.save(path, content, allow_pickle=True)  # type: ignore[arg-type]
        with pytest.raises(BadInputError, match="holds no frame_mean and frame_std"):
            read_statistics(path)
    np.save(path, mean)
    with pytest.raises(BadInputError, match="is damaged"):
        read_statistics(path)
    np.save(path, {"frame_mean": mean, "frame_std": std}, allow_pickle=True)  # type: ignore[arg-type]
    whole = path.read_bytes()
    for length in (0, 5, 60, 200, len(whole) - 300):
        path.write_bytes(whole[:length])
        with pytest.raises(BadInputError):
            read_statistics(path)


def test_what_is_no_vit_of_maskspec_is_refused(tmp_path: Path) -> None:
    state = state_of()
    lacking = {key: value for key, value in state.items() if not key.startswith("blocks.1.mlp")}
    assert "lacks 4 of 31 encoder tensors (encoder.blocks.1.mlp" in refusal(saved(tmp_path, lacking))
    normless = {key: value for key, value in state.items() if not key.startswith("norm.")}
    assert "lacks 2 of 31 encoder tensors (encoder.norm" in refusal(saved(tmp_path, normless))
    swin = {"layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros(9, 3)}
    assert "is a Swin transformer" in refusal(saved(tmp_path, swin))
    for width in (0, 100):
        odd = {**state, "patch_embed.proj.weight": torch.zeros(width, 1, 16, 16)}
        assert "not a checkpoint of MaskSpec" in refusal(saved(tmp_path, odd))
    longer = {**state, "pos_embed": torch.zeros(1, 1 + 8 * 63, WIDTH)}
    assert "pos_embed is [1, 505, 64], expected [1, 497, 64]" in refusal(saved(tmp_path, longer))


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("audiomae/audiomae_small.pth", "is a checkpoint of audiomae"),
        ("m2d/m2d_vit_base-80x608p16x16-221006-mr7/checkpoint-300.pth", "is a checkpoint of m2d"),
        ("beats/beats_small.pt", "is a checkpoint of beats"),
        ("mae_ast/mae_ast_small.pt", "is a checkpoint of mae-ast"),
    ],
)
def test_other_models_are_named(goldens: Path, file: str, reason: str) -> None:
    assert reason in refusal(goldens / file)


def test_the_full_size(goldens: Path) -> None:
    listed = json.loads((goldens / "full_keys/keys_full_maskspec.json").read_text())["keys"]
    with torch.device("meta"):
        model = MaskSpec()
        tensors = encoder_keys({entry["key"]: torch.empty(entry["shape"]) for entry in listed})
    own = {key: value.shape for key, value in model.state_dict().items() if key != "frame_statistics"}
    assert own == {key: tensors[key].shape for key in own}
    rest = {key.removeprefix("encoder.").split(".")[0].split("_")[0] for key in tensors.keys() - own.keys()}
    assert rest == {"decoder", "mask"}


def test_the_card() -> None:
    with torch.device("meta"):
        model = MaskSpec()
    assert sum(parameter.numel() for parameter in model.parameters()) == MaskSpec.card.parameters
    assert model.embedding_dim == MaskSpec.card.embedding_dim
    assert model.sample_rate == MaskSpec.card.sample_rate
    assert len(model.layers()) == 13
