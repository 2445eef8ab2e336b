"""`pretrain` and `tune` as a user runs them: dry runs, changes to recipes, being killed, going on."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from uamix_bench.cli import main
from uamix_bench.data.task import load_task
from uamix_bench.models.loading import load_model
from uamix_bench.models.vit import AudioViT, ViTShape, initialise
from uamix_bench.records.store import load_record
from uamix_bench.records.training_records import TrainingRecord
from uamix_bench.tuning.dry_run import holdings
from uamix_bench.tuning.run import initial_model

from .conftest import Outcome

SMALL = [
    *("--set", "width=64", "--set", "depth=2", "--set", "heads=1", "--set", "decoder_width=24", "--set", "batch=8"),
    *("--set", "decoder_depth=1", "--set", "frames=[64]", "--set", "epochs=4", "--set", "checkpoint_every=2"),
]
HEADS = [
    *("--set", "batch=8", "--set", "queue=16", "--set", "projector=[16,16,8]", "--set", "predictor=16"),
    *("--set", "frames=[32,48]", "--set", "epochs=2", "--set", "top_k=3", "--set", "checkpoint_every=2"),
]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / label).mkdir()
        for number in range(16):
            samples = rng.normal(0, 0.1, 6_000 + 700 * number).astype(np.float32)
            soundfile.write(folder / label / f"{number}.wav", samples, 16_000)
    return folder


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One UAMIX_BENCH_HOME for all of these tests, so that the sounds are decoded once.

    And one thread, here and in children: the last bits of the weights depend on their number.
    """
    folder, threads = tmp_path_factory.mktemp("home"), torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UAMIX_BENCH_HOME", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder
    torch.set_num_threads(threads)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "uamix_bench", *map(str, arguments)]


def run(*arguments: str | Path, expect: int = 0) -> Outcome:
    """As `bench`, in the home folder of all of these tests."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    done = Outcome(code, out.getvalue(), err.getvalue())
    assert done.code == expect, done.err
    return done


@pytest.fixture(scope="module")
def pretrained(sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrained")
    done = run("pretrain", "--data", sounds, "--out", out, *SMALL)
    assert done.out.strip() == str(out / "model.safetensors")
    return out


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in AudioMAE's official form: torch.save, a ``model`` dictionary, MAE's key names; one block, 64 wide."""
    encoder = AudioViT(ViTShape(width=64, depth=2, heads=1))
    initialise(encoder, torch.Generator().manual_seed(0))
    state = {name.removeprefix("stem."): value for name, value in encoder.state_dict().items()}
    path = tmp_path_factory.mktemp("official") / "pretrained.pth"
    torch.save({"model": state}, path)
    return path


def test_masked_training_goes_on_from_an_encoder(official: Path, sounds: Path, tmp_path: Path) -> None:
    still = (
        "--set",
        "epochs=1",
        "--set",
        "learning_rate=1e-30",
        "--set",
        "weight_decay=0",
        "--set",
        "precision=float32",
    )
    run(
        "pretrain",
        "--init",
        official,
        "--data",
        sounds,
        "--out",
        tmp_path,
        *SMALL,
        *still,
        "--set",
        "save_dtype=float32",
        "--set",
        "centre=false",
    )
    given, found = torch.load(official, weights_only=True)["model"], load_file(tmp_path / "model.safetensors")
    for name, value in found.items():  # steps of 1e-30 move nothing: it goes on from this encoder, not a new one
        expected = given[name.removeprefix("encoder.").removeprefix("stem.")]
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-28)
    record = load_record(tmp_path / "training.json")
    assert isinstance(record, TrainingRecord)
    assert record.parent_sha256 == hashlib.sha256(official.read_bytes()).hexdigest()
    run("pretrain", "--init", official, "--data", sounds, "--out", tmp_path / "moved", *SMALL, "--set", "epochs=1")
    moved = load_file(tmp_path / "moved" / "model.safetensors")
    assert moved.keys() - found.keys() == {"centre"}
    kept = {name for name in found if moved[name].equal(found[name].half())}
    assert kept == {"encoder.stem.pos_embed"}
    refused = run("pretrain", "--init", official, "--data", sounds, "--out", tmp_path / "x", expect=2)
    assert "has width 64, the recipe 192; give --set width=64" in refused.err


def test_a_dry_run_says_the_recipe_and_writes_nothing(tmp_path: Path) -> None:
    done = run(
        "tune",
        "--mix",
        "mixup",
        "--set",
        "alpha=0.5",
        "--set",
        "views.stretch=0",
        "--out",
        tmp_path / "x",
        "--dry-run",
        "--json",
    )
    document = json.loads(done.out)
    assert document["command"] == "tune"
    (plan,) = document["items"]
    recipe = plan["recipe"]
    assert (recipe["mix"], recipe["alpha"], recipe["views"]["stretch"]) == ("mixup", 0.5, 0)
    assert plan["views"] == "own"
    assert plan["steps"] == {"stage 1: head": 156, "stage 2: tuning": 468}  # of 20,000 clips in batches of 128
    assert plan["data"]["clips"] == 20_000
    assert "Beta" in plan["sources"]["alpha"]
    assert not (tmp_path / "x").exists()


def test_a_dry_run_counts_what_the_data_holds(sounds: Path, tmp_path: Path, official: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    listed = [str(path) for path in sorted(sounds.rglob("*.wav"))]
    (tmp_path / "list.txt").write_text("\n".join(["# mine", "broken.wav", *listed]))
    arguments = ["--set", "batch=8", "--set", "queue=32", "--set", "views=mtslvr", "--dry-run", "--json"]
    done = run("tune", "--recipe", "paper", "--init", official, "--data", tmp_path / "list.txt", *arguments)
    (plan,) = json.loads(done.out)["items"]
    assert plan["data"]["clips"] == plan["data"]["recordings"] == 33
    assert plan["data"]["unreadable"] == 1
    expected = 2 * sum(6_000 + 700 * number for number in range(16)) / 16_000 / 3_600
    assert plan["data"]["hours"] == pytest.approx(expected, abs=5e-4)
    assert plan["views"] == "mtslvr"
    assert plan["steps"]["stage 2: tuning"] == 20 * 4
    heads = (64 + 2048 + 256) * 2048 + 2 * (2048 + 2048 + 256) + 2 * 256 * 4096 + 2 * 4096
    assert plan["trained_parameters"]["stage 1: head"] == heads


def test_sounds_that_are_yet_to_be_generated_are_not_called_unreadable() -> None:
    data = load_task("synthetic", splits=("valid",))
    data.task.materialise(data.table.take(slice(3)))
    held = holdings(data)
    assert (held["clips"], held["hours"], held["unreadable"]) == (960, None, 0)


def test_a_bare_path_is_an_audiomae_file(sounds: Path, official: Path, tmp_path: Path) -> None:
    changes = [*HEADS, "--set", "epochs=1", "--set", "micro_batch=4", "--set", "views=crop"]
    run("tune", "--init", official, "--data", sounds / "a", "--out", tmp_path, *changes)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["parent_sha256"] == hashlib.sha256(official.read_bytes()).hexdigest()
    record = load_record(tmp_path / "training.json")
    assert isinstance(record, TrainingRecord)
    assert record.weights_sha256 == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert record.recipe_sha256 == metadata["recipe_sha256"]
    assert [stage.name for stage in record.cost] == ["stage 1: head", "stage 2: tuning"]
    assert str(tmp_path.parent) not in (tmp_path / "training.json").read_text()


def test_drawn_weights_can_be_tuned(sounds: Path, tmp_path: Path) -> None:
    """Of a random start the digest of the weights stands for that of a file."""
    run("tune", "--init", "random", "--data", sounds, "--out", tmp_path, *HEADS, "--set", "epochs=1")
    start, tuned = load_model("random").state_dict(), load_file(tmp_path / "model.safetensors")
    kept = {name.split(".")[2] for name in tuned if "blocks" in name and tuned[name].equal(start[name].half())}
    assert kept == {"0", "1", "2"}
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata()["parent_sha256"] == initial_model("random").metadata["sha256"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "views=mtslvt"], "did you mean 'mtslvr'?"),
        (["--set", "micro_batch=6"], "divides the batch"),
        (["--recipe", "tony"], "did you mean 'tiny'?"),
        (["--set", "alfa=1"], "did you mean 'alpha'?"),
        (["--set", "alpha=-1"], "greater than 0"),
        (["--set", "queue=1000"], "multiple of the batch"),
        (["--set", "batch=7"], "even"),
        (["--init", "logmel"], "cannot be tuned: it lacks encoder (an AudioViT), normalise (a method)"),
        (["--init", "maskspec.py"], "name the class in it too, as maskspec.py:CLASS"),
        (["--compile", "--device", "cpu"], "is for a GPU, and the device is cpu"),
        (["--data", "synthetic:trian"], "no such split"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = run("tune", *arguments, "--out", tmp_path / "out", expect=2)
    assert not (tmp_path / "out").exists()
    assert words in done.err
    assert done.err.startswith("uamix-bench: error: ")
    assert done.err.count("\n") == 1


@pytest.mark.over_3s
def test_a_killed_pretraining_continues_to_the_same_weights(sounds: Path, pretrained: Path, tmp_path: Path) -> None:
    arguments = command("pretrain", "--data", sounds, "--out", tmp_path, *SMALL)
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "checkpoints").glob("*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "model.safetensors").exists()
    done = run("pretrain", "--data", sounds, "--out", tmp_path, *SMALL)
    assert "continuing from pre-training, step" in done.err
    assert (tmp_path / "model.safetensors").read_bytes() == (pretrained / "model.safetensors").read_bytes()


HOLDS = """
import fcntl, sys, time
with open(sys.argv[1], "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs flock")
def test_a_second_training_in_a_folder_is_refused_until_the_first_is_gone(
    sounds: Path, pretrained: Path, tmp_path: Path
) -> None:
    """Whatever the first is; one that was killed leaves nothing that holds the next one up."""
    pretrain = ["pretrain", "--data", sounds, "--out", tmp_path, *SMALL, "--set", "epochs=1"]
    tune = ["tune", "--init", pretrained / "model.safetensors", "--data", sounds, "--out", tmp_path, *HEADS]
    finetune = [
        "finetune",
        "--model",
        "audiomae-tiny",
        "--task",
        sounds,
        "--training-dir",
        tmp_path,
        "--recipe",
        "tiny",
    ]
    holds = [sys.executable, "-c", HOLDS, str(tmp_path / ".lock")]
    with subprocess.Popen(holds, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        for second in (pretrain, tune, finetune):
            refused = run(*second, expect=4)
            line = f"uamix-bench: error: {tmp_path}: another process is at work in this folder; wait until it ends"
            assert refused.err.splitlines()[-1].startswith(line)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        first.kill()
    run(*pretrain)
    record = load_record(tmp_path / "training.json")
    assert isinstance(record, TrainingRecord)
    assert record.weights_sha256 == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.over_3s
def test_sigterm_saves_the_state_and_says_how_to_go_on(sounds: Path, pretrained: Path, tmp_path: Path) -> None:
    arguments = ["tune", "--init", f"audiomae={pretrained / 'model.safetensors'}", "--data", sounds, "--out", tmp_path]
    process = subprocess.Popen(command(*arguments, *HEADS, "--set", "epochs=500"), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "checkpoints").glob("*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "repeat the command to resume" in errors
    assert "Traceback" not in errors


def test_a_tuned_model_says_how_it_was_made_and_evaluates(sounds: Path, pretrained: Path, tmp_path: Path) -> None:
    parent = pretrained / "model.safetensors"
    run("tune", "--init", f"audiomae={parent}", "--data", sounds, "--out", tmp_path / "tuned", *HEADS)
    with safe_open(tmp_path / "tuned" / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["recipe"])["mix"] == "t-cutmix"
    assert metadata["train_seed"] == "0"
    assert len(json.loads(metadata["history"])) >= 2
    before, after = load_file(parent), load_file(tmp_path / "tuned" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name.split(".")[2] for name in before if "blocks" in name and not before[name].equal(after[name])}
    assert changed == {"1"}
    done = run(
        "fewshot",
        "--model",
        f"uamix={tmp_path / 'tuned'}",
        "--task",
        sounds,
        "--n",
        "2",
        "--q",
        "5",
        "--episodes",
        "20",
        "--json",
        "-o",
        tmp_path / "results",
    )
    identity = json.loads(done.out)["results"][0]["model"]
    assert identity["name"] == "tuned"
    assert identity["parent_sha256"] == metadata["parent_sha256"]
    assert identity["recipe_sha256"] == metadata["recipe_sha256"]
