"""Two runs on the same examples: paired differences, and McNemar's exact test."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jtl.errors import ConfigError
from jtl.training.measure.intervals import Interval, differences
from jtl.training.measure.tally import Tally

_NAMED = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a second run differs from a first, on the same examples.

    Attributes:
        first: the metrics of the first run.
        second: those of the second.
        difference: the second minus the first.
        intervals: the differences' 95 % intervals, by a paired bootstrap.
        only_first: examples that the first run alone has right.
        only_second: those that the second alone has right.
        p_value: how probable so uneven a split of these is where both are equally good:
            McNemar's test, exact and two-sided.
    """

    first: Mapping[str, float]
    second: Mapping[str, float]
    difference: Mapping[str, float]
    intervals: Mapping[str, Interval]
    only_first: int
    only_second: int
    p_value: float


def compare(first: Tally, second: Tally) -> Comparison:
    """Compares two runs on the same examples.

    Args:
        first: of one run.
        second: of another, on the same examples.

    Raises:
        ConfigError: the examples, their labels or the classes are not the same.
    """
    check_same(first, second)
    one, other = first.metrics(), second.metrics()
    right, also = (_right(tally) for tally in (first, second))
    only_first, only_second = int((right & ~also).sum()), int((also & ~right).sum())
    return Comparison(
        first=one,
        second=other,
        difference={name: other[name] - one[name] for name in one if name in other},
        intervals=differences(first, second),
        only_first=only_first,
        only_second=only_second,
        p_value=mcnemar(only_first, only_second),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact two-sided p-value: is an even coin this uneven?"""
    from scipy.stats import binomtest

    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


def check_same(first: Tally, second: Tally) -> None:
    """Refuses predictions that are not of the same examples.

    Raises:
        ConfigError: what differs.
    """
    one, other = first.predictions, second.predictions
    if one.classes != other.classes:
        missing = sorted(set(one.classes) ^ set(other.classes))[:_NAMED]
        listed = ", ".join(missing) if missing else "their order"
        raise ConfigError(f"the two runs do not have the same classes; they differ in {listed}.")
    names = set(one.name.tolist()) ^ set(other.name.tolist())
    if names or not np.array_equal(one.name, other.name):
        raise ConfigError(
            f"the two runs were not evaluated on the same examples: {len(names)} are of one alone "
            f"({', '.join(sorted(names)[:_NAMED])}); train both with the same data and data.split."
        )
    if not np.array_equal(one.label, other.label):
        raise ConfigError("the two runs have other labels for the same examples; which are right?")


def _right(tally: Tally) -> np.ndarray:
    chosen = tally.predictions.chosen(tally.calibration)
    return (chosen == tally.predictions.truth).all(axis=1)
