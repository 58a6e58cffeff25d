"""Mean, standard deviation and interval of a figure over folds."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure over folds.

    Attributes:
        mean: over them.
        std: the standard deviation between them.
        low: where its 95 % interval begins.
        high: where that ends.
    """

    mean: float
    std: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"mean": self.mean, "std": self.std, "interval": [self.low, self.high]}


def spread_of(values: Sequence[float], share: float) -> Spread:
    """The spread over folds, whose training examples overlap.

    The plain interval of a mean would be too narrow, as folds share what they train on. Its
    variance is corrected as by Nadeau and Bengio 2003 (Inference for the Generalization Error,
    Machine Learning 52): `1/n + share` in place of `1/n`.

    Args:
        values: one a fold, at least two.
        share: examples that a fold leaves out, over those that it trains on.
    """
    from scipy.stats import t

    array = np.asarray(values, float)
    mean, std = float(array.mean()), float(array.std(ddof=1))
    half = float(t.ppf(0.975, len(array) - 1)) * std * math.sqrt(1 / len(array) + share)
    return Spread(mean=mean, std=std, low=mean - half, high=mean + half)
