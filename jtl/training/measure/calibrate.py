"""Temperature scaling, and thresholds for several labels: both fitted on validation alone."""

import dataclasses

import numpy as np

from jtl.training.measure.predictions import Calibration, Predictions, sigmoid

_LARGEST = 20.0  # temperatures lie between its inverse and this


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """What was fitted, and why it may be nothing.

    Attributes:
        calibration: of logits.
        note: why the temperature is 1, or at a limit; empty where it was found.
    """

    calibration: Calibration
    note: str = ""


def fit_calibration(validation: Predictions | None) -> Fit:
    """The temperature with the least log loss, and the thresholds with the best F1 of each class.

    Args:
        validation: what the network says of the validation split; None where there is none.
    """
    if validation is None or not len(validation):
        return Fit(calibration=Calibration(), note="there are no validation examples")
    temperature, note = fit_temperature(validation)
    thresholds = None
    if validation.several:
        scaled = validation.probabilities(Calibration(temperature=temperature))
        thresholds = best_thresholds(scaled, validation.truth)
    return Fit(calibration=Calibration(temperature=temperature, thresholds=thresholds), note=note)


def fit_temperature(predictions: Predictions) -> tuple[float, str]:
    """The temperature by which logits have the least log loss (Guo et al. 2017).

    The loss is convex in the inverse temperature, whose slope is followed to 0.

    Returns:
        The temperature, and a note where there is none inside of 1/20 to 20: if every example
        is right, each lower temperature is better than the one before, and 1 is returned.
    """
    from scipy.optimize import brentq

    logits = predictions.logits.astype(np.float64)
    truth = predictions.truth.astype(np.float64)
    if not np.isfinite(logits).all():
        return 1.0, "some logits are not finite"

    def slope(inverse: float) -> float:
        scaled = Calibration(temperature=1 / inverse)
        gap = predictions.probabilities(scaled) - truth
        return float((gap * logits).sum(axis=1).mean())

    if _is_separated(logits, predictions.truth, predictions.several):
        return 1.0, "every validation example is right, so that none is best"
    if slope(_LARGEST) < 0:
        return 1 / _LARGEST, "the lowest that is tried"
    if slope(1 / _LARGEST) > 0:
        return _LARGEST, "the highest that is tried"
    return 1 / float(brentq(slope, 1 / _LARGEST, _LARGEST, xtol=1e-7)), ""


def best_thresholds(probabilities: np.ndarray, truth: np.ndarray) -> tuple[float, ...]:
    """For each class the probability from which on predicting it gives the best F1.

    A threshold lies in the middle between two probabilities; of equally good ones the nearest
    to 0.5 is taken. A class that no example has, or all have, keeps 0.5.

    Args:
        probabilities: float `[examples, classes]`.
        truth: bool `[examples, classes]`.
    """
    return tuple(_best(probabilities[:, place], own) for place, own in enumerate(truth.T))


def untempered(calibration: Calibration) -> Calibration:
    """The same decisions without the temperature: thresholds of probabilities as they came."""
    if calibration.thresholds is None:
        return Calibration()
    limits = np.array(calibration.thresholds)
    raw = sigmoid((np.log(limits) - np.log1p(-limits)) * calibration.temperature)
    return Calibration(thresholds=tuple(raw.tolist()))


def _best(scores: np.ndarray, truth: np.ndarray) -> float:
    if not truth.any() or truth.all():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    ordered, own = scores[order], truth[order]
    hits, named = np.cumsum(own), np.arange(1, len(own) + 1)
    f1 = 2 * hits / (named + own.sum())
    # Between equal scores no threshold can be set.
    last = np.concatenate([ordered[1:] < ordered[:-1], [True]])
    below = np.concatenate([ordered[1:], [0.0]])
    middles = ((ordered + below) / 2)[last]
    best = f1[last] >= f1[last].max() - 1e-12
    candidates = middles[best]
    # Any threshold of the gap is as good; 0.5 itself where it lies in one.
    inside = (below[last] < 0.5) & (ordered[last] >= 0.5) & best
    if inside.any():
        return 0.5
    return float(candidates[np.argmin(np.abs(candidates - 0.5))])


def _is_separated(logits: np.ndarray, truth: np.ndarray, several: bool) -> bool:
    if several:
        return bool(((logits > 0) == truth).all() and (logits != 0).all())
    own = np.where(truth, logits, -np.inf).max(axis=1)
    others = np.where(truth, -np.inf, logits).max(axis=1)
    return bool((own > others).all())
