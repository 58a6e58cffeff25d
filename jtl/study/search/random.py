"""Random values of a space: trial number n is a function of the seed and n alone."""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jtl.study.search.local import Local
from jtl.study.search.space import Choice, Integer, LogUniform, Parameter, Space
from jtl.study.search.trial import Objective, Trial


class Random(Local):
    """Independent draws.

    Args:
        space: to draw from.
        objective: of the search.
        seed: of the draws.
        median: whether trials are pruned by the median.
    """

    def __init__(
        self, space: Space, objective: Objective, *, seed: int, median: bool = False
    ) -> None:
        super().__init__(objective, median=median)
        self._space, self._seed = space, seed

    def ask(self, known: Sequence[Trial], count: int) -> list[Trial]:
        """The next draws."""
        return [
            Trial(number=number, assignments=draw(self._space, self._seed, number))
            for number in range(len(known), len(known) + count)
        ]


def draw(space: Space, seed: int, number: int) -> dict[str, Any]:
    """The values of one trial.

    A parameter's draw depends on its name alone, so that adding another changes none.

    Args:
        space: to draw from.
        seed: of the study.
        number: of the trial.
    """
    values: dict[str, Any] = {}
    for name, parameter in space.parameters.items():
        if space.in_use(name, values):
            stream = np.random.SeedSequence([seed, number, zlib.crc32(name.encode())])
            values[name] = _draw(parameter, np.random.default_rng(stream))
    return values


def _draw(parameter: Parameter, rng: np.random.Generator) -> Any:
    if isinstance(parameter, Choice):
        return parameter.options[int(rng.integers(len(parameter.options)))]
    if isinstance(parameter, Integer):
        return parameter.low + parameter.step * int(rng.integers(parameter.count))
    if isinstance(parameter, LogUniform):
        value = math.exp(rng.uniform(math.log(parameter.low), math.log(parameter.high)))
        return min(max(value, parameter.low), parameter.high)
    return float(rng.uniform(parameter.low, parameter.high))
