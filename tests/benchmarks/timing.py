"""Sides timed in turn, in one process and one run: what else the machine does falls on all of them alike.

Times are of one thread: its CPU time or, on a GPU, the wall time until the GPU is done. A time alone says little of
another machine; what is compared is the median over the rounds of one side's time by another's of the same round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits

Seconds = npt.NDArray[np.float64]


class Side(NamedTuple):
    """Something to time: what it runs, and how many units (clips, episodes, bytes, operations) that is."""

    run: Callable[[], object]
    units: float = 1


@dataclass(frozen=True)
class Times:
    """Seconds a unit, (rounds,) float64, of each side by name."""

    seconds: Mapping[str, Seconds]

    def median(self, side: str) -> float:
        return float(np.median(self.seconds[side]))

    def ratio(self, side: str, other: str) -> float:
        """How many times as long `side` takes as `other`."""
        return float(np.median(self.seconds[side] / self.seconds[other]))


@contextmanager
def one_thread() -> Iterator[None]:
    """Numpy and torch compute in one thread meanwhile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def measure(sides: Mapping[str, Side], rounds: int, device: str = "cpu", warm_up: bool = True) -> Times:
    """Times every side in every round, another one first each time; a round before, to warm up, does not count."""
    clock = time.process_time if device == "cpu" else _gpu_clock
    names = list(sides)
    spent: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + warm_up):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            begun = clock()
            sides[name].run()
            spent[name].append((clock() - begun) / sides[name].units)
    return Times({name: np.array(times[warm_up:]) for name, times in spent.items()})


def _gpu_clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()
