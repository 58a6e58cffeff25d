"""Which parameters made the difference: a forest's word on the trials that came to an end."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jtl.study.search.space import Choice, LogUniform, Parameter, Space
from jtl.study.search.trial import Trial

_FEWEST = 8  # complete trials below which a forest has nothing to say
_OUT_OF_USE = -1.0


def importances(space: Space, trials: Sequence[Trial]) -> dict[str, float]:
    """The share of each parameter in what a forest can tell of the metric, largest first.

    A random forest is fitted to the complete trials; what its error grows by when one
    parameter's values are shuffled is that parameter's weight. Weights are given as shares of
    their sum.

    Args:
        space: that was searched.
        trials: of the study.

    Returns:
        A number in [0, 1] by parameter; nothing of too few trials, or where all came out alike.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    complete = [own for own in trials if own.status == "complete"]
    values = np.array([own.value for own in complete], float)
    if len(complete) < _FEWEST or np.ptp(values) == 0:
        return {}
    table = np.array([[place_of(space, name, own) for name in space.parameters]
                      for own in complete])  # fmt: skip
    forest = RandomForestRegressor(200, random_state=0).fit(table, values)
    found = permutation_importance(forest, table, values, n_repeats=20, random_state=0)
    weights = np.maximum(found.importances_mean, 0.0)
    shares = weights / weights.sum() if weights.sum() > 0 else weights
    order = np.argsort(-shares, kind="stable")
    names = list(space.parameters)
    return {names[place]: float(shares[place]) for place in order}


def place_of(space: Space, name: str, trial: Trial) -> float:
    """Where a trial lies along a parameter: a number that grows with it; -1 out of use."""
    if name not in trial.assignments:
        return _OUT_OF_USE
    return _place(space.parameters[name], trial.assignments[name])


def _place(parameter: Parameter, value: Any) -> float:
    if isinstance(parameter, Choice):
        return float(list(parameter.options).index(_like(parameter, value)))
    return math.log(value) if isinstance(parameter, LogUniform) else float(value)


def _like(parameter: Choice, value: Any) -> Any:
    # From JSON come lists where the space has tuples.
    return next(own for own in parameter.options if _plain(own) == _plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    return (type(value).__name__, value)
