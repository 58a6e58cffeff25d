"""What the loop tells those who listen: start, step, evaluation, end."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

Metrics = Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Began:
    """A run, or its continuation, is about to take its first step.

    Attributes:
        step: the step it begins with; above 0 where it was resumed.
        steps: the steps of the whole run.
    """

    step: int
    steps: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stepped:
    """A step's metrics, read one step late so that the device never waits.

    Attributes:
        step: batches consumed.
        phase: from 0.
        metrics: of this step's batch, before its update; `rate` is the learning rate.
        images_per_second: since the last evaluation.
        seconds_left: of the run's training, by that speed.
    """

    step: int
    epoch: float
    phase: int
    metrics: Metrics
    images_per_second: float
    seconds_left: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Metrics of a whole split."""

    step: int
    epoch: float
    phase: int
    split: str
    metrics: Metrics
    best: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ended:
    """The run is complete.

    Attributes:
        summary: what `summary.json` holds.
    """

    summary: Mapping[str, Any]


Event = Began | Stepped | Evaluated | Ended
Listener = Callable[[Event], None]
