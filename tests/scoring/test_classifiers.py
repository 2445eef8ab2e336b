"""Classifiers against scikit-learn, or plain loops in float64, on the same episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from uamix_bench.scoring import classifiers, products
from uamix_bench.scoring.classifiers import CLASSIFIERS
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.scoring.softmax_regression import softmax_regression

from ..sample_records import draw

SIZE = 24
Predict = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@pytest.fixture(params=["own rows", "products of pairs"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs both ways; few episodes would never take the second."""
    worth_it = request.param == "products of pairs"
    monkeypatch.setattr(products, "pay", lambda table, *_: worth_it and table.dtype == np.float32)


def embeddings(offset: float = 3.0, spread: float = 0.7) -> np.ndarray:
    """20 classes of 30 clips, (600, SIZE) float32, with a large common part."""
    rng = np.random.default_rng(5)
    means = spread * rng.normal(size=(20, SIZE))
    return (offset + means.repeat(30, axis=0) + rng.normal(size=(600, SIZE))).astype(np.float32)


def indices(n_way: int, k_shot: int, episodes: int = 12, n_query: int = 7) -> tuple[np.ndarray, np.ndarray]:
    drawn = draw(
        Protocol(n_way=n_way, k_shot=k_shot, n_query=n_query, episodes=episodes),
        task="test",
        version="1",
        clips=[f"{i:03d}" for i in range(600)],
        labels=[f"{i // 30:02d}" for i in range(600)],
    )
    return drawn.support, drawn.query


def hits_of(predict: Predict, table: np.ndarray, support: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Hits (E, N) of a peer that sees one episode at a time, in float64."""
    table = table.astype(np.float64)
    ways, shots = support.shape[1:]
    slots = np.arange(ways)
    return np.array(
        [
            (predict(table[s.ravel()], slots.repeat(shots), table[q.ravel()]).reshape(ways, -1) == slots[:, None]).sum(
                1
            )
            for s, q in zip(support, query, strict=True)
        ]
    )


def by_sklearn(estimator: Any) -> Predict:
    return lambda x, y, queries: estimator.fit(x, y).predict(queries)


def by_cosine(x: np.ndarray, y: np.ndarray, queries: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import cdist

    prototypes = np.stack([x[y == slot].mean(axis=0) for slot in np.unique(y)])
    return cdist(queries, prototypes, "cosine").argmin(axis=1)


def by_l2n(x: np.ndarray, y: np.ndarray, queries: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import NearestCentroid
    from sklearn.preprocessing import normalize

    return NearestCentroid().fit(normalize(x), y).predict(normalize(queries))


def by_cl2n(mean: np.ndarray) -> Predict:
    from sklearn.neighbors import NearestCentroid
    from sklearn.preprocessing import normalize

    def predict(x: np.ndarray, y: np.ndarray, queries: np.ndarray) -> np.ndarray:
        return NearestCentroid().fit(normalize(x - mean), y).predict(normalize(queries - mean))

    return predict


def peer(name: str, table: np.ndarray) -> Predict:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

    return {
        "nearest-centroid": by_sklearn(NearestCentroid()),
        "cosine": by_cosine,
        "simpleshot": by_cl2n(table.mean(axis=0, dtype=np.float64)),
        "l2n": by_l2n,
        "knn": by_sklearn(KNeighborsClassifier(1)),
        "logistic-regression": by_sklearn(LogisticRegression(tol=1e-10, max_iter=100_000)),
    }[name]


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize(("n_way", "k_shot"), [(5, 1), (5, 5), (2, 3), (12, 4)])
def test_same_hits_as_an_independent_classifier(name: str, n_way: int, k_shot: int) -> None:
    table, (support, query) = embeddings(), indices(n_way, k_shot)
    score = CLASSIFIERS[name](table, support, query)
    expected = hits_of(peer(name, table), table, support, query)
    assert score.hits.tolist() == expected.tolist()
    assert score.correct.tolist() == expected.sum(axis=1).tolist()
    assert 1.5 / n_way < expected.mean() / query.shape[2] < 1.0  # neither chance nor perfect


def test_logistic_regression_with_more_supports_than_dimensions() -> None:
    table, (support, query) = embeddings(), indices(5, 20, episodes=3)
    expected = hits_of(peer("logistic-regression", table), table, support, query)
    assert CLASSIFIERS["logistic-regression"](table, support, query).hits.tolist() == expected.tolist()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("size", [6, 12, 40])
def test_logistic_regression_reaches_the_optimum_of_scikit_learn(size: int, kind: Any) -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    points, targets = 5 * rng.normal(size=(3, 12, size)), np.repeat(np.eye(4), 3, axis=1)
    for x, weights, ours in zip(points, *fitted(points.astype(kind), targets), strict=True):
        theirs = LogisticRegression(solver="newton-cg", tol=1e-12).fit(x, targets.argmax(axis=0))
        assert np.allclose(weights, theirs.coef_, atol=1e-5)
        intercepts = ours - ours.mean()  # only their differences matter
        assert np.allclose(intercepts, theirs.intercept_ - theirs.intercept_.mean(), atol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("shots", [1, 20])
def test_the_gradient_vanishes_at_the_optimum(scale: float, shots: int) -> None:
    """From overlapping to separable classes, with more points than dimensions and fewer."""
    rng = np.random.default_rng(1)
    targets = np.repeat(np.eye(7), shots, axis=1)
    points = scale * (rng.normal(size=(2, 7, 48)).repeat(shots, axis=1) + rng.normal(size=(2, 7 * shots, 48)))
    assert_optimal(points, targets)


def test_a_step_past_certainty_is_taken_back() -> None:
    """Points so far apart that the first Newton step makes all classes certain, where no second one helps."""
    rng = np.random.default_rng(1)
    targets = np.repeat(np.eye(20), 5, axis=1)
    points = (rng.normal(size=(8, 20, 400)).repeat(5, axis=1) + rng.normal(size=(8, 100, 400))) / np.arange(
        1, 401
    ) ** 0.5
    points *= 15 / np.sqrt(np.vecdot(points, points).mean())
    assert_optimal(points, targets)


def fitted(points: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (B, N, D) and intercepts (B, N) of points (B, m, D) and one-hot classes (N, m)."""
    *_, last = softmax_regression((points, points.transpose(0, 2, 1)), targets)
    return last.shares @ points, last.intercepts


def assert_optimal(points: np.ndarray, targets: np.ndarray) -> None:
    """The gradient vanishes, of points (B, m, D) and one-hot classes (N, m)."""
    weights, intercepts = fitted(points, targets)
    logits = weights @ points.transpose(0, 2, 1) + intercepts[..., None]
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    at_zero = np.abs((1 / len(targets) - targets) @ points).max()
    assert np.abs((p - targets) @ points + weights).max() < 1e-6 * at_zero
    assert np.abs((p - targets).sum(axis=2)).max() < 1e-6 * max(at_zero, 1)


def test_supports_that_are_copies_of_one_clip_leave_an_optimum() -> None:
    """Copies in two classes at once: combinations of points without any effect must not grow unseen."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(2)
    points, targets = 8 * rng.normal(size=(1, 10, 30)), np.repeat(np.eye(5), 2, axis=1)
    points[:, 1:8:3] = points[:, :1]
    ((weights,), (intercepts,)) = fitted(points, targets)
    theirs = LogisticRegression(solver="newton-cg", tol=1e-12).fit(points[0], targets.argmax(axis=0))
    assert np.allclose(weights, theirs.coef_, atol=1e-5)
    assert np.allclose(intercepts - intercepts.mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=2e-4)


@pytest.mark.parametrize("neighbours", [3, 4, 99])
def test_majority_of_neighbours(neighbours: int) -> None:
    def predict(x: np.ndarray, y: np.ndarray, queries: np.ndarray) -> np.ndarray:
        chosen = []
        for query in queries:
            distances = [float(((query - point) ** 2).sum()) for point in x]
            nearest = sorted(range(len(x)), key=lambda i: (distances[i], i))[:neighbours]
            voters = [int(y[i]) for i in nearest]
            chosen.append(max(set(voters), key=lambda slot: (voters.count(slot), -voters.index(slot))))
        return np.array(chosen)

    table, (support, query) = embeddings(), indices(4, 3)
    score = classifiers.classify("knn", table, support, query, neighbours)
    assert score.hits.tolist() == hits_of(predict, table, support, query).tolist()


@pytest.mark.parametrize("k_shot", [1, 5])
def test_easyfsl_s_simpleshot_is_our_cosine(k_shot: int) -> None:
    methods = pytest.importorskip("easyfsl.methods")
    torch = pytest.importorskip("torch")

    def predict(x: np.ndarray, y: np.ndarray, queries: np.ndarray) -> np.ndarray:
        method = methods.SimpleShot(torch.nn.Identity())
        method.process_support_set(torch.from_numpy(x), torch.from_numpy(y))
        chosen: np.ndarray = method(torch.from_numpy(queries)).argmax(dim=1).numpy()
        return chosen

    table, (support, query) = embeddings(), indices(5, k_shot)
    score = classifiers.cosine(table, support, query)
    assert score.hits.tolist() == hits_of(predict, table, support, query).tolist()


def by_distance(x: np.ndarray, y: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Nearest mean by differences in float64, which no row far out costs a digit."""
    means = np.stack([x[y == slot].mean(axis=0) for slot in np.unique(y)])
    return ((queries[:, None] - means) ** 2).sum(axis=-1).argmin(axis=1)


def by_neighbour(x: np.ndarray, y: np.ndarray, queries: np.ndarray) -> np.ndarray:
    return y[((queries[:, None] - x) ** 2).sum(axis=-1).argmin(axis=1)]


FAR = {"nearest-centroid": by_distance, "knn": by_neighbour, "cosine": by_cosine, "l2n": by_l2n}


@pytest.mark.parametrize("name", FAR)
@pytest.mark.parametrize("far", [1e3, 1e6, 1e9, 1e12, 1e30])
def test_rows_far_out_are_scored_as_float64_scores_them(name: str, far: float) -> None:
    table, (support, query) = embeddings(), indices(5, 2)
    table[[support[3, 1, 0], query[5, 2, 1]], 3] = far, -far
    score = CLASSIFIERS[name](table, support, query)
    assert score.hits.tolist() == hits_of(FAR[name], table, support, query).tolist()


@pytest.mark.parametrize("name", ["nearest-centroid", "knn"])
@pytest.mark.parametrize("share", [7, 3])
def test_many_rows_far_out_keep_their_own_distances_too(name: str, share: int) -> None:
    table, (support, query) = embeddings(), indices(5, 2)
    table[::share, 3] = 1e9 * np.random.default_rng(2).uniform(1, 9, len(table[::share])).astype(np.float32)
    score = CLASSIFIERS[name](table, support, query)
    assert score.hits.tolist() == hits_of(FAR[name], table, support, query).tolist()


@pytest.mark.parametrize("name", FAR)
@pytest.mark.parametrize("times", [1e3, 1e8])
def test_most_rows_far_longer_leave_the_others_their_distances(name: str, times: float) -> None:
    table, (support, query) = embeddings(offset=0.0), indices(5, 2)
    table[np.random.default_rng(2).random(len(table)) < 0.6] *= np.float32(times)
    score = CLASSIFIERS[name](table, support, query)
    assert score.hits.tolist() == hits_of(FAR[name], table, support, query).tolist()


@pytest.mark.parametrize("neighbours", [3, 7])
def test_neighbours_that_are_equally_near_come_in_their_order(neighbours: int) -> None:
    """Of zeros and ones, between which every distance is a whole number."""
    table, (support, query) = (embeddings(offset=0.0) > 0).astype(np.float32), indices(4, 3, episodes=30)
    score = classifiers.knn(table, support, query, neighbours)
    flat, rows = table[support].reshape(30, 12, -1), table[query].reshape(30, -1, 1, table.shape[1])
    distances = (rows != flat[:, None]).sum(axis=-1)
    for episode, chosen in zip(distances, score.chosen.reshape(30, -1), strict=True):
        for row, slot in zip(episode, chosen.tolist(), strict=True):
            voters = [at // 3 for at in sorted(range(12), key=lambda at: (row[at], at))[:neighbours]]
            assert slot == max(set(voters), key=lambda one: (voters.count(one), -voters.index(one)))


@pytest.mark.parametrize("far", [1e6, 1e12, 1e30])
def test_a_row_far_out_has_no_part_in_the_mean_of_simpleshot(far: float) -> None:
    table, (support, query) = embeddings(), indices(5, 2)
    table[support[3, 1, 0], 3] = far
    mean = np.delete(table, support[3, 1, 0], axis=0).mean(axis=0, dtype=np.float64)
    score = classifiers.simpleshot(table, support, query)
    assert score.hits.tolist() == hits_of(by_cl2n(mean), table, support, query).tolist()


@pytest.mark.parametrize("name", ["nearest-centroid", "cosine", "simpleshot", "l2n", "knn"])
@pytest.mark.parametrize("exponent", [-120, -77, -40, 40, 66, 120])
def test_no_scale_changes_a_score(name: str, exponent: int) -> None:
    """Powers of two, which no digit notices; 2^66 is some 1e20, 2^-77 some 1e-23, and squares leave float32."""
    table, (support, query) = embeddings(), indices(5, 2)
    usual = CLASSIFIERS[name](table, support, query)
    scaled = CLASSIFIERS[name](np.ldexp(table, exponent), support, query)
    assert scaled.chosen.tolist() == usual.chosen.tolist()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_copies_far_out_are_a_tie(name: str) -> None:
    """Silent clips with the inverse of their energy, as supports of two classes."""
    table = embeddings()
    table[:8] = table[0]
    table[:8, 3] = 1e9
    support, query = np.array([[[0], [1], [100]], [[100], [2], [3]]]), np.array([[[4], [5], [101]], [[101], [6], [7]]])
    assert CLASSIFIERS[name](table, support, query).hits.tolist() == [[1, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_ties_go_to_the_lowest_slot(name: str) -> None:
    table = embeddings(offset=0.0)
    table[:8] = table[0]  # eight copies, as silent clips are
    support = np.array([[[0], [1], [100]], [[100], [2], [3]]])
    query = np.array([[[4], [5], [101]], [[101], [6], [7]]])
    score = CLASSIFIERS[name](table, support, query)
    assert score.hits[:, [0, 1]].tolist() == [[1, 0], [score.hits[1, 0], 1]]
    assert score.hits[1, 2] == 0


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_matrix_product_that_rounds_unevenly_breaks_no_tie(name: str) -> None:
    rng = np.random.default_rng(0)
    for size, ways, queries in [(77, 17, 1), (192, 5, 15), (192, 33, 1), (768, 7, 1), (768, 10, 1), (1024, 2, 16)]:
        table = (rng.normal(size=(200, size)) + 3).astype(np.float32)
        table[:ways] = table[0]
        score = CLASSIFIERS[name](table, np.arange(ways).reshape(1, -1, 1), rng.integers(50, 200, (1, ways, queries)))
        assert score.hits.tolist() == [[queries] + [0] * (ways - 1)]


@pytest.mark.parametrize("name", ["nearest-centroid", "knn", "simpleshot", "logistic-regression", "cosine"])
def test_a_common_part_costs_no_digits(name: str) -> None:
    table, (support, query) = embeddings(offset=300.0, spread=0.4), indices(12, 2, episodes=40)
    score = CLASSIFIERS[name](table, support, query)
    if name == "logistic-regression":  # float64 scikit-learn is slow here; the offset changes nothing but the intercept
        expected = CLASSIFIERS[name](table - np.float32(300), support, query).hits
    else:
        expected = hits_of(peer(name, table), table, support, query)
    assert np.count_nonzero(score.hits != expected) <= (2 if name == "cosine" else 0)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_degenerate_embeddings_give_finite_scores(name: str) -> None:
    support, query = indices(5, 2, episodes=4)
    with np.errstate(all="raise", under="ignore"):
        for table in (np.zeros((600, SIZE), np.float32), np.ones((600, SIZE), np.float32)):
            hits = CLASSIFIERS[name](table, support, query).hits
            assert hits.tolist() == [[7, 0, 0, 0, 0]] * 4


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_batches_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table, (support, query) = embeddings(), indices(5, 2, episodes=11)
    before = table.copy()
    whole = CLASSIFIERS[name](table, support, query)
    monkeypatch.setattr(classifiers, "_BUFFER", 1)
    halves = [CLASSIFIERS[name](table, support[part], query[part]) for part in (slice(5), slice(5, 11))]
    assert np.concatenate([half.hits for half in halves]).tolist() == whole.hits.tolist()
    assert np.array_equal(table, before)


def _tables() -> dict[str, np.ndarray]:
    rng, plain = np.random.default_rng(3), embeddings()
    copies, lengths = plain.copy(), np.exp(0.5 * rng.normal(size=(600, 1))).astype(np.float32)
    copies[::5] = copies[0]
    return {
        "plain": plain,
        "common part": plain + np.float32(300),
        "copies": copies,
        "of many lengths": (plain - plain.mean(axis=0)) * lengths,
        "zeros and ones": (plain > plain.mean(axis=0)).astype(np.float32),
        "noise": rng.normal(size=(600, 300)).astype(np.float32),
    }


@pytest.mark.parametrize("name", ["nearest-centroid", "simpleshot", "l2n", "knn", "logistic-regression"])
@pytest.mark.parametrize(("n_way", "k_shot"), [(5, 1), (9, 4)])
def test_every_way_gives_the_same_predictions(
    name: str, n_way: int, k_shot: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    support, query = indices(n_way, k_shot, episodes=100 if name == "logistic-regression" else 1_000)
    for kind, table in _tables().items():
        chosen = []
        for worth_it in (False, True):
            monkeypatch.setattr(products, "pay", lambda *_, worth_it=worth_it: worth_it)
            chosen.append(CLASSIFIERS[name](table, support, query).chosen)
        assert np.array_equal(*chosen), kind


@pytest.mark.parametrize("name", ["nearest-centroid", "knn"])
def test_a_mean_subtracted_from_what_is_drawn_gives_the_same_predictions(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, (support, query) = embeddings(offset=300.0, spread=0.4), indices(12, 2, episodes=40)
    chosen = []
    for often in (0, 1_000):
        monkeypatch.setattr(classifiers, "_OFTEN", often)
        chosen.append(CLASSIFIERS[name](table, support, query).chosen)
    assert np.array_equal(*chosen)


def test_episodes_that_rounding_may_decide_are_doubtful() -> None:
    table, (support, query) = embeddings(), indices(5, 1, episodes=40)
    table[query[7, 2, 0]] = (table[support[7, 0, 0]] + table[support[7, 3, 0]]) / 2  # as near to both, but for rounding
    table -= table.mean(axis=0)
    decided = products.decide(table, support, query, products.MEAN_OF_SHOTS, margin=0.0)
    assert decided.doubtful[7]
    assert decided.doubtful.mean() < 0.2


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e-9, 1.0])
@pytest.mark.parametrize("dimensions", [3, 40])
def test_intercepts_are_the_log_shares_of_points_that_hardly_differ(scale: float, dimensions: int) -> None:
    points = scale * np.random.default_rng(3).standard_normal((1, 18, dimensions))
    targets = np.eye(3)[:, np.repeat([0, 1, 2], [5, 6, 7])]
    weights, intercepts = fitted(points, targets)
    probabilities = np.exp(intercepts[0] + np.einsum("nd,md->mn", weights[0], points[0]))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert probabilities.mean(axis=0) == pytest.approx([5 / 18, 6 / 18, 7 / 18], abs=1e-4)
