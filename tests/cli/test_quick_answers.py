"""Questions that a result or cached embeddings answer: no torch is imported, and the record is that of a whole run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from uamix_bench.records.results import Result

from .conftest import SMALL, Bench

HEAVY = (
    *("torch", "torchaudio", "torchvision", "timm", "transformers"),
    *(
        "pandas",
        "pyarrow",
        "scipy",
        "sklearn",
        "matplotlib",
        "jinja2",
        "joblib",
        "soundfile",
        "soxr",
        "requests",
        "huggingface_hub",
    ),
)
CODE = f"""
import sys
from uamix_bench.cli import main
code = main(sys.argv[1:])
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""


def results(*arguments: object) -> list[Any]:
    """Results of a command line in a process of its own, which must not import torch or what no answer needs."""
    line = [sys.executable, "-c", CODE, *map(str, arguments), "--json"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]", done.stderr
    found: list[Any] = json.loads(done.stdout)["results"]
    return found


def measured(result: dict[str, Any]) -> Result:
    return Result.model_validate_json(json.dumps(result), strict=True)


def test_a_repeated_command_and_another_score_import_no_torch(bench: Bench, sounds: Path, bench_home: Path) -> None:
    asked = ("fewshot", "-m", "uamix-tiny", "-t", sounds, *SMALL)
    first = bench(*asked, "--json").envelope["results"]
    assert results(*asked) == first
    for change in (["--k", "2", "--n", "2", "--seed", "5"], ["--classifier", "logistic-regression"]):
        quick = results(*asked, *change)
        shutil.rmtree(bench_home / "results")
        shutil.rmtree(bench_home / "models")
        whole = bench(*asked, *change, "--json").envelope["results"]
        assert [one["id"] for one in quick] == [one["id"] for one in whole]
        for one, other in zip(map(measured, quick), map(measured, whole), strict=True):
            assert one.model == other.model
            assert one.status == other.status
            assert one.health == other.health
            assert one.episodes == other.episodes
            assert one.cost.embedded_clips == 0
            assert one.provenance.device == measured(first[0]).provenance.device


def test_the_record_names_the_device_of_the_embeddings(bench: Bench, sounds: Path, bench_home: Path) -> None:
    asked = ("fewshot", "-m", "logmel", "-t", sounds, *SMALL)
    bench(*asked)
    (file,) = (bench_home / "embeddings").glob("*/devices.json")
    file.write_text('{"devices": ["cuda: Far Away"]}')
    (quick,) = results(*asked, "--seed", "9")
    assert quick["provenance"]["device"] == "cuda: Far Away"


def test_a_clip_that_changed_is_embedded_by_the_model(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(sounds, tmp_path / "mine")
    asked = ("fewshot", "-m", "logmel", "-t", mine, *SMALL, "--json")
    bench(*asked)
    shutil.copy(mine / "low/0.wav", mine / "low/1.wav")
    (mine / "low/2.wav").write_bytes((mine / "low/2.wav").read_bytes()[:-2] + b"\x01\x01")
    (result,) = bench(*asked).envelope["results"]
    assert result["cost"]["embedded_clips"] == 1


@pytest.mark.parametrize("device", ["gpu", "meta"])
def test_a_device_that_is_none_is_refused_as_before(bench: Bench, sounds: Path, device: str) -> None:
    asked = ("fewshot", "-m", "logmel", "-t", sounds, *SMALL)
    assert bench(*asked).code == 0
    refused = bench(*asked, "--device", device)
    assert refused.code == 2
    assert "no such device" in refused.err
