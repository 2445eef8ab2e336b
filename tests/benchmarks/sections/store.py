"""Store and leaderboard as results grow: to store one more, find, list, and build the site."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice, product
from pathlib import Path

import numpy as np

from tests.reports import records
from uamix_bench.cli.pages import write_page
from uamix_bench.records.record import record_text
from uamix_bench.records.results import Result
from uamix_bench.records.store import ResultStore, read_all
from uamix_bench.reports.blocks import Prose, Section, Table
from uamix_bench.reports.leaderboard import leaderboard
from uamix_bench.scoring.protocol import Protocol

from .. import tables
from ..scale import Scale

MODELS = 100
SETTINGS = list(product((5, 10, 2, 3, 4, 6, 7, 8), (1, 5, 2, 10, 20)))  # ways and shots, as many as are needed
RATES = (0.66, 0.30, 0.75, 0.29, 0.43)  # of the best model on the five data sets, about


def results(count: int) -> Iterator[Result]:
    """Results of 100 models on the five data sets, at ever more settings, of the paper's 600 episodes."""
    for way, shot in SETTINGS:
        for model, (task, rate) in product(range(MODELS), zip(records.TASKS, RATES, strict=True)):
            if count == 0:
                return
            count -= 1
            yield records.result(
                f"model-{model:03d}",
                rate * (0.6 + 0.4 * model / MODELS) * (5 / way) ** 0.25,
                task=task,
                protocol=Protocol(n_way=way, k_shot=shot),
                pretrained_on=records.AUDIOSET,
                parameters=85_000_000 + model,
            )


def keep(folder: Path, made: Iterator[Result]) -> None:
    """Writes records under their names, without waiting for the disk."""
    store = ResultStore(folder)
    for result in made:
        path = store.path(result)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record_text(result), encoding="utf-8")


def section(scale: Scale, folder: Path) -> Section:
    text = f"""
        Results of {MODELS} models on the paper's five data sets at ever more settings, 600 episodes each, made by the
        record's own class. Listed: every file read and its id, mean, interval and sums computed anew; of one model: the
        others are read no further than they say what they are of. The site is written whole. CPU time of one process,
        the page of classes of a task with 1,251 of them included; medians where one more is stored or found.
    """
    return Section("Store and leaderboard", [Prose(text), _growth(scale, folder)])


def _growth(scale: Scale, folder: Path) -> Table:
    rows, made, there = [], results(max(scale.results) + scale.rounds), 0
    store = ResultStore(folder / "store")
    leaderboard(list(results(10)))  # imports what draws
    for count in scale.results:
        keep(store.folder, islice(made, count - there))
        there = count + scale.rounds
        rows.append(_row(store, list(islice(made, scale.rounds)), folder / f"site-{count}"))
    columns = ("store one more, ms>", "find, ms>", "list of one model, ms each>", "list, ms each>")
    return Table(["Results kept", *columns, "build, ms each>", "index, MB>", "site, MB>"], rows)


def _row(store: ResultStore, new: list[Result], site: Path) -> list[str]:
    def find(one: Result) -> None:
        if not list(store.find(one.model, one.task, one.protocol, one.episodes.digest)):
            raise AssertionError("the store has lost a result")

    def of_model() -> None:
        name = new[0].model.name
        if not read_all([store.folder], lambda parts: bool(parts["model"]["name"] == name)).records:
            raise AssertionError("the store has lost a result")

    kept: list[Result] = []
    stored, found = (float(np.median([_cpu_s(work, one) for one in new])) for work in (store.write, find))
    chosen = _cpu_s(of_model)
    listed = _cpu_s(lambda: kept.extend(record for _, record in read_all([store.folder]).records))
    built = _cpu_s(lambda: write_page(leaderboard(kept), site, "index", durable=False))
    sizes = [(site / "index.html").stat().st_size, sum(path.stat().st_size for path in site.iterdir())]
    times = [stored, found, *(seconds / len(kept) for seconds in (chosen, listed, built))]
    return [f"{len(kept):,}", *map(tables.milliseconds, times), *(tables.significant(size / 1e6) for size in sizes)]


def _cpu_s(work: Callable[..., object], *arguments: object) -> float:
    begun = time.process_time()
    work(*arguments)
    return time.process_time() - begun
