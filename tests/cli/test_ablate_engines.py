"""An ablation by the workers of an engine is the local one, whoever dies meanwhile; workers that differ are refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from uamix_bench.engines.engine import find_engine, never
from uamix_bench.engines.local import Local
from uamix_bench.records import provenance
from uamix_bench.studies.ablation import Ablation, plan
from uamix_bench.tuning import on_engine
from uamix_bench.tuning.fields import changed
from uamix_bench.tuning.on_engine import Errand
from uamix_bench.tuning.recipe import TUNE
from uamix_bench.tuning.sounds import find_data, shareable
from uamix_bench.util import files
from uamix_bench.util.errors import MachineError
from uamix_bench.util.progress import SILENT, Progress
from uamix_bench.util.threads import computing_with

from ..conftest import Nodes
from .conftest import TUNING, Bench, weights


def record(folder: Path) -> Any:
    """The record of an ablation without times and provenance, with the ids of all that is in it."""

    def without(document: Any) -> Any:
        if isinstance(document, dict):
            return {key: without(value) for key, value in document.items() if key not in ("cost", "provenance")}
        return list(map(without, document)) if isinstance(document, list) else document

    return without(json.loads((folder / "ablation.json").read_bytes()))


@pytest.mark.over_3s
def test_ray_with_a_node_killed_in_the_middle_of_an_arm(
    bench: Bench,
    bench_home: Path,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ray_nodes: Nodes,
) -> None:
    # Workers import this: the second node hangs in the middle of its arm, and the other waits until it does.
    code = """
    from contextlib import contextmanager
    import second_node
    from uamix_bench.util.progress import Progress
    from uamix_bench.tuning.on_engine import carry_out_errand

    class Hanging(Progress):
        @contextmanager
        def bar(self, what, total, unit="clips"):
            steps = []
            def advance(count, note=""):
                steps.extend([what] * count)
                if what == "stage 2: tuning" and 2 * len(steps) > total:
                    second_node.hang()
            yield advance

    def slowly(errand, progress, stop):
        if errand.job.head is None:
            return carry_out_errand(errand, progress, stop)
        if second_node.here():
            return carry_out_errand(errand, Hanging(), stop)
        second_node.wait()
        return carry_out_errand(errand, progress, stop)
    """
    arguments += ["--mix", "mixup", "--set", "checkpoint_every=1"]
    with computing_with(1):
        local = bench(*arguments, "--jobs", "1")
    wanted, kept = record(tmp_path / "report"), weights(bench_home)

    def kill() -> None:
        while not ray_nodes.hangs.exists():
            time.sleep(0.05)
        ray_nodes.kill()

    monkeypatch.setenv("UAMIX_BENCH_HOME", str(tmp_path / "another"))
    monkeypatch.setattr(on_engine, "carry_out_errand", ray_nodes.write("ablate_test_jobs", code).slowly)
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    done = bench(*arguments, "--engine", "ray", "--engine-address", ray_nodes.address)
    killer.join(10)
    assert (done.code, done.out) == (0, local.out), done.err
    assert record(tmp_path / "report") == wanted
    assert weights(tmp_path / "another") == kept
    told = done.err.splitlines()
    assert sum("its worker was lost (" in line for line in told) == 1
    assert sorted(line for line in told if line.endswith("is tuned")) == [
        "mixup is tuned",
        "stage 1, seed 0 is tuned",
        "t-cutmix is tuned",
    ]

    # one of the two went on where the killed worker was; both say what the user typed, and nothing of the worker
    trained = [arm["training"] for arm in json.loads((tmp_path / "report" / "ablation.json").read_bytes())["arms"]]
    clips = {training["cost"][-1]["clips"] for training in trained}
    assert len(clips) == 2
    assert min(clips) < max(clips) == 2 * 32
    assert {training["provenance"]["command"] for training in trained} == {provenance.command(sys.argv)}


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_slurm_goes_on_after_its_driver_was_killed(
    bench: Bench, bench_home: Path, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its jobs outlive it: the same command waits for one that is at work, and trains nothing again."""
    pytest.importorskip("submitit", reason="submitit is not installed (the extra [slurm])")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments += ["--mix", "t-cutmix", "--set", "checkpoint_every=1", "--set", "head_epochs=0"]
    engine = ("--engine", "slurm", "--engine-address", "local")
    driver = subprocess.Popen([sys.executable, "-m", "uamix_bench", *arguments, *engine], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(bench_home.glob("training/*/checkpoints/*.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    driver.kill()
    driver.wait()

    done = bench(*arguments, *engine)
    assert done.code == 0, done.err
    document = json.loads((tmp_path / "report" / "ablation.json").read_bytes())
    assert document["arms"][0]["training"]["cost"][-1]["clips"] == 2 * 32  # all of it in one process
    trained = record(tmp_path / "report"), weights(bench_home)
    monkeypatch.setenv("UAMIX_BENCH_HOME", str(tmp_path / "another"))
    with computing_with(1):
        assert bench(*arguments, "--jobs", "1").code == 0
    assert (record(tmp_path / "report"), weights(tmp_path / "another")) == trained


class Processor(Local):
    """The local engine with the threads of a cluster's job."""

    def threads(self, jobs: int) -> int:
        return 1


class Apart(Processor):
    """The local engine as one whose workers are elsewhere."""

    elsewhere = True


@pytest.fixture
def ablation(encoder: Path, sounds: Path, bench_home: Path) -> Ablation:
    """The reference and an arm that differs in its learning rate, without a stage 1."""
    base = changed(TUNE["tiny"], {**TUNING, "head_epochs": 0, "data": str(sounds)})
    arms = plan(shareable(base, find_data(str(sounds))), vary={"lr": [1e30]})
    return Ablation(arms, f"audiomae={encoder}", str(sounds), engine=Apart("cpu"))


@pytest.mark.over_3s
def test_slurm_trains_what_is_trained_here(
    ablation: Ablation, bench_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed (the extra [slurm])")
    reference = replace(ablation, arms=ablation.arms[:1])
    with find_engine("slurm", "local", "cpu") as engine:
        assert replace(reference, engine=engine).tune() == {}
    monkeypatch.setenv("UAMIX_BENCH_HOME", str(tmp_path / "another"))
    replace(reference, engine=Processor("cpu")).tune()
    assert len(weights(bench_home)) == 1
    assert weights(tmp_path / "another") == weights(bench_home)


class Changing(Apart):
    """Changes jobs on their way to the workers."""

    def __init__(self, change: Callable[[Errand], Errand]) -> None:
        super().__init__("cpu")
        self.change = change

    def map(self, function: Any, jobs: Sequence[Any], progress: Progress = SILENT, stop: Any = never) -> Any:
        return super().map(function, list(map(self.change, jobs)), progress, stop)


def older(errand: Errand, _: Path) -> Errand:
    return errand._replace(versions=tuple((name, "0.0.1" if name == "timm" else v) for name, v in errand.versions))


def no_disk_in_common(errand: Errand, folder: Path) -> Errand:
    return errand._replace(sign=folder / "training" / errand.sign.name)


def no_weights(errand: Errand, folder: Path) -> Errand:
    return errand._replace(job=errand.job._replace(init=f"audiomae={folder / 'missing.pth'}"))


def other_weights(errand: Errand, _: Path) -> Errand:
    return errand._replace(basis=dict.fromkeys(errand.basis, "0123456789abcdef"))


def other_sound(errand: Errand, folder: Path) -> Errand:
    shutil.copytree(errand.job.data, folder / "tones", dirs_exist_ok=True)
    soundfile.write(folder / "tones" / "low" / "3.wav", np.zeros(4_000), 16_000)
    return errand._replace(job=errand.job._replace(data=str(folder / "tones")))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (older, r"the worker on \S+: has another timm than the caller's \(here [\d.]+\S*, there 0\.0\.1\)"),
        (
            no_disk_in_common,
            r"does not see what the caller writes to \S+/training; put UAMIX_BENCH_HOME on a disk",
        ),
        (no_weights, r"missing\.pth on \S+: no such file"),
        (other_weights, r"has another digest of \S+model\.safetensors than the caller's \(here [0-9a-f]{16}, there 01"),
        (other_sound, r"has another digest of the sounds of local/tones than the caller's \(here [0-9a-f]{16}, there "),
    ],
)
def test_a_worker_that_differs_is_refused(
    change: Callable[[Errand, Path], Errand], words: str, ablation: Ablation, tmp_path: Path
) -> None:
    with pytest.raises(MachineError, match=words) as caught:
        replace(ablation, engine=Changing(lambda errand: change(errand, tmp_path))).tune(keep_going=True)
    assert caught.value.exit_code == 4


def test_an_arm_that_fails_is_set_aside_only_where_that_is_asked(ablation: Ablation, bench_home: Path) -> None:
    with pytest.raises(MachineError, match="the loss is"):
        ablation.tune()
    failed = ablation.tune(keep_going=True)
    assert list(failed) == [ablation.job(ablation.arms[1]).folder]
    assert weights(bench_home).keys() == {ablation.job(ablation.arms[0]).folder.name}
    assert not list((bench_home / "training").glob(".*"))


def test_what_was_finished_before_a_driver_ended_is_not_trained_again(ablation: Ablation, bench_home: Path) -> None:
    def ended(errand: Errand) -> Errand:
        return errand._replace(sign=Path("gone")) if errand.job.recipe.learning_rate > 1 else errand

    with pytest.raises(MachineError, match="does not see"):
        replace(ablation, engine=Changing(ended)).tune()
    (made,) = weights(bench_home)
    times = [path.stat().st_mtime_ns for path in sorted((bench_home / "training" / made).iterdir())]
    ablation.tune(keep_going=True)
    assert [path.stat().st_mtime_ns for path in sorted((bench_home / "training" / made).iterdir())] == times


def test_one_who_comes_second_waits_and_trains_nothing(ablation: Ablation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_WAITING_S", 0.1)
    reference = replace(ablation, arms=ablation.arms[:1])
    job = reference.job(reference.arms[0])
    waits = f"waiting for another process that holds {job.folder / 'lock'}"
    started, lines = threading.Event(), []

    class Slow(Progress):
        """Does no step before the other one has said twice that it waits."""

        @contextmanager
        def bar(self, what: str, total: int, unit: str = "clips") -> Iterator[Callable[[int, str], None]]:
            if unit == "steps":
                started.set()
                while lines.count(waits) < 2 and second.is_alive():
                    time.sleep(0.02)
            with super().bar(what, total, unit) as advance:
                yield advance

    class Patient(Progress):
        def say(self, line: str) -> None:
            lines.append(line)

    class Watched(Apart):
        def map(self, function: Any, jobs: Sequence[Any], progress: Progress = SILENT, stop: Any = never) -> Any:
            for index, job in enumerate(jobs):
                yield index, function(job, progress, stop)

    reference = replace(reference, engine=Watched("cpu"))

    def come() -> None:
        started.wait(60)
        reference.tune(progress=Patient())

    second = threading.Thread(target=come, daemon=True)
    second.start()
    reference.tune(progress=Slow())
    second.join(60)
    assert lines.count(waits) >= 2
    assert lines[-1] == f"{job.label} is tuned"
    assert not [line for line in lines if line.startswith("recipe")]


def test_what_a_worker_finished_and_nobody_sees_is_an_error(
    ablation: Ablation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_engine, "_LATE_S", 0.1)

    def astray(errand: Errand) -> Errand:
        return errand._replace(job=errand.job._replace(folder=tmp_path / "astray"))

    with pytest.raises(MachineError, match="a worker finished it, and it is not here; put UAMIX_BENCH_HOME on a disk"):
        replace(ablation, engine=Changing(astray)).tune()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--engine", "ray", "--jobs", "2"], "--jobs 2: the cluster of --engine ray decides how many run"),
        (["--engine", "rey"], "'rey' is not one of"),
        (["--engine-address", "127.0.0.1:1"], "of no use to the local engine"),
    ],
)
def test_mistakes_are_one_line(bench: Bench, arguments: list[str], more: list[str], words: str) -> None:
    done = bench(*arguments, *more, "--quiet")
    assert done.code == 2
    assert words in done.error


def test_a_dry_run_asks_no_cluster_and_guesses_no_time(bench: Bench, bench_home: Path, arguments: list[str]) -> None:
    done = bench(*arguments, "--engine", "ray", "--engine-address", "127.0.0.1:1", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert "2 arms: 2 of them to tune on a cluster" in done.err
    assert [(item["seconds"], item["steps_left"]) for item in done.envelope["items"]] == [
        (None, 4),
        (None, 8),
        (None, 8),
    ]
    assert done.envelope["forecast"]["seconds"] is None
    assert not bench_home.exists()
