"""Execution engines: this process, or the workers of a cluster that an existing engine manages (Ray, SLURM).

A job is plain data with a label. Workers import the function that does it. Its outcome depends on nothing but the job.
So if a worker is lost, another one repeats its jobs with identical outcomes.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal, Protocol, Self, TypeVar, get_args

from uamix_bench.util import files
from uamix_bench.util.errors import BenchError, MachineError, UsageError, nearest
from uamix_bench.util.progress import SILENT, Progress
from uamix_bench.util.threads import Watch

EngineName = Literal["local", "ray", "slurm"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)

_TRIES = 3  # of a job whose workers are lost
_HANGS_S = 300.0  # without a word from a job, its process is ended
_SUBMITTED = 512  # jobs that wait at Ray or run there: their paths and outcomes take memory
_ARRAY = 64  # jobs of SLURM that a list of ours becomes, for each has to start Python and load a model
_MINUTES = 240  # that SLURM lets one run; SBATCH_TIMELIMIT wins


class Job(Protocol):
    """Unit of work: picklable plain data that holds all that a worker needs."""

    @property
    def label(self) -> str:
        """Name of the job in messages."""


AnyJob = TypeVar("AnyJob", bound=Job)
Outcome = TypeVar("Outcome")
Function = Callable[[AnyJob, Progress], Outcome]


class Engine(ABC):
    """Executor of jobs, and a context manager: leaving it ends running jobs and closes the connection."""

    @abstractmethod
    def map(
        self, function: Function[AnyJob, Outcome], jobs: Sequence[AnyJob], progress: Progress = SILENT
    ) -> Generator[tuple[int, Outcome], None, None]:
        """Does jobs that do not depend on one another; closing the generator ends the running ones.

        Args:
            function: Function that does one job and reports its progress. Workers import it by name. A job is lost if
                it reports nothing for five minutes. A job may be done twice, and both outcomes must be identical.
            jobs: Jobs to do.
            progress: Progress display; it names lost workers, once for each cause.

        Yields:
            Index and outcome of each finished job, in any order, each index once.

        Raises:
            BenchError: `function` raised it for a job.
            MachineError: The workers of a job were lost several times; the line names the job and the cause.
        """

    def close(self) -> None:  # noqa: B027 - there may be nothing to end
        """Ends the connection."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Local(Engine):
    """Engine of this process: one job after the other, in order."""

    def map(
        self, function: Function[AnyJob, Outcome], jobs: Sequence[AnyJob], progress: Progress = SILENT
    ) -> Generator[tuple[int, Outcome], None, None]:
        """See :meth:`Engine.map`."""
        for index, job in enumerate(jobs):
            yield index, function(job, SILENT)


def open_engine(name: str, address: str | None = None, device: str = "cpu") -> Engine:
    """Connects to an engine.

    Args:
        name: Name of the engine: ``local``, ``ray`` or ``slurm``.
        address: Address of a Ray cluster, such as ``10.0.0.1:6379``; default RAY_ADDRESS, or the cluster that runs on
            this machine. For SLURM, ``local`` runs its jobs as processes of this machine.
        device: Torch device of the workers. For ``cuda``, and for ``auto`` if a Ray cluster has a GPU, each job asks
            for one GPU.

    Raises:
        UsageError: The engine is unknown, or its extra is not installed.
        MachineError: The cluster cannot be reached, or SLURM is not installed.
    """
    if name not in ENGINES:
        raise UsageError(f"--engine {name}", "no such engine", nearest(name, list(ENGINES)))
    if name == "ray":
        return Ray(address, device)
    if name == "slurm":
        return Slurm(address, device)
    if address is not None:
        raise UsageError(f"--engine-address {address}", "is of no use to the local engine", "say --engine ray or slurm")
    return Local()


class _Lost(Exception):
    """Loss of a worker that ended without an outcome; the message says how."""


class _Cluster(Engine):
    """Base of the cluster engines: jobs are sent in bundles, and lost bundles are sent again.

    A bundle is a few jobs that one worker does one after the other.
    """

    def map(
        self, function: Function[AnyJob, Outcome], jobs: Sequence[AnyJob], progress: Progress = SILENT
    ) -> Generator[tuple[int, Outcome], None, None]:
        """See :meth:`Engine.map`."""
        waiting = deque((bundle, 1) for bundle in self._bundles(len(jobs)))
        running: dict[Any, tuple[range, int]] = {}
        told: set[str] = set()
        try:
            while waiting or running:
                room = max(0, _SUBMITTED - len(running))
                sent = [waiting.popleft() for _ in range(min(room, len(waiting)))]
                if sent:
                    handles = self._submit(function, [jobs[bundle.start : bundle.stop] for bundle, _ in sent])
                    running |= dict(zip(handles, sent, strict=True))
                for handle in self._wait(list(running)):
                    bundle, tries = running.pop(handle)
                    label = jobs[bundle.start].label + (f" and {len(bundle) - 1} more" if len(bundle) > 1 else "")
                    try:
                        outcomes = self._outcomes(handle)
                    except _Lost as error:
                        if tries == _TRIES:
                            remedy = "see the workers' own logs; what was done is kept, repeat the command to resume"
                            raise MachineError(label, f"its worker was lost {tries} times ({error})", remedy) from error
                        if str(error) not in told:  # a dead machine takes many jobs with it
                            progress.say(f"{label}: its worker was lost ({error}); another one does it")
                            told.add(str(error))
                        waiting.append((bundle, tries + 1))
                        continue
                    for index, outcome in zip(bundle, outcomes, strict=True):
                        if isinstance(outcome, BenchError):
                            raise outcome
                        yield index, outcome
        finally:
            for handle in running:
                self._cancel(handle)

    def _bundles(self, jobs: int) -> Iterator[range]:
        """Divides job numbers among bundles."""
        return (range(at, at + 1) for at in range(jobs))

    @abstractmethod
    def _submit(self, function: Callable[..., Any], bundles: Sequence[Sequence[Job]]) -> list[Any]:
        """Submits bundles to the engine; returns one handle a bundle."""

    @abstractmethod
    def _wait(self, handles: list[Any]) -> list[Any]:
        """Waits for bundles to end; returns the handles of those that have, or none after a while."""

    @abstractmethod
    def _outcomes(self, handle: Any) -> list[Any]:
        """Outcomes of a bundle's jobs; from the first job that failed on, its BenchError.

        Raises:
            _Lost: The worker ended without an outcome.
        """

    @abstractmethod
    def _cancel(self, handle: Any) -> None:
        """Cancels a bundle whose outcome is no longer needed."""


class Ray(_Cluster):
    """Engine of an existing Ray cluster: each job is a task of one processor, or of one GPU."""

    def __init__(self, address: str | None, device: str) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise _not_installed("ray", "Ray") from error
        self._ray: Any = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            self._connect(address or os.environ.get("RAY_ADDRESS") or "auto")
        gpu = device.startswith("cuda") or (device == "auto" and bool(self._ray.cluster_resources().get("GPU")))
        # Ray's own retries are off: ours count, are told of, and are the same for all engines.
        options = {"num_cpus": 1, "num_gpus": int(gpu), "max_retries": 0, "scheduling_strategy": "SPREAD"}
        self._work = self._ray.remote(**options)(_work)

    def _connect(self, address: str) -> None:
        """Joins the cluster at an address, and keeps Ray from writing to this program's stdout."""
        from ray._private import worker

        name, _, port = address.rpartition("://")[2].rpartition(":")
        if address != "auto" and not (name and port.isdecimal()):
            raise UsageError(f"--engine-address {address}", "is not the address of a Ray cluster", "give HOST:PORT")
        # Of a dead node Ray prints the last words to stdout, which belongs to tables and JSON; no option stops it.
        worker._worker_logs_enabled = False
        before = signal.getsignal(signal.SIGTERM)  # Ray's leaves no time to tidy up
        try:
            if address != "auto":  # Ray itself tries for minutes
                socket.create_connection((name, int(port)), timeout=10).close()
            self._ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
        except Exception as error:  # each way of being out of reach has a type of its own
            where = "on this machine" if address == "auto" else f"at {address} ({_gist(error)})"
            remedy = "start one with 'ray start --head', or name it with --engine-address HOST:PORT or RAY_ADDRESS"
            raise MachineError("--engine ray", f"there is no Ray cluster {where}", remedy) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)

    def close(self) -> None:
        """Disconnects from the cluster, which goes on running."""
        if self._ours:
            self._ray.shutdown()

    def _submit(self, function: Callable[..., Any], bundles: Sequence[Sequence[Job]]) -> list[Any]:
        return [self._work.remote(function, bundle, sys.argv) for bundle in bundles]

    def _wait(self, handles: list[Any]) -> list[Any]:
        done: list[Any] = self._ray.wait(handles, num_returns=len(handles), timeout=0)[0]
        if not done:
            time.sleep(0.05)  # rather than in Ray, which makes an internal error of SIGTERM
        return done

    def _outcomes(self, handle: Any) -> list[Any]:
        from ray.exceptions import RayError, RayTaskError

        try:
            outcomes: list[Any] = self._ray.get(handle)
        except RayTaskError as error:
            if isinstance(error.cause, ImportError):
                remedy = "install the same uamix-bench, with the same extras, on every machine"
                raise MachineError("a worker of Ray", f"lacks a module ({error.cause})", remedy) from error
            raise
        except RayError as error:
            raise _Lost(_gist(error)) from error
        return outcomes

    def _cancel(self, handle: Any) -> None:
        with suppress(Exception):
            self._ray.cancel(handle, force=True)


class Slurm(_Cluster):
    """Engine of a SLURM cluster, through submitit: one job array, whose folder all machines must share."""

    def __init__(self, address: str | None, device: str) -> None:
        try:
            import submitit
        except ModuleNotFoundError as error:
            raise _not_installed("slurm", "submitit") from error
        if address not in (None, "slurm", "local"):
            remedy = "choose a partition with SBATCH_PARTITION, or say local to try it out without a cluster"
            raise UsageError(f"--engine-address {address}", "is no cluster of SLURM's", remedy)
        self._folder = files.make_folder(files.home() / "engine" / uuid.uuid4().hex)
        try:
            self._executor = submitit.AutoExecutor(self._folder, cluster=address or "slurm")
        except RuntimeError as error:
            self._folder.rmdir()
            remedy = "run this where sbatch and srun are on the PATH"
            raise MachineError("--engine slurm", f"there is no SLURM here ({_gist(error)})", remedy) from error
        self._executor.update_parameters(name="uamix-bench", timeout_min=_MINUTES, cpus_per_task=1)
        if device.startswith("cuda"):
            self._executor.update_parameters(gpus_per_node=1)

    def close(self) -> None:
        """Deletes the folder of exchanged files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _bundles(self, jobs: int) -> Iterator[range]:
        each = -(-jobs // _ARRAY) or 1
        return (range(start, min(start + each, jobs)) for start in range(0, jobs, each))

    def _submit(self, function: Callable[..., Any], bundles: Sequence[Sequence[Job]]) -> list[Any]:
        with self._executor.batch():  # one call of sbatch
            return [self._executor.submit(_work, function, bundle, sys.argv) for bundle in bundles]

    def _wait(self, handles: list[Any]) -> list[Any]:
        done = [handle for handle in handles if handle.done()]
        if not done:
            time.sleep(0.5)  # submitit itself asks SLURM once a minute
        return done

    def _outcomes(self, handle: Any) -> list[Any]:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        try:
            outcomes: list[Any] = handle.result()
        except FailedJobError as error:
            if "Job not requeued because" in str(error):  # submitit's word for one that SLURM gave no more time
                raise _Lost(f"job {handle.job_id}: SLURM gave it no more time") from error
            raise  # raised by the function, and no BenchError: a defect, shown whole
        except UncompletedJobError as error:
            raise _Lost(f"job {handle.job_id}: {handle.state.lower()}") from error
        return outcomes

    def _cancel(self, handle: Any) -> None:
        with suppress(Exception):
            handle.cancel()


def _work(
    function: Function[AnyJob, Outcome], jobs: Sequence[AnyJob], argv: Sequence[str] | None = None
) -> list[Outcome | BenchError]:
    """Does jobs on a worker, up to the first that fails, under the caller's command line, which records name."""
    sys.argv = list(argv or sys.argv)
    outcomes: list[Outcome | BenchError] = []
    with _watched() as progress:
        for job in jobs:
            progress.say(job.label)
            try:
                outcomes.append(function(job, progress))
            except BenchError as error:
                return outcomes + [error] * (len(jobs) - len(outcomes))
    return outcomes


class _Heard(Progress):
    """Progress that keeps the time of its last report."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.at = watch.look()

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "clips") -> Iterator[Callable[[int, str], None]]:
        """See :meth:`Progress.bar`."""

        def advance(count: int, note: str = "") -> None:
            self.at = self.watch.look()

        self.at = self.watch.look()
        yield advance

    def say(self, line: str) -> None:
        """See :meth:`Progress.say`."""
        self.at = self.watch.look()


@contextmanager
def _watched() -> Iterator[Progress]:
    """Watchdog of a worker: ends this process if the yielded progress gets no report for too long."""
    watch = Watch(_HANGS_S / 60)
    heard, done = _Heard(watch), threading.Event()

    def listen() -> None:
        while not done.wait(_HANGS_S / 60):
            if watch.look() - heard.at > _HANGS_S:
                os._exit(os.EX_TEMPFAIL)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        done.set()
        thread.join()


def host() -> str:
    """Name of this machine, for messages."""
    return socket.gethostname()


def _not_installed(extra: str, package: str) -> UsageError:
    return UsageError(f"--engine {extra}", f"{package} is not installed", f"pip install 'uamix-bench[{extra}]'")


def _gist(error: BaseException) -> str:
    """First sentence of an error's message, or its type."""
    return re.split(r"\.\s|\n", str(error).strip())[0].rstrip(".") or type(error).__name__
