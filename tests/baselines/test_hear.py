"""Modules with HEAR's common API: what they get, what of them is in the identity, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from uamix_bench import load_model
from uamix_bench.embeddings.model_key import model_key
from uamix_bench.models.contract import check
from uamix_bench.models.model import AudioModel
from uamix_bench.util.errors import BadInputError, BenchError, MachineError, OwnCodeError, UsageError

# The mean spectrum of 256 samples in two halves, by a matrix; `calls` says which batches came.
MODULE = """
import torch
from bands import BANDS

calls = []

class Net(torch.nn.Module):
    sample_rate, scene_embedding_size = 8_000, 6
    def __init__(self):
        super().__init__()
        self.register_buffer("matrix", torch.linspace(-1, 1, 129 * BANDS).reshape(129, BANDS) ** 3)

def load_model(model_file_path=""):
    net = Net()
    if model_file_path:
        from safetensors.torch import load_file
        net.load_state_dict(load_file(model_file_path))
    return net

def get_scene_embeddings(audio, model):
    calls.append(tuple(audio.shape))
    spectra = torch.fft.rfft(audio.unfold(1, 256, 128)).abs().mean(dim=1)
    return spectra @ model.matrix
"""
CLIPS = [
    np.random.default_rng(index).uniform(-0.1, 0.1, samples).astype(np.float32)
    for index, samples in enumerate((12_000, 3_000, 12_000))
]


@pytest.fixture
def module(tmp_path: Path) -> Path:
    (tmp_path / "bands.py").write_text("BANDS = 6\n")
    (tmp_path / "my_net.py").write_text(MODULE)
    return tmp_path / "my_net.py"


def load(reference: object, **arguments: Any) -> AudioModel:
    return load_model(f"hear:{reference}", device="cpu", arguments=arguments)


def shapes(model: AudioModel) -> list[tuple[int, ...]]:
    calls: list[tuple[int, ...]] = model.module.calls  # type: ignore[union-attr, assignment]
    calls.clear()
    model.embed(CLIPS, 8_000)
    return list(calls)


def reference(wave: np.ndarray[Any, Any], matrix: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    frames = np.lib.stride_tricks.sliding_window_view(wave.astype(np.float64), 256)[::128]
    spectra: np.ndarray[Any, Any] = np.abs(np.fft.rfft(frames)).mean(axis=0) @ matrix
    return spectra


def test_each_clip_goes_alone_padded_to_the_stated_minimum(module: Path) -> None:
    model = load(module)
    assert (model.sample_rate, model.embedding_dim) == (8_000, 6)
    assert shapes(model) == [(1, 12_000), (1, 8_000), (1, 12_000)]
    assert model.identity is not None
    assert model.identity.arguments == ("min_seconds=1.0",)
    assert model.identity.name == "my_net"
    matrix = np.linspace(-1, 1, 129 * 6).reshape(129, 6) ** 3
    padded = [np.pad(clip, (0, max(0, 8_000 - len(clip)))) for clip in CLIPS]
    expected = np.stack([reference(clip, matrix) for clip in padded])
    assert np.allclose(model.embed(CLIPS, 8_000), expected, rtol=1e-4, atol=1e-4)
    assert [outcome for outcome in check(model) if not outcome.passed] == []
    shorter = load(module, min_seconds=0.25)
    assert shapes(shorter) == [(1, 12_000), (1, 3_000), (1, 12_000)]
    assert shorter.identity is not None
    assert shorter.identity.arguments == ("min_seconds=0.25",)
    assert model_key(shorter).fingerprint != model_key(model).fingerprint


def test_clips_share_a_call_only_where_that_holds(module: Path) -> None:
    alone, together = load(module), load(module, together=True)
    assert shapes(together) == [(1, 8_000), (2, 12_000)]
    assert np.allclose(alone.embed(CLIPS, 8_000), together.embed(CLIPS, 8_000), rtol=1e-5)
    assert [outcome for outcome in check(together) if not outcome.passed] == []
    module.write_text(MODULE.replace("model.matrix", "model.matrix - spectra.mean()"))
    with pytest.raises(BadInputError, match="other embeddings together than alone"):
        load(module, together=True)
    assert load(module).embedding_dim == 6


def test_code_and_weights_are_what_a_model_is(module: Path, tmp_path: Path) -> None:
    def identity(reference: object) -> tuple[str | None, str | None, str]:
        model = load(reference)
        assert model.identity is not None
        return model.identity.source_sha256, model.identity.weights_sha256, model_key(model).fingerprint

    save_file({"matrix": torch.ones(129, 6)}, tmp_path / "ones.safetensors")
    save_file({"matrix": torch.zeros(129, 6)}, tmp_path / "zeros.safetensors")
    plain, ones = identity(module), identity(f"{module}={tmp_path / 'ones.safetensors'}")
    zeros = identity(f"{module}={tmp_path / 'zeros.safetensors'}")
    assert plain == identity(module)
    assert plain[0] == ones[0] == zeros[0]
    assert len({plain[1], ones[1], zeros[1]}) == len({plain[2], ones[2], zeros[2]}) == 3
    assert load(f"{module}={tmp_path / 'ones.safetensors'}").identity.name == "ones"  # type: ignore[union-attr]
    module.write_text(MODULE + "\n# other\n")
    other = identity(module)
    (tmp_path / "bands.py").write_text("BANDS = 6  # imported from beside\n")
    beside = identity(module)
    assert len({plain[0], other[0], beside[0]}) == len({plain[2], other[2], beside[2]}) == 3
    assert plain[1] == other[1]


def test_weights_of_a_package_that_shows_no_tensors_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    package = tmp_path / "net_package"
    package.mkdir()
    (package / "__init__.py").write_text(MODULE.replace("(torch.nn.Module)", "").replace("super().__init__()", ""))
    text = (package / "__init__.py").read_text()
    text = text.replace('self.register_buffer("matrix", ', "self.matrix = (").replace(
        "from bands import BANDS", "BANDS = 6"
    )
    (package / "__init__.py").write_text(text)
    (package / "weights.onnx").write_bytes(b"1")
    monkeypatch.syspath_prepend(str(tmp_path))
    digests = []
    for content in (b"1", b"2"):
        (package / "weights.onnx").write_bytes(content)
        model = load("net_package")
        assert model.identity is not None
        digests.append(model.identity.weights_sha256)
    assert None not in digests
    assert digests[0] != digests[1]
    (package / "weights.onnx").unlink()
    with pytest.warns(UserWarning, match="its weights are not seen"):
        unseen = load("net_package")
    assert unseen.identity is not None
    assert unseen.identity.weights_sha256 is None
    assert unseen.remarks


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (("def load_model", "def load"), BadInputError, "has no load_model"),
        (("def get_scene_embeddings", "def get"), BadInputError, "has no get_scene_embeddings"),
        (("8_000, 6", "8_000, None"), BadInputError, "as whole numbers"),
        (("8_000, 6", "8_000, 7"), OwnCodeError, "get_scene_embeddings"),
        (
            ("    net = Net()", "    raise OSError('gone')"),
            OwnCodeError,
            "load_model of uamix_bench_user",
        ),
        (("    calls.append", "    1 / 0; calls.append"), OwnCodeError, "my_net.py:21"),
        (("import torch\n", "import torch, no_such_package\n"), MachineError, "no_such_package"),
        (("import torch\n", "import torch; 1 / 0\n"), BadInputError, "fails to import (ZeroDivisionError"),
    ],
)
def test_a_module_that_is_none_is_named(
    module: Path, change: tuple[str, str], kind: type[BenchError], words: str
) -> None:
    module.write_text(MODULE.replace(*change))
    with pytest.raises(kind) as caught:
        load(module).embed(CLIPS, 8_000)
    assert words in str(caught.value)


def test_wrong_references_and_settings_are_named(module: Path, tmp_path: Path) -> None:
    for wrong, kind in {
        "no_such_module": MachineError,
        "numpy": BadInputError,
        f"{tmp_path / 'none.py'}": BadInputError,
        f"{module}={tmp_path / 'none.pt'}": BadInputError,
    }.items():
        with pytest.raises(kind):
            load(wrong)
    for settings in ({"min_seconds": -1}, {"min_seconds": "long"}, {"together": "yes"}, {"other": 1}):
        with pytest.raises(UsageError):
            load(module, **settings)
    with pytest.raises(UsageError, match="does not apply"):
        load_model(f"hear:{module}", trust_remote_code=True)
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, tmp_path / "trap.pt")
    with pytest.raises(BadInputError, match="mkdir"):
        load(f"{module}={tmp_path / 'trap.pt'}")
    assert not (tmp_path / "sprung").exists()


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (str(self.path),)
