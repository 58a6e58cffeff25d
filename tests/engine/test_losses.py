"""Losses against optax's and scikit-learn's, for every kind of label and precision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

import jtl
from jtl.engine.losses import class_indices
from jtl.errors import ConfigError

CLASSES = 5
RNG = np.random.default_rng(0)
LOGITS = (3 * RNG.normal(size=(12, CLASSES))).astype(np.float32)
LABEL = RNG.integers(0, CLASSES, 12).astype(np.int32)
ONE_HOT = np.eye(CLASSES, dtype=np.float32)[LABEL]


def losses_of(label, smoothing=0.0, logits=LOGITS):
    return jtl.losses.cross_entropy(smoothing)(jnp.asarray(logits), {"label": jnp.asarray(label)})


def test_loss_of_each_example_is_optaxs():
    expected = optax.softmax_cross_entropy_with_integer_labels(LOGITS, LABEL)
    np.testing.assert_allclose(losses_of(LABEL), expected, rtol=1e-6)


def test_mean_loss_is_that_of_scikit_learn():
    odds = np.exp(LOGITS.astype(np.float64))
    expected = log_loss(LABEL, odds / odds.sum(1, keepdims=True), labels=range(CLASSES))
    assert float(losses_of(LABEL).mean()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.1, 0.9])
def test_smoothing_spreads_a_share_over_all_classes(smoothing):
    of_every_class = np.stack([losses_of(np.full(12, k, np.int32)) for k in range(CLASSES)])
    expected = (1 - smoothing) * losses_of(LABEL) + smoothing * of_every_class.mean(0)
    np.testing.assert_allclose(losses_of(LABEL, smoothing), expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_probabilities_for_labels_are_the_classes_they_single_out(smoothing):
    expected = losses_of(LABEL, smoothing)
    np.testing.assert_allclose(losses_of(ONE_HOT, smoothing), expected, rtol=1e-6)


def test_a_mixture_of_labels_has_the_mixture_of_losses():
    other = np.roll(ONE_HOT, 1, axis=1)
    expected = 0.3 * losses_of(ONE_HOT) + 0.7 * losses_of(other)
    mixed = losses_of((0.3 * ONE_HOT + 0.7 * other).astype(np.float32))
    np.testing.assert_allclose(mixed, expected, rtol=1e-5)


def test_half_precision_is_computed_in_single():
    half = jnp.asarray(LOGITS, jnp.bfloat16)
    losses = losses_of(LABEL, logits=half)
    assert losses.dtype == jnp.float32
    np.testing.assert_array_equal(losses, losses_of(LABEL, logits=half.astype(jnp.float32)))


def test_double_precision_stays_double(x64):
    wide = LOGITS.astype(np.float64) * 1e-9
    losses = losses_of(LABEL, 0.1, wide)
    assert losses.dtype == jnp.float64
    log_odds = wide - np.log(np.exp(wide).sum(1, keepdims=True))
    targets = 0.9 * ONE_HOT.astype(np.float64) + 0.1 / CLASSES
    np.testing.assert_allclose(losses, -(targets * log_odds).sum(1), rtol=1e-14)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_smoothing_out_of_range_is_refused(smoothing):
    with pytest.raises(ConfigError, match=r"label_smoothing=.* give one in \[0, 1\)"):
        jtl.losses.cross_entropy(smoothing)


def test_the_class_of_a_label_is_its_most_probable():
    np.testing.assert_array_equal(class_indices(jnp.asarray(LABEL)), LABEL)
    np.testing.assert_array_equal(class_indices(jnp.asarray(0.6 * ONE_HOT + 0.08)), LABEL)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_sigmoid_loss_is_the_mean_over_classes_of_scikit_learns(smoothing):
    several = (RNG.random((12, CLASSES)) < 0.4).astype(np.float32)
    losses = jtl.losses.sigmoid_cross_entropy(smoothing)(LOGITS, {"label": jnp.asarray(several)})
    chance = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    targets = several * (1 - smoothing) + smoothing / 2
    expected = -(targets * np.log(chance) + (1 - targets) * np.log(1 - chance)).mean(1)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert losses.shape == (12,)


def test_focal_loss_without_focus_is_cross_entropy():
    plain = jtl.losses.focal(0.0)(LOGITS, {"label": LABEL})
    np.testing.assert_allclose(plain, losses_of(LABEL), rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_weighs_by_what_is_missing(gamma):
    losses = jtl.losses.focal(gamma)(LOGITS, {"label": LABEL})
    plain = np.asarray(losses_of(LABEL), np.float64)
    np.testing.assert_allclose(losses, (1 - np.exp(-plain)) ** gamma * plain, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_gradient_is_finite_where_the_network_is_certain(gamma):
    certain = 100 * jnp.eye(CLASSES)
    for label in (np.arange(CLASSES), np.roll(np.arange(CLASSES), 1)):
        loss = lambda x, label=label: jtl.losses.focal(gamma)(x, {"label": label}).sum()  # noqa: E731
        assert np.isfinite(jax.grad(loss)(certain)).all()


def test_focal_loss_with_negative_focus_is_refused():
    with pytest.raises(ConfigError, match="gamma=-1 is negative"):
        jtl.losses.focal(-1)


def test_weighted_loss_counts_each_example_by_its_class():
    weights = np.arange(1.0, 1 + CLASSES, dtype=np.float32)
    weighted = jtl.losses.weighted(jtl.losses.cross_entropy(), weights)
    batch = {"label": jnp.asarray(LABEL)}
    np.testing.assert_allclose(
        weighted(jnp.asarray(LOGITS), batch), losses_of(LABEL) * weights[LABEL], rtol=1e-6
    )


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.repeat(np.arange(4), [1, 10, 3, 6])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    weights = jtl.losses.balanced_weights(np.array([1, 10, 3, 6, 0]))
    np.testing.assert_allclose(weights, [*expected, 0], rtol=1e-6)
