"""Metrics against scikit-learn, and the laws of their sums: additive, masked, never lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

import jtl
from jtl.engine.metrics import CALIBRATION_BINS, metric_sums, summarize

EXAMPLES, CLASSES = 24, 7
cross_entropy = jtl.losses.cross_entropy()


@jax.jit
def sums_of(logits, label, mask):
    return metric_sums(logits, cross_entropy(logits, {"label": label}), label, mask)


def host(sums):
    return {name: np.asarray(value) for name, value in sums.items()}


@st.composite
def batches(draw):
    """Logits from mild to certain, labels that may leave classes out, and a mask."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale, shift = draw(st.sampled_from([0.1, 2.0, 30.0])), draw(st.sampled_from([0.0, 3.0]))
    label = rng.integers(0, draw(st.integers(1, CLASSES)), EXAMPLES).astype(np.int32)
    logits = scale * rng.normal(size=(EXAMPLES, CLASSES)) + shift * np.eye(CLASSES)[label]
    kept = draw(st.integers(1, EXAMPLES))
    mask = rng.permutation(np.arange(EXAMPLES) < kept)
    return logits.astype(np.float32), label, mask


def probabilities_of(logits):
    odds = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


@given(batches())
def test_metrics_are_those_of_scikit_learn(batch):
    logits, label, mask = batch
    ours = summarize(sums_of(*batch))
    logits, label = logits[mask], label[mask]
    predicted, everything = logits.argmax(1), range(CLASSES)
    macro = sklearn_metrics.precision_recall_fscore_support(
        label, predicted, average="macro", zero_division=0
    )
    exact = {
        "accuracy": sklearn_metrics.accuracy_score(label, predicted),
        "top5": sklearn_metrics.top_k_accuracy_score(label, logits, k=5, labels=everything),
        **dict(zip(("precision", "recall", "f1"), macro)),
    }
    assert {name: ours[name] for name in exact} == pytest.approx(exact, abs=1e-12)
    own = probabilities_of(logits)[np.arange(len(label)), label]
    assert ours["loss"] == pytest.approx(-np.log(own).mean(), rel=1e-5, abs=1e-6)


@given(batches())
def test_calibration_error_is_the_mean_gap_of_confidence_and_hits(batch):
    logits, label, mask = batch
    ours = summarize(sums_of(*batch))["ece"]
    likely = probabilities_of(logits[mask])
    hits = likely.argmax(1) == label[mask]
    bins = np.clip((likely.max(1) * CALIBRATION_BINS).astype(int), 0, CALIBRATION_BINS - 1)
    expected = 0.0
    for own in range(CALIBRATION_BINS):
        inside = bins == own
        if inside.any():
            gap = abs(hits[inside].mean() - likely.max(1)[inside].mean())
            expected += inside.mean() * gap
    # A confidence within rounding of a bin's edge may fall to either side of it.
    edges = np.abs(likely.max(1) * CALIBRATION_BINS - np.rint(likely.max(1) * CALIBRATION_BINS))
    near_an_edge = (edges < 1e-4) & (likely.max(1) < 1 - 1e-4)
    assert near_an_edge.any() or ours == pytest.approx(expected, abs=1e-5)


@given(batches(), st.integers(0, EXAMPLES))
def test_sums_of_parts_add_up_to_the_whole(batch, border):
    logits, label, mask = batch
    first = np.arange(EXAMPLES) < border
    whole = host(sums_of(logits, label, mask))
    left, right = (host(sums_of(logits, label, mask & own)) for own in (first, ~first))
    for name, value in whole.items():
        total = left[name] + right[name]
        if np.issubdtype(value.dtype, np.integer):
            np.testing.assert_array_equal(total, value, err_msg=name)
        else:
            np.testing.assert_allclose(total, value, rtol=1e-5, atol=1e-5, err_msg=name)


@given(batches())
def test_what_stands_in_padding_does_not_matter(batch):
    logits, label, mask = batch
    expected = host(sums_of(*batch))
    other = host(
        sums_of(
            np.where(mask[:, None], logits, 99 * logits[::-1]),
            np.where(mask, label, CLASSES - 1).astype(np.int32),
            mask,
        )
    )
    for name, value in expected.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)


def test_padding_that_is_not_a_number_does_not_matter():
    logits, label = np.eye(CLASSES, dtype=np.float32), np.arange(CLASSES, dtype=np.int32)
    mask = np.arange(CLASSES) != 2
    expected = host(sums_of(logits, label, mask))
    logits[2] = np.nan
    # Op by op, because a fused kernel of the CPU backend may lose a NaN in a maximum.
    with jax.disable_jit():
        spoilt = host(metric_sums(jnp.asarray(logits), jnp.asarray(logits[:, 0]), label, mask))
    assert np.isfinite(spoilt.pop("loss"))
    for name, value in spoilt.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("label", [0, CLASSES - 1])
def test_logits_that_are_not_numbers_are_no_hit(label):
    logits = np.full((1, CLASSES), np.nan, np.float32)
    sums = host(sums_of(logits, np.array([label], np.int32), np.ones(1, bool)))
    assert sums["count"] == 1
    assert sums["correct"] == sums["top5"] == 0
    assert np.isnan(sums["loss"])


def test_probabilities_for_labels_count_as_their_most_probable_class():
    logits = np.eye(CLASSES, dtype=np.float32)
    soft = jnp.asarray(0.7 * np.eye(CLASSES, dtype=np.float32) + 0.3 / CLASSES)
    summary = summarize(sums_of(logits, soft, np.ones(CLASSES, bool)))
    assert summary["accuracy"] == summary["f1"] == 1


def test_fewer_than_five_classes_are_all_among_the_best_five():
    logits = np.zeros((3, 4), np.float32)
    label = np.arange(3, dtype=np.int32)
    assert summarize(sums_of(logits, label, np.ones(3, bool)))["top5"] == 1


def test_counts_are_integers_of_any_size():
    sums = sums_of(*_fixed())
    counts = ("count", "correct", "top5", "confusion", "bin_count", "bin_correct")
    assert {sums[name].dtype for name in counts} == {jnp.dtype(jnp.int32)}


def test_no_example_is_no_number():
    logits, label, mask = _fixed()
    summary = summarize(sums_of(logits, label, np.zeros_like(mask)))
    assert all(np.isnan(value) for value in summary.values())


def test_double_precision_stays_double(x64):
    logits, label, mask = _fixed()
    sums = sums_of(logits.astype(np.float64), label, mask)
    assert sums["loss"].dtype == sums["bin_confidence"].dtype == jnp.float64


def _fixed():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(EXAMPLES, CLASSES)).astype(np.float32)
    return logits, rng.integers(0, CLASSES, EXAMPLES).astype(np.int32), np.ones(EXAMPLES, bool)
