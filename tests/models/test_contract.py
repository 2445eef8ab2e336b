"""The suite passes sound models and finds, one by one, what each unsound one breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from uamix_bench import AudioModel, load_model
from uamix_bench.models.contract import check
from uamix_bench.models.frontend import KaldiFbank
from uamix_bench.plugins.registry import models
from uamix_bench.util.errors import BadInputError, OwnCodeError, own_code

from ..baselines.official import FORMATS, TINY, VIT_B, Size, checkpoint

FLOORS = ("logmel", "random")


class Sound(AudioModel):
    """A small model that keeps to everything."""

    sample_rate, embedding_dim = 16_000, 24
    fbank = KaldiFbank(16_000, 40)

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem, self.block = nn.Linear(40, 24), nn.Linear(24, 24)

    def frontend(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.fbank(waveforms, lengths)

    def tokens(self, spectrogram: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.arange(spectrogram.shape[1]) < lengths[:, None]
        return self.block(self.stem(spectrogram)), mask

    def layers(self) -> list[nn.Module]:
        return [self.stem, self.block]


class WrongSize(Sound):
    embedding_dim = 25


class Doubles(Sound):
    def embed(self, *arguments: Any) -> Any:
        return super().embed(*arguments).astype(np.float64)


class Learns(Sound):
    def embed(self, *arguments: Any) -> Any:
        self.requires_grad_(True).train()
        return super().embed(*arguments)


class Draws(Sound):
    def pool(self, tokens: Tensor, mask: Tensor, how: str) -> Tensor:
        pooled = super().pool(tokens, mask, how)
        return pooled + 0.01 * torch.randn_like(pooled)


class Padded(Sound):
    """Averages over the padding too."""

    def pool(self, tokens: Tensor, mask: Tensor, how: str) -> Tensor:
        return tokens.mean(dim=1)


class Leaks(Sound):
    """Normalises over the batch."""

    def pool(self, tokens: Tensor, mask: Tensor, how: str) -> Tensor:
        pooled = super().pool(tokens, mask, how)
        return pooled - 0.5 * pooled.mean(dim=0)


class NanOnSilence(Sound):
    def frontend(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return super().frontend(waveforms / waveforms.abs().amax(dim=1, keepdim=True), lengths)


class TakesAnything(Sound):
    def _waveform(self, index: int, waveform: Any, sample_rate: int) -> Any:
        return super()._waveform(index, np.nan_to_num(np.asarray(waveform)), sample_rate)


class Deaf(Sound):
    """Takes every rate for its own."""

    def _waveform(self, index: int, waveform: Any, sample_rate: int) -> Any:
        return super()._waveform(index, waveform, self.sample_rate)


class Columns(Sound):
    def token_columns(self, samples: int) -> int:
        return 1


class Backwards(Sound):
    def layers(self) -> list[nn.Module]:
        return [self.block, self.stem]


class Twice(Sound):
    def layers(self) -> list[nn.Module]:
        return [self.stem, self.stem]


class Offers(Sound):
    poolings = ("mean", "cls")

    def pool(self, tokens: Tensor, mask: Tensor, how: str) -> Tensor:
        return super().pool(tokens, mask, how)[:, : 24 if how == "mean" else 7]


class CropsAtRandom(Sound):
    """Takes 10 s of a longer clip, anywhere, as CLAP's extractor does."""

    def frontend(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        longest = 10 * self.sample_rate
        if waveforms.shape[1] > longest:
            start = int(np.random.default_rng().integers(waveforms.shape[1] - longest))
            waveforms, lengths = waveforms[:, start : start + longest], lengths.clamp(max=longest)
        return super().frontend(waveforms, lengths)


class Window(Sound):
    """Fills a window of 2 s whatever the clip, and masks what is not its own."""

    def tokens(self, spectrogram: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        own = ((lengths + 9) // 10 * 10).clamp(max=200)  # tokens come in tens
        filled = nn.functional.pad(spectrogram, (0, 0, 0, max(0, 200 - spectrogram.shape[1])))[:, :200]
        return super().tokens(filled, lengths)[0], torch.arange(200) < own[:, None]

    def token_columns(self, samples: int) -> int:
        return (1 + max(0, samples - 400) // 160 + 9) // 10


class WindowInOne(Window):
    """Says that all clips have equally many tokens of their own."""

    def token_columns(self, samples: int) -> int:
        return 1


class WrongCard(Sound):
    card = Sound.card.model_copy(update={"parameters": 1})


class Unseeded(Sound):
    def __init__(self) -> None:
        super().__init__()
        nn.init.normal_(self.stem.weight)


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (Sound, set()),
        (WrongSize, {"embedding", "extremes", "poolings"}),
        (Doubles, {"embedding"}),
        (Learns, {"frozen"}),
        (Draws, {"determinism", "batch", "padding"}),
        (Padded, {"batch", "padding"}),
        (Leaks, {"batch", "padding"}),
        (NanOnSilence, {"extremes"}),
        (TakesAnything, {"bad samples"}),
        (Deaf, {"sample rate"}),
        (Columns, {"token columns"}),
        (CropsAtRandom, {"determinism"}),
        (Window, set()),
        (WindowInOne, {"token columns"}),
        (Backwards, {"layers"}),
        (Twice, {"layers"}),
        (Offers, {"poolings"}),
        (WrongCard, {"card"}),
        (Unseeded, {"rebuilding"}),
    ],
)
def test_the_suite_finds_what_is_broken(kind: type[AudioModel], broken: set[str]) -> None:
    found = {outcome.name: outcome for outcome in check(load_model(kind, device="cpu"))}
    failed = {name for name, outcome in found.items() if not outcome.passed}
    assert failed == broken
    assert all(outcome.reason and outcome.remedy for outcome in found.values() if not outcome.passed)


class OfFolder(Sound):
    """Reads sizes and tensors from two files of a folder."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Buffer(torch.tensor(gain))

    @classmethod
    def from_checkpoint(cls, path: Path) -> AudioModel:
        return cls(float((path / "settings.txt").read_text()))


class OfFolderAnew(OfFolder):
    """Draws what the folder does not say."""

    @classmethod
    def from_checkpoint(cls, path: Path) -> AudioModel:
        model = super().from_checkpoint(path)
        nn.init.normal_(model.get_submodule("stem").weight)  # type: ignore[arg-type]
        return model


@pytest.mark.parametrize(("kind", "broken"), [(OfFolder, set()), (OfFolderAnew, {"rebuilding"})])
def test_a_checkpoint_may_be_a_folder(kind: type[AudioModel], broken: set[str], tmp_path: Path) -> None:
    (tmp_path / "settings.txt").write_text("2.5")
    kind.card = Sound.card.model_copy(update={"needs_weights": True})
    found = check(load_model(kind, tmp_path, device="cpu"))
    assert {outcome.name for outcome in found if not outcome.passed} == broken
    assert found[-1].reason.startswith("from_checkpoint reads" if broken else "read again from its folder")


@pytest.mark.parametrize("name", [*FLOORS, "uamix"])
def test_bundled_models_pass(name: str) -> None:
    assert [outcome for outcome in check(load_model(name, device="cpu")) if not outcome.passed] == []


@pytest.mark.parametrize(
    "size", [pytest.param(TINY, id="tiny"), pytest.param(VIT_B, id="ViT-B", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", FORMATS)
def test_official_checkpoints_pass_and_are_left_as_they_were(name: str, size: Size, tmp_path: Path) -> None:
    model = load_model(name, checkpoint(name, tmp_path, size), device="cpu")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pooling = model.pooling
    assert [outcome for outcome in check(model) if not outcome.passed] == []
    assert model.pooling == pooling
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_every_model_of_the_project_is_checked() -> None:
    assert {*FORMATS, *FLOORS, "uamix"} == {
        name
        for name, plugin in models().items()
        if plugin.entry_point.value.startswith("uamix_bench.") and not plugin.card.reference  # tests/baselines
    }


# --- code that raises, and returns what it must not

OWN = """
import torch
from uamix_bench import AudioModel
from uamix_bench.models.frontend import KaldiFbank

class Own(AudioModel):
    sample_rate, embedding_dim = 16_000, 80

    @classmethod
    def from_checkpoint(cls, path):
        return cls()

    def frontend(self, waveforms, lengths):
        return KaldiFbank(16_000, 80)(waveforms, lengths)

    def tokens(self, spectrogram, lengths):
        return spectrogram, torch.arange(spectrogram.shape[1]) < lengths[:, None]
"""
HEADS = {
    "from_checkpoint": "    @classmethod\n    def from_checkpoint(cls, path):",
    "frontend": "    def frontend(self, waveforms, lengths):",
    "tokens": "    def tokens(self, spectrogram, lengths):",
    "pool": "    def pool(self, tokens, mask, how):",
}


def own(folder: Path, method: str, body: str) -> tuple[str, int]:
    """The name of a class whose `method` does `body`, and the line where that stands."""
    text = f"{OWN}\nclass Bad(Own):\n{HEADS[method]}\n        {body}\n"
    (folder / "own.py").write_text(text)
    return f"{folder / 'own.py'}:Bad", text.count("\n")


@pytest.mark.parametrize("method", HEADS)
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{}['gain']", "KeyError: 'gain'"),
        ("raise OSError('no such\\nserver')", "OSError: no such server"),
        ("torch.ones(2) @ torch.ones(3)", "RuntimeError: "),
        ("raise ValueError", "ValueError; repair it"),
        ("raise SystemExit('no gain')", "SystemExit: no gain"),
    ],
)
def test_code_that_raises_is_named_and_the_suite_stops(method: str, body: str, said: str, tmp_path: Path) -> None:
    name, line = own(tmp_path, method, body)
    (tmp_path / "weights").touch()
    with pytest.raises(OwnCodeError) as caught:
        load_model(name, tmp_path / "weights", device="cpu").embed([np.ones(8_000, np.float32)], 16_000)
    assert str(caught.value).startswith(f"{tmp_path / 'own.py'}:{line}: {method} of Bad raises {said}")
    assert caught.value.exit_code == 3
    if method != "from_checkpoint":
        (only,) = check(load_model(name, tmp_path / "weights", device="cpu"))
        assert (only.name, only.passed) == ("embedding", False)
        assert f"own.py:{line}: {method} of Bad raises" in only.reason


@pytest.mark.parametrize(
    ("method", "body", "said"),
    [
        ("from_checkpoint", "cls()", "returns nothing, not a model"),
        ("frontend", "return waveforms", r"returns \(1, 8000\) float32, not spectrogram and frame counts"),
        ("frontend", "return None", "returns nothing, not spectrogram and frame counts"),
        ("frontend", "return waveforms[0], lengths", r"returns \(8000,\) float32, not \(B, T, F\)"),
        ("frontend", "return waveforms[..., None], len(lengths)", "returns a int, not a tensor as frame counts"),
        ("frontend", "return waveforms[..., None], lengths / 2", r"returns \(1,\) float32, not counts \(B,\)"),
        ("tokens", "return spectrogram", r"returns \(1, 48, 80\) float32, not tokens and mask"),
        ("tokens", "return spectrogram, None", "returns nothing, not a tensor as mask"),
        ("tokens", "return spectrogram, lengths, None", "returns 3 values, not tokens and mask"),
        ("tokens", "return spectrogram, spectrogram[..., 0]", r"returns \(1, 48\) float32, not a mask \(B, L\) bool"),
        ("tokens", "return spectrogram[:, :5], spectrogram[..., 0] > 0", r"returns \(1, 48\) bool, not a mask"),
        ("tokens", "return spectrogram, spectrogram[..., 0] > 1e9", r"returns \(1, 48\) bool, not a mask that is True"),
        ("tokens", "return spectrogram * 1j, spectrogram[..., 0] < 1e9", r"returns \(1, 48, 80\) complex64, not real"),
        ("tokens", "return spectrogram[0], lengths > 0", r"returns \(48, 80\) float32, not tokens \(B, L, D\)"),
        ("pool", "return tokens", r"returns \(1, 48, 80\) float32, not \(B, embedding_dim\)"),
        ("pool", "return tokens.mean(1).numpy()", "returns a ndarray, not a tensor"),
    ],
)
def test_a_wrong_return_is_said_as_what_it_is(method: str, body: str, said: str, tmp_path: Path) -> None:
    name, _ = own(tmp_path, method, body)
    (tmp_path / "weights").touch()
    with pytest.raises(OwnCodeError, match=f"{method} of Bad: {said}"):
        load_model(name, tmp_path / "weights", device="cpu").embed([np.ones(8_000, np.float32)], 16_000)


def test_what_own_code_prints_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, _ = own(tmp_path, "tokens", "print('loud'); return super().tokens(spectrogram, lengths)")
    path = tmp_path / "own.py"
    path.write_text("print('imported')\n" + path.read_text())
    (tmp_path / "weights").touch()
    load_model(name, tmp_path / "weights", device="cpu").embed([np.ones(8_000, np.float32)], 16_000)
    assert capsys.readouterr() == ("", "imported\nloud\n")


def test_own_code_in_two_threads_gives_stdout_back(capsys: pytest.CaptureFixture[str]) -> None:
    """The first thread in is the first one out."""
    first, second = (own_code("tokens", AudioModel) for _ in range(2))
    first.__enter__(), second.__enter__()
    print("one")
    first.__exit__(None, None, None)
    print("two")
    second.__exit__(None, None, None)
    print("result")
    assert capsys.readouterr() == ("result\n", "one\ntwo\n")


@pytest.mark.parametrize(("body", "said"), [("raise OSError('gone')", "raises OSError: gone"), ("return [1]", "a int")])
def test_layers_that_raise_or_are_none_are_named_by_the_suite(body: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(f"{OWN}\nclass Bad(Own):\n    def layers(self):\n        {body}\n")
    (tmp_path / "weights").touch()
    outcomes = check(load_model(f"{tmp_path / 'own.py'}:Bad", tmp_path / "weights", device="cpu"))
    assert outcomes[-1].name == "layers"
    assert "layers of Bad" in outcomes[-1].reason
    assert said in outcomes[-1].reason


def test_metadata_that_are_no_dict_are_said(tmp_path: Path) -> None:
    body = "model = cls(); model.metadata = None; return model"
    name, _ = own(tmp_path, "from_checkpoint", body)
    (tmp_path / "weights").touch()
    with pytest.raises(OwnCodeError, match="metadata of Bad: is nothing, no dict; make it one"):
        load_model(name, tmp_path / "weights", device="cpu")


@pytest.mark.parametrize("body", ["1 / 0", "import sys; sys.exit(2)"])
def test_the_line_of_a_failed_import_is_named_by_a_relative_path_too(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(f"x = 1\n{body}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match=r"own\.py:2: fails to import"):
        load_model("own.py:Bad")


def test_memory_that_runs_out_in_own_code_is_the_machine_s(tmp_path: Path) -> None:
    name, _ = own(tmp_path, "tokens", "raise RuntimeError('CUDA out of memory')")
    (tmp_path / "weights").touch()
    with pytest.raises(RuntimeError, match="out of memory"):
        load_model(name, tmp_path / "weights", device="cpu").embed([np.ones(8_000, np.float32)], 16_000)


def test_a_clip_at_which_code_raises_is_named(tmp_path: Path) -> None:
    name, _ = own(
        tmp_path, "tokens", "assert len(spectrogram[0]) > 3, 'too short'; return super().tokens(spectrogram, lengths)"
    )
    (tmp_path / "weights").touch()
    outcomes = check(load_model(name, tmp_path / "weights", device="cpu"))
    assert [outcome.name for outcome in outcomes if not outcome.passed] == ["extremes"] == [outcomes[-1].name]
    assert "AssertionError: too short (for 10 ms)" in outcomes[-1].reason
