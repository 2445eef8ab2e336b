"""Engines of clusters: Ray, and SLURM through submitit."""

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from uamix_bench.engines.engine import AnyJob, Engine, Function, Labelled, Outcome, never
from uamix_bench.engines.sender import Lost, Sender
from uamix_bench.util import files
from uamix_bench.util.errors import BenchError, MachineError, Stopped, UsageError
from uamix_bench.util.progress import Progress
from uamix_bench.util.threads import Watch

_HANGS_S = 300.0  # without a word from a job, its process is ended
_ARRAY = 64  # jobs of SLURM that a list of ours becomes, for each has to start Python and load a model
_MINUTES = 240  # that SLURM lets one run; SBATCH_TIMELIMIT wins


class Cluster(Sender, Engine):
    """Base of the engines whose workers are other machines.

    Args:
        address: Address of the cluster; None for the engine's own default.
        device: Torch device of the jobs.
    """

    elsewhere = True

    def __init__(self, address: str | None, device: str) -> None:
        super().__init__(device)
        self.address = address

    def at_once(self, jobs: int) -> None:
        """See :meth:`Engine.at_once`."""

    def threads(self, jobs: int) -> int:
        """A job has one processor."""
        return 1

    def _stop(self) -> None:
        reason = "stopped with its jobs ended; what was done is kept"
        raise Stopped(f"--engine {self.name}", reason, "repeat the command to resume")


class Ray(Cluster):
    """Engine of an existing Ray cluster: each job is a task of one processor, or of one GPU."""

    name = "ray"

    def connect(self) -> None:
        """See :meth:`Engine.connect`."""
        try:
            import ray
        except ModuleNotFoundError as error:
            raise _not_installed("ray", "Ray") from error
        self._ray: Any = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            self._join(self.address or os.environ.get("RAY_ADDRESS") or "auto")
        gpu = self.device.startswith("cuda")
        gpu = gpu or (self.device == "auto" and bool(self._ray.cluster_resources().get("GPU")))
        # Ray's own retries are off: ours count, are told of, and are the same for all engines.
        options = {"num_cpus": 1, "num_gpus": int(gpu), "max_retries": 0, "scheduling_strategy": "SPREAD"}
        self._work = self._ray.remote(**options)(_work)

    def _join(self, address: str) -> None:
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

    def _submit(self, function: Callable[..., Any], bundles: Sequence[Sequence[Labelled]]) -> list[Any]:
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
            raise Lost(_gist(error)) from error
        return outcomes

    def _cancel(self, handles: list[Any]) -> None:
        for handle in handles:
            with suppress(Exception):
                self._ray.cancel(handle, force=True)


class Slurm(Cluster):
    """Engine of a SLURM cluster, through submitit: one job array, whose folder all machines must share."""

    name = "slurm"

    def connect(self) -> None:
        """See :meth:`Engine.connect`."""
        try:
            import submitit
        except ModuleNotFoundError as error:
            raise _not_installed("slurm", "submitit") from error
        if self.address not in (None, "slurm", "local"):
            remedy = "choose a partition with SBATCH_PARTITION, or say local to try it out without a cluster"
            raise UsageError(f"--engine-address {self.address}", "is no cluster of SLURM's", remedy)
        self._folder = files.make_folder(files.home() / "engine" / uuid.uuid4().hex)
        try:
            self._executor = submitit.AutoExecutor(self._folder, cluster=self.address or "slurm")
        except RuntimeError as error:
            self._folder.rmdir()
            remedy = "run this where sbatch and srun are on the PATH"
            raise MachineError("--engine slurm", f"there is no SLURM here ({_gist(error)})", remedy) from error
        self._executor.update_parameters(name="uamix-bench", timeout_min=_MINUTES, cpus_per_task=1)
        if self.device.startswith("cuda"):
            self._executor.update_parameters(gpus_per_node=1)

    def close(self) -> None:
        """Deletes the folder of exchanged files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _bundles(self, jobs: int) -> Iterator[range]:
        each = -(-jobs // _ARRAY) or 1
        return (range(start, min(start + each, jobs)) for start in range(0, jobs, each))

    def _submit(self, function: Callable[..., Any], bundles: Sequence[Sequence[Labelled]]) -> list[Any]:
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
                raise Lost(f"job {handle.job_id}: SLURM gave it no more time") from error
            raise  # raised by the function, and no BenchError: a defect, shown whole
        except UncompletedJobError as error:
            raise Lost(f"job {handle.job_id}: {handle.state.lower()}") from error
        return outcomes

    def _cancel(self, handles: list[Any]) -> None:
        for handle in handles:
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
                outcomes.append(function(job, progress, never))
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


def _not_installed(extra: str, package: str) -> UsageError:
    return UsageError(f"--engine {extra}", f"{package} is not installed", f"pip install 'uamix-bench[{extra}]'")


def _gist(error: BaseException) -> str:
    """First sentence of an error's message, or its type."""
    return re.split(r"\.\s|\n", str(error).strip())[0].rstrip(".") or type(error).__name__
