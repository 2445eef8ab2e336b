"""Models on the command line: what a glob takes, names of several, weights of the Hub, arguments of a model's own."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from uamix_bench import load_model
from uamix_bench.cli import selection, values
from uamix_bench.records.repeat import repeat_command
from uamix_bench.records.results import load_result
from uamix_bench.util.errors import UsageError

from ..baselines.official import TINY, checkpoint, vit_state
from .conftest import SMALL, Bench

COMMIT = "0123456789abcdef" * 2 + "01234567"
TIMM = "some/vit_base_patch16_1024_128.audiomae"
SCALED = """
from uamix_bench.baselines.logmel import LogMelStatistics

class Scaled(LogMelStatistics):
    def __init__(self, bins=128):
        super().__init__()
        self.bins = bins

    def pool(self, tokens, mask, how):
        pooled = super().pool(tokens, mask, how)
        pooled[:, self.bins : 128] = 0
        return pooled
"""


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of timm in an otherwise empty cache of the Hub, without a network; returns its snapshot."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "cache" / f"models--{TIMM.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    config = {"architecture": "vit_base_patch16_1024_128", "pretrained_cfg": {"mean": [-4.2677393]}}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(vit_state(TINY.width, TINY.depth), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_glob_takes_what_can_run_here_and_names_the_rest(
    bench_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = selection.models("*")
    assert sorted(found) == ["audiomae-tiny", "logmel", "random", "uamix-tiny"]
    told = capsys.readouterr().err
    for name in ("audiomae", "beats", "m2d", "mae-ast", "maskspec", "hf:", "hear:", "emb:"):
        assert name in told.split(" left out ")[1]
    assert "uamix-bench models fetch NAME" in told
    assert selection.models("uamix*") == ["uamix-tiny"]
    assert selection.models("log*") == ["logmel"]
    assert capsys.readouterr().err == ""
    checkpoint("audiomae", bench_home / "checkpoints", TINY)
    assert "audiomae" in selection.models("*")
    with pytest.raises(UsageError, match="matches nothing that can run here"):
        selection.models("b*s")


def test_fetched_weights_are_found_by_the_model_s_name(bench: Bench, sounds: Path, bench_home: Path) -> None:
    path = checkpoint("audiomae", bench_home / "checkpoints", TINY)
    command = ["fewshot", "-t", sounds, *SMALL, "--json"]
    (by_name,) = bench(*command, "-m", "audiomae").envelope["results"]
    (by_path,) = bench(*command, "-m", f"audiomae={path}", "--name", "audiomae").envelope["results"]
    assert by_name["model"]["name"] == "audiomae"
    assert by_name["id"] == by_path["id"]


def test_a_repository_of_timm_is_the_official_file(cached: Path, bench_home: Path, tmp_path: Path) -> None:
    torch.save({"model": vit_state(TINY.width, TINY.depth)}, tmp_path / "pretrained.pth")
    wave = np.random.default_rng(0).uniform(-0.1, 0.1, 40_000).astype(np.float32)
    official = load_model("audiomae", tmp_path / "pretrained.pth", device="cpu")
    for arguments in ((f"audiomae=hf:{TIMM}",), (f"audiomae=hf:{TIMM}@main",), ("audiomae", f"hf:{cached}")):
        model = load_model(*arguments, device="cpu")
        for how in model.poolings:
            official.pooling = model.pooling = how
            assert np.array_equal(official.embed([wave], 16_000), model.embed([wave], 16_000))
    model = load_model(f"audiomae=hf:{TIMM}", device="cpu")
    assert model.identity is not None
    assert (model.identity.name, model.identity.repository) == (TIMM, f"{TIMM}@{COMMIT}")
    assert model.source is not None
    assert (model.source.name, model.source.checkpoint) == ("audiomae", f"hf:{TIMM}@{COMMIT}")


def test_a_result_of_a_repository_is_had_again(bench: Bench, sounds: Path, cached: Path, tmp_path: Path) -> None:
    command = ["fewshot", "-m", f"audiomae=hf:{TIMM}", "-t", sounds, *SMALL, "-o", tmp_path / "results"]
    assert bench(*command).code == 0
    (file,) = (tmp_path / "results").rglob("*.json")
    words = shlex.split(repeat_command(load_result(file)).replace("\\\n", ""))
    assert f"audiomae=hf:{TIMM}@{COMMIT}" in words
    again = bench(*(str(sounds) if word == "FOLDER_OR_CSV" else word for word in words[1:]), "--json")
    assert again.envelope["results"][0]["id"] == load_result(file).id
    missing = bench("fewshot", "-m", "audiomae=hf:some/other", "-t", sounds, *SMALL)
    assert missing.code == 4
    assert "hf download some/other" in missing.error
    (cached / "model.safetensors").unlink()
    (cached / "pytorch_model.bin").touch()
    assert bench("fewshot", "-m", f"audiomae=hf:{cached}", "-t", sounds, *SMALL).code == 3


def test_own_weights_are_named_by_file_or_folder_and_names_can_be_given(
    bench: Bench, sounds: Path, tmp_path: Path
) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        shutil.copy(checkpoint("audiomae", tmp_path, TINY), tmp_path / name / "model.pth")
    given = f"audiomae={tmp_path / 'one' / 'model.pth'},audiomae={tmp_path / 'other' / 'model.pth'}"
    command = ["fewshot", "-m", given, "-t", sounds, *SMALL]
    done = bench(*command)
    assert [line.split()[0] for line in done.out.splitlines()[4:6]] == ["one", "other"]
    named = bench(*command, "--name", "a,b", "--json").envelope["results"]
    assert [result["model"]["name"] for result in named] == ["a", "b"]
    for wrong in ("a", "a,b,c", "a,a", "a,/b"):
        refused = bench(*command, "--name", wrong)
        assert refused.code == 2
        assert "--name" in refused.error


def test_arguments_of_a_model_s_own_change_its_result(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "scaled.py").write_text(SCALED)
    name = f"{tmp_path / 'scaled.py'}:Scaled"
    command = ["fewshot", "-t", sounds, *SMALL, "-o", tmp_path / "results", "--json"]
    plain, few, (logmel,) = (
        bench(*command, "-m", name).envelope["results"][0],
        bench(*command, "-m", name, "--model-arg", "bins=20").envelope["results"][0],
        bench(*command, "-m", "logmel").envelope["results"],
    )
    assert "arguments" not in plain["model"]
    assert few["model"]["arguments"] == ["bins=20"]
    assert plain["episodes"]["correct"] == logmel["episodes"]["correct"] != few["episodes"]["correct"]
    path = next((tmp_path / "results").rglob(f"*{few['id'][:12]}.json"))
    words = shlex.split(repeat_command(load_result(path)).replace("\\\n", ""))
    filled = {"FILE.py:CLASS": name, "FOLDER_OR_CSV": str(sounds)}
    again = bench(*(filled.get(word, word) for word in words[1:]), "--json")
    assert again.envelope["results"][0]["id"] == few["id"]
    assert bench("models", "check", name, "-M", "bins=20").code == 0
    for wrong in (["-M", "bin=20"], ["-M", "bins"]):
        assert bench(*command, "-m", name, *wrong).code == 2
    several = bench("fewshot", "-m", f"{name},logmel", "-M", "bins=20", "-t", sounds)
    assert several.code == 2
    assert "--model-arg" in several.error


@pytest.mark.parametrize("mark", ["=", ":"])
def test_a_list_is_split_although_its_last_path_exists(mark: str, tmp_path: Path) -> None:
    (tmp_path / "a,b").touch()
    whole = f"own{mark}{tmp_path / 'a,b'}"
    names = values.CommaList()
    assert names.convert(whole, None, None) == (whole,)
    assert names.convert(f"logmel,own{mark}{tmp_path}", None, None) == ("logmel", f"own{mark}{tmp_path}")
    assert names.convert(str(tmp_path / "a,b"), None, None) == (str(tmp_path / "a,b"),)
