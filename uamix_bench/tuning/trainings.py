"""Several trainings, one after the other in this process or at once in processes of their own; each can resume."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from uamix_bench.tuning.recipe import TuneRecipe
from uamix_bench.tuning.sounds import find_data
from uamix_bench.util.errors import BenchError, MachineError, Stopped
from uamix_bench.util.progress import SILENT, Progress

WEIGHTS, RECORD = "model.safetensors", "training.json"  # what a training leaves in its folder, the record last
HEAD, TUNING = "stage 1: head", "stage 2: tuning"  # as the stages are named
_POLL_S = 0.3


class Job(NamedTuple):
    """A tuning to carry out.

    Attributes:
        label: Name in progress and messages.
        recipe: Hyper-parameters.
        init: Pretrained model, as `load_model` takes it.
        data: Name or path of the sounds, as `find_data` takes it.
        data_dir: Folder of the data sets, for `find_data`.
        audio_root: Folder that a CSV's paths are relative to, for `find_data`.
        folder: Folder of the tuning.
        head: Folder of its stage 1; None within `folder`.
        device: Torch device, as `load_model` takes it.
        threads: Number of processor threads for torch; with one, clips are decoded in the same process, too. None
            leaves both to their defaults.
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
    threads: int | None


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
        jobs: Tunings, each in a folder of its own.
        workers: Number of tunings at once; a single one runs in this process.
        keep_going: Whether the other tunings go on after a failure, such as a loss that is not finite.
        progress: Progress display, advanced with every step.
        stop: Function polled after every step; True ends all tunings with their state saved.

    Returns:
        Errors of failed tunings by folder; empty without `keep_going`.

    Raises:
        Stopped: `stop` returned True.
        BenchError: A tuning failed, the first failure; tunings beside it are stopped with their state saved.
    """
    failed: dict[Path, BenchError] = {}
    if workers <= 1:
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
        with progress.bar(
            f"{len(jobs)} tunings", sum(sum(remaining(job).values()) for job in jobs), "steps"
        ) as advance:
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
        raise Stopped("tuning", "stopped, with the state of every arm saved", "repeat the command to resume")
    if crew.failed and not keep_going:
        raise next(iter(crew.failed.values()))
    return crew.failed


def carry_out(job: Job, progress: Progress, stop: Callable[[], bool]) -> None:
    """Carries out one tuning in this process.

    Raises:
        BenchError: See :func:`uamix_bench.tuning.run.tune`.
    """
    from uamix_bench.tuning.run import tune

    data = find_data(job.data, job.data_dir, job.audio_root)
    with computing_with(job.threads):
        options: dict[str, Any] = {"device": job.device, "progress": progress, "stop": stop}
        decoders = 1 if job.threads == 1 else None
        tune(job.recipe, data, job.init, job.folder, head=job.head, wait=True, workers=decoders, **options)


@contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """Sets the number of torch's processor threads for a block; None leaves torch's own choice."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def remaining(job: Job) -> dict[str, int]:
    """Number of steps left of each stage, by name; an upper bound if recordings have several clips."""
    epoch = _clips(job.data, job.data_dir, job.audio_root) // job.recipe.batch
    left = {HEAD: 0 if job.head else epoch * job.recipe.head_epochs, TUNING: epoch * job.recipe.epochs}
    newest = max((path.stem for path in (job.folder / "checkpoints").glob("[0-9]-????????.pt")), default="")
    if newest:
        stage, _, step = newest.partition("-")
        here = HEAD if int(stage) == 0 else TUNING
        left[here] = max(0, left[here] - int(step))
        if here == TUNING:
            left[HEAD] = 0
    return left


def is_finished(job: Job) -> bool:
    """True if a job's folder holds the weights of exactly its recipe and their record, which is written last."""
    return metadata(job).get("recipe_sha256") == job.recipe.sha256 and (job.folder / RECORD).is_file()


def has_begun(job: Job) -> bool:
    """True if a job's folder holds a checkpoint."""
    return any((job.folder / "checkpoints").glob("*.pt"))


def metadata(job: Job) -> dict[str, str]:
    """Metadata of a job's weights file; empty if there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(job.folder / WEIGHTS, "np") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


@cache
def _clips(data: str, data_dir: Path | None, audio_root: Path | None) -> int:
    return len(find_data(data, data_dir, audio_root).clips)


class _Crew:
    """Processes of the running jobs."""

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
        """Waits briefly, reports finished steps, and collects ended processes."""
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
        """Kills the processes that still run, after an error or a second interrupt."""
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
            return MachineError(f"the process of {process.name}", reason, "look above; repeat the command to resume")
        return error


def _work(job: Job, asked: Any, pipe: Any, count: Any) -> None:
    """Main function of a job's process; stops if asked to, or if its parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal sends them to all: the parent decides
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()
    try:
        carry_out(job, _Counting(count), lambda: asked.is_set() or os.getppid() != parent)
    except BenchError as error:
        pipe.send(error)


class _Counting(Progress):
    """Progress that counts the steps in memory shared with the parent."""

    def __init__(self, count: Any) -> None:
        self.count = count

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "clips") -> Iterator[Callable[[int, str], None]]:
        """See :meth:`Progress.bar`."""

        def advance(done: int, note: str = "") -> None:
            if unit == "steps" and note:  # what a resumed training finds done comes without a note
                self.count.value += done

        yield advance
