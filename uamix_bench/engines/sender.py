"""Sending of jobs to workers in bundles, and again where a worker is lost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from uamix_bench.engines.engine import AnyJob, Function, Labelled, Outcome, Stop, never
from uamix_bench.util.errors import BenchError, MachineError
from uamix_bench.util.progress import SILENT, Progress

_TRIES = 3  # of a job whose workers are lost


class Lost(Exception):
    """Loss of a worker that ended without an outcome; the message says how."""


class Sender(ABC):
    """Loop of the engines whose jobs run in other processes: lost bundles are sent again.

    A bundle is a few jobs that one worker does one after the other.
    """

    most = 512  # bundles that wait at the workers or run there: their paths and outcomes take memory

    def map(
        self,
        function: Function[AnyJob, Outcome],
        jobs: Sequence[AnyJob],
        progress: Progress = SILENT,
        stop: Stop = never,
    ) -> Generator[tuple[int, Outcome], None, None]:
        """See :meth:`uamix_bench.engines.engine.Engine.map`."""
        waiting = deque((bundle, 1) for bundle in self._bundles(len(jobs)))
        running: dict[Any, tuple[range, int]] = {}
        told: set[str] = set()
        try:
            while waiting or running:
                if stop():
                    self._stop()
                room = max(0, self.most - len(running))
                sent = [waiting.popleft() for _ in range(min(room, len(waiting)))]
                if sent:
                    handles = self._submit(function, [jobs[bundle.start : bundle.stop] for bundle, _ in sent])
                    running |= dict(zip(handles, sent, strict=True))
                for handle in self._wait(list(running)):
                    bundle, tries = running.pop(handle)
                    label = jobs[bundle.start].label + (f" and {len(bundle) - 1} more" if len(bundle) > 1 else "")
                    try:
                        outcomes = self._outcomes(handle)
                    except Lost as error:
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
            self._cancel(list(running))

    def _bundles(self, jobs: int) -> Iterator[range]:
        """Divides job numbers among bundles."""
        return (range(at, at + 1) for at in range(jobs))

    @abstractmethod
    def _submit(self, function: Callable[..., Any], bundles: Sequence[Sequence[Labelled]]) -> list[Any]:
        """Submits bundles to the engine; returns one handle a bundle."""

    @abstractmethod
    def _wait(self, handles: list[Any]) -> list[Any]:
        """Waits for bundles to end; returns the handles of those that have, or none after a while."""

    @abstractmethod
    def _outcomes(self, handle: Any) -> list[Any]:
        """Outcomes of a bundle's jobs; from the first job that failed on, its BenchError.

        Raises:
            Lost: The worker ended without an outcome.
        """

    @abstractmethod
    def _stop(self) -> None:
        """Ends the jobs because the user asked for it: by raising :class:`Stopped`, or by asking them to do so."""

    @abstractmethod
    def _cancel(self, handles: list[Any]) -> None:
        """Ends the bundles whose outcomes are no longer needed."""
