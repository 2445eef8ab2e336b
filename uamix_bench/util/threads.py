"""Processor cores, and an ordered thread map that names slow items, gives up hung ones, and never blocks Ctrl-C."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

SLOW_S = 10.0  # a wait that is worth a word
PATIENCE_S = 60.0  # for the decoding of one clip, which takes milliseconds: a file or a disk that hangs
_CGROUP = Path("/sys/fs/cgroup")
_PARTING_S = 2.0  # for threads at work when no more is wanted: a decoder that is cut off at exit may abort


def cores() -> int:
    """Number of processor cores that this process may use, by its affinity and its cgroup's quota (1.5 count as 2)."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(here, math.ceil(_quota())))


def _quota() -> float:
    """Cores whose time the cgroup grants, of version 2 or 1; as many as there may be without a quota."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((_CGROUP / name).read_text() for name in names).split()
            if quota not in ("max", "-1"):
                return int(quota) / int(period)
        except (OSError, ValueError):
            continue
    return float(os.cpu_count() or 1)


@contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """Sets torch's processor threads, of this thread and of those begun in the block; None leaves torch's choice."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Watch:
    """Clock of the time spent waiting, in seconds. It runs only while it is read.

    At most twice the usual step counts between two readings. In the rest of the time this process did not wait: it did
    other work or was suspended (Ctrl-Z, `docker pause`, a sleeping laptop), and the awaited work may have been too.

    Args:
        step_s: Time between two readings in a waiting loop, in seconds.
    """

    def __init__(self, step_s: float) -> None:
        self._most_s = 2 * step_s
        self._total_s, self._seen_s = 0.0, time.monotonic()
        self._lock = Lock()

    def look(self) -> float:
        """Reads the clock and returns the total waiting time in seconds."""
        with self._lock:
            now_s = time.monotonic()
            self._total_s += min(now_s - self._seen_s, self._most_s)
            self._seen_s = now_s
            return self._total_s


def settle(
    future: Future[Outcome],
    slow: Callable[[], None],
    over: Callable[[], bool] = lambda: False,
    watch: Watch | None = None,
) -> bool:
    """Waits until a future is done.

    Args:
        future: The future to wait for.
        slow: Callback that is called once if the wait is longer than ten seconds.
        over: Test that is asked from then on; True gives up.
        watch: Clock that runs during the wait, read once a second; a new one by default.

    Returns:
        True if the future is done, False if `over` gave it up.
    """
    watch = watch or Watch(SLOW_S / 10)
    begun_s, said = watch.look(), False
    while not future.done():
        if watch.look() - begun_s >= SLOW_S:
            if not said:
                slow()
                said = True
            if over():
                return False
        wait([future], SLOW_S / 10)
    return True


class _Call(Generic[Item, Outcome]):
    def __init__(self, item: Item) -> None:
        self.item = item
        self.future: Future[Outcome] = Future()
        self.begun_s: float | None = None

    def hangs(self, watch: Watch) -> bool:
        return self.begun_s is not None and watch.look() - self.begun_s > PATIENCE_S


def in_threads(
    work: Callable[[Item], Outcome],
    items: Iterable[Item],
    *,
    threads: int,
    ahead: int,
    slow: Callable[[Item], None],
    hung: Callable[[Item], Outcome] | None = None,
) -> Generator[Outcome, None, None]:
    """Yields ``work(item)`` for each item, in order.

    The threads are daemons. A thread that hangs in a decoder or on a disk cannot be ended; unlike one of
    `concurrent.futures`, it must not delay an interrupt or the end of the program.

    Args:
        work: Function that is called in a thread. Its exception is raised at its item's turn.
        items: Arguments of `work`, one a call.
        threads: Number of threads.
        ahead: Number of items that are begun before they are asked for.
        slow: Callback for an item whose wait is longer than ten seconds.
        hung: Maker of the outcome of an item that is given up, after a minute of waiting for it or those before it.
            None never gives up.
    """
    jobs: SimpleQueue[_Call[Item, Outcome] | None] = SimpleQueue()
    pending: deque[_Call[Item, Outcome]] = deque()
    workers: list[Thread] = []
    watch = Watch(SLOW_S / 10)

    def serve() -> None:
        while (job := jobs.get()) is not None:
            if job.future.set_running_or_notify_cancel():
                job.begun_s = watch.look()
                try:
                    job.future.set_result(work(job.item))
                except BaseException as error:
                    job.future.set_exception(error)
            del job  # a thread that waits holds no outcome

    def start() -> None:
        workers.append(Thread(target=serve, daemon=True))
        workers[-1].start()

    def outcome(job: _Call[Item, Outcome]) -> Outcome:
        if settle(job.future, lambda: slow(job.item), lambda: hung is not None and job.hangs(watch), watch):
            return job.future.result()
        start()  # in place of the one that hangs
        assert hung is not None
        return hung(job.item)

    try:
        for _ in range(threads):
            start()
        for item in items:
            pending.append(_Call(item))
            jobs.put(pending[-1])
            if len(pending) > ahead:
                yield outcome(pending.popleft())
        while pending:
            yield outcome(pending.popleft())
    finally:
        for job in pending:
            job.future.cancel()
        for _ in workers:
            jobs.put(None)
        until_s = time.monotonic() + _PARTING_S
        for worker in workers:
            worker.join(max(0.0, until_s - time.monotonic()))
