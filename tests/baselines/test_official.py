"""Every stage of every adapter, against committed numbers: so that a change of our numerics is seen on any machine.

What is right was settled by the goldens of the authors' code, which not every machine has; the numbers were written
by adapters that agree with those.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from uamix_bench import load_model
from uamix_bench.scoring.health import check

from .official import FORMATS, GOLDEN, SOUNDS, checkpoint, stages


@pytest.fixture(scope="module", params=FORMATS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(request.param, checkpoint(request.param, tmp_path_factory.mktemp("official")), device="cpu")


@pytest.mark.parametrize("sound", SOUNDS)
def test_what_we_gave_before(model: Any, sound: str) -> None:
    found = stages(model, SOUNDS[sound]())
    with np.load(GOLDEN) as golden:
        prefix = f"{model.card.name}/{sound}/"
        expected = {key.removeprefix(prefix): golden[key] for key in golden.files if key.startswith(prefix)}
    assert found.keys() == expected.keys()
    error = np.abs(found.pop("frontend") - expected.pop("frontend"))
    assert error.max() < 1e-3
    assert error.mean() < 1e-5
    for stage, value in expected.items():
        assert found[stage].shape == value.shape
        assert np.linalg.norm(found[stage] - value) < 1e-4 * np.linalg.norm(value), stage


def test_the_epsilon_of_layer_norms_is_the_authors(model: Any) -> None:
    """The other of the two usual values moves an embedding by 1e-5 only: no golden sees it."""
    found = {module.eps for module in model.modules() if isinstance(module, torch.nn.LayerNorm)}
    assert found == {1e-5 if model.card.name in ("beats", "mae-ast") else 1e-6}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("given", ["native", "official"])
def test_a_gpu_gives_the_same(model: Any, given: str) -> None:
    """Every stage runs there; its convolutions round to ten bits, which moves an embedding by some thousandths."""
    on_gpu = copy.deepcopy(model).to("cuda")
    model.input = on_gpu.input = given
    clips = [sound.samples for sound in (make() for make in SOUNDS.values())]
    expected, found = model.embed(clips, 16_000), on_gpu.embed(clips, 16_000)
    assert np.linalg.norm(found - expected) < 5e-3 * np.linalg.norm(expected)


# --- health


def seconds() -> list[npt.NDArray[np.float32]]:
    """The sounds at 16 kHz, a second at a time."""
    mono = [sound for sound in (make() for make in SOUNDS.values()) if sound.sample_rate == 16_000]
    return [sound.samples[start : start + 16_000] for sound in mono for start in range(0, len(sound.samples), 16_000)]


def assert_healthy(model: Any) -> None:
    clips = seconds()
    health = check(model.embed(clips, 16_000), [bytes([index]) for index in range(len(clips))])
    assert (health.verdict, health.notes) == ("green", ())


def test_embeddings_are_healthy(model: Any) -> None:
    model.input = "native"
    assert_healthy(model)


@pytest.mark.parametrize("name", ["logmel", "random", "uamix", "audiomae-tiny"])
def test_embeddings_of_bundled_models_are_healthy(name: str) -> None:
    assert_healthy(load_model(name, device="cpu"))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("audiomae", "audiomae/audiomae_small.pth"),
        ("beats", "beats/beats_small.pt"),
        ("mae-ast", "mae_ast/mae_ast_small.pt"),
        ("mae-ast", "mae_ast/mae_ast_small_frame_fp16.pt"),
        ("m2d", "m2d/m2d_vit_base-80x608p16x16-221006-mr7/checkpoint-300.pth"),
        ("m2d", "m2d/m2d_vit_base-80x608p16x16-230101-stats_enconly/checkpoint-300.pth"),
        ("maskspec", "maskspec/maskspec_small.pth"),
    ],
)
def test_embeddings_of_goldens_are_healthy(test_data: Path, name: str, file: str) -> None:
    assert_healthy(load_model(name, test_data / "goldens" / file, device="cpu"))
