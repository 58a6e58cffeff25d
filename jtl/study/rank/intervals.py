"""Intervals by bootstrap: what a score would have been on other draws of the examples."""

from collections.abc import Callable

import numpy as np

Interval = tuple[float, float]
_DRAWS = 1000
_SLOW_DRAWS = 40  # of scores that take a decomposition each


def of_mean(values: np.ndarray, seed: int = 0) -> Interval:
    """The 95 % interval of a mean over examples, by percentiles.

    Args:
        values: float or bool `[examples]`.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), _DRAWS)
    low, high = np.quantile(counts @ values / len(values), [0.025, 0.975])
    return float(low), float(high)


def of_score(
    score: Callable[[np.ndarray, np.ndarray, np.ndarray | None], float],
    features: np.ndarray,
    labels: np.ndarray,
    seed: int = 0,
) -> Interval:
    """The 95 % interval of a score of features, by the normal law with the draws' deviation.

    A Bayesian bootstrap (Rubin 1981): each draw weighs the examples. Where there are fewer of
    them than features, the same example twice would be told from no noise, and the score be lost.
    Percentiles would need many draws.

    Args:
        score: of `(features, labels, counts)`.
        features: float `[examples, width]`.
        labels: int `[examples]`.
        seed: of the draws.
    """
    value = score(features, labels, None)
    draws = np.random.default_rng(seed).dirichlet(np.ones(len(labels)), _SLOW_DRAWS) * len(labels)
    half = 1.96 * float(np.std([score(features, labels, own) for own in draws], ddof=1))
    return value - half, value + half
