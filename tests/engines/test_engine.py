"""Engines: each job's outcome once, in any order, whatever workers are lost; what cannot be done says why."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings, strategies as st

from uamix_bench.engines import cluster, local
from uamix_bench.engines.cluster import _work
from uamix_bench.engines.engine import Stop, find_engine
from uamix_bench.engines.local import Local
from uamix_bench.engines.sender import Lost, Sender
from uamix_bench.util.errors import BadInputError, MachineError, Stopped, UsageError
from uamix_bench.util.progress import Progress


class Number(NamedTuple):
    value: int

    @property
    def label(self) -> str:
        return f"number {self.value}"


def square(job: Number, _: Progress, __: Stop) -> int:
    if job.value < 0:
        raise BadInputError(job.label, "has no root")
    return job.value**2


class Said(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


class Unreliable(Sender):
    """A cluster within this process, which loses workers and finishes bundles as it is told."""

    def __init__(self, losses: dict[int, int], order: Callable[[int], int], each: int = 1) -> None:
        self.losses, self.order, self.each = losses, order, each
        self.bundles: list[tuple[Callable[..., Any], Sequence[Any]]] = []
        self.cancelled: list[int] = []

    def _bundles(self, jobs: int) -> Any:
        return (range(start, min(start + self.each, jobs)) for start in range(0, jobs, self.each))

    def _submit(self, function: Callable[..., Any], bundles: Sequence[Sequence[Any]]) -> list[int]:
        self.bundles += [(function, bundle) for bundle in bundles]
        return list(range(len(self.bundles) - len(bundles), len(self.bundles)))

    def _wait(self, handles: list[int]) -> list[int]:
        return [handles[self.order(len(handles))]]

    def _outcomes(self, handle: int) -> list[Any]:
        function, bundle = self.bundles[handle]
        if self.losses.get(bundle[0].value, 0) > 0:
            self.losses[bundle[0].value] -= 1
            raise Lost("power cut")
        return _work(function, bundle)

    def _stop(self) -> None:
        raise Stopped("the cluster", "stopped")

    def _cancel(self, handles: list[int]) -> None:
        self.cancelled += handles


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 40),
    st.integers(1, 7),
    st.dictionaries(st.integers(0, 39), st.integers(1, 2)),
    st.randoms(use_true_random=False),
)
def test_each_outcome_comes_once_whatever_is_lost(jobs: int, each: int, losses: dict[int, int], random: Any) -> None:
    cluster = Unreliable(dict(losses), random.randrange, each)
    found = list(cluster.map(square, [Number(value) for value in range(jobs)]))
    assert sorted(found) == [(value, value**2) for value in range(jobs)]
    assert cluster.cancelled == []
    assert len(cluster.bundles) == -(-jobs // each) + sum(losses.get(start, 0) for start in range(0, jobs, each))


def test_the_local_engine_goes_in_order() -> None:
    with find_engine("local", jobs=1) as engine:
        assert list(engine.map(square, [Number(3), Number(1)])) == [(0, 9), (1, 1)]


def test_a_job_that_keeps_losing_its_workers_ends_the_run() -> None:
    cluster, said = Unreliable({2: 3}, lambda _: 0), Said()
    found = []
    with pytest.raises(MachineError, match=r"number 2: its worker was lost 3 times \(power cut\); see") as caught:
        found += cluster.map(square, [Number(value) for value in range(4)], said)
    assert caught.value.exit_code == 4
    assert said.lines == ["number 2: its worker was lost (power cut); another one does it"]


@pytest.mark.parametrize("engine", [Local(), Unreliable({}, lambda _: 0, each=3)], ids=["local", "cluster"])
def test_what_was_done_before_a_failure_is_there(engine: Any) -> None:
    found = []
    with pytest.raises(BadInputError, match="number -1: has no root"):
        found.extend(engine.map(square, [Number(value) for value in (4, 5, -1, 6)]))
    assert found == [(0, 16), (1, 25)]


def test_leaving_early_cancels_what_runs() -> None:
    cluster = Unreliable({}, lambda _: 0)
    with closing(cluster.map(square, [Number(value) for value in range(5)])) as found:
        next(found)
    assert cluster.cancelled == [1, 2, 3, 4]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sender, "most", 4)
    most = []

    def last(running: int) -> int:
        most.append(running)
        return running - 1

    assert len(list(Unreliable({}, last).map(square, [Number(value) for value in range(30)]))) == 30
    assert max(most) == 4


def test_a_worker_that_tells_nothing_ends_itself() -> None:
    code = """
    import time
    from uamix_bench.engines import cluster
    cluster._HANGS_S = 0.6
    with cluster._watched() as progress, progress.bar("", 9) as advance:
        for _ in range(9):
            time.sleep(0.2)
            advance(1, "")
        print("alive", flush=True)
        time.sleep(60)
    """
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (75, "alive\n", "")
    assert time.monotonic() - started < 30


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_worker_that_stood_still_is_not_lost() -> None:
    code = """
    import time
    from uamix_bench.engines import cluster
    cluster._HANGS_S = 1.0
    with cluster._watched() as progress:
        progress.say("begun")
        print("begun", flush=True)
        while time.thread_time() < 0.2:
            pass
    print("done")
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "begun\n"
        os.kill(worker.pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(worker.pid, signal.SIGCONT)
        assert worker.communicate(timeout=60)[0] == "done\n"
    assert worker.returncode == 0


@pytest.mark.parametrize(("name", "module", "extra"), [("ray", "ray", "ray"), ("slurm", "submitit", "slurm")])
def test_a_missing_extra_is_named(name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"not installed; pip install 'uamix-bench\[{extra}\]'"):
        find_engine(name).connect()


def test_wrong_names_and_addresses(bench_home: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'slurm'"):
        find_engine("slrum")
    with pytest.raises(UsageError, match="of no use to the local engine"):
        find_engine("local", "127.0.0.1:6379")


def test_no_ray_cluster_is_said_at_once() -> None:
    pytest.importorskip("ray", reason="ray is not installed (the extra [ray])")
    with pytest.raises(UsageError, match="give HOST:PORT"):
        find_engine("ray", "nonsense").connect()
    started = time.monotonic()
    with pytest.raises(MachineError, match=r"no Ray cluster at 127\.0\.0\.1:1 .*; start one with 'ray start --head'"):
        find_engine("ray", "127.0.0.1:1").connect()
    assert time.monotonic() - started < 60


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that worker processes can import too."""
    code = """
    import os
    import sys
    import time
    from pathlib import Path
    from typing import NamedTuple
    from uamix_bench.util.errors import BadInputError, Stopped

    class Job(NamedTuple):
        label: str
        marker: str
        value: int

    def square(job, progress, stop):
        return job.value ** 2

    def once_killed(job, progress, stop):
        if job.value == 1 and not os.path.exists(job.marker):
            Path(job.marker).touch()
            os.kill(os.getpid(), 9)
        return job.value ** 2

    def killed(job, progress, stop):
        os.kill(os.getpid(), 9)

    def told(job, progress, stop):
        with progress.bar("a bar", 3) as advance:
            progress.say("a line")
            advance(3, "done")

    def broken(job, progress, stop):
        raise ValueError(job.label)

    def stopped(job, progress, stop):
        Path(job.marker + job.label).touch()
        while not stop():
            time.sleep(0.01)
        Path(job.marker + job.label).write_text("saved")
        raise Stopped(job.label, "stopped")

    def refused(job, progress, stop):
        raise BadInputError(job.label, "is no good", "take another")

    def cut_off_once(job, progress, stop):
        if not os.path.exists(job.marker):
            Path(job.marker).touch()
            from submitit.core.utils import UncompletedJobError
            raise UncompletedJobError("Job not requeued because: timed-out and not checkpointable.")
        return sys.argv
    """
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "engine_test_jobs.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    sys.modules.pop("engine_test_jobs", None)
    import engine_test_jobs  # type: ignore[import-not-found]

    return engine_test_jobs


class Shown(Said):
    """Keeps what bars show, too."""

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "clips") -> Iterator[Callable[[int, str], None]]:
        yield lambda count, note="": self.lines.append(f"{what} {count}/{total} {note}")
        self.lines.append(f"{what} ends")


@pytest.fixture
def work(jobs: Any, tmp_path: Path) -> list[Any]:
    return [jobs.Job(f"job {value}", str(tmp_path / "marker"), value) for value in range(3)]


def test_several_jobs_at_once_are_processes_of_this_machine(jobs: Any, work: list[Any]) -> None:
    engine, said = Local(workers=2), Shown()
    assert sorted(engine.map(jobs.once_killed, work, said)) == [(0, 0), (1, 1), (2, 4)]
    assert said.lines == ["job 1: its worker was lost (killed by signal 9); another one does it"]
    assert sorted(engine.map(jobs.told, work[:2], said)) == [(0, None), (1, None)]
    assert [line for line in said.lines if "job 0" in line] == [
        "job 0: a line",
        "job 0: a bar 3/3 done",
        "job 0: a bar ends",
    ]
    with pytest.raises(BadInputError, match=r"job \d: is no good; take another"):
        list(engine.map(jobs.refused, work))
    with pytest.raises(MachineError, match=r"the process of job \d: ended with exit code 1"):
        list(engine.map(jobs.broken, work))


def test_jobs_that_are_asked_to_stop_save_their_state(jobs: Any, work: list[Any], tmp_path: Path) -> None:
    begun = [tmp_path / "markerjob 0", tmp_path / "markerjob 1"]
    with pytest.raises(Stopped):
        list(Local(workers=2).map(jobs.stopped, work, stop=lambda: all(path.exists() for path in begun)))
    assert [path.read_text() for path in begun] == ["saved", "saved"]
    assert not (tmp_path / "markerjob 2").exists()


def test_the_cores_are_shared_by_the_jobs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(local, "cores", lambda: 8)
    two = Local("cpu", None)
    assert [two.at_once(jobs) for jobs in (0, 1, 5)] == [1, 1, 2]
    assert [two.threads(jobs) for jobs in (1, 5)] == [None, 4]
    assert Local("cuda", None).at_once(5) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert two.threads(5) is None


@pytest.mark.over_3s
def test_slurm_as_processes(
    jobs: Any, work: list[Any], tmp_path: Path, bench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = pytest.importorskip("submitit.core.core", reason="submitit is not installed (the extra [slurm])")
    monkeypatch.setattr(core.Job, "_results_timeout_s", 1)  # how long it waits for a late network file system
    monkeypatch.setattr(cluster, "_ARRAY", 2)
    said = Said()
    with find_engine("slurm", "local") as engine:
        assert sorted(engine.map(jobs.once_killed, work, said)) == [(0, 0), (1, 1), (2, 4)]
        assert len(said.lines) == 1
        assert "job 0 and 1 more: its worker was lost (job " in said.lines[0]
        with pytest.raises(BadInputError, match="job 0: is no good; take another"):
            list(engine.map(jobs.refused, work[:1]))
        cut = work[0]._replace(marker=str(tmp_path / "cut"))
        assert list(engine.map(jobs.cut_off_once, [cut], said)) == [(0, sys.argv)]
        assert re.fullmatch(r"job 0: its worker was lost \(job \d+: SLURM gave it no more time\); .*", said.lines[1])
    assert list((bench_home / "engine").iterdir()) == []


def test_without_slurm_the_line_says_so(bench_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed (the extra [slurm])")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MachineError, match="there is no SLURM here"):
        find_engine("slurm").connect()
    with pytest.raises(UsageError, match="SBATCH_PARTITION"):
        find_engine("slurm", "10.0.0.1:6379").connect()
    assert list((bench_home / "engine").iterdir()) == []
