"""Calibration against closed forms and simulated probabilities; fitted classifiers against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from uamix_bench.scoring.calibration import (
    FEWEST,
    Calibration,
    calibrate,
    calibration_error,
    find_temperature,
    log_loss,
    probabilities,
    split_groups,
)
from uamix_bench.scoring.classifiers import CLASSIFIERS, classify, fit
from uamix_bench.util.errors import UsageError

SIZES = (5, 9, 3, 7)


def blobs(sizes: tuple[int, ...], spread: float = 1.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    slots = np.repeat(np.arange(len(sizes)), sizes)
    means = random.normal(size=(len(sizes), 12))
    return (4 + means[slots] + spread * random.normal(size=(len(slots), 12))).astype(np.float32), slots


@pytest.mark.parametrize(
    ("name", "peer", "neighbors"),
    [
        ("nearest-centroid", NearestCentroid(), 1),
        ("knn", KNeighborsClassifier(1), 1),
        ("logistic-regression", LogisticRegression(tol=1e-8, max_iter=10_000), 1),
    ],
)
def test_classes_of_unequal_sizes_are_fitted_as_by_scikit_learn(
    name: str, peer: NearestCentroid, neighbors: int
) -> None:
    table, slots = blobs(SIZES)
    queries, _ = blobs((200, 200, 200, 200), seed=1)
    fitted = fit(name, table, [np.flatnonzero(slots == slot) for slot in range(4)], neighbors)
    chosen, scores = fitted.predict(queries)
    expected = peer.fit(table.astype(np.float64), slots).predict(queries.astype(np.float64))
    assert (chosen == expected).mean() > 0.998  # float32 against float64
    assert (scores.argmax(axis=1) == chosen).all()


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("outlier", [1.0, 1e5])
def test_a_fitted_classifier_chooses_as_the_episode_does(name: str, outlier: float) -> None:
    table, slots = blobs((12, 12, 12, 12))
    table[47] *= outlier
    rows = np.stack([np.flatnonzero(slots == slot) for slot in range(4)])
    support, query = rows[None, :, :4], rows[None, :, 4:]
    neighbors = 5 if name == "knn" else 1
    episode = classify(name, table, support, query, neighbors)
    fitted = fit(name, table, list(support[0]), neighbors)
    chosen, _ = fitted.predict(table[query.ravel()])
    assert (chosen.reshape(query.shape) == episode.chosen).all()


def test_a_users_own_classifier_cannot_be_fitted_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CLASSIFIERS, "mine", CLASSIFIERS["knn"])
    with pytest.raises(UsageError, match="scores whole episodes"):
        fit("mine", np.zeros((2, 2), np.float32), [np.array([0]), np.array([1])])


def test_the_temperature_of_simulated_scores_is_found() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=(20_000, 5)) * 3
    true = probabilities(scores, 2.5)
    slots = (true.cumsum(axis=1) < random.uniform(size=(20_000, 1))).sum(axis=1).clip(0, 4)
    assert find_temperature(scores, slots) == pytest.approx(2.5, rel=0.03)
    assert calibration_error(true, slots) < 0.015
    assert log_loss(true, slots) == pytest.approx(sklearn_log_loss(slots, true), rel=1e-9)
    assert calibration_error(probabilities(scores, 0.5), slots) > 0.1


def test_the_calibration_error_is_that_of_a_hand_count() -> None:
    """Two clips at 0.9 of which one is right, and two at 0.6 that both are: (2 * 0.4 + 2 * 0.4) / 4."""
    probability = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert calibration_error(probability, np.array([0, 1, 0, 0])) == pytest.approx(0.4)


def test_groups_stay_whole_and_folds_even() -> None:
    slots = np.repeat(np.arange(3), 40)
    groups = [f"{slot}-{clip // 4}" for slot in range(3) for clip in range(40)]
    folds = split_groups(slots, groups)
    assert all(
        len({fold for fold, other in zip(folds, groups, strict=True) if other == group}) == 1 for group in groups
    )
    assert np.bincount(folds).tolist() == [24] * 5


def test_a_calibration_speaks_of_clips_that_were_not_fitted() -> None:
    """Classes of pure noise are right by chance, whatever the classifier remembers of them."""
    random = np.random.default_rng(2)
    table, slots = random.normal(size=(400, 12)).astype(np.float32), np.arange(400) % 4
    found = calibrate("knn", table, slots, [str(row) for row in range(400)])
    assert isinstance(found, Calibration)
    assert abs(found.accuracy - 0.25) < 0.08
    assert found.log_loss == pytest.approx(np.log(4), abs=0.03)
    assert found.calibration_error < 0.1


def test_a_well_parted_class_that_was_left_out_is_found() -> None:
    random = np.random.default_rng(3)
    slots = np.arange(300) % 6
    table = (10 * np.eye(6)[slots] + random.normal(size=(300, 6))).astype(np.float32)
    found = calibrate("nearest-centroid", table, slots, [str(row) for row in range(300)])
    assert isinstance(found, Calibration)
    assert found.accuracy > 0.99
    assert found.known_lost < 0.1
    assert found.unknown_found is not None
    assert found.unknown_found > 0.8


def test_the_share_that_is_lost_is_of_clips_that_set_no_threshold() -> None:
    """One recording of 20 clips far out, always in one fold: no other fold's threshold knows of it."""
    table, slots = blobs((60, 60))
    table[:20] += 50 * np.sign(np.arange(table.shape[1]) % 2 - 0.5).astype(np.float32)
    groups = ["far" if row < 20 else str(row) for row in range(120)]
    found = calibrate("nearest-centroid", table, slots, groups)
    assert isinstance(found, Calibration)
    assert found.known_lost >= 20 / 120


@pytest.mark.parametrize(("size", "words"), [(FEWEST - 1, "one class has 19"), (FEWEST, "")])
def test_twenty_clips_are_the_fewest(size: int, words: str) -> None:
    table, slots = blobs((size, 40))
    found = calibrate("nearest-centroid", table, slots, [str(row) for row in range(len(slots))])
    assert words in str(found)
    assert isinstance(found, str) == bool(words)


def test_a_class_of_one_group_is_not_calibrated() -> None:
    table, slots = blobs((30, 30))
    groups = ["one"] * 30 + [str(row) for row in range(30)]
    assert "one group only" in str(calibrate("nearest-centroid", table, slots, groups))
