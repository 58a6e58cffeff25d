"""The one metrics accumulator: sums over unmasked examples that add up, and what they mean."""

from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jtl.engine.losses import at_least_float32, class_indices

CALIBRATION_BINS = 15  # as in Guo et al. 2017, arXiv:1706.04599

_MACRO = ("precision", "recall", "f1")
METRICS = ("loss", "accuracy", "top5", *_MACRO, "ece")

MetricSums = dict[str, jax.Array]


def metric_sums(
    logits: jax.Array, losses: jax.Array, label: jax.Array, mask: jax.Array
) -> MetricSums:
    """Sums over one batch; those of several batches add up leaf by leaf.

    Args:
        logits: float `[batch, classes]`.
        losses: float `[batch]`.
        label: int `[batch]` or float `[batch, classes]`.
        mask: bool `[batch]`; False counts nothing.

    Returns:
        `count`, `loss`, `correct`, `top5`, the confusion matrix `[true, predicted]`, and the
        calibration bins' counts, confidences and hits `[bins]`. Counts are int32.
    """
    chex.assert_rank(logits, 2)
    chex.assert_equal_shape_prefix([logits, losses, label, mask], 1)
    chex.assert_rank([losses, mask], 1)
    logits = at_least_float32(logits)
    classes = logits.shape[-1]
    truth = class_indices(label)
    whole = mask.astype(jnp.int32)
    probabilities = jax.nn.softmax(logits, axis=-1)
    predicted = jnp.argmax(logits, axis=-1)
    # Chosen rather than weighed: 0 times the NaN of a padded image is NaN.
    confidence = jnp.where(mask, jnp.max(probabilities, axis=-1), 0.0)
    own = jnp.take_along_axis(logits, truth[:, None], axis=-1)
    # Of logits that are all NaN the first would be the largest, and a hit for class 0.
    correct = ((predicted == truth) & ~jnp.isnan(own[:, 0])).astype(jnp.int32) * whole
    # Counted from below, so that a NaN is never among the best five.
    rank = classes - jnp.sum(logits <= own, axis=-1)
    slot = jnp.clip((confidence * CALIBRATION_BINS).astype(jnp.int32), 0, CALIBRATION_BINS - 1)
    bins = jax.nn.one_hot(slot, CALIBRATION_BINS, dtype=jnp.int32) * whole[:, None]
    return {
        "count": jnp.sum(whole),
        "loss": jnp.sum(jnp.where(mask, losses, 0.0)),
        "correct": jnp.sum(correct),
        "top5": jnp.sum((rank < 5).astype(jnp.int32) * whole),
        "confusion": jnp.zeros((classes, classes), jnp.int32).at[truth, predicted].add(whole),
        "bin_count": jnp.sum(bins, axis=0),
        "bin_correct": jnp.sum(bins * correct[:, None], axis=0),
        "bin_confidence": jnp.sum(bins * confidence[:, None], axis=0),
    }


def summarize(sums: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of all examples that were summed.

    Precision, recall and F1 are macro averages over the classes that occur, as labels or as
    predictions; a class never predicted has precision 0, as in scikit-learn.

    Returns:
        `loss`, `accuracy`, `top5`, `precision`, `recall`, `f1` and `ece` (expected
        calibration error); NaN where there was no example.
    """
    host = {name: np.asarray(value, dtype=np.float64) for name, value in sums.items()}
    count = float(host["count"])
    if count == 0:
        return dict.fromkeys(METRICS, float("nan"))
    gap = np.abs(host["bin_correct"] - host["bin_confidence"]).sum()
    return {
        "loss": float(host["loss"] / count),
        "accuracy": float(host["correct"] / count),
        "top5": float(host["top5"] / count),
        **_macro(host["confusion"]),
        "ece": float(gap / count),
    }


def _macro(confusion: np.ndarray) -> dict[str, float]:
    hits = np.diag(confusion)
    predicted, actual = confusion.sum(0), confusion.sum(1)
    occurs = (predicted + actual) > 0
    precision = np.divide(hits, predicted, out=np.zeros_like(hits), where=predicted > 0)
    recall = np.divide(hits, actual, out=np.zeros_like(hits), where=actual > 0)
    f1 = np.divide(2 * hits, predicted + actual, out=np.zeros_like(hits), where=occurs)
    values = (precision, recall, f1)
    return {name: float(value[occurs].mean()) for name, value in zip(_MACRO, values)}
