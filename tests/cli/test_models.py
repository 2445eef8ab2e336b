"""models check and models convert: lines, envelope, exit codes, and that a converted file is the model it came from."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from uamix_bench import load_model
from uamix_bench.models.checkpoint import read_checkpoint

from .conftest import Bench

GOLDEN = {
    "audiomae": "audiomae/audiomae_small.pth",
    "beats": "beats/beats_small.pt",
    "mae-ast": "mae_ast/mae_ast_small_frame_fp16.pt",
    "m2d": "m2d/m2d_vit_base-80x608p16x16-221006-mr7/checkpoint-300.pth",
    "maskspec": "maskspec/maskspec_small.pth",
}
BROKEN = """
from uamix_bench.baselines.logmel import LogMelStatistics

class Broken(LogMelStatistics):
    embedding_dim = 7
"""


def test_check_prints_a_line_per_check(bench: Bench) -> None:
    done = bench("models", "check", "logmel")
    assert (done.code, done.err) == (0, "")
    first, *lines = done.out.splitlines()
    assert first == "logmel"
    assert len(lines) == 14
    assert all(line.startswith("  ok  ") for line in lines)
    (item,) = bench("models", "check", "logmel", "--json").envelope["items"]
    assert item["passed"]
    assert [entry["name"] for entry in item["checks"]] == [line[10:].split("  ")[0].strip() for line in lines]


def test_a_failed_check_has_its_remedy_and_exit_code_3(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    name = f"{tmp_path / 'broken.py'}:Broken"
    done = bench("models", "check", name, "logmel")
    assert done.code == 3
    assert "embedding_dim say what it returns" in done.out
    assert done.out.count("  ok  ") > 13  # the second model is checked all the same
    assert "checks failed" in done.error
    document = bench("models", "check", name, "logmel", "--json").envelope
    assert [item["passed"] for item in document["items"]] == [False, True]
    assert document["error"]["exit_code"] == 3


def test_a_model_that_does_not_load_is_a_failed_check(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "empty.pth").touch()
    done = bench("models", "check", f"audiomae={tmp_path / 'empty.pth'}")
    assert done.code == 3
    assert "failed  loading" in done.out
    assert "is empty" in done.out
    assert bench("models", "check", "audiomea").code == 2
    assert bench("models", "check").code == 2


@pytest.mark.parametrize("name", GOLDEN)
def test_a_converted_file_gives_the_same_embeddings(bench: Bench, name: str, test_data: Path, tmp_path: Path) -> None:
    official, target = test_data / "goldens" / GOLDEN[name], tmp_path / "safe" / "converted.safetensors"
    done = bench("models", "convert", f"{name}={official}", "-o", target, "--json")
    assert done.code == 0, done.err
    (facts,) = done.envelope["items"]
    one, other = load_model(name, official, device="cpu"), load_model(name, target, device="cpu")
    waves = [np.random.default_rng(length).uniform(-0.1, 0.1, length).astype(np.float32) for length in (900, 40_000)]
    for how in one.poolings if name != "maskspec" else ("mean", "cls"):
        one.pooling = other.pooling = how
        assert np.array_equal(one.embed(waves, 16_000), other.embed(waves, 16_000))
    assert facts["embedding_difference"] == 0
    with safe_open(target, "pt") as file:
        metadata = file.metadata()
    assert metadata["model"] == name
    assert metadata["source_sha256"] == facts["source_sha256"] == read_checkpoint(official).sha256
    assert type(one.card).model_validate_json(metadata["card"]) == one.card
    assert other.identity is not None
    assert other.identity.weights_sha256 == facts["sha256"]


def test_the_model_is_found_by_its_file(bench: Bench, test_data: Path, tmp_path: Path) -> None:
    golden = test_data / "goldens"
    done = bench("models", "convert", golden / GOLDEN["beats"], "-o", tmp_path / "b.safetensors")
    assert done.code == 0
    assert f"--model beats={tmp_path / 'b.safetensors'}" in done.out
    wave = bench("models", "convert", golden / "waves" / "w3_bursts_1s.wav", "-o", tmp_path / "w.safetensors")
    assert wave.code == 3
    assert "w3_bursts_1s.wav" in wave.error
    torch.save({"model": {"weight": torch.ones(3)}}, tmp_path / "other.pth")
    other = bench("models", "convert", tmp_path / "other.pth")
    assert other.code == 3
    assert "no model takes it" in other.error
    assert not (tmp_path / "other.safetensors").exists()


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_an_unsafe_file_is_refused_before_a_strangers_adapter_opens_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Careless:
        @staticmethod
        def from_checkpoint(path: Path) -> object:
            return torch.load(path, weights_only=False)

    careless = SimpleNamespace(card=SimpleNamespace(needs_weights=True), load=lambda: Careless)
    monkeypatch.setattr("uamix_bench.plugins.registry.models", lambda: {"careless": careless})
    torch.save({"model": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    done = bench("models", "convert", tmp_path / "trap.pth")
    assert done.code == 3
    assert "mkdir" in done.error
    assert not (tmp_path / "sprung").exists()


def test_float16_halves_the_file_and_says_what_it_changes(bench: Bench, test_data: Path, tmp_path: Path) -> None:
    source = f"audiomae={test_data / 'goldens' / GOLDEN['audiomae']}"
    full = bench("models", "convert", source, "-o", tmp_path / "a.safetensors", "--json").envelope["items"][0]
    half = bench("models", "convert", source, "-o", tmp_path / "h.safetensors", "--dtype", "float16", "--json")
    (facts,) = half.envelope["items"]
    assert 0 < facts["embedding_difference"] < 1e-2
    saved = full["bytes"] - facts["bytes"]
    model = load_model("audiomae", tmp_path / "h.safetensors", device="cpu")
    assert abs(saved - 2 * sum(parameter.numel() for parameter in model.parameters())) < 1_000


def test_nothing_is_overwritten(bench: Bench, test_data: Path, tmp_path: Path) -> None:
    source = f"audiomae={test_data / 'goldens' / GOLDEN['audiomae']}"
    target = tmp_path / "a.safetensors"
    target.write_text("mine")
    done = bench("models", "convert", source, "-o", target)
    assert done.code == 2
    assert "is there already" in done.error
    assert target.read_text() == "mine"


def test_info_on_given_models_tells_what_a_row_would_record(bench: Bench, tmp_path: Path) -> None:
    (own := tmp_path / "own.py").write_text(
        "from uamix_bench import AudioModel\n\n\n"
        "class Two(AudioModel):\n    sample_rate, embedding_dim = 8_000, 3\n"
        "    poolings = ('mean', 'max')\n"
        "    def frontend(self, waveforms, lengths): return waveforms[..., None].expand(-1, -1, 3), lengths\n"
    )
    (info,) = bench("models", "info", f"{own}:Two", "--pooling", "max", "--json").envelope["items"]
    assert (info["sample_rate"], info["poolings"], info["pooling"]) == (8_000, ["mean", "max"], "max")
    shown = bench("models", "info", f"{own}:Two").out
    assert ["poolings", "mean,", "max"] in [line.split() for line in shown.splitlines()]
    assert ["pretrained", "on", "unknown"] in [line.split() for line in shown.splitlines()]

    (info,) = bench("models", "info", "uamix", "--pooling", "mean", "--json").envelope["items"]
    row = bench("fewshot", *"-m uamix -t synthetic --episodes 5 --pooling mean --json".split()).envelope["results"][0][
        "model"
    ]
    facts = {name: value for name, value in row.items() if value is not False}
    assert {name: info[name] for name in facts} == facts
    assert (info["weights_sha256"], info["embedding_dim"]) == (row["weights_sha256"], 192)
    assert bench("models", "info", "no-such").code == 2
    assert bench("models", "info", "logmel", "--layer", "3").code == 2


def test_info_on_bundled_weights_tells_how_they_were_made(bench: Bench) -> None:
    done = bench("models", "info", "uamix-tiny", "--json")
    (facts,) = done.envelope["items"]
    made = facts["stands_for"]
    assert made["id"] == "uamix-tiny"
    assert (made["recipe"]["kind"], made["recipe"]["mix"], made["seed"]) == ("tune", "t-cutmix", "0")
    assert re.fullmatch(r"[0-9a-f]{40}", made["revision"])
    shown = bench("models", "info", "uamix-tiny").out
    for words in (made["revision"], made["data"], 'mix "t-cutmix"', "uamix-tiny stands for"):
        assert words in shown
    assert "stands_for" not in bench("models", "info", "logmel", "--json").envelope["items"][0]
