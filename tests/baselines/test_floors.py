"""The two floors of every table: log-mel statistics, and an encoder that nothing was taught."""

from __future__ import annotations

import hashlib
import inspect
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torchaudio.compliance import kaldi

from uamix_bench.models.loading import load_model
from uamix_bench.util.errors import UsageError

Floats = npt.NDArray[np.float32]
LENGTHS = (16_000, 400, 52_803, 1_200, 16_000)


def clips() -> list[Floats]:
    rng = np.random.default_rng(4)
    return [(rng.uniform(0.01, 0.3) * rng.standard_normal(length)).astype(np.float32) for length in LENGTHS]


def test_logmel_is_mean_and_deviation_of_torchaudios_filterbank() -> None:
    found = load_model("logmel").embed(clips(), 16_000)
    assert found.shape == (len(LENGTHS), 256)
    for clip, row in zip(clips(), found, strict=True):
        fbank = kaldi.fbank(torch.from_numpy(clip)[None], num_mel_bins=128, window_type="hanning", dither=0.0)
        frames = fbank.double().numpy()
        wanted = np.concatenate([frames.mean(axis=0), frames.std(axis=0)])
        assert np.abs(row - wanted).max() <= 1e-3


@pytest.mark.parametrize("name", ["logmel", "random"])
def test_a_clip_gets_in_a_batch_what_it_gets_alone(name: str) -> None:
    model = load_model(name)
    alone = np.concatenate([model.embed([clip], 16_000) for clip in clips()])
    assert np.allclose(model.embed(clips(), 16_000), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["logmel", "random"])
@pytest.mark.parametrize("samples", [1, 160, 400])
def test_a_clip_of_one_frame_has_finite_statistics(name: str, samples: int) -> None:
    rows = load_model(name).embed([np.zeros(samples, np.float32), np.full(samples, 0.1, np.float32)], 16_000)
    assert np.isfinite(rows).all()
    if name == "logmel":
        assert not rows[:, 128:].any()  # the deviation of a single frame


def state_sha256() -> str:
    state = load_model("random").state_dict()
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values())).hexdigest()


@pytest.mark.over_3s
def test_random_is_the_same_in_every_process() -> None:
    program = f"{inspect.getsource(state_sha256)}\ntorch.manual_seed(1)\nprint(state_sha256())"
    imports = "import hashlib, torch\nfrom uamix_bench.models.loading import load_model\n"
    done = subprocess.run([sys.executable, "-c", imports + program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == state_sha256()


def test_random_neither_takes_from_nor_seeds_the_global_stream() -> None:
    before = torch.get_rng_state()
    load_model("random")
    assert torch.equal(before, torch.get_rng_state())


def test_random_has_maes_initialisation() -> None:
    model = load_model("random")
    state = model.state_dict()
    qkv = state["encoder.blocks.0.attn.qkv.weight"]
    assert float(qkv.abs().max()) <= (6 / sum(qkv.shape)) ** 0.5  # Xavier-uniform (Glorot and Bengio 2010, equation 16)
    assert float(qkv.std()) == pytest.approx((2 / sum(qkv.shape)) ** 0.5, rel=0.02)
    assert not state["encoder.blocks.3.mlp.fc1.bias"].any()
    oracle = VisionTransformer(img_size=(1024, 128), in_chans=1, num_classes=0, embed_dim=192, depth=6, num_heads=3)
    wanted = {name: value.numel() for name, value in oracle.named_parameters() if name != "pos_embed"}
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(wanted.values()) == model.card.parameters


@pytest.mark.parametrize("name", ["logmel", "random"])
def test_a_floor_takes_no_checkpoint(name: str) -> None:
    with pytest.raises(UsageError, match=f"--model {name}: takes no checkpoint"):
        load_model(f"{name}=weights.pth")
