"""Which of several records are shown together: what a user did, in order, and what may then stand side by side."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from uamix_bench.records.newest import newest
from uamix_bench.records.record import TaskIdentity
from uamix_bench.records.results import Result
from uamix_bench.scoring.protocol import Protocol

from ..sample_records import few_shot, finetuned

OLD, NEW, OTHER = "a" * 64, "b" * 64, "c" * 64  # sounds, or clip tables


def asked(
    day: int,
    model: str = "m",
    *,
    task: str = "local/s",
    version: str = "v1",
    table: str = "",
    sounds: str | None = OLD,
    k: int = 1,
    hits: int = 3,
    weights: str = OLD,
) -> Result:
    """What came out on a day of December of a model on a version of a folder; `sounds` of None are not recorded."""
    plain = few_shot()
    identity: dict[str, Any] = {"name": task, "version": version, "clips_sha256": table or version[-1] * 64}
    if task.startswith("local/"):
        identity["content_sha256"] = sounds
    started = {"started_at": f"2026-12-{day:02d}T00:00:00+00:00", "content_sha256": sounds}
    return few_shot(
        (hits, 4, 1),
        model=plain.model.model_copy(update={"name": model, "weights_sha256": weights}),
        task=plain.task.model_copy(update=identity),
        protocol=Protocol(n_way=2, k_shot=k, n_query=2, episodes=3),
        provenance=plain.provenance.model_copy(update=started),
    )


# What was done, which of it is shown (by position), how many are superseded, and how many of earlier versions.
HISTORIES: dict[str, tuple[list[Result], list[int], int, int]] = {
    "a clip is removed, one of two models evaluated again": (
        [asked(1, "a"), asked(1, "b"), asked(2, "a", version="v2")], [2], 0, 2,
    ),
    "the clip is put back: its first results count again": (
        [asked(1, "a"), asked(2, "a", version="v2"), asked(3, "b")], [0, 2], 0, 1,
    ),
    "a file is replaced under its name": (
        [asked(1, "a"), asked(1, "b"), asked(2, "a", sounds=NEW)], [2], 0, 2,
    ),
    "a file is replaced, and one of two settings evaluated again": (
        [asked(1, k=1), asked(1, k=2, sounds=OTHER), asked(2, k=1, sounds=NEW)], [2], 0, 2,
    ),
    "another setting is evaluated after that": (
        [asked(1, k=1), asked(2, k=1, sounds=NEW), asked(3, k=2, sounds=OTHER)], [1, 2], 0, 1,
    ),
    "two lists of classes of one folder": ([asked(1, table=OLD), asked(2, table=NEW)], [0, 1], 0, 0),
    "two versions of a published data set": (
        [asked(1, task="esc50", version="1"), asked(2, task="esc50", version="2")], [0, 1], 0, 0,
    ),
    "a record of before the sounds were recorded, and one of another model since": (
        [asked(1, "a", sounds=None), asked(2, "b")], [1], 0, 1,
    ),
    "records of before the sounds were recorded alone": (
        [asked(1, "a", sounds=None), asked(1, "b", sounds=None)], [0, 1], 0, 0,
    ),
    "the same on another machine": ([asked(1, hits=3), asked(2, hits=2)], [1], 1, 0),
    "other weights under one name": ([asked(1), asked(2, weights=NEW)], [0, 1], 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("history", HISTORIES)
def test_what_is_shown_is_of_the_newest_version_in_whatever_order_files_come(history: str) -> None:
    records, shown, superseded, earlier = HISTORIES[history]
    for order in permutations(records):
        found = newest(order)
        assert {one.id for one in found.records} == {records[at].id for at in shown}
        assert found.superseded == superseded
        assert [line.split(" record")[0] for line in found.earlier] == ([f"local/s: {earlier}"] if earlier else [])


def test_fine_tunings_of_an_earlier_version_are_left_out_too() -> None:
    def on(version: str, day: int) -> Any:
        task: TaskIdentity = finetuned().task.model_copy(update={"name": "local/s", "version": version})
        started = {"started_at": f"2026-12-{day:02d}T00:00:00+00:00"}
        return finetuned(task=task, provenance=finetuned().provenance.model_copy(update=started))

    old, new = on("v1", 1), on("v2", 2)
    found = newest([new, old])
    assert found.records == [new]
    assert found.earlier[0].startswith("local/s: 1 record of an earlier version")
