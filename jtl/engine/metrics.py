"""The one metrics accumulator: sums over unmasked examples that add up, and what they mean."""

from collections.abc import Iterable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jtl.engine.losses import at_least_float32, class_indices

CALIBRATION_BINS = 15  # as in Guo et al. 2017, arXiv:1706.04599
GUESSES = 5  # of `top5`

_AVERAGED = ("precision", "recall", "f1")
_AVERAGES = tuple(f"{name}{kind}" for kind in ("", "_micro", "_weighted") for name in _AVERAGED)
_COMMON = ("loss", "accuracy", "top5", *_AVERAGES, "ece", "log_loss", "brier")
METRICS = (*_COMMON, "balanced_accuracy", "kappa")
SEVERAL_METRICS = (*_COMMON, "hamming_loss")
LOWER_IS_BETTER = ("loss", "ece", "log_loss", "brier", "hamming_loss")

MetricSums = dict[str, jax.Array]


def metric_sums(
    logits: jax.Array,
    losses: jax.Array,
    label: jax.Array,
    mask: jax.Array,
    *,
    several: bool = False,
) -> MetricSums:
    """Sums over one batch; those of several batches add up leaf by leaf.

    Args:
        logits: float `[batch, classes]`.
        losses: float `[batch]`.
        label: int `[batch]` or float `[batch, classes]`.
        mask: bool `[batch]`; False counts nothing.
        several: whether an image may have several labels: `label` is then 0 and 1, and a class
            is predicted where its logit is at least 0.

    Returns:
        `count`, `loss`, `log_loss`, `brier`, `correct`, `top5`, and the calibration bins'
        counts, confidences and hits `[bins]`; the confusion matrix `[true, predicted]`, or, of
        several labels, `hits`, `predicted` and `actual` `[classes]` and `wrong`. Counts are int32.
    """
    chex.assert_rank(logits, 2)
    chex.assert_equal_shape_prefix([logits, losses, label, mask], 1)
    chex.assert_rank([losses, mask], 1)
    logits = at_least_float32(logits)
    if several:
        chex.assert_equal_shape([logits, label])
        sums, scores, hits = _several_sums(logits, label > 0.5, mask)
    else:
        sums, scores, hits = _single_sums(logits, class_indices(label), mask)
    return {
        "count": jnp.sum(mask.astype(jnp.int32)),
        "loss": jnp.sum(jnp.where(mask, losses, 0.0)),
        **sums,
        **_bins(scores, hits, mask),
    }


def _single_sums(
    logits: jax.Array, truth: jax.Array, mask: jax.Array
) -> tuple[MetricSums, jax.Array, jax.Array]:
    """Sums, and each example's confidence and hit, `[batch, 1]`."""
    classes = logits.shape[-1]
    whole = mask.astype(jnp.int32)
    log_p = jax.nn.log_softmax(logits, axis=-1)
    probabilities = jnp.exp(log_p)
    predicted = jnp.argmax(logits, axis=-1)
    own = jnp.take_along_axis(logits, truth[:, None], axis=-1)
    # Of logits that are all NaN the first would be the largest, and a hit for class 0.
    correct = (predicted == truth) & ~jnp.isnan(own[:, 0])
    # Counted from below, so that a NaN is never among the best five.
    rank = classes - jnp.sum(logits <= own, axis=-1)
    away = jnp.sum((probabilities - jax.nn.one_hot(truth, classes)) ** 2, axis=-1)
    surprise = -jnp.take_along_axis(log_p, truth[:, None], axis=-1)[:, 0]
    confidence = jnp.max(probabilities, axis=-1)
    sums = {
        "log_loss": jnp.sum(jnp.where(mask, surprise, 0.0)),
        "brier": jnp.sum(jnp.where(mask, away, 0.0)) * brier_scale(classes),
        "correct": jnp.sum(correct * whole),
        "top5": jnp.sum((rank < GUESSES) * whole),
        "confusion": jnp.zeros((classes, classes), jnp.int32).at[truth, predicted].add(whole),
    }
    return sums, confidence[:, None], correct[:, None]


def _several_sums(
    logits: jax.Array, truth: jax.Array, mask: jax.Array
) -> tuple[MetricSums, jax.Array, jax.Array]:
    """Sums, and the probability and truth of each example's classes, `[batch, classes]`."""
    whole = mask.astype(jnp.int32)
    predicted = logits >= 0
    probabilities = jax.nn.sigmoid(logits)
    signed = jnp.where(truth, logits, -logits)
    away = jnp.mean((probabilities - truth) ** 2, axis=-1)
    surprise = -jnp.mean(jax.nn.log_sigmoid(signed), axis=-1)
    wrong = jnp.sum(predicted != truth, axis=-1)
    # A NaN is never among the best five, so the best label is sought among numbers.
    best = jnp.max(jnp.where(truth & ~jnp.isnan(logits), logits, -jnp.inf), axis=-1, keepdims=True)
    rank = logits.shape[-1] - jnp.sum(logits <= best, axis=-1)

    def over_examples(chosen: jax.Array) -> jax.Array:
        return jnp.sum(chosen.astype(jnp.int32) * whole[:, None], axis=0)

    sums = {
        "log_loss": jnp.sum(jnp.where(mask, surprise, 0.0)),
        "brier": jnp.sum(jnp.where(mask, away, 0.0)),
        "correct": jnp.sum((wrong == 0) * whole),
        "wrong": jnp.sum(wrong * whole),
        "top5": jnp.sum((rank < GUESSES) * jnp.any(truth, axis=-1) * whole),
        "hits": over_examples(predicted & truth),
        "predicted": over_examples(predicted),
        "actual": over_examples(truth),
    }
    return sums, probabilities, truth


def _bins(scores: jax.Array, hits: jax.Array, mask: jax.Array) -> MetricSums:
    # Chosen rather than weighed: 0 times the NaN of a padded image is NaN.
    scores = jnp.where(mask[:, None], scores, 0.0).reshape(-1)
    whole = jnp.broadcast_to(mask[:, None], hits.shape).reshape(-1).astype(jnp.int32)
    slot = jnp.clip((scores * CALIBRATION_BINS).astype(jnp.int32), 0, CALIBRATION_BINS - 1)
    empty = jnp.zeros(CALIBRATION_BINS, jnp.int32)
    return {
        "bin_count": empty.at[slot].add(whole),
        "bin_correct": empty.at[slot].add(hits.reshape(-1) * whole),
        "bin_confidence": empty.astype(scores.dtype).at[slot].add(scores),
    }


def brier_scale(classes: int) -> float:
    """The factor on squared distances: two classes count once, as in scikit-learn."""
    return 0.5 if classes == 2 else 1.0


def total_of(parts: Iterable[MetricSums]) -> dict[str, Any] | None:
    """The sums of several batches as one, or None of none.

    Counts stay on the device and are exact there; other sums are added in float64, so that
    thousands of batches lose nothing.
    """
    counts: MetricSums = {}
    others: list[MetricSums] = []
    for sums in parts:
        whole = {name: own for name, own in sums.items() if jnp.issubdtype(own.dtype, jnp.integer)}
        counts = {name: own + counts[name] if counts else own for name, own in whole.items()}
        others.append({name: own for name, own in sums.items() if name not in whole})
    if not others:
        return None
    fetched = jax.device_get(others)
    added = {
        name: np.sum([np.asarray(own[name], np.float64) for own in fetched], axis=0)
        for name in fetched[0]
    }
    return {**counts, **added}


def summarize(sums: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of all examples that were summed; `METRICS`, or `SEVERAL_METRICS`.

    Returns:
        As `figures_of`; NaN where there was no example.
    """
    host = {name: np.asarray(value, dtype=np.float64) for name, value in sums.items()}
    if "confusion" in host:
        confusion = host.pop("confusion")
        host["hits"] = np.diag(confusion)
        host["predicted"], host["actual"] = confusion.sum(0), confusion.sum(1)
    if not host["count"]:
        return dict.fromkeys(SEVERAL_METRICS if "wrong" in host else METRICS, float("nan"))
    return {name: float(value) for name, value in figures_of(host).items()}


def figures_of(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Metrics from sums that may have leading axes, such as one of bootstrap replicates.

    `precision`, `recall` and `f1` are macro averages: over the classes that occur, as labels or
    as predictions; where images have several labels, over all classes. `_micro` pools all
    decisions, `_weighted` weighs a class by its labels. What divides by 0 is 0, as in
    scikit-learn. Of several labels, `accuracy` wants all of them right, `top5` one of the five
    most probable classes, and `ece` looks at every class's probability.

    Args:
        sums: float64, as `metric_sums` makes them, with `hits`, `predicted` and `actual`
            `[..., classes]` in place of a confusion matrix.
    """
    count = sums["count"]
    gap = np.abs(sums["bin_correct"] - sums["bin_confidence"]).sum(-1)
    hits, predicted, actual = sums["hits"], sums["predicted"], sums["actual"]
    several = "wrong" in sums
    figures = {
        "loss": sums["loss"] / count,
        "accuracy": sums["correct"] / count,
        "top5": sums["top5"] / count,
        **_averages(hits, predicted, actual, several),
        "ece": gap / sums["bin_count"].sum(-1),
        "log_loss": sums["log_loss"] / count,
        "brier": sums["brier"] / count,
    }
    if several:
        return {**figures, "hamming_loss": sums["wrong"] / (count * hits.shape[-1])}
    chance = (predicted * actual).sum(-1) / count**2
    recall, labelled = ratio(hits, actual), actual > 0
    return {
        **figures,
        "balanced_accuracy": ratio((recall * labelled).sum(-1), labelled.sum(-1)),
        "kappa": ratio(sums["correct"] / count - chance, 1 - chance, np.nan),
    }


def _averages(
    hits: np.ndarray, predicted: np.ndarray, actual: np.ndarray, several: bool
) -> dict[str, np.ndarray]:
    """Precision, recall and F1, averaged over the last axis in three ways."""
    pairs = ((hits, predicted), (hits, actual), (2 * hits, predicted + actual))
    occurs = (predicted + actual) > 0 if not several else np.ones(hits.shape, bool)
    figures = {}
    for name, (part, whole) in zip(_AVERAGED, pairs):
        each = ratio(part, whole)
        figures[name] = ratio((each * occurs).sum(-1), occurs.sum(-1))
        figures[f"{name}_micro"] = ratio(part.sum(-1), whole.sum(-1))
        figures[f"{name}_weighted"] = ratio((each * actual).sum(-1), actual.sum(-1))
    return {name: figures[name] for name in _AVERAGES}


def ratio(part: Any, whole: Any, otherwise: float = 0.0) -> np.ndarray:
    """`part / whole` elementwise, and `otherwise` where `whole` is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    fallback = np.full(np.broadcast_shapes(part.shape, whole.shape), otherwise)
    return np.divide(part, whole, out=fallback, where=whole != 0)
