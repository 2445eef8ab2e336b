"""Ray's engine on 1, 2 and 4 workers: overhead of a job beside Ray's own, and share of linear speed-up."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pytest

from uamix_bench.engines.engine import Engine, Stop, find_engine
from uamix_bench.util.progress import Progress

REPOSITORY = Path(__file__).parents[2]
EMPTY, ROUNDS = 200, 3
BURNT_S, EACH = 0.5, 6  # CPU time of a job, and jobs of a worker


class Job(NamedTuple):
    label: str


def nothing(job: Job, progress: Progress, stop: Stop) -> None:
    """Does an empty job."""


def no_job() -> None:
    """Does nothing for Ray alone."""


def burn(job: Job, progress: Progress, stop: Stop) -> float:
    """Computes for a while; returns its CPU seconds."""
    begun = time.thread_time()
    while time.thread_time() - begun < BURNT_S:
        pass
    return time.thread_time() - begun


@pytest.fixture(params=[1, 2, 4])
def cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, int]]:
    """Ray with so many workers, and their number."""
    ray = pytest.importorskip("ray", reason="ray is not installed (the extra [ray])")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))  # where workers find this module
    ray.init(num_cpus=request.param, num_gpus=0, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray, request.param
    ray.shutdown()


def spent(engine: Engine, function: Any, jobs: int) -> tuple[float, float, list[Any]]:
    """Wall time, CPU time of this process, and outcomes."""
    wall, cpu = time.perf_counter(), time.process_time()
    outcomes = [outcome for _, outcome in engine.map(function, [Job(f"job {number}") for number in range(jobs)])]
    return time.perf_counter() - wall, time.process_time() - cpu, outcomes


@pytest.mark.slow
def test_the_engine_adds_little_to_what_ray_takes(cluster: tuple[Any, int]) -> None:
    ray, workers = cluster
    bare = ray.remote(num_cpus=1, max_retries=0)(no_job)
    shares = []
    with find_engine("ray", device="cpu") as engine:
        spent(engine, nothing, 4 * workers)  # workers start, and import
        ray.get([bare.remote() for _ in range(4 * workers)])
        for _ in range(ROUNDS):
            wall, cpu, _ = spent(engine, nothing, EMPTY)
            begun, begun_cpu = time.perf_counter(), time.process_time()
            ray.get([bare.remote() for _ in range(EMPTY)])
            of_ray, of_ray_cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
            shares.append(cpu / of_ray_cpu)
            mine, theirs = (f"{1e3 * one / EMPTY:.2f} ms" for one in (wall, of_ray))
            cpus = f"{1e3 * cpu / EMPTY:.2f} CPU ms here, {1e3 * of_ray_cpu / EMPTY:.2f}"
            print(f"{workers} workers: an empty job takes {mine}, of Ray alone {theirs}; {cpus}")
        wall, cpu, burnt = spent(engine, burn, EACH * workers)
    cores = min(workers, len(os.sched_getaffinity(0)))
    print(
        f"{workers} workers: {sum(burnt) / wall / cores:.0%} of {cores} cores, here {cpu / len(burnt):.4f} CPU s a job"
    )
    assert median(shares) < 4, shares
