"""Engine of this machine: jobs one after the other in this process, or several at once in processes of their own."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from uamix_bench.engines.engine import AnyJob, Engine, Function, Labelled, Outcome, Stop, never
from uamix_bench.engines.sender import Lost, Sender
from uamix_bench.util.errors import BenchError, MachineError
from uamix_bench.util.progress import SILENT, Progress
from uamix_bench.util.threads import cores

_POLL_S = 0.3


class Local(Engine):
    """Engine of this machine.

    Args:
        device: Torch device of the jobs, as `load_model` takes it.
        workers: Number of jobs at once, each in a process of its own; a single one runs in this process. None for two
            on a processor, and one if they would share a GPU.
    """

    name = "local"
    elsewhere = False

    def __init__(self, device: str = "auto", workers: int | None = 1) -> None:
        super().__init__(device)
        self.workers = workers or (1 if _may_be_gpu(device) else 2)

    def at_once(self, jobs: int) -> int:
        """See :meth:`Engine.at_once`."""
        return max(1, min(self.workers, jobs))

    def threads(self, jobs: int) -> int | None:
        """An equal share of the cores; None if one job runs at once, or if OMP_NUM_THREADS decides."""
        at_once = self.at_once(jobs)
        return None if at_once == 1 or "OMP_NUM_THREADS" in os.environ else max(1, cores() // at_once)

    def map(
        self,
        function: Function[AnyJob, Outcome],
        jobs: Sequence[AnyJob],
        progress: Progress = SILENT,
        stop: Stop = never,
    ) -> Generator[tuple[int, Outcome], None, None]:
        """See :meth:`Engine.map`."""
        if (workers := self.at_once(len(jobs))) > 1:
            yield from Processes(workers, progress).map(function, jobs, progress, stop)
            return
        for index, job in enumerate(jobs):
            progress.say(f"{job.label} ({index + 1} of {len(jobs)})")
            yield index, function(job, progress, stop)


def _may_be_gpu(device: str) -> bool:
    """True if jobs may share a GPU; determined without torch."""
    return Path("/dev/nvidiactl").exists() if device == "auto" else device.partition(":")[0] != "cpu"


class Processes(Sender):
    """Processes of this machine, each of one job. A process that was killed is replaced.

    Args:
        workers: Number of processes at once.
        progress: Progress display of all jobs.
    """

    def __init__(self, workers: int, progress: Progress) -> None:
        self.most, self.progress = workers, progress
        # Not fork: this process may hold threads (torch) whose locks a forked child would inherit locked.
        self.context = multiprocessing.get_context("spawn")
        self.asked = self.context.Event()

    def _submit(self, function: Callable[..., Any], bundles: Sequence[Sequence[Labelled]]) -> list[Any]:
        return [_Child(self, function, job) for (job,) in bundles]

    def _wait(self, handles: list[Any]) -> list[Any]:
        pipes = {child.pipe: child for child in handles}
        for pipe in wait(list(pipes), timeout=_POLL_S):
            pipes[pipe].read(self.progress)
        return [child for child in handles if child.ended]

    def _outcomes(self, handle: Any) -> list[Any]:
        handle.process.join()
        code = handle.process.exitcode
        if code > 0:
            subject = f"the process of {handle.process.name}"
            raise MachineError(subject, f"ended with exit code {code}", "look above; repeat the command to resume")
        if code < 0:
            raise Lost(f"killed by signal {-code}")
        return list(handle.outcomes)

    def _stop(self) -> None:
        """Asks the jobs to save their state; each ends with :class:`Stopped`."""
        self.asked.set()

    def _cancel(self, handles: list[Any]) -> None:
        """Waits until the jobs have saved their state; kills them on another interrupt."""
        self.asked.set()
        try:
            while running := [child for child in handles if not child.ended]:
                self._wait(running)
        finally:
            for child in handles:
                if not child.ended:
                    child.process.kill()
                child.process.join()


class _Child:
    """Process of a job, with the end of the pipe on which it reports."""

    def __init__(self, of: Processes, function: Callable[..., Any], job: Labelled) -> None:
        self.pipe, there = of.context.Pipe(duplex=False)
        self.process = of.context.Process(target=_serve, args=(function, job, of.asked, there), name=job.label)
        self.process.start()
        there.close()
        self.outcomes: list[Any] = []
        self.ended = False
        self._bars: dict[int, tuple[ExitStack, Callable[[int, str], None]]] = {}

    def read(self, progress: Progress) -> None:
        """Takes one report, which has arrived."""
        try:
            kind, *report = self.pipe.recv()
        except (EOFError, OSError):
            self.ended = True
            for stack, _ in self._bars.values():
                stack.close()
            return
        if kind == "outcome":
            self.outcomes = report
        elif kind == "say":
            progress.say(f"{self.process.name}: {report[0]}")
        elif kind == "open":
            number, what, total, unit = report
            stack = ExitStack()
            self._bars[number] = stack, stack.enter_context(progress.bar(f"{self.process.name}: {what}", total, unit))
        elif kind == "advance":
            number, count, note = report
            self._bars[number][1](count, note)
        else:
            self._bars.pop(report[0])[0].close()


def _serve(function: Callable[..., Any], job: Labelled, asked: Any, pipe: Any) -> None:
    """Main function of a job's process; stops if asked to, or if its parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal sends them to all: the parent decides
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()
    reports = _Reports(pipe)
    try:
        outcome = function(job, reports, lambda: asked.is_set() or os.getppid() != parent)
    except BenchError as error:
        outcome = error
    reports.send("outcome", outcome)


class _Reports(Progress):
    """Progress that is shown by the parent process."""

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.bars = pipe, itertools.count()

    def send(self, *report: Any) -> None:
        """Sends one report, unless the parent is gone."""
        with suppress(BrokenPipeError):
            self.pipe.send(report)

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "clips") -> Iterator[Callable[[int, str], None]]:
        """See :meth:`Progress.bar`."""
        number = next(self.bars)

        def advance(count: int, note: str = "") -> None:
            self.send("advance", number, count, note)

        self.send("open", number, what, total, unit)
        try:
            yield advance
        finally:
            self.send("close", number)

    def say(self, line: str) -> None:
        """See :meth:`Progress.say`."""
        self.send("say", line)
