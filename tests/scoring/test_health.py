"""Health against closed forms, brute force, and the thresholds of its verdicts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from uamix_bench.scoring.health import Clips, Health, check, duplicates, effective_rank, raise_if_red
from uamix_bench.util.errors import BadInputError


def random(n: int, d: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)


def keys(n: int) -> list[bytes]:
    return [bytes([index // 256, index % 256]) for index in range(n)]


def test_effective_rank_in_closed_form() -> None:
    axes = np.concatenate([np.eye(7), -np.eye(7)]).astype(np.float32)
    assert effective_rank(axes) == pytest.approx(7)
    assert effective_rank(axes + 100) == pytest.approx(7, rel=1e-4)  # about the mean
    assert effective_rank(np.outer(np.arange(9), np.arange(1, 20)).astype(np.float32)) == pytest.approx(1, rel=1e-3)
    assert effective_rank(np.ones((5, 4), np.float32)) == 0
    weighted = (axes * np.array([1, 1, 1, 0.5, 0, 0, 0])).astype(np.float32)  # singular values 1 : 1 : 1 : 1/2
    entropy = 3 * (2 / 7) * np.log(7 / 2) + (1 / 7) * np.log(7)
    assert effective_rank(weighted) == pytest.approx(np.exp(entropy), rel=1e-6)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (2, 5), (3_001, 6)])
def test_effective_rank_against_svd(shape: tuple[int, int]) -> None:
    vectors = random(*shape) * np.geomspace(1, 1e-3, shape[1], dtype=np.float32) + 3
    chosen = (
        vectors if len(vectors) <= 2_000 else vectors[np.round(np.linspace(0, len(vectors) - 1, 2_000)).astype(int)]
    )
    values = np.linalg.svd(chosen.astype(np.float64) - chosen.mean(axis=0, dtype=np.float64), compute_uv=False)
    share = values / values.sum()
    share = share[share > 1e-12]
    assert effective_rank(vectors) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=40), st.integers(0, 5), st.floats(0, 1e-6))
def test_duplicates_against_brute_force(which: list[int], seed: int, jitter: float) -> None:
    vectors = random(13, 8)[which].reshape(-1, 8) + 5
    vectors = (vectors * (1 + jitter * np.random.default_rng(seed).uniform(-1, 1, vectors.shape))).astype(np.float32)
    expected = [which.count(one) > 1 for one in which]
    assert duplicates(vectors).tolist() == expected


def test_duplicates_beyond_a_block() -> None:
    vectors = random(9_000, 4)
    vectors[8_999] = vectors[0]
    vectors[4_097] = vectors[4_095]
    assert np.flatnonzero(duplicates(vectors)).tolist() == [0, 4_095, 4_097, 8_999]


def test_green() -> None:
    vectors = random(300)
    health = check(vectors, keys(300))
    norms = np.linalg.norm(vectors, axis=1)
    assert health.verdict == "green"
    assert not health.notes
    assert (health.clips, health.non_finite, health.silent, health.duplicate_share) == (300, 0, 0, 0)
    assert 14 < health.effective_rank <= 16
    assert health.norms == pytest.approx((norms.min(), np.median(norms), norms.max()))
    assert Health.model_validate(json.loads(health.model_dump_json())) == health


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_red(value: float) -> None:
    vectors = random(100)
    vectors[41, 3] = value
    health = check(vectors, keys(100))
    assert health.verdict == "red"
    assert health.non_finite == 1
    json.dumps(health.model_dump(), allow_nan=False)


@pytest.mark.parametrize(
    ("copies", "verdict"), [(5, "green"), (6, "yellow"), (50, "yellow"), (51, "red"), (100, "red")]
)
def test_duplicates_of_different_clips(copies: int, verdict: str) -> None:
    vectors = random(100)
    vectors[:copies] = vectors[0]
    health = check(vectors, keys(100))
    assert health.verdict == verdict
    assert health.duplicate_share == pytest.approx(copies / 100)


def test_copies_of_a_file_and_silence_are_no_fault() -> None:
    vectors = random(100)
    vectors[:60] = vectors[0]
    same_file = [b"\0\0"] * 60 + keys(100)[60:]
    assert check(vectors, same_file).verdict == "green"
    assert check(vectors, same_file).clips == 41
    silent = np.arange(100) < 60
    health = check(vectors, keys(100), silent)
    assert (health.verdict, health.silent, health.duplicate_share) == ("green", 60, 0)
    assert check(vectors, keys(100), ~np.zeros(100, bool)).verdict == "yellow"


def test_low_rank_is_yellow_unless_clips_are_few() -> None:
    assert (
        check(random(100) @ random(16, 16) * np.r_[np.ones(3), np.zeros(13)].astype("f4"), keys(100)).verdict
        == "yellow"
    )
    assert check(random(3), keys(3)).verdict == "green"
    assert check(random(1), keys(1)).effective_rank is None
    assert check(random(0), []).clips == 0


def test_red_stops_unless_allowed() -> None:
    red = check(np.ones((10, 4), np.float32), keys(10))
    with pytest.raises(BadInputError, match=r"beats on esc50: unhealthy.*100% of clips.*--allow-unhealthy") as raised:
        raise_if_red(red, "beats on esc50")
    assert raised.value.exit_code == 3
    raise_if_red(red, "beats on esc50", allow=True)
    raise_if_red(check(random(100), keys(100)), "beats on esc50")


def clips(n: int, classes: int) -> Clips:
    return Clips(
        [f"{index % classes}/{index:03d}.wav" for index in range(n)], [f"class {i % classes}" for i in range(n)]
    )


@pytest.mark.parametrize(
    ("silent", "verdict", "note"),
    [
        ([], "green", None),
        ([3, 7], "green", "2 of 16 clips are silent"),
        ([5], "green", "1 of 16 clips is silent"),
        ([0, 4, 8, 12], "yellow", "4 of 16 clips are silent, all of class class 0"),
        ([0, 4, 8, 12, 1, 5, 9, 13, 2], "yellow", "9 of 16 clips are silent, all of classes class 0, class 1"),
        (range(16), "yellow", "16 of 16 clips are silent"),
    ],
)
@pytest.mark.parametrize("copies", [False, True])
def test_silent_clips_are_said(silent: list[int], verdict: str, note: str | None, copies: bool) -> None:
    """Each of them counts, be it a copy of another."""
    quiet = np.isin(np.arange(16), list(silent))
    names = [b"\0\0" if copies and quiet[index] else key for index, key in enumerate(keys(20)[4:])]
    health = check(random(16), names, quiet, clips(16, 4))
    assert (health.verdict, health.notes) == (verdict, (note,) if note else ())


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("far", [1e3, 1e12, 3e38])
def test_an_embedding_far_out_is_named_be_it_silent_or_not(far: float, quiet: bool) -> None:
    vectors = random(120)
    vectors[41, 3] = far
    health = check(vectors, keys(120), quiet & (np.arange(120) == 41), clips(120, 5))
    median = np.median(np.linalg.norm(vectors.astype(np.float64), axis=1))
    assert health.verdict == "yellow"
    expected = f"1 of 120 embeddings is far out (norms up to {far:.2g} where the median is {median:.2g}): 1/041.wav"
    assert health.notes[0] == expected
    assert health.effective_rank > 14  # of the others


def test_a_common_part_or_a_spread_of_norms_is_not_far_out() -> None:
    vectors = random(300) * np.geomspace(0.3, 3, 300, dtype=np.float32)[:, None]
    assert check(vectors, keys(300)).notes == ()
    assert check(vectors + 500, keys(300)).notes == ()


@pytest.mark.parametrize("scale", [1e20, 1e-23])
def test_a_scale_that_logistic_regression_cannot_bear_is_said(scale: float) -> None:
    (note,) = check(random(300) * np.float32(scale), keys(300)).notes
    assert note.startswith("median norm")
    assert "logistic-regression" in note
