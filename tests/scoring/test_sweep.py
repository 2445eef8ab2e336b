"""Sweeps over shots: the classes of every cell are those that its largest number of shots can use."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, strategies as st

from uamix_bench.data.clip_table import SortedClips, sort_clips
from uamix_bench.data.task import TaskData, load_task
from uamix_bench.evaluation.fewshot import fewshot, fewshot_grid
from uamix_bench.evaluation.grid import evaluate
from uamix_bench.evaluation.plan import plan_task
from uamix_bench.models.loading import load_model
from uamix_bench.records.store import ResultStore
from uamix_bench.scoring.episodes import draw_sorted
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.scoring.remarks import remarks
from uamix_bench.scoring.sweep import sweep
from uamix_bench.studies.paper import Settings
from uamix_bench.studies.reproduce import not_comparable
from uamix_bench.util.errors import UsageError

SIZES = {"a": 4, "b": 6, "c": 9, "d": 9, "e": 12}  # clips of each class
BASE = Protocol(name="small", n_way=2, n_query=3, episodes=40)


def table_of(sizes: dict[str, int]) -> SortedClips:
    clips = [f"{label}/{number:02d}" for label, size in sizes.items() for number in range(size)]
    return sort_clips(clips, [clip.split("/")[0] for clip in clips])


def cells(*shots: int, ways: tuple[int, ...] = (2,), base: Protocol = BASE) -> list[Protocol]:
    return [base.model_copy(update={"n_way": n, "k_shot": k}) for n in ways for k in shots]


@pytest.mark.parametrize(
    ("shots", "fewest", "kept"),
    [
        ((1,), [None], "abcde"),  # 4 clips each
        ((1, 2), [5, None], "bcde"),
        ((1, 3), [6, None], "bcde"),
        ((1, 3, 6), [9, 9, None], "cde"),
        ((5, 6), [None, None], "cde"),  # 8 and 9 clips: the same classes have them
        ((6,), [None], "cde"),
    ],
)
def test_every_cell_draws_from_the_classes_of_the_largest(
    shots: tuple[int, ...], fewest: list[int | None], kept: str
) -> None:
    table = table_of(SIZES)
    made = sweep(cells(*shots), table)
    assert [one.min_clips for one in made] == fewest
    for one in made:
        assert draw_sorted(one, table, task="t", version="1").class_names == tuple(kept)


@given(
    sizes=st.lists(st.integers(1, 14), min_size=1, max_size=6),
    shots=st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True),
    ways=st.sampled_from([(2,), (2, 3)]),
    fewest=st.none() | st.integers(1, 12),
)
def test_what_every_sweep_keeps(sizes: list[int], shots: list[int], ways: tuple[int, ...], fewest: int | None) -> None:
    table = table_of({f"c{number}": size for number, size in enumerate(sizes)})
    given = [one.model_copy(update={"min_clips": fewest}) for one in cells(*shots, ways=ways)]
    made = sweep(given, table)
    largest = max(max(shots) + 3, fewest or 0)
    for one in made:  # the same classes in all, counted by hand
        assert sum(size >= one.fewest_clips for size in sizes) == sum(size >= largest for size in sizes)
        assert one.min_clips is None or sum(size >= one.k_shot + 3 for size in sizes) > sum(s >= largest for s in sizes)
    assert sweep(made, table) == made
    for some in itertools.combinations(made, 2):  # a part of a sweep stays what it is
        assert sweep(some, table) == list(some)
    assert [sweep([one], table) for one in made] == [[one] for one in made]


def test_cells_of_another_seed_or_number_of_queries_are_no_sweep_of_these() -> None:
    other = [BASE.model_copy(update={"k_shot": 6, name: value}) for name, value in (("seed", 1), ("n_query", 2))]
    assert sweep([BASE, *other], table_of(SIZES)) == [BASE, *other]


def test_supports_and_queries_stay_nested() -> None:
    table = table_of(SIZES)
    one, three, six = (draw_sorted(cell, table, task="t", version="1") for cell in sweep(cells(1, 3, 6), table))
    assert np.array_equal(one.classes, six.classes)
    assert np.array_equal(one.support, six.support[:, :, :1])
    assert np.array_equal(three.support, six.support[:, :, :3])
    assert np.array_equal(one.query, six.query)


def test_what_is_left_out_is_said_once_with_counts_and_remedy() -> None:
    table = table_of(SIZES)
    made = sweep(cells(1, 3, 6), table)
    draws = [draw_sorted(cell, table, task="t", version="1") for cell in made]
    (said,) = remarks(made, draws)
    assert said.code == "classes"
    assert said.text == "2 of 5 classes are left out for having fewer than 9 clips (k 6 + q 3): a has 4, b has 6"
    small = sweep(cells(1, 2), table)
    (remedied,) = remarks(small, [draw_sorted(cell, table, task="t", version="1") for cell in small])
    assert remedied.text.endswith("(k 2 + q 3): a has 4; --q auto leaves no class out")
    alone = remarks(made[:1], draws[:1])[0].text  # where fewer queries would leave out as many
    assert alone == "2 of 5 classes are left out for having fewer than 9 clips (min_clips): a has 4, b has 6"
    assert not remarks([BASE], [draw_sorted(BASE, table, task="t", version="1")])


@pytest.fixture
def task(tmp_path: Path, bench_home: Path) -> TaskData:
    """Classes of as many noises as `SIZES` says."""
    numbers = np.random.default_rng(0)
    for label, size in SIZES.items():
        (tmp_path / "own" / label).mkdir(parents=True)
        for number in range(size):
            soundfile.write(tmp_path / "own" / label / f"{number:02d}.wav", 0.1 * numbers.normal(size=800), 16_000)
    return load_task(str(tmp_path / "own"))


def test_the_librarys_grid_is_a_sweep_and_each_cell_can_be_had_alone(task: TaskData, tmp_path: Path) -> None:
    model = load_model("logmel")
    grid = fewshot_grid(model, task, cells(1, 3, 6))
    assert [one.protocol.min_clips for one in grid] == [9, 9, None]
    assert [one.episodes.classes_left_out for one in grid] == [2, 2, 2]
    assert all(set(one.per_class) == {"c", "d", "e"} for one in grid)
    assert [fewshot(model, task, one.protocol).id for one in grid] == [one.id for one in grid]
    assert all(any(note.startswith("classes: 2 of 5 ") for note in one.status.notes) for one in grid)
    alone = fewshot(model, task, BASE)
    assert (alone.protocol.min_clips, alone.episodes.classes_left_out, alone.status.notes) == (None, 0, ())
    assert grid[2].id == fewshot(model, task, cells(6)[0]).id
    store = ResultStore(tmp_path / "r")
    assert [kept.how for kept in evaluate([model], [task], cells(1, 3, 6), store=store)] == ["wrote"] * 3
    assert [kept.how for kept in evaluate([model], [task], cells(1, 3, 6), store=store)] == ["reused"] * 3
    assert [kept.how for kept in evaluate([model], [task], cells(1), store=store)] == ["wrote"]  # of other classes


def test_a_sweep_with_too_few_classes_names_what_its_largest_cell_needs(task: TaskData) -> None:
    with pytest.raises(UsageError, match=r"of at least 9 clips \(k 6 \+ q 3\), and 3 of 5 .*: a has 4, b has 6"):
        plan_task(task, cells(1, 6, ways=(4,)))


def test_a_number_on_fewer_classes_is_not_held_against_the_paper() -> None:
    from uamix_bench.plugins import registry

    from ..sample_records import few_shot

    paper = Protocol(name="paper")
    result = few_shot(protocol=few_shot().protocol.model_copy(update={"n_way": 2, "min_clips": 9}))
    settings = Settings(protocol=paper)
    card = next(iter(registry.models().values())).card
    assert "2-way" in not_comparable(result, card, settings)
    five = result.model_construct(**{**dict(result), "protocol": paper.model_copy(update={"min_clips": 35})})
    assert not_comparable(five, card, settings) == "only classes of 35 clips or more"
