"""What the loop tells those who listen: start, cache, step, evaluation, end."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

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
class Taken:
    """A step is about to take its batch.

    Attributes:
        step: this one, from 1.
        batch: what it takes, on the devices; who reads it waits for its transfer.
    """

    step: int
    batch: Mapping[str, Any]


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
    """Metrics of a whole split.

    Attributes:
        best: whether it is the best so far by the monitored metric.
        confusion: int `[true, predicted]`, where every example has one class.
    """

    step: int
    epoch: float
    phase: int
    split: str
    metrics: Metrics
    best: bool
    confusion: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pictured:
    """A picture of what the run sees or says.

    Attributes:
        step: batches consumed.
        name: of the picture, such as `val/examples`.
        image: uint8 `[height, width, 3]`.
    """

    step: int
    name: str
    image: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cached:
    """A phase with a frozen leading part begins: what is computed once for all its epochs.

    Attributes:
        step: it begins with, or goes on from.
        phase: from 0.
        stages: those whose output is kept; none where a cache would be wrong or no gain.
        examples: of the training split.
        views: of each of them.
        bytes: of all outputs, those of the validation split included.
        where: `device`, `host` or `file`; None where nothing is kept.
        share: fraction of the forward's operations that later epochs are spared, if known.
        note: why nothing is kept, or what was found.
    """

    step: int
    phase: int
    stages: tuple[str, ...] = ()
    examples: int = 0
    views: int = 0
    bytes: int = 0
    where: str | None = None
    share: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recovered:
    """Checkpoints were damaged, and an older one is used.

    Attributes:
        notes: a line for each of them.
    """

    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Waiting:
    """The run has not begun yet, and that takes time.

    Attributes:
        note: what for.
    """

    note: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unsaved:
    """A save has failed, and the run goes on without it.

    Attributes:
        step: of the save that follows.
        note: what failed, and why.
    """

    step: int
    note: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ended:
    """The run is complete.

    Attributes:
        summary: what `summary.json` holds.
    """

    summary: Mapping[str, Any]


Event = (
    Waiting | Began | Taken | Stepped | Evaluated | Pictured | Cached | Recovered | Unsaved | Ended
)
Listener = Callable[[Event], None]
