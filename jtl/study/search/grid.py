"""Every combination of a space's values, in order."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jtl.errors import ConfigError
from jtl.study.search.local import Local
from jtl.study.search.space import Choice, Integer, LogUniform, Parameter, Space
from jtl.study.search.trial import Objective, Trial


class Grid(Local):
    """Every combination; the last parameter varies fastest.

    Args:
        space: its continuous ranges say how many steps they have.
        objective: of the search.
        median: whether trials are pruned by the median.

    Raises:
        ConfigError: a continuous range has no steps.
    """

    def __init__(self, space: Space, objective: Objective, *, median: bool = False) -> None:
        super().__init__(objective, median=median)
        endless = [
            f"{name}: a grid needs steps of this range; add steps: 5, or take another --method "
            f"({space.origins.get(name, name)})"
            for name, own in space.parameters.items()
            if not isinstance(own, Choice | Integer) and own.steps is None
        ]
        if endless:
            raise ConfigError("\n".join(endless))
        self._space = space
        self.size = sum(1 for _ in _points(space))

    def ask(self, known: Sequence[Trial], count: int) -> list[Trial]:
        """The next points."""
        start = len(known)
        points = itertools.islice(_points(self._space), start, start + count)
        return [Trial(number=start + i, assignments=point) for i, point in enumerate(points)]


def grid_values(parameter: Parameter) -> list[Any]:
    """The values of one parameter that a grid takes."""
    if isinstance(parameter, Choice):
        return list(parameter.options)
    if isinstance(parameter, Integer):
        return [parameter.low + parameter.step * place for place in range(parameter.count)]
    assert parameter.steps is not None
    if isinstance(parameter, LogUniform):
        values = np.geomspace(parameter.low, parameter.high, parameter.steps)
    else:
        values = np.linspace(parameter.low, parameter.high, parameter.steps)
    # Both ends are what was written, to the last bit.
    return [float(parameter.low), *map(float, values[1:-1]), float(parameter.high)]


def _points(space: Space) -> Iterator[dict[str, Any]]:
    def below(names: Sequence[str], point: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if not names:
            yield dict(point)
            return
        name, *rest = names
        if not space.in_use(name, point):
            yield from below(rest, point)
            return
        for value in grid_values(space.parameters[name]):
            yield from below(rest, {**point, name: value})

    yield from below(list(space.parameters), {})
