"""How sure a metric is: 95 % intervals from bootstraps over examples, of one run or of two."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from jtl.training.measure.tally import Tally

Interval = tuple[float, float]

LEVEL = 0.95
_REPLICATES = 1000
_FEWEST = 40
# Each replicate of a ranking looks at every score: of many, fewer are drawn.
_RANKING_WORK = 20_000_000
_BY_PERCENTILE = 400  # replicates below which the spread is taken for that of a normal law
_AT_ONCE = 4_000_000  # numbers
_SEED = 0  # so that the same predictions always have the same intervals
_SHARES = ("accuracy", "top5")
# Resampling adds noise of its own to what is a sum of absolute values.
_BIASED = ("ece",)

_Figures = Callable[[np.ndarray], Mapping[str, np.ndarray]]


def intervals(tally: Tally) -> dict[str, Interval]:
    """A 95 % interval for each metric that the examples define.

    A percentile bootstrap over examples: 1,000 replicates, for ROC-AUC and average precision of
    more than 20,000 scores fewer, down to 40, whose standard deviation is then taken. Where all
    examples are right, or all are wrong, the interval of `accuracy` and `top5` is Clopper and
    Pearson's, because no replicate could tell. That of `ece` is moved by the mean excess of its
    replicates.

    Args:
        tally: of one split.
    """
    known, found = tally.metrics(), {}
    for name, drawn in _replicates(tally.figures, tally.rankings, tally).items():
        if name in _BIASED and name in known:
            drawn = np.maximum(drawn - (np.nanmean(drawn) - known[name]), 0.0)
        found[name] = _interval(drawn)
    for name in _SHARES:
        if known.get(name) in (0.0, 1.0):
            found[name] = _exact(len(tally.predictions), right=known[name] == 1.0)
    return {name: own for name, own in found.items() if name in known and own is not None}


def differences(tally: Tally, other: Tally) -> dict[str, Interval]:
    """A 95 % interval for `other - tally` of each metric, both on the same resampled examples.

    Args:
        tally: of one run.
        other: of another run, on the same examples in the same order.
    """

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        return _minus(other.figures(weights), tally.figures(weights))

    def rankings(weights: np.ndarray) -> dict[str, np.ndarray]:
        return _minus(other.rankings(weights), tally.rankings(weights))

    found = _replicates(figures, rankings, tally)
    both = tally.metrics().keys() & other.metrics().keys()
    known = {name: _interval(drawn) for name, drawn in found.items() if name in both}
    return {name: own for name, own in known.items() if own is not None}


def _minus(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: one[name] - other[name] for name in one}


def _replicates(figures: _Figures, rankings: _Figures, tally: Tally) -> dict[str, np.ndarray]:
    examples, scores = len(tally.predictions), tally.predictions.logits.size
    few = int(np.clip(_RANKING_WORK // max(scores, 1), _FEWEST, _REPLICATES))
    parts: dict[str, list[np.ndarray]] = {}
    done = 0
    for weights in _resampled(examples, _REPLICATES):
        found = dict(figures(weights))
        if done < few:
            found |= rankings(weights[: few - done])
        done += len(weights)
        for name, own in found.items():
            parts.setdefault(name, []).append(own)
    return {name: np.concatenate(own) for name, own in parts.items()}


def _resampled(examples: int, replicates: int) -> Iterator[np.ndarray]:
    """How often each example was drawn in each replicate, float64 `[some, examples]`."""
    rng = np.random.default_rng(_SEED)
    size = max(1, min(replicates, _AT_ONCE // max(examples, 1)))
    for start in range(0, replicates, size):
        drawn = [
            np.bincount(rng.integers(0, examples, examples), minlength=examples)
            for _ in range(min(size, replicates - start))
        ]
        yield np.stack(drawn).astype(np.float64)


def _interval(drawn: np.ndarray) -> Interval | None:
    drawn = drawn[~np.isnan(drawn)]
    if len(drawn) < 2:
        return None
    tail = (1 - LEVEL) / 2
    if len(drawn) < _BY_PERCENTILE:
        from scipy.stats import norm

        middle, half = drawn.mean(), norm.ppf(1 - tail) * drawn.std(ddof=1)
        return float(middle - half), float(middle + half)
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return float(low), float(high)


def _exact(examples: int, *, right: bool) -> Interval:
    """Clopper and Pearson's interval of a share that is 1, or 0."""
    edge = ((1 - LEVEL) / 2) ** (1 / examples)
    return (edge, 1.0) if right else (0.0, 1 - edge)
