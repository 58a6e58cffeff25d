"""What becomes of one trial: its validations, its best step, its word on each example."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jtl.experiment.options import Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The metrics of the validation split after a step."""

    step: int
    metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What became of a trial.

    Attributes:
        config: what it is a function of.
        evaluations: of the validation split, in order.
        best_step: the best by the monitored metric, or the last.
        stopped_early: whether it ended before its time.
        failure: why it has no result, or None.
        examples: int `[examples]`, the validation split.
        labels: theirs.
        logits: float `[examples, classes]`, what the best parameters say of them.
        variables: the best parameters and statistics of the trained part, where they were asked
            for.
    """

    config: Config
    evaluations: tuple[Evaluation, ...]
    best_step: int
    stopped_early: bool
    failure: str | None
    examples: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    variables: Any = None

    @property
    def best(self) -> Mapping[str, float]:
        """The metrics of the best step."""
        return next(own.metrics for own in self.evaluations if own.step == self.best_step)

    @property
    def final(self) -> Mapping[str, float]:
        """The metrics of the last step."""
        return self.evaluations[-1].metrics
