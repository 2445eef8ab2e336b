"""Commands on a GPU beside the same on the CPU; each test runs on the CPU too, where nothing may differ at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from .conftest import Bench

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_GPU), pytest.param("cuda:0", marks=NEEDS_GPU)]
EPISODES = ("--n", "3", "--k", "1", "--q", "4", "--episodes", "500", "--no-cache")
HEADS = [
    part
    for setting in (
        "batch=8 queue=16 projector=[16,16,8] predictor=16 frames=[32,48] head_epochs=1 epochs=2 top_k=3 views=crop"
    ).split()
    for part in ("--set", setting)
]

PRETRAINING = "width=64 depth=2 heads=1 decoder_width=24 decoder_depth=1 batch=8 frames=[64,128] epochs=4".split()


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
@pytest.mark.parametrize("device", DEVICES)
def test_fewshot_scores_as_on_the_cpu(device: str, dtype: str, bench: Bench, sounds: Path, tmp_path: Path) -> None:
    arguments = ("fewshot", "--model", "uamix-tiny,logmel", "--task", sounds, *EPISODES, "--dtype", dtype, "--json")
    here = bench(*arguments, "--device", "cpu", "-o", tmp_path / "cpu").envelope["results"]
    there = bench(*arguments, "--device", device, "-o", tmp_path / "device").envelope["results"]
    for one, other in zip(here, there, strict=True):
        assert other["score"]["accuracy"] == pytest.approx(one["score"]["accuracy"], abs=0.01 * (device != "cpu"))
        assert other["health"]["verdict"] == "green"
    (tuned,) = [result for result in there if result["model"]["name"] == "uamix-tiny"]
    assert tuned["provenance"]["device"].startswith(f"{device.partition(':')[0]}: ")
    assert tuned["cost"]["peak_memory_mb"] > 0


@pytest.mark.parametrize("device", DEVICES[:2])
def test_a_fine_tuning_scores_as_on_the_cpu(device: str, bench: Bench, sounds: Path, tmp_path: Path) -> None:
    settings = "frames=[16] batch=8 epochs=4 mask_mel=8 mask_frames=4 drop_path=0".split()
    arguments = ["finetune", "--task", sounds, *(part for text in settings for part in ("--set", text))]
    arguments += ["--folds", "2", "--json"]

    def records(on: str) -> Any:
        done = bench(
            *arguments, "--device", on, "--training-dir", tmp_path / f"work-{on}", "-o", tmp_path / f"results-{on}"
        )
        assert done.code == 0, done.err
        return done.envelope["results"][0]

    here, there = records("cpu"), records(device)
    assert there["provenance"]["device"].startswith(f"{device}: ")
    for one, other in zip(here["runs"], there["runs"], strict=True):
        last = [run["history"][-1]["loss"] for run in (one, other)]
        assert last[1] == pytest.approx(last[0], rel=0.1 * (device != "cpu"))
    assert there["score"]["value"] == pytest.approx(here["score"]["value"], abs=0.1 * (device != "cpu"))
    plan = bench(*arguments, "--device", device, "--dry-run").envelope["items"][0]
    assert plan["estimated_s"] > 0


@pytest.mark.parametrize("device", DEVICES[:2])
def test_a_probe_scores_as_on_the_cpu(device: str, bench: Bench, sounds: Path, tmp_path: Path) -> None:
    arguments = ("finetune", "--task", sounds, "--freeze", "all", "--folds", "2", "--json")
    here, there = (
        bench(
            *arguments, "--device", on, "--training-dir", tmp_path / name, "-o", tmp_path / f"{name}-results"
        ).envelope
        for name, on in (("here", "cpu"), ("there", device))
    )
    values = [found["results"][0]["score"]["value"] for found in (here, there)]
    assert values[1] == pytest.approx(values[0], abs=0.07 * (device != "cpu"))  # two of 32 clips
    assert there["results"][0]["provenance"]["device"].startswith(f"{device}: ")


@pytest.mark.parametrize("device", DEVICES[:2])
def test_one_process_of_torchrun_tunes_as_a_plain_command(
    device: str, sounds: Path, bench_home: Path, tmp_path: Path
) -> None:
    command = ["uamix_bench", "tune", "--data", str(sounds), *HEADS, "--device", device, "--out"]
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m"]
    threads = {"UAMIX_BENCH_HOME": str(bench_home), "OMP_NUM_THREADS": "1"}  # which the last bits depend on
    for name, launcher in (("plain", []), ("launched", torchrun)):
        done = subprocess.run(
            [sys.executable, "-m", *launcher, *command, str(tmp_path / name)],
            capture_output=True,
            text=True,
            env={**os.environ, **threads},
        )
        assert done.returncode == 0, done.stderr
    plain, other = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("plain", "launched"))
    assert other["provenance"]["device"].startswith(f"{device}: ")
    rounding = 1e-2 * (device != "cpu")
    for one, two in zip(plain["history"], other["history"], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=rounding)
    assert [stage["peak_memory_mb"] > 0 for stage in other["cost"]] == [True, True]
    shares = [stage["matrix_share"] for stage in other["cost"]]
    assert shares == [None, None] if device == "cpu" else min(shares) > 0


@NEEDS_GPU
@pytest.mark.parametrize("command", ["tune", "pretrain"])
def test_compiled_trainings_lose_alike(command: str, bench: Bench, sounds: Path, tmp_path: Path) -> None:
    settings = HEADS if command == "tune" else [part for text in PRETRAINING for part in ("--set", text)]
    arguments = [command, "--data", sounds, *settings, "--set", "precision=float32", "--device", "cuda"]
    found = []
    for name, compiled in (("plain", []), ("compiled", ["--compile"])):
        done = bench(*arguments, *compiled, "--out", tmp_path / name)
        assert done.code == 0, done.err
        history = json.loads((tmp_path / name / "training.json").read_text())["history"]
        found.append([entry["loss"] for entry in history])
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-3)
    assert found[1] == pytest.approx(found[0], rel=0.05)
    assert found[1] != found[0]  # other kernels, other rounding
