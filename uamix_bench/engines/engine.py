"""Execution engines: this machine, or the workers of a cluster that an existing engine manages (Ray, SLURM).

A job is plain data with a label. Workers import the function that does it. Its outcome depends on nothing but the job.
So if a worker is lost, another one repeats its jobs with identical outcomes.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import ClassVar, Literal, Protocol, Self, TypeVar, get_args

from uamix_bench.util.errors import UsageError, nearest
from uamix_bench.util.progress import SILENT, Progress

EngineName = Literal["local", "ray", "slurm"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)


class Labelled(Protocol):
    """Job of an engine: picklable plain data that holds all that a worker needs."""

    @property
    def label(self) -> str:
        """Name of the job in messages."""


Stop = Callable[[], bool]
AnyJob = TypeVar("AnyJob", bound=Labelled)
Outcome = TypeVar("Outcome")
Function = Callable[[AnyJob, Progress, Stop], Outcome]


def never() -> bool:
    """Answer of work that nobody stops."""
    return False


class Engine(ABC):
    """Executor of jobs, and a context manager: entering it connects, leaving it ends running jobs and the connection.

    Args:
        device: Torch device of the jobs, as `load_model` takes it.
    """

    name: ClassVar[EngineName]
    elsewhere: ClassVar[bool]  # True if jobs share only files with this process, so that code and inputs may differ

    def __init__(self, device: str = "auto") -> None:
        self.device = device

    @property
    def device_here(self) -> str:
        """Torch device of this process's own part of the work, which is only the scoring if others embed."""
        return "cpu" if self.elsewhere else self.device

    @abstractmethod
    def at_once(self, jobs: int) -> int | None:
        """Number of `jobs` jobs that run at once; None if only a cluster can tell."""

    @abstractmethod
    def threads(self, jobs: int) -> int | None:
        """Number of torch's threads in each of `jobs` jobs; None for torch's own choice."""

    @abstractmethod
    def map(
        self,
        function: Function[AnyJob, Outcome],
        jobs: Sequence[AnyJob],
        progress: Progress = SILENT,
        stop: Stop = never,
    ) -> Generator[tuple[int, Outcome], None, None]:
        """Does jobs that do not depend on one another; closing the generator ends the running ones.

        Args:
            function: Function that does one job, reports its progress, and polls its third argument if it takes long:
                True ends it with :class:`Stopped`. Workers import it by name. On a cluster a job is lost if it reports
                nothing for five minutes. A job may be done twice, and both outcomes must be identical.
            jobs: Jobs to do.
            progress: Progress display; it names lost workers, once for each cause.
            stop: Function polled meanwhile; True ends all jobs.

        Yields:
            Index and outcome of each finished job, in any order, each index once.

        Raises:
            BenchError: `function` raised it for a job.
            MachineError: The workers of a job were lost several times; the line names the job and the cause.
            Stopped: `stop` returned True.
        """

    def connect(self) -> None:  # noqa: B027 - there may be nothing to connect to
        """Connects to the workers.

        Raises:
            UsageError: The engine's extra is not installed, or the address is none of its kind.
            MachineError: The cluster cannot be reached, or SLURM is not installed.
        """

    def close(self) -> None:  # noqa: B027 - there may be nothing to end
        """Ends the connection."""

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def find_engine(name: str, address: str | None = None, device: str = "auto", jobs: int | None = None) -> Engine:
    """Engine of a name, which connects when it is entered.

    Args:
        name: Name of the engine: ``local``, ``ray`` or ``slurm``.
        address: Address of a Ray cluster, such as ``10.0.0.1:6379``; default RAY_ADDRESS, or the cluster that runs on
            this machine. For SLURM, ``local`` runs its jobs as processes of this machine.
        device: Torch device of the jobs. For ``cuda``, and for ``auto`` if a Ray cluster has a GPU, each job of a
            cluster asks for one GPU.
        jobs: Number of jobs at once on this machine; default two on a processor, one if there may be a GPU.

    Raises:
        UsageError: The engine is unknown, or `address` or `jobs` is of no use to it.
    """
    from uamix_bench.engines.cluster import Ray, Slurm
    from uamix_bench.engines.local import Local

    if name not in ENGINES:
        raise UsageError(f"--engine {name}", "no such engine", nearest(name, list(ENGINES)))
    if name == "local":
        if address is not None:
            subject, reason = f"--engine-address {address}", "is of no use to the local engine"
            raise UsageError(subject, reason, "say --engine ray or slurm")
        return Local(device, jobs)
    if jobs is not None:
        raise UsageError(
            f"--jobs {jobs}", f"the cluster of --engine {name} decides how many run", "omit one of the two"
        )
    return Ray(address, device) if name == "ray" else Slurm(address, device)


def host() -> str:
    """Name of this machine, for messages."""
    return socket.gethostname()
