"""Scores of features, beside references written from their definitions or another library's."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from jtl.study.rank import intervals, scores

SHAPES = {"more examples than features": (60, 12), "more features than examples": (30, 50)}


def drawn(examples, width, signal=0.0, seed=0, noise=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(examples) % 3
    centres = rng.normal(size=(3, width)) * signal
    rng = np.random.default_rng([seed, noise])
    return rng.normal(size=(examples, width)) + centres[labels] + 0.5, labels


def evidence(features, target, alpha, beta):
    """The log evidence by its definition: the density of targets, `N(0, I/beta + F F'/alpha)`."""
    examples = len(target)
    covariance = np.eye(examples) / beta + features @ features.T / alpha
    _, determinant = np.linalg.slogdet(covariance)
    square = target @ np.linalg.solve(covariance, target)
    return -0.5 * (square + determinant + examples * np.log(2 * np.pi))


def most_evident(features, target):
    """MacKay's fixed point with whole matrices; the evidence there."""
    alpha = beta = 1.0
    examples, width = features.shape
    for _ in range(3000):
        inverse = np.linalg.inv(alpha * np.eye(width) + beta * features.T @ features)
        mean = beta * inverse @ features.T @ target
        effective = width - alpha * np.trace(inverse)
        alpha = effective / (mean @ mean)
        beta = (examples - effective) / np.sum((target - features @ mean) ** 2)
    return evidence(features, target, alpha, beta)


def test_logme_is_the_greatest_evidence():
    features, labels = drawn(60, 12, signal=0.5)
    expected = np.mean([most_evident(features, (labels == k) * 1.0) / 60 for k in range(3)])
    assert scores.logme(features, labels) == pytest.approx(expected, abs=1e-6)


def test_logme_passes_over_features_that_are_always_0():
    features, labels = drawn(60, 12, signal=0.5)
    idle = np.pad(features, ((0, 0), (2, 3)))
    assert scores.logme(idle, labels) == pytest.approx(scores.logme(features, labels), abs=1e-6)


def test_logme_counts_directions_without_examples():
    features, labels = drawn(30, 50, signal=0.3)
    expected = np.mean([most_evident(features, (labels == k) * 1.0) / 30 for k in range(3)])
    assert scores.logme(features, labels) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("idle", [0, 4], ids=["", "some features are always 0"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_h_score_is_that_of_shrunk_covariances(shape, idle):
    features, labels = drawn(*shape, signal=0.4)
    features = np.pad(features, ((0, 0), (0, idle)))
    fitted = LedoitWolf().fit(features)
    centred = features - features.mean(0)
    means = np.stack([centred[labels == label].mean(0) for label in labels])
    between = means.T @ means / len(labels)
    expected = (1 - fitted.shrinkage_) * np.trace(np.linalg.pinv(fitted.covariance_) @ between)
    assert scores.h_score(features, labels) == pytest.approx(expected, abs=1e-6)


def test_leep_is_the_log_of_expected_labels():
    rng = np.random.default_rng(1)
    theta = rng.dirichlet(np.ones(4), 20)
    labels = np.arange(20) % 3
    joint = np.zeros((3, 4))
    for row, label in zip(theta, labels):
        joint[label] += row / 20
    given = joint / joint.sum(0)
    expected = [
        np.log(sum(given[y, z] * row[z] for z in range(4))) for row, y in zip(theta, labels)
    ]
    np.testing.assert_allclose(scores.leep(theta, labels), expected, atol=1e-6)


def test_nearest_neighbours_are_scikit_learns():
    features, labels = drawn(60, 12, signal=0.3)
    model = KNeighborsClassifier(5, metric="cosine", algorithm="brute")
    expected = [
        model.fit(features[rest], labels[rest]).predict(features[one])[0] == labels[one][0]
        for rest, one in LeaveOneOut().split(features)
    ]
    np.testing.assert_array_equal(scores.nearest_hits(features, labels), expected)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_probe_is_scikit_learns_ridge(shape):
    features, labels = drawn(*shape, signal=0.3)
    folds = list(StratifiedKFold(3, shuffle=True, random_state=0).split(features, labels))
    strengths, hits = scores.probe_hits(features, labels, folds)
    train, judged = folds[0]
    paths = scores._ridge_path(features, labels, train, judged)
    scaler = StandardScaler().fit(features[train])
    for strength, outputs, row in zip(strengths, paths, hits):
        model = Ridge(alpha=strength * len(train), solver="svd")
        model.fit(scaler.transform(features[train]), np.eye(3)[labels[train]])
        expected = model.predict(scaler.transform(features[judged]))
        np.testing.assert_allclose(outputs, expected, atol=1e-6)
        np.testing.assert_array_equal(row[judged], expected.argmax(1) == labels[judged])


OF_FEATURES = pytest.mark.parametrize(
    "score", [scores.logme, scores.h_score], ids=["logme", "h_score"]
)


@OF_FEATURES
def test_an_example_that_counts_twice_is_two_examples(score):
    features, labels = drawn(60, 12, signal=0.4)
    counts = np.random.default_rng(2).integers(0, 3, len(labels))
    repeated = np.repeat(np.arange(len(labels)), counts)
    expected = score(features[repeated], labels[repeated])
    assert score(features, labels, counts) == pytest.approx(expected, abs=1e-6)


@OF_FEATURES
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_intervals_of_scores_are_as_wide_as_scores_vary(score, shape):
    every = [score(*drawn(*shape, signal=0.5, seed=0, noise=own)) for own in range(20)]
    low, high = intervals.of_score(score, *drawn(*shape, signal=0.5))
    assert 0.3 < (high - low) / (2 * 1.96 * np.std(every)) < 2.5


@OF_FEATURES
def test_planted_information_is_ranked_right(score):
    values = [score(*drawn(90, 16, signal=signal)) for signal in (0.0, 0.3, 0.6, 1.2)]
    assert values == sorted(values)
    low, high = intervals.of_score(score, *drawn(90, 16, signal=1.2))
    assert values[0] < low < values[-1] < high


def test_planted_information_is_found_by_neighbours_and_probes():
    accuracies = []
    for signal in (0.0, 0.4, 1.5):
        features, labels = drawn(90, 16, signal=signal)
        folds = list(StratifiedKFold(3).split(features, labels))
        probe = scores.probe_hits(features, labels, folds)[1].mean(1).max()
        accuracies.append((probe, scores.nearest_hits(features, labels).mean()))
    assert np.all(np.diff(accuracies, axis=0) > 0)


def test_planted_information_is_found_by_the_sources_own_classes():
    labels = np.arange(90) % 3
    values = []
    for signal in (0.0, 2.0, 4.0):
        logits = np.random.default_rng(0).normal(size=(90, 6))
        logits[np.arange(90), 2 * labels] += signal
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        values.append(scores.leep(shares, labels).mean())
    assert values == sorted(values)
    assert values[0] < np.log(1 / 3) + 0.1 < values[1]


def test_intervals_of_means_hold_the_mean_and_narrow():
    rng = np.random.default_rng(0)
    few, many = rng.random(50) < 0.8, rng.random(5000) < 0.8
    narrow, wide = intervals.of_mean(many), intervals.of_mean(few)
    assert wide[0] < few.mean() < wide[1]
    assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 5
    # The normal law of a share.
    assert narrow[1] - narrow[0] == pytest.approx(2 * 1.96 * (0.8 * 0.2 / 5000) ** 0.5, rel=0.1)
