"""A stranger's model: a file, an installed package, broken packages; docs/your-model.md, run as it stands."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from uamix_bench.cli import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "your-model.md"
SMALL = ("--n", "3", "--k", "1", "--q", "4", "--episodes", "20")


def blocks(language: str) -> list[str]:
    """The page's fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with ``sounds``: three classes of eight tones, and a home of its own."""
    generator = np.random.default_rng(3)
    for label, pitch in (("low", 220.0), ("mid", 440.0), ("high", 880.0)):
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for index in range(8):
            tone = 0.3 * np.sin(2 * np.pi * pitch * generator.uniform(0.9, 1.1) * np.arange(4_000) / 16_000)
            soundfile.write(tmp_path / "sounds" / label / f"{index}.wav", tone, 16_000)
    monkeypatch.setenv("UAMIX_BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def install(site: Path, package: str, name: str, code: str, card: str | None, entry: str | None = None) -> None:
    """Puts a package into a folder as an installer does: the module, its card, and the announcement."""
    (site / package).mkdir(parents=True)
    (site / package / "__init__.py").touch()
    (site / package / "my_model.py").write_text(code)
    if card is not None:
        (site / package / "my_model.toml").write_text(card)
    info = site / f"{package}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[uamix_bench.models]\n{name} = {entry or f'{package}.my_model:MyModel'}\n")


def bench(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process that sees the packages in `site`."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "uamix_bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_pages_commands_run(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, use, *_ = blocks("python")
    assert sum(bool(line.strip()) for line in model.splitlines()) <= 10
    (desk / "my_model.py").write_text(model)
    (desk / "use.py").write_text(use)
    for line in blocks("console")[0].splitlines():
        program, *arguments = line.split()
        assert program == "uamix-bench"
        assert main(arguments) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert "failed" not in shown
    assert "MyModel" in shown
    assert "logmel" in shown
    try:
        runpy.run_path("use.py")
    finally:
        sys.modules.pop("my_model", None)
    assert capsys.readouterr().out == "(1, 80)\n"


def test_the_page_s_weights_and_card_run(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, weights, _, card, *_ = blocks("python")
    (desk / "trained.py").write_text(weights)
    runpy.run_path("trained.py", run_name="__main__")
    assert re.fullmatch(r"[0-9a-f]{64}\n", capsys.readouterr().out)
    assert main(["models", "check", "trained.py:Trained=trained.pth"]) == 0
    assert main(["models", "convert", "trained.py:Trained=trained.pth"]) == 0
    assert main(["models", "check", "trained.py:Trained=trained.safetensors", "--json"]) == 0
    assert runpy.run_path(_written(desk / "card.py", card))["card"].name == "my-model"


def test_the_page_s_encoder_is_tuned_and_another_edition_of_it_is_not_resumed(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = blocks("python")[3]
    (desk / "my_vit.py").write_text(code)
    assert main(["models", "check", "my_vit.py:MyViT"]) == 0, capsys.readouterr().out
    assert "with tune and pretrain" in capsys.readouterr().out
    sizes = "batch=8 queue=16 top_k=2 projector=[16,16,8] predictor=16 head_epochs=1 epochs=1".split()
    tune = ["tune", "--init", "my_vit.py:MyViT", "--data", "./sounds", "--out", "out", "--quiet"]
    tune += [part for size in sizes for part in ("--set", size)]
    assert main(tune) == 0, capsys.readouterr().err
    tuned = "my_vit.py:MyViT=out/model.safetensors"
    assert main(["fewshot", "--model", tuned, "--task", "./sounds", *SMALL]) == 0, capsys.readouterr().err
    capsys.readouterr()
    (desk / "my_vit.py").write_text(code.replace("+ 5", "+ 4"))
    assert main(tune) == 2
    assert "differs in parent" in capsys.readouterr().err


def _written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_an_installed_package_is_listed_checked_and_evaluated_and_broken_ones_are_named(desk: Path) -> None:
    *_, code = blocks("python")
    card, project = blocks("toml")
    ((name, entry),) = tomllib.loads(project)["project"]["entry-points"]["uamix_bench.models"].items()
    site = desk / "site"
    install(site, "my_package", name, code, card, entry)
    install(site, "raises", "raises", "raise RuntimeError('out of order')", card.replace("my-model", "raises"))
    install(site, "cardless", "cardless", code, None)
    install(site, "gone", "gone", code, card, "not_installed.my_model:MyModel")

    listed = bench(site, "models", "ls", "--json")
    assert listed.returncode == 0
    names = {item["name"] for item in json.loads(listed.stdout)["items"]}
    assert {name, "raises", "logmel", "uamix"} <= names
    assert not {"cardless", "gone"} & names
    warned = [line for line in listed.stderr.splitlines() if line.startswith("uamix-bench: warning: ")]
    assert len(warned) == len(listed.stderr.splitlines()) == 2
    assert "'cardless'" in warned[0]
    assert "my_model.toml: no card" in warned[0]
    assert "'gone'" in warned[1]

    checked = bench(site, "models", "check", name, "raises", "--json")
    assert checked.returncode == 3
    good, bad = json.loads(checked.stdout)["items"]
    assert [outcome for outcome in good["checks"] if not outcome["passed"]] == []
    assert not bad["passed"]
    assert "out of order" in bad["checks"][0]["reason"]

    done = bench(site, "fewshot", "-m", f"{name},logmel", "-t", "./sounds", *SMALL, "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert [result["model"]["name"] for result in results] == [name, "logmel"]
    assert results[0]["episodes"]["correct"] == results[1]["episodes"]["correct"]

    refused = bench(site, "fewshot", "-m", "raises", "-t", "./sounds", *SMALL)
    assert refused.returncode == 3
    assert "raises.my_model:MyModel: fails to import (RuntimeError: out of order)" in refused.stderr


def test_a_class_without_a_card_says_what_it_needs(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "bare.py").write_text("from uamix_bench import AudioModel\nclass Bare(AudioModel):\n    pass\n")
    assert main(["fewshot", "-m", "bare.py:Bare", "-t", "./sounds", *SMALL]) == 3
    assert "state sample_rate and embedding_dim" in capsys.readouterr().err


def test_a_user_s_file_appears_with_its_own_label(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "my_model.py").write_text(blocks("python")[0])
    given = ["fewshot", "-m", "my_model.py:MyModel", "-t", "./sounds", *SMALL, "--name", "mine", "--json"]
    assert main(given) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["model"]["name"] == "mine"
    assert result["model"]["adapter_version"] == "MyModel/1"
    assert (result["model"]["licence"], result["model"]["parameters"]) == ("not stated", 0)
