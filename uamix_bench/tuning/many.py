"""Several trainings, one after the other here or at once in processes of their own; each is kept and may continue."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from uamix_bench import files
from uamix_bench.errors import BenchError, MachineError, Stopped
from uamix_bench.progress import SILENT, Progress
from uamix_bench.tuning.recipe import TuneRecipe

COST = "cost.json"  # beside the weights: how long what took, for the next estimate
_POLL_S = 0.3


class Job(NamedTuple):
    """A tuning to carry out.

    Attributes:
        label: What progress calls it.
        recipe: The hyper-parameters.
        init: The pretrained model, as `load_model` takes it.
        data: The sounds, as `find_data` takes them, with the two folders that it takes.
        data_dir: See `data`.
        audio_root: See `data`.
        folder: Where it is kept.
        head: Where its stage 1 is kept; None within `folder`.
        device: As for load_model.
        threads: That the processor computes with.
    """

    label: str
    recipe: TuneRecipe
    init: str
    data: str
    data_dir: Path | None
    audio_root: Path | None
    folder: Path
    head: Path | None
    device: str
    threads: int


class Clock(Progress):
    """Measures how long each bar's units take, and passes everything on.

    Args:
        inner: Where it is passed on to.

    Attributes:
        spent: By bar: units and seconds, without the first unit, which warms up, and without what a resumed training
            finds done.
    """

    def __init__(self, inner: Progress = SILENT) -> None:
        self.inner = inner
        self.spent: dict[str, tuple[int, float]] = {}

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "clips") -> Iterator[Callable[[int, str], None]]:
        """See :meth:`Progress.bar`."""
        began: float | None = None
        units = 0
        with self.inner.bar(what, total, unit) as advance:

            def measured(count: int, note: str = "") -> None:
                nonlocal began, units
                if began is not None:
                    units += count
                    self.spent[what] = (units, time.perf_counter() - began)
                elif count == 1:
                    began = time.perf_counter()
                advance(count, note)

            yield measured

    def say(self, line: str) -> None:
        """See :meth:`Progress.say`."""
        self.inner.say(line)


def tune_all(
    jobs: Sequence[Job],
    workers: int,
    *,
    keep_going: bool = False,
    progress: Progress = SILENT,
    stop: Callable[[], bool] = lambda: False,
) -> dict[Path, BenchError]:
    """Carries out tunings that do not depend on one another.

    Args:
        jobs: Each in a folder of its own.
        workers: How many at once; with one, in this process.
        keep_going: Whether a failure, such as a loss that is not finite, leaves the others alone.
        progress: Is told of every step.
        stop: Asked after every step; True ends all of them with their state saved.

    Returns:
        Under `keep_going` what went wrong, by folder.

    Raises:
        Stopped: `stop` said so.
        BenchError: The first failure; those that run beside it are stopped with their state saved.
    """
    failed: dict[Path, BenchError] = {}
    if workers == 1:
        for number, job in enumerate(jobs, 1):
            progress.say(f"{job.label} ({number} of {len(jobs)})")
            try:
                carry_out(job, progress, stop)
            except Stopped:
                raise
            except BenchError as error:
                if not keep_going:
                    raise
                progress.say(f"{job.label} is set aside: {error}")
                failed[job.folder] = error
        return failed
    crew = _Crew(progress)
    try:
        with progress.bar(f"{len(jobs)} tunings", sum(map(steps, jobs)), "steps") as advance:
            for job in jobs:
                while len(crew.running) >= workers and not stop():
                    crew.look(advance)
                if stop() or (crew.failed and not keep_going):
                    break
                crew.start(job)
            while crew.running:
                if stop() or (crew.failed and not keep_going):
                    crew.asked.set()
                crew.look(advance)
    finally:
        crew.end()
    if stop():
        raise Stopped("tuning", "stopped, with the state of every arm saved", "the same command continues")
    if crew.failed and not keep_going:
        raise next(iter(crew.failed.values()))
    return crew.failed


def carry_out(job: Job, progress: Progress, stop: Callable[[], bool]) -> None:
    """Does one job in this process, and keeps beside its weights what it cost.

    Raises:
        BenchError: See :func:`uamix_bench.tuning.run.tune`.
    """
    import torch

    from uamix_bench.tuning.data import find_data
    from uamix_bench.tuning.run import tune

    clock = Clock(progress)
    data = find_data(job.data, job.data_dir, job.audio_root)
    threads = torch.get_num_threads()
    torch.set_num_threads(job.threads)
    try:
        tune(
            job.recipe, data, job.init, job.folder, head=job.head, device=job.device, progress=clock, stop=stop
        )
    finally:
        torch.set_num_threads(threads)
        add_cost(job.folder, job.device, job.threads, clock.spent)


def steps(job: Job) -> int:
    """Steps of a training, of both stages where the first is not kept elsewhere; roughly, where recordings are cut."""
    epoch = clips(job.data, job.data_dir, job.audio_root) // job.recipe.batch
    return epoch * (job.recipe.epochs + (0 if job.head else job.recipe.head_epochs))


@cache
def clips(data: str, data_dir: Path | None, audio_root: Path | None) -> int:
    """How many clips the sounds of a training are."""
    from uamix_bench.tuning.data import find_data

    return len(find_data(data, data_dir, audio_root).clips)


def add_cost(folder: Path, device: str, threads: int, spent: dict[str, tuple[int, float]]) -> None:
    """Notes in a training's folder how long what took."""
    if spent and folder.is_dir():
        known = read_cost(folder, device, threads)
        with contextlib.suppress(MachineError):  # nothing depends on it
            files.write_json(folder / COST, {"device": device, "threads": threads, "spent": {**known, **spent}})


def read_cost(folder: Path, device: str, threads: int) -> dict[str, tuple[int, float]]:
    """What was noted there for this device and number of threads; nothing where it cannot be read."""
    try:
        noted = json.loads((folder / COST).read_bytes())
        if (noted["device"], noted["threads"]) != (device, threads):
            return {}
        return {str(what): (int(units), float(seconds)) for what, (units, seconds) in noted["spent"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


class _Crew:
    """The processes of the jobs that run."""

    def __init__(self, progress: Progress) -> None:
        # Not fork: this process may hold threads (torch) whose locks a forked child would inherit locked.
        self.context = multiprocessing.get_context("spawn")
        self.asked = self.context.Event()
        self.progress = progress
        self.running: dict[Any, tuple[Job, Any, Any, Any]] = {}  # by sentinel: job, process, its end of a pipe, steps
        self.seen: dict[Path, int] = {}
        self.failed: dict[Path, BenchError] = {}

    def start(self, job: Job) -> None:
        """Starts a process for a job."""
        here, there = self.context.Pipe(duplex=False)
        count = self.context.Value("q", 0)
        process = self.context.Process(target=_work, args=(job, self.asked, there, count), name=job.label)
        process.start()
        there.close()
        self.running[process.sentinel] = (job, process, here, count)
        self.progress.say(f"{job.label} began")

    def look(self, advance: Callable[[int, str], None]) -> None:
        """Waits a little; tells of the steps done, and gathers what has ended."""
        ended = wait(list(self.running), timeout=_POLL_S)
        for job, _, _, count in self.running.values():
            new = count.value - self.seen.get(job.folder, 0)
            if new:
                self.seen[job.folder] = count.value
                advance(new, job.label)
        for sentinel in ended:
            job, process, pipe, _ = self.running.pop(sentinel)
            process.join()
            error = self._outcome(process, pipe)
            if error is None:
                self.progress.say(f"{job.label} is tuned")
            elif not isinstance(error, Stopped):
                self.progress.say(f"{job.label} failed: {error}")
                self.failed[job.folder] = error

    def end(self) -> None:
        """Ends what still runs: on the way out of an error, or of a second interrupt."""
        for _, process, _, _ in self.running.values():
            process.kill()
        for _, process, _, _ in self.running.values():
            process.join()

    @staticmethod
    def _outcome(process: Any, pipe: Any) -> BenchError | None:
        try:
            error: BenchError | None = pipe.recv() if pipe.poll() else None
        except EOFError:
            error = None
        if error is None and process.exitcode:
            reason = f"ended with exit code {process.exitcode}" if process.exitcode > 0 else "was killed"
            return MachineError(f"the process of {process.name}", reason, "look above; the same command continues")
        return error


def _work(job: Job, asked: Any, pipe: Any, count: Any) -> None:
    """A process of its own: does a job, stops where it is asked or its parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal sends them to all: the parent decides
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()
    try:
        carry_out(job, _Counting(count), lambda: asked.is_set() or os.getppid() != parent)
    except BenchError as error:
        pipe.send(error)


class _Counting(Progress):
    """Counts the steps where the parent sees them."""

    def __init__(self, count: Any) -> None:
        self.count = count

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "clips") -> Iterator[Callable[[int, str], None]]:
        """See :meth:`Progress.bar`."""

        def advance(done: int, note: str = "") -> None:
            if unit == "steps":
                self.count.value += done

        yield advance
