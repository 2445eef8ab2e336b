"""Several processes that train as one: the same weights, the same errors, one voice."""

from __future__ import annotations

import copy
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import torch
import torch.distributed as dist
from torch import nn

from uamix_bench.models.vit import AudioViT
from uamix_bench.records.store import load_record
from uamix_bench.records.training_records import TrainingRecord
from uamix_bench.tuning import distributed
from uamix_bench.tuning.contrastive import HeadStage, Network, TuneStage
from uamix_bench.tuning.data import Frames
from uamix_bench.tuning.loop import Batch, Training
from uamix_bench.tuning.pretrain import Pretraining
from uamix_bench.tuning.recipe import PretrainRecipe, TuneRecipe
from uamix_bench.tuning.views import Spectrograms
from uamix_bench.util.errors import BenchError, MachineError, Stopped, UsageError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork") or not dist.is_gloo_available(), reason="needs fork and gloo")


class Ended(NamedTuple):
    """How a process ended, and what it said."""

    code: int
    said: str


def free_port() -> int:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return int(any_port.getsockname()[1])


def processes(count: int, work: Callable[[int], None], folder: Path) -> list[Ended]:
    """Runs `work(rank)` in forked processes that torchrun might have started; an error's line and code are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    port, children = free_port(), []
    for rank in range(count):
        child = os.fork()
        if child:
            children.append(child)
            continue
        code = 0
        try:
            torch.set_num_threads(1)
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
            os.environ.update({"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in place.items()}})
            with (folder / f"{rank}.txt").open("w", buffering=1) as said:
                try:
                    with distributed.joined("cpu"):
                        work(rank)
                except distributed.Told as told:
                    code = told.exit_code
                except BenchError as error:
                    said.write(f"{error}\n")
                    code = error.exit_code
                except BaseException:
                    traceback.print_exc(file=said)
                    code = 99
        finally:
            os._exit(code)
    codes = [os.waitpid(child, 0)[1] for child in children]
    said = [(folder / f"{rank}.txt").read_text() for rank in range(count)]
    return [Ended(os.waitstatus_to_exitcode(code), text) for code, text in zip(codes, said, strict=True)]


def double_network(encoder: AudioViT, recipe: TuneRecipe) -> Network:
    network = Network(copy.deepcopy(encoder), recipe).double()
    network.queue.float()
    return network


def train(
    encoder: AudioViT, recipe: TuneRecipe, frames: Frames, spectrograms: Spectrograms, folder: Path, **options: object
) -> Network:
    network = double_network(encoder, recipe)
    stages = [kind(network, recipe, frames, spectrograms) for kind in (HeadStage, TuneStage)]
    Training(recipe, stages, frames, folder, {}, **options).run()  # type: ignore[arg-type]
    return network


@pytest.fixture(scope="module")
def twenty_steps(tune_recipe: TuneRecipe) -> TuneRecipe:
    """20 recordings of two clips in batches of 8 are 4 or 5 steps an epoch."""
    return tune_recipe.model_copy(update={"head_epochs": 1, "epochs": 4, "clip_gradient": 1.0})


@pytest.fixture(scope="module")
def spectrograms(spectrograms: Spectrograms) -> Spectrograms:
    """In double precision.

    In single precision some weights go their own way: BatchNorm makes the loss indifferent to the final norm's bias, so
    that its gradient is nothing but rounding, which AdamW scales up to whole steps.
    """
    return replace(spectrograms, normalise=lambda x: (x.double() + 6) / 3)


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float = 1e-6) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name].float(), value.float(), rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize(
    ("mix", "partner", "micro_batch"),
    [("t-cutmix", "neighbour", None), ("tf-cutmix", "flip", None), ("mixup", "flip", 4), ("none", "neighbour", 4)],
)
def test_two_processes_are_one(
    mix: str,
    partner: str,
    micro_batch: int | None,
    encoder: AudioViT,
    twenty_steps: TuneRecipe,
    frames: Frames,
    spectrograms: Spectrograms,
    tmp_path: Path,
) -> None:
    recipe = twenty_steps.model_copy(update={"mix": mix, "partner": partner, "micro_batch": micro_batch})

    def work(rank: int) -> None:
        network = train(encoder, recipe, frames, spectrograms, tmp_path / "two")
        torch.save(network.state_dict(), tmp_path / f"{rank}.pt")

    ended = processes(2, work, tmp_path / "said")
    assert [process.code for process in ended] == [0, 0], ended
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    close(first, second, atol=0)
    alone = train(encoder, recipe, frames, spectrograms, tmp_path / "one")
    history = torch.load(max((tmp_path / "two").glob("*.pt")), weights_only=True)["history"]
    assert history[-1]["step"] >= 15
    close(alone.state_dict(), first)


def test_two_processes_pretrain_as_one(
    encoder: AudioViT, pretrain_recipe: PretrainRecipe, frames: Frames, spectrograms: Spectrograms, tmp_path: Path
) -> None:
    def work(rank: int) -> None:
        stage = Pretraining(copy.deepcopy(encoder), pretrain_recipe, frames, spectrograms)
        stage.module.double()
        Training(pretrain_recipe, [stage], frames, tmp_path / f"run{distributed.world()}", {}).run()
        torch.save(stage.module.state_dict(), tmp_path / f"{rank}.pt")

    assert [process.code for process in processes(2, work, tmp_path / "said")] == [0, 0]
    two = torch.load(tmp_path / "1.pt", weights_only=True)
    work(7)
    close(torch.load(tmp_path / "7.pt", weights_only=True), two)


def test_a_training_continues_with_another_number_of_processes(
    encoder: AudioViT, twenty_steps: TuneRecipe, frames: Frames, spectrograms: Spectrograms, tmp_path: Path
) -> None:
    whole = train(encoder, twenty_steps, frames, spectrograms, tmp_path / "whole")
    asked = iter(range(1, 99))

    def work(rank: int) -> None:
        stop = (lambda: next(asked) == 9) if rank == 1 else (lambda: False)  # one is asked, both stop
        train(encoder, twenty_steps, frames, spectrograms, tmp_path / "parts", stop=stop)

    ended = processes(2, work, tmp_path / "said")
    assert [process.code for process in ended] == [Stopped.exit_code] * 2
    (line,) = [process.said for process in ended if process.said]
    assert "repeat the command to resume" in line
    close(whole.state_dict(), train(encoder, twenty_steps, frames, spectrograms, tmp_path / "parts").state_dict())


def test_a_process_that_raises_is_named_once(
    encoder: AudioViT, twenty_steps: TuneRecipe, frames: Frames, spectrograms: Spectrograms, tmp_path: Path
) -> None:
    def work(rank: int) -> None:
        stage = TuneStage(double_network(encoder, twenty_steps), twenty_steps, frames, spectrograms)
        if rank == 1:
            plain = stage.inputs

            def fail(batch: Batch) -> object:
                if batch.step == 5:
                    raise ValueError("the drawer is stuck")
                return plain(batch)

            stage.inputs = fail  # type: ignore[method-assign]
        Training(twenty_steps, [stage], frames, tmp_path / "run", {}).run()

    ended = processes(2, work, tmp_path / "said")
    assert [process.code for process in ended] == [MachineError.exit_code] * 2
    assert ended[0].said == ""
    assert ended[1].said.startswith("rank 1: ValueError: the drawer is stuck; repeat the command to resume")
    assert sorted((tmp_path / "run").glob("*.pt"))


def test_a_process_that_is_killed_is_named(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        distributed.barrier()

    ended = processes(2, work, tmp_path)
    assert [process.code for process in ended] == [MachineError.exit_code, -signal.SIGKILL]
    assert re.match(r"rank 1: is gone \(process \d+ on .* was killed or crashed\); repeat the command", ended[0].said)


def test_the_launcher_s_sigterm_does_not_hush_who_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun sends it to the others a tenth of a second after it has found a dead process."""
    find_gone = distributed._find_gone

    def terminated(peers: list[tuple[str, int]]) -> int | None:
        os.kill(os.getpid(), signal.SIGTERM)
        return find_gone(peers)

    monkeypatch.setattr(distributed, "_find_gone", terminated)

    def work(rank: int) -> None:
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        distributed.barrier()

    ended = processes(2, work, tmp_path)
    assert ended[0].code == MachineError.exit_code
    assert re.match(r"rank 1: is gone \(process \d+ on ", ended[0].said)


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE: is abc, where torchrun sets a number; start several processes"),
        ({"WORLD_SIZE": "2"}, r"RANK: is not set, where torchrun sets a number \(WORLD_SIZE 2\); start several"),
    ],
)
def test_an_environment_that_is_half_torchrun_s_is_named(
    environment: dict[str, str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=line), distributed.joined():
        raise AssertionError


def test_a_process_that_hangs_ends_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_PATIENCE", timedelta(seconds=2))
    monkeypatch.setattr(distributed, "_REAPED_S", 0.2)

    def work(rank: int) -> None:
        if rank == 1:
            time.sleep(8)
            os._exit(0)
        distributed.barrier()

    began = time.monotonic()
    ended = processes(2, work, tmp_path)
    assert time.monotonic() - began < 60
    assert ended[0].code == MachineError.exit_code
    assert re.match(r"rank 0: lost another process \(.*[Tt]ime.*\); repeat the command", ended[0].said), ended[0].said


def test_processes_that_stood_still_together_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-Z or `docker pause` for longer than the patience, while one waits for the other."""
    monkeypatch.setattr(distributed, "_PATIENCE", timedelta(seconds=3))
    monkeypatch.setattr(distributed, "_POLL", timedelta(seconds=0.1))

    def stand_still() -> None:
        while len(pids := [path.read_text() for path in tmp_path.glob("*.pid")]) < 2 or not all(pids):
            time.sleep(0.05)
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in pids:
                os.kill(int(pid), number)
            if number == signal.SIGSTOP:
                time.sleep(4)

    def work(rank: int) -> None:
        distributed.barrier()
        (tmp_path / f"{rank}.pid").write_text(str(os.getpid()))
        if rank == 1:
            began = time.thread_time()
            while time.thread_time() < began + 0.3:
                pass
        distributed.barrier()

    thread = threading.Thread(target=stand_still)
    thread.start()
    ended = processes(2, work, tmp_path / "said")
    thread.join()
    assert [process.code for process in ended] == [0, 0], ended


def test_processes_that_disagree_do_not_begin(tmp_path: Path) -> None:
    ended = processes(2, lambda rank: distributed.agree({"package": f"0.{rank}"}), tmp_path)
    assert [process.code for process in ended] == [MachineError.exit_code] * 2
    (line,) = [process.said for process in ended if process.said]
    assert "rank 1: has another package than rank 0 (0.1, not 0.0)" in line


def test_one_process_of_a_machine_goes_first(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        with distributed.leader_first():
            if rank == 0:
                time.sleep(0.5)
                (tmp_path / "made").touch()
            assert (tmp_path / "made").exists()

    assert [process.code for process in processes(2, work, tmp_path / "said")] == [0, 0]


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_over_processes_is_batch_norm_over_all_rows(training: bool, tmp_path: Path) -> None:
    rows = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)) * 3 + 100
    weight = torch.randn(5, generator=torch.Generator().manual_seed(1))

    def outcome(norm: nn.BatchNorm1d, own: torch.Tensor) -> tuple[torch.Tensor, ...]:
        own = own.clone().requires_grad_()
        norm.train(training)
        norm.weight.data.copy_(weight)
        out = norm(own)
        out.square().mul(torch.arange(5.0)).sum().backward()
        return out.detach(), own.grad, norm.running_mean, norm.running_var  # type: ignore[return-value]

    def work(rank: int) -> None:
        torch.save(outcome(distributed.BatchNorm(5), rows[6 * rank :][:6]), tmp_path / f"{rank}.pt")

    assert [process.code for process in processes(2, work, tmp_path / "said")] == [0, 0]
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    expected = outcome(nn.BatchNorm1d(5), rows)  # torch's own
    for index in (0, 1):
        torch.testing.assert_close(torch.cat([one[index], two[index]]), expected[index], rtol=1e-4, atol=1e-4)
    for index in (2, 3):
        torch.testing.assert_close(one[index], expected[index])
        torch.testing.assert_close(two[index], expected[index])


def test_odd_shares_are_refused(tmp_path: Path) -> None:
    ended = processes(2, lambda _: distributed.shares(np.arange(6), None) and None, tmp_path)
    assert {process.code for process in ended} == {2}
    assert "no even share for 2" in "".join(process.said for process in ended)


SETTINGS = (
    "batch=8 queue=16 projector=[16,16,8] predictor=16 frames=[32,48] head_epochs=1 epochs=8 top_k=3 checkpoint_every=2"
).split()


def test_torchrun_restarts_after_a_worker_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line under torchrun: a kill -9, one line that names the rank, and --max-restarts goes on."""
    monkeypatch.setenv("UAMIX_BENCH_HOME", str(tmp_path / "home"))
    rng = np.random.default_rng(0)
    (tmp_path / "sounds").mkdir()
    for number in range(32):
        samples = rng.normal(0, 0.1, 6_000 + 300 * number).astype(np.float32)
        soundfile.write(tmp_path / "sounds" / f"{number}.wav", samples, 16_000)
    changes = [part for setting in SETTINGS for part in ("--set", setting)]
    command = ["-m", "uamix_bench", "tune", "--device", "cpu", "--data", str(tmp_path / "sounds"), *changes, "--out"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    port = ["--master-port", str(free_port())]
    with subprocess.Popen(
        [*launcher, *port, *command, str(tmp_path / "two")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as job:
        deadline = time.monotonic() + 240
        while not list((tmp_path / "two" / "checkpoints").glob("1-*.pt")) and time.monotonic() < deadline:
            time.sleep(0.02)
        workers = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        victim = next(pid for pid in workers if b"RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
        os.kill(int(victim), signal.SIGKILL)
        out, errors = job.communicate(timeout=240)
    assert job.returncode == 0, errors
    assert out.strip() == str(tmp_path / "two" / "model.safetensors")
    lines = [line for line in errors.splitlines() if line.startswith("uamix-bench: error: ")]
    assert len(lines) == 1, errors
    assert re.search(rf"error: rank 1: is gone \(process {victim} on .* was killed or crashed\)", lines[0])
    assert errors.count("continuing from stage 2: tuning, step") == 1
    record = load_record(tmp_path / "two" / "training.json")
    assert isinstance(record, TrainingRecord)
    assert record.history[-1]["stage"] == 1
    assert record.history[-1]["step"] == 8 * 4 - 1
