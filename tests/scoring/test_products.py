"""When products of all pairs are worth their cost."""

from __future__ import annotations

import tracemalloc

import numpy as np

from uamix_bench.scoring.products import MEAN_OF_SHOTS, Pairs, decide, pay


def episodes(count: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(rows, size=(count, 5, 1)), rng.integers(rows, size=(count, 5, 15))


def test_many_episodes_of_few_clips_pay() -> None:
    table = np.zeros((2_000, 768), np.float32)
    assert pay(table, *episodes(10_000, 2_000), MEAN_OF_SHOTS)
    assert not pay(table, *episodes(100, 2_000), MEAN_OF_SHOTS)


def test_of_many_clips_all_pairs_are_never_made() -> None:
    assert not pay(np.zeros((8_193, 2), np.float32), *episodes(50_000, 8_193), MEAN_OF_SHOTS)


def test_products_in_float64_are_left_to_distances() -> None:
    assert not pay(np.zeros((100, 768)), *episodes(10_000, 100), MEAN_OF_SHOTS)


def test_pairs_look_up_inner_products() -> None:
    table = np.random.default_rng(1).integers(-4, 5, (20, 7)).astype(np.float32)  # whole, so exact
    left, right = np.array([[3, 4], [0, 19]]), np.array([[1, 1, 2], [5, 6, 7]])
    assert np.array_equal(Pairs(table)(left, right), np.einsum("bid,bjd->bij", table[left], table[right]))
    assert np.array_equal(Pairs(table).squares, (table**2).sum(axis=1))


def test_many_shots_take_little_memory() -> None:
    rng = np.random.default_rng(2)
    table = rng.standard_normal((600, 4)).astype(np.float32)
    support, query = rng.integers(600, size=(100, 2, 250)), rng.integers(600, size=(100, 2, 5))
    tracemalloc.start()
    decide(table, support, query, MEAN_OF_SHOTS, margin=0.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20  # the products of all supports of 100 episodes are 150 MB with their places


def test_products_of_the_supports_count_as_a_cost() -> None:
    rng = np.random.default_rng(3)
    support, query = rng.integers(1_000, size=(1_000, 5, 150)), rng.integers(1_000, size=(1_000, 5, 1))
    assert not pay(np.zeros((1_000, 768), np.float32), support, query, MEAN_OF_SHOTS)
