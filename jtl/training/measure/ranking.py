"""ROC-AUC and average precision from scores, for any weights of the examples."""

import numpy as np

from jtl.engine.metrics import ratio

RANKINGS = ("roc_auc", "average_precision")


class Ranking:
    """One class against the rest, sorted once and then weighed as often as needed.

    Args:
        scores: float `[examples]`.
        truth: bool `[examples]`.
    """

    def __init__(self, scores: np.ndarray, truth: np.ndarray) -> None:
        self._order = np.argsort(scores, kind="stable")
        ordered = scores[self._order]
        # Equal scores are one step of the curves.
        self._starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        self._truth = truth[self._order].astype(np.float64)
        self._number = not np.isnan(ordered[-1:]).any()

    def figures(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ROC-AUC and average precision.

        Args:
            weights: float `[replicates, examples]`.

        Returns:
            Two of float `[replicates]`; NaN where a class or its rest has no weight.
        """
        own = weights[:, self._order]
        positive = np.add.reduceat(own * self._truth[None], self._starts, axis=1)
        everything = np.add.reduceat(own, self._starts, axis=1)
        negative = everything - positive
        positives, negatives = positive.sum(1), negative.sum(1)
        below = np.cumsum(negative, axis=1) - negative / 2
        area = ratio((positive * below).sum(1), positives * negatives, np.nan)
        # From the highest score down.
        found = np.cumsum(positive[:, ::-1], axis=1)
        named = np.cumsum(everything[:, ::-1], axis=1)
        steps = positive[:, ::-1] * ratio(found, named)
        precision = ratio(steps.sum(1), positives, np.nan)
        if not self._number:
            return area * np.nan, precision * np.nan
        return area, precision
