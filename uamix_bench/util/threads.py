"""Work in threads that is waited for with a word where it takes long, and never past an interrupt."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

SLOW_S = 10.0  # a wait that is worth a word
PATIENCE_S = 60.0  # for the decoding of one clip, which takes milliseconds: a file or a disk that hangs
_PARTING_S = 2.0  # for threads at work when no more is wanted: a decoder that is cut off at exit may abort


class Watch:
    """A clock of waiting, in seconds, that goes only while it is looked at.

    Of the time between two looks no more than twice the usual step counts: the rest this process did not wait, but did
    something else or stood still (Ctrl-Z, `docker pause`, a laptop that sleeps), and with it what it waits for.

    Args:
        step_s: The time between two looks of a loop that waits.
    """

    def __init__(self, step_s: float) -> None:
        self._most_s = 2 * step_s
        self._total_s, self._seen_s = 0.0, time.monotonic()
        self._lock = Lock()

    def look(self) -> float:
        """Looks at the clock: the seconds that were waited in all."""
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
        future: What is waited for.
        slow: Called once where that takes longer than ten seconds.
        over: Asked from then on whether to give up.
        watch: Goes while this waits, with looks a second apart; default one of its own.

    Returns:
        Whether it is done.
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


class _Job(Generic[Item, Outcome]):
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

    The threads are daemons: one that hangs in a decoder or on a disk cannot be ended, and must not hold up an interrupt
    or the end of the program, as one of `concurrent.futures` does.

    Args:
        work: Called in a thread; what it raises is raised where its outcome is due.
        items: What it is called with.
        threads: How many work at once.
        ahead: How many items are begun before they are asked for.
        slow: Told of an item that is waited for longer than ten seconds.
        hung: What stands for an item that is given up after a minute of waiting for it or those before it; without it
            none is.
    """
    jobs: SimpleQueue[_Job[Item, Outcome] | None] = SimpleQueue()
    pending: deque[_Job[Item, Outcome]] = deque()
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

    def outcome(job: _Job[Item, Outcome]) -> Outcome:
        if settle(job.future, lambda: slow(job.item), lambda: hung is not None and job.hangs(watch), watch):
            return job.future.result()
        start()  # in place of the one that hangs
        assert hung is not None
        return hung(job.item)

    try:
        for _ in range(threads):
            start()
        for item in items:
            pending.append(_Job(item))
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
