"""Work in threads: in order, some ahead, and what hangs is named, given up, and holds nothing up."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from uamix_bench.util import threads
from uamix_bench.util.threads import Watch, in_threads


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("SLOW_S", 0.1), ("PATIENCE_S", 0.4), ("_PARTING_S", 0.2)):
        monkeypatch.setattr(threads, name, seconds)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What hangs waits for this, so that no thread outlives its test."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize(
    ("limits", "granted"),
    [
        ({}, 6),
        ({"cpu.max": "max 100000"}, 6),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "900000 100000"}, 6),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 6),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
    ],
)
def test_cores_are_those_of_the_affinity_and_the_quota(
    limits: dict[str, str], granted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six of eight cores by affinity, and what the files of a cgroup say, as the kernel writes them."""
    for name, text in limits.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(threads, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert threads.cores() == granted


def test_cores_are_joblib_s() -> None:
    assert threads.cores() == pytest.importorskip("joblib").cpu_count()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_the_command_gives_openmp_no_more_threads_than_cores() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from uamix_bench.cli import main; "
        "main(['--version']); print(os.environ.get('OMP_THREAD_LIMIT'))"
    )
    free = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    for more, limit in (({}, "1"), ({"OMP_THREAD_LIMIT": "7"}, "7"), ({"OMP_NUM_THREADS": "3"}, "None")):
        done = subprocess.run([sys.executable, "-c", code], env={**free, **more}, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == limit, done.stderr


def ignored(item: object) -> None:
    raise AssertionError(f"{item} was slow")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-3, 9), max_size=30), st.integers(1, 4), st.integers(1, 40))
def test_outcomes_come_in_order_and_so_do_errors(items: list[int], threads: int, ahead: int) -> None:
    def work(item: int) -> int:
        if item < 0:
            raise KeyError(item)
        return item * item

    found: list[int] = []
    good = list(itertools.takewhile(lambda item: item >= 0, items))
    with pytest.raises(KeyError, match=str(items[len(good)])) if len(good) < len(items) else nullcontext():
        for outcome in in_threads(work, items, threads=threads, ahead=ahead, slow=ignored):
            found.append(outcome)
    assert found == [item * item for item in good]


def test_no_more_is_begun_than_is_asked_for_and_no_thread_is_left() -> None:
    begun: list[int] = []
    before = threading.active_count()
    outcomes = in_threads(lambda item: begun.append(item), range(1_000), threads=2, ahead=5, slow=ignored)
    for _ in range(10):
        next(outcomes)
    assert len(begun) <= 10 + 5
    outcomes.close()
    assert len(begun) <= 10 + 6
    assert threading.active_count() == before


@pytest.mark.usefixtures("impatient")
def test_what_hangs_is_named_and_the_others_are_done(release: threading.Event) -> None:
    """More of it hangs than there are threads."""
    hangs, named = {1, 2, 3, 4, 7}, []

    def work(item: int) -> str:
        if item in hangs:
            release.wait()
        return f"{item} done"

    began = time.monotonic()
    outcomes = list(
        in_threads(work, range(9), threads=2, ahead=4, slow=named.append, hung=lambda item: f"{item} given up")
    )
    assert outcomes == [f"{item} {'given up' if item in hangs else 'done'}" for item in range(9)]
    assert set(named) <= {*hangs, 5, 8}  # those behind them wait with them
    assert 1 in named
    assert time.monotonic() - began < 30


@pytest.mark.usefixtures("impatient")
def test_what_is_only_slow_is_awaited(release: threading.Event) -> None:
    threading.Timer(1.0, release.set).start()  # longer than the patience, which none was asked for
    named: list[int] = []
    outcomes = in_threads(lambda item: release.wait() and item, [1, 2], threads=2, ahead=2, slow=named.append)
    assert list(outcomes) == [1, 2]
    assert named == [1]


def test_a_program_with_a_thread_that_hangs_ends() -> None:
    code = (
        "import time\nfrom uamix_bench.util import threads\nthreads._PARTING_S = 0.1\n"
        "work = threads.in_threads(time.sleep, [0, 1_000], threads=2, ahead=1, slow=print)\n"
        "next(work)\nraise KeyboardInterrupt"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "KeyboardInterrupt" in done.stderr


def test_a_watch_goes_only_while_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch, looks = Watch(step_s=1.0), []
    for passed in (0.25, 1.0, 1.5, 3_600.0, 1.0):
        now[0] += passed
        looks.append(watch.look())
    assert looks == [0.25, 1.25, 2.75, 4.75, 5.75]


STOPPED = """
import time
from uamix_bench.util import threads
threads.SLOW_S, threads.PATIENCE_S = 0.2, 1.5

def work(item):
    print("begun", flush=True)
    while time.thread_time() < 0.1 * (item + 1):
        pass
    return "done"

print(*threads.in_threads(work, [0, 1, 2], threads=1, ahead=3, slow=lambda item: None, hung=lambda item: "hung"))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_time_in_which_the_process_stood_still_blames_nothing() -> None:
    """Stopped for longer than the patience, with work in a thread: Ctrl-Z, `docker pause`, `scontrol suspend`."""
    with subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(2)
        os.kill(process.pid, signal.SIGCONT)
        said, _ = process.communicate(timeout=60)
    assert said.splitlines()[-1] == "done done done"
