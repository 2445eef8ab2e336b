"""Distributed training: processes started by torchrun, and the operations that they share.

Gradients are averaged by one all-reduce after the backward passes. torch's DistributedDataParallel would overlap it
with them, but it hooks into one forward call of one module, and a step here has several: frozen and tuned, mixed and
clean, a micro-batch at a time. BatchNorm's sums are an all-reduce of our own, as torch's SyncBatchNorm refuses CPU
tensors. In a process that runs alone every function here is the identity.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from uamix_bench.util.arrays import Ints
from uamix_bench.util.errors import BenchError, MachineError, Stopped, UsageError
from uamix_bench.util.threads import Watch

_group: Any = None  # of all processes, for tensors on the CPU: while they are joined

_PATIENCE = timedelta(minutes=5)  # for another process at the same step; one that hangs longer is lost
_NEVER = timedelta(days=30)  # gloo's own patience, which goes on while this process stands still
_POLL = timedelta(seconds=1)
_REAPED_S = 5.0  # within which a process that died has left the table of processes
_LOOK_S = 0.05
_AGAIN = "repeat the command to resume from the last checkpoint (torchrun --max-restarts does so by itself)"


class Told(BenchError):
    """Silent end of this process with the given exit code, after another process has reported why the job ends."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process", "has told why the job ends")
        self.exit_code = exit_code


class LostPeer(MachineError):
    """Failure of a collective: another process is gone or hangs."""


def rank() -> int:
    """Rank of this process; 0 for a process that runs alone."""
    return dist.get_rank() if _joined() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if _joined() else 1


def device(name: str) -> torch.device:
    """Torch device for a --device value, as `find_device`; several processes on one machine get a GPU each."""
    from uamix_bench.models.loading import find_device

    found = find_device(name)
    if name in ("auto", "cuda") and found.type == "cuda" and _joined():
        return find_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    return found


@contextmanager
def joined(device_name: str = "auto") -> Iterator[None]:
    """Joins the processes that torchrun started, for as long as the block lasts.

    Args:
        device_name: Value of --device. GPUs are used only if it may name one.

    Raises:
        UsageError: The environment asks for several processes, but does not number this one.
        MachineError: The job failed in this process, or another process was lost; the subject begins with the rank.
        Told: The job ended, and another process has reported why.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes == "1":
        yield
        return
    numbers = {name: os.environ.get(name, "not set") for name in ("RANK", "LOCAL_RANK", "MASTER_PORT")}
    for name, value in {"WORLD_SIZE": processes, **numbers}.items():
        if not value.isdecimal():
            reason = f"is {value}, where torchrun sets a number" + (f" (WORLD_SIZE {processes})" * (value != processes))
            raise UsageError(name, reason, "start several processes with torchrun, or unset WORLD_SIZE")
    on_gpu = device_name.startswith(("auto", "cuda")) and torch.cuda.is_available()
    if on_gpu and int(os.environ["LOCAL_RANK"]) < torch.cuda.device_count():  # else `device` says that it is missing
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    options: dict[str, Any] = {"timeout": _PATIENCE}
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # The launcher's own store outlives its workers, and after a restart still has the addresses of the dead ones.
        options |= {"store": _store(), "rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    ended = ExitStack()
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", **options)
    global _group
    try:
        _group = dist.new_group(backend="gloo", timeout=_NEVER)
        peers: list[Any] = [None] * world()
        _gather_objects(peers, (socket.gethostname(), os.getpid()))
        try:
            yield
        except Exception as error:
            ended.enter_context(_undisturbed())
            raise _verdict(error, peers) from error
    finally:
        _group = None
        dist.destroy_process_group()
        ended.close()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignores SIGTERM, which torchrun sends to processes whose peer died, before they have reported why they end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def leader_first() -> Iterator[None]:
    """Lets one process of each machine through the block first; the others follow when it is done."""
    if world() == 1:
        yield
        return
    follows = os.environ.get("LOCAL_RANK", "0") != "0"
    if follows:
        _call(dist.barrier, patience=_NEVER)  # decoding a data set for the first time takes long
    yield
    if not follows:
        _call(dist.barrier, patience=_NEVER)


def barrier() -> None:
    """Waits until every process has come to this point."""
    if world() > 1:
        _call(dist.barrier)


def agree(facts: dict[str, str]) -> None:
    """Checks that all processes are about to do the same.

    Raises:
        MachineError: A process has another value than rank 0; the line names both.
    """
    if world() == 1:
        return
    everyone: list[Any] = [None] * world()
    _gather_objects(everyone, facts)
    for number, theirs in enumerate(everyone):
        for what, value in theirs.items():
            if value != everyone[0][what]:
                reason = f"has another {what} than rank 0 ({value}, not {everyone[0][what]})"
                raise MachineError(f"rank {number}", reason, "give all machines the same package, files and folder")


def gather(tensor: Tensor) -> Tensor:
    """Joins the (b, ...) tensors of all processes in the order of their ranks, without gradient: (W b, ...)."""
    if world() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world())]
    _call(dist.all_gather, parts, tensor.contiguous())
    return torch.cat(parts)


def mean(values: Tensor) -> Tensor:
    """Mean of a tensor over processes, without gradient."""
    if world() == 1:
        return values
    values = values.detach().clone()
    _call(dist.all_reduce, values)
    return values / world()


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replaces every gradient by its mean over processes."""
    if world() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = mean(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, torch.split(flat, [gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def shares(order: Ints, micro_batch: int | None) -> list[Ints]:
    """Deals the rows of a global batch out to processes and micro-batches.

    Args:
        order: (B,) rows, in an order in which rows that must stay together are neighbours.
        micro_batch: Number of rows, of all processes together, that are in the network at once; None for all.

    Returns:
        Rows of each process, (micro-batches, rows). A micro-batch is the same for any number of processes.

    Raises:
        UsageError: The batch cannot be divided into equal, even shares.
    """
    size, processes = micro_batch or len(order), world()
    if size % (2 * processes) and processes > 1:
        remedy = f"choose a multiple of {2 * processes}"
        raise UsageError(
            f"{'micro_batch' if micro_batch else 'batch'} {size}", f"no even share for {processes}", remedy
        )
    dealt = order.reshape(-1, processes, size // processes)
    return [dealt[:, number] for number in range(processes)]


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm over the rows of all processes: (b, C) -> (b, C), always on batch statistics when training."""

    def forward(self, rows: Tensor) -> Tensor:
        """Normalises with mean and biased variance of all processes' rows, and updates the running statistics."""
        if world() == 1 or not self.training:
            normalised: Tensor = super().forward(rows)
            return normalised
        values = rows if rows.dtype == torch.float64 else rows.float()
        sums = torch.stack([values.sum(0, dtype=torch.float64), values.double().square().sum(0)])
        count = len(rows) * world()
        average, square = _Sum.apply(sums) / count
        variance = (square - average.square()).clamp_min(0)
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.running_mean.lerp_(average.to(self.running_mean), self.momentum or 0.0)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), self.momentum or 0.0)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt().to(values)
        shifted: Tensor = (values - average.to(values)) * scale + self.bias
        return shifted.to(rows.dtype)


class _Sum(torch.autograd.Function):
    """Sum over processes, whose gradient is the sum over processes, too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        _call(dist.all_reduce, total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        _call(dist.all_reduce, total)
        return total


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def _gather_objects(everyone: list[Any], own: Any) -> None:
    """Fills a list with one object of each process, after a barrier."""
    barrier()
    with _told_as_lost():
        dist.all_gather_object(everyone, own, group=_group)


@contextmanager
def _told_as_lost() -> Iterator[None]:
    """Turns torch's errors in a collective into LostPeer."""
    try:
        yield
    except RuntimeError as error:
        raise LostPeer(f"rank {rank()}", f"lost another process ({str(error).splitlines()[0]})", _AGAIN) from error


def _call(collective: Callable[..., Any], *tensors: Any, patience: timedelta | None = None) -> None:
    """Runs a collective. Between CPUs, time in which this process was suspended does not count as waiting."""
    with _told_as_lost():
        if any(isinstance(tensor, Tensor) and tensor.is_cuda for tensor in tensors):
            collective(*tensors)  # NCCL, which has a clock of its own
            return
        work = collective(*tensors, group=_group, async_op=True)
        watch, most_s = Watch(_POLL.total_seconds()), (patience or _PATIENCE).total_seconds()
        while not work.is_completed():
            with suppress(RuntimeError):  # a poll that ends without an answer, or an error that is raised below
                work.wait(_POLL)
            if watch.look() > most_s and not work.is_completed():
                _group.abort()
                raise RuntimeError(f"timed out after {most_s:g} s")
        work.wait()


def _verdict(error: Exception, peers: list[tuple[str, int]]) -> BenchError:
    """Error that the user reads for an exception in this process; only the first process to ask reports it."""
    if isinstance(error, LostPeer):
        gone = _find_gone(peers)
        if gone is not None:
            host, pid = peers[gone]
            error = MachineError(f"rank {gone}", f"is gone (process {pid} on {host} was killed or crashed)", _AGAIN)
    elif isinstance(error, BenchError) and not isinstance(error, Stopped):
        named = BenchError(f"rank {rank()}: {error.subject}", error.reason, error.remedy)
        named.exit_code = error.exit_code
        error = named
    elif not isinstance(error, BenchError):
        error = MachineError(f"rank {rank()}", f"{type(error).__name__}: {error}", _AGAIN)
    return error if _speaks() else Told(error.exit_code)


def _find_gone(peers: list[tuple[str, int]]) -> int | None:
    """Rank of a dead process on this machine; None if there is none, or if another process has reported."""
    watch = Watch(_LOOK_S)
    while watch.look() < _REAPED_S and not _said():
        for number, (host, pid) in enumerate(peers):
            if host == socket.gethostname() and _is_gone(pid):
                return number
        time.sleep(_LOOK_S)
    return None


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    with suppress(OSError):  # one that died and was not reaped yet; on Linux only, elsewhere the reaping is awaited
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return False


def _speaks() -> bool:
    """True if this process is the first to report why the job ends."""
    store = _store()
    return store is None or bool(store.add("told", 1) == 1)


def _said() -> bool:
    store = _store()
    return store is not None and bool(store.add("told", 0) > 0)


def _store() -> Any:
    """Key-value store of the launcher, with keys of this restart's own; None if it died with a worker."""
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(  # type: ignore[attr-defined]
            address, port, is_master=False, timeout=_PATIENCE, wait_for_workers=False
        )
    except (KeyError, RuntimeError):
        return None
    return dist.PrefixStore(  # type: ignore[attr-defined]
        f"uamix-bench/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store
    )
